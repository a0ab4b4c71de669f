"""Step networks: states stay in the arena, and each step equals TFLite Micro's when it is handed the same states."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")

from targets.base import TargetError
from targets.cortex_m import TARGET, emit, program
from targets.cortex_m.graph import Value, parse
from tests.mcu import host, step_network
from tests.mcu.writer import Writer

STEPS, WIDTH, HIDDEN = 8, 6, 5
STATES = {"h1": "h0", "c1": "c0"}

MAIN = """
#include <stdio.h>
#include <stdlib.h>
#include "model.h"
int main(void)
{{
    int8_t *arena = malloc(MODEL_ARENA_BYTES);
    model_reset(arena);
    while (fread(model_input_{at}(arena), 1, {size}, stdin) == {size}) {{
        model_run(arena);
        {writes}
        model_carry(arena);
    }}
    free(arena);
    return 0;
}}
"""


def lstm_cell() -> bytes:
    """x, h, c -> y, h', c': the gates of an LSTM; every state leaves under another scale than it comes in."""
    rng, w = np.random.default_rng(0), Writer()
    x, h, c = w.tensor((1, WIDTH), 0.02, 3), w.tensor((1, HIDDEN), 0.008, 5), w.tensor((1, HIDDEN), 0.02, -4)
    shape = (1, HIDDEN)

    def dense(source: int, into: int, out: int, scale: float) -> int:
        weights = w.tensor((out, into), 0.02, 0, rng.integers(-127, 128, (out, into)))
        bias = w.tensor((out,), w.codes[source][0] * 0.02, 0, rng.integers(-300, 300, out), "int32")
        return w.op("FULLY_CONNECTED", [source, weights, bias], w.tensor((1, out), scale, 0), "FullyConnectedOptions")

    both = w.tensor((1, 4 * HIDDEN), 0.03, 1)
    parts = [dense(x, WIDTH, 4 * HIDDEN, 0.03), dense(h, HIDDEN, 4 * HIDDEN, 0.02)]
    gates = w.op("ADD", parts, both, "AddOptions")
    axis = w.tensor((), None, 0, np.array(1), "int32")
    pieces = w.op("SPLIT", [axis, gates], [w.tensor(shape, 0.03, 1) for _ in range(4)], "SplitOptions", numSplits=4)
    i, f, o = (w.op("LOGISTIC", [piece], w.tensor(shape, 1 / 256, -128)) for piece in pieces[:3])
    g = w.op("TANH", [pieces[3]], w.tensor(shape, 1 / 128, 0))
    kept = w.op("MUL", [f, c], w.tensor(shape, 0.02, 0), "MulOptions")
    new = w.op("MUL", [i, g], w.tensor(shape, 0.01, 0), "MulOptions")
    c1 = w.op("ADD", [kept, new], w.tensor(shape, 0.018, 7), "AddOptions")
    h1 = w.op("MUL", [o, w.op("TANH", [c1], w.tensor(shape, 1 / 128, 0))], w.tensor(shape, 0.007, -9), "MulOptions")
    y = dense(h1, HIDDEN, 3, 0.02)
    for tensor, name in ((h, "h0"), (c, "c0"), (h1, "h1"), (c1, "c1")):
        w.graph.tensors[tensor].name = name.encode()
    return w.file([x, h, c], [y, h1, c1])


def carried(codes: np.ndarray, output: Value, into: Value) -> np.ndarray:
    """The nearest codes of an input for those of an output, half away from zero."""
    wanted = (codes.astype(float) - output.zero_point[0]) * float(output.scale[0]) / float(into.scale[0])
    nearest = np.sign(wanted) * np.floor(np.abs(wanted) + 0.5) + into.zero_point[0]
    return np.clip(nearest, -128, 127).astype(np.int8)


def check(content: bytes, states: dict[str, str], folder: Path) -> None:
    """The C keeps the states; TFLite Micro is handed them at each step. All outputs of all steps are equal."""
    model = folder / "model.tflite"
    model.write_bytes(content)
    made = program.compile_file(model, states=states)
    emit.write(made, folder / "c")
    inputs, outputs = made.graph.inputs, made.graph.outputs
    ((at, free),) = [(i, v) for i, v in enumerate(inputs) if v.name not in states.values()]
    writes = "".join(f"fwrite(model_output_{i}(arena), 1, {v.size}, stdout);" for i, v in enumerate(outputs))
    (folder / "main.c").write_text(MAIN.format(at=at, size=free.size, writes=writes))
    sources = [str(p) for p in (folder / "c").glob("*.c")]
    command = ["gcc", "-std=c99", *host.STRICT, *host.SANITIZE, f"-I{folder / 'c'}", str(folder / "main.c")]
    subprocess.run([*command, *sources, "-o", str(folder / "host")], check=True)
    given = np.random.default_rng(1).integers(-128, 128, (STEPS, *free.shape)).astype(np.int8)
    run = [*host.FIXED_ADDRESSES, str(folder / "host")]
    done = subprocess.run(run, input=given.tobytes(), capture_output=True, check=True, timeout=60)
    got = np.frombuffer(done.stdout, np.int8).reshape(STEPS, -1)
    now = {v.name: np.full((1, *v.shape), v.zero_point[0], np.int8) for v in inputs}
    cuts = np.cumsum([v.size for v in outputs])[:-1]
    for step in range(STEPS):
        now[free.name] = given[step : step + 1]
        want = host.tflm(model, made, [now[v.name] for v in inputs])[0]
        assert np.array_equal(got[step], want), step
        found = {v.name: (v, codes) for v, codes in zip(outputs, np.split(want, cuts), strict=True)}
        for output, name in states.items():
            into = next(v for v in inputs if v.name == name)
            now[name] = carried(found[output][1], found[output][0], into).reshape(1, *into.shape)
    assert len(np.unique(got)) > 20  # the states move


@pytest.mark.usefixtures("host_tools")
def test_steps_equal_tflm(tmp_path: Path) -> None:
    check(lstm_cell(), STATES, tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("host_tools")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_gru_cell_from_pytorch_equals_tflm(tmp_path: Path) -> None:
    pytest.importorskip("litert_torch")
    from tests.conformance.case import Case, hand_over

    def draw(rng: np.random.Generator, n: int) -> dict[str, np.ndarray]:
        shapes = {"x": (n, step_network.WIDTH), "h": (n, step_network.HIDDEN)}
        return {name: np.tanh(rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}

    (tmp_path / "network").mkdir()
    owner = {"model": "step_network:build", "folder": str(Path(__file__).parent)}
    case = Case(TARGET, hand_over("step", owner, draw, tmp_path / "network"), tmp_path)
    model = case.artifact(next(c for c in case.int8 if c.quantizer == "ours"))
    (tmp_path / "steps").mkdir()
    check(model.path.read_bytes(), {"h_next": "h"}, tmp_path / "steps")


@pytest.mark.parametrize(
    ("states", "words"),
    [
        ({"h2": "h0"}, "a state names the output 'h2', which is none of"),
        ({"h1": "x"}, "a state names the input 'x', which is none of"),
        ({"h1": "h0", "c1": "h0"}, "a state names the input 'h0', twice"),
        ({"h1": "t0"}, "the state 'h1' is [1, 5], the input 't0' [1, 6]"),
    ],
)
def test_wrong_states_are_one_line(states: dict[str, str], words: str) -> None:
    with pytest.raises(TargetError) as caught:
        program.compile_graph(parse(lstm_cell()), states=states)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
