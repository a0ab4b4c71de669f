"""Generated C against TFLite Micro, byte for byte, on this machine under ASan and UBSan."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")

from targets.cortex_m import emit, fixed_point, program, support
from targets.cortex_m.graph import parse
from tests.mcu import host, random_graphs
from tests.mcu.random_graphs import graph
from tests.mcu.writer import Writer

pytestmark = pytest.mark.usefixtures("host_tools")


def compared(content: bytes, folder: Path, samples: int, seed: int) -> tuple[int, int]:
    """(different bytes, compared bytes)."""
    made = host.generate(content, folder)
    inputs = host.samples(made, samples, seed)
    want = host.tflm(folder / "model.tflite", made, inputs)
    got = host.run(host.build(made, folder), made, inputs)
    return int((want != got).sum()), want.size


def test_the_generator_covers_the_table() -> None:
    assert set(random_graphs.MAKE) == set(support.OPS)


def test_the_seeds_cover_the_kernels() -> None:
    used = {kernel for seed in range(100, 116) for kernel in program.compile_graph(parse(graph(seed))).kernels}
    assert used == {path.stem for path in emit.KERNELS.glob("*.c")}


@pytest.mark.parametrize("seed", range(2))
def test_random_graphs_equal_tflm(seed: int, tmp_path: Path) -> None:
    different, size = compared(random_graphs.graph(seed), tmp_path, 20, seed)
    assert size > 10_000
    assert different == 0


def bordered() -> bytes:
    """Float in, float out, int8 within."""
    w = Writer()
    given, coded = w.tensor((1, 4, 4, 3), kind="float32"), w.tensor((1, 4, 4, 3), 0.05, 3)
    rows, floats = w.tensor((1, 48), 0.05, 3), w.tensor((1, 48), kind="float32")
    w.op("QUANTIZE", [given], coded, "QuantizeOptions")
    relu = w.op("RELU", [coded], w.tensor((1, 4, 4, 3), 0.05, 3))
    constant = w.tensor((2,), None, 0, np.array([1, 48]), "int32")
    w.op("RESHAPE", [relu, constant], rows, "ReshapeOptions")
    w.op("DEQUANTIZE", [rows], floats, "DequantizeOptions")
    return w.file([given], [floats])


def test_float_borders_become_helpers(tmp_path: Path) -> None:
    made = host.generate(bordered(), tmp_path)
    assert [node.op for node in made.graph.nodes] == ["RELU", "RESHAPE"]
    inputs = host.samples(made, 20, 0)
    want = host.tflm(tmp_path / "model.tflite", made, inputs)
    assert (host.run(host.build(made, tmp_path), made, inputs) == want).all()
    assert len(np.unique(want)) > 50


@pytest.mark.slow
def test_a_million_bytes_equal_tflm(tmp_path: Path) -> None:
    different = total = 0
    for seed in range(100, 116):
        (tmp_path / str(seed)).mkdir()
        wrong, size = compared(random_graphs.graph(seed), tmp_path / str(seed), 60, seed)
        different, total = different + wrong, total + size
    assert total >= 1_000_000
    assert different == 0


def test_an_off_by_one_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison catches multipliers that are rounded down."""
    exact = fixed_point.quantize_multiplier
    for module in ("lower", "pack"):
        monkeypatch.setattr(
            f"targets.cortex_m.{module}.quantize_multiplier", lambda f: (exact(f)[0] & ~0xFFFFF, exact(f)[1])
        )
    different, _ = compared(random_graphs.graph(0), tmp_path, 20, 0)
    assert different > 0


@pytest.mark.parametrize(
    ("compiler", "flags"),
    [("gcc", ["-std=c99"]), ("clang", ["-std=c99"]), ("g++", ["-x", "c++", "-std=c++11"])],
    ids=["gcc", "clang", "c++"],
)
def test_no_compiler_warns(compiler: str, flags: list[str], tmp_path: Path) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    host.generate(random_graphs.graph(0), tmp_path)
    for source in sorted((tmp_path / "c").glob("*.c")):
        command = [compiler, *flags, *host.STRICT, "-O2", "-c", str(source), "-o", str(tmp_path / "object.o")]
        subprocess.run(command, check=True)


def test_only_stdint_and_string_are_included(tmp_path: Path) -> None:
    host.generate(random_graphs.graph(0), tmp_path)
    text = "\n".join(p.read_text() for p in (tmp_path / "c").glob("*.[ch]"))
    lines = {line for line in text.splitlines() if line.startswith("#include <")}
    intrinsics = {"#include <arm_acle.h>", "#include <arm_mve.h>"}  # gcc's own
    assert lines == {"#include <stdint.h>", "#include <string.h>", *intrinsics}
    assert not any(word in text for word in ("malloc", "static int8_t arena"))


def test_quantize_helper_rounds_like_numpy(tmp_path: Path) -> None:
    made = host.generate(random_graphs.graph(3), tmp_path)
    value = made.graph.inputs[0]
    assert value.scale is not None
    assert value.zero_point is not None
    scale, zero = np.float32(value.scale[0]), int(value.zero_point[0])
    floats = np.concatenate(
        [np.linspace(-300, 300, 2001, dtype=np.float32) * scale, np.float32([np.nan, np.inf, -np.inf, 1e30, -1e30])]
    )
    source = tmp_path / "q.c"
    source.write_text(
        '#include <stdio.h>\n#include "model.h"\nint main(void) { float f;'
        "while (fread(&f, 4, 1, stdin) == 1) putchar((unsigned char)model_quantize_input_0(f)); return 0; }\n"
    )
    subprocess.run(["gcc", *host.SANITIZE, f"-I{tmp_path / 'c'}", str(source), "-o", str(tmp_path / "q")], check=True)
    done = subprocess.run(
        [*host.FIXED_ADDRESSES, str(tmp_path / "q")],
        input=floats.tobytes(),
        capture_output=True,
        check=True,
        timeout=60,
    )
    want = np.clip(np.rint(np.nan_to_num(floats / scale, nan=-1e9)) + zero, -128, 127).astype(np.int8)
    assert np.array_equal(np.frombuffer(done.stdout, np.int8), want)


def test_two_arenas_at_the_same_time(tmp_path: Path) -> None:
    """Re-entrant: running one arena leaves another as it was."""
    made = host.generate(random_graphs.graph(1), tmp_path)
    source = tmp_path / "two.c"
    source.write_text(
        '#include <string.h>\n#include "model.h"\n'
        "static int8_t a[MODEL_ARENA_BYTES], b[MODEL_ARENA_BYTES], before[MODEL_ARENA_BYTES];\n"
        "int main(void) { memset(b, 7, sizeof b); memcpy(before, b, sizeof b); model_run(a);\n"
        "return memcmp(before, b, sizeof b) != 0; }\n"
    )
    sources = [str(p) for p in (tmp_path / "c").glob("*.c")]
    command = ["gcc", *host.SANITIZE, f"-I{tmp_path / 'c'}", str(source), *sources, "-o", str(tmp_path / "two")]
    subprocess.run(command, check=True)
    assert made.plan.arena_bytes > 0
    assert subprocess.run([*host.FIXED_ADDRESSES, str(tmp_path / "two")], check=False, timeout=60).returncode == 0
