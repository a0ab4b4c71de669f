"""What cannot be generated is refused in one line that names it; nothing is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")

from targets.base import TargetError
from targets.cortex_m import emit, graph, program, support
from tests.mcu import random_graphs
from tests.mcu.writer import Writer

CODE = (0.05, 3)


def one(op: str, shape=(1, 4, 4, 2), out=None, options: str | None = None, kind: str = "int8", **values) -> bytes:
    w = Writer()
    x, y = w.tensor(shape, *CODE, kind=kind), w.tensor(out or shape, *CODE, kind=kind)
    return w.file([x], [w.op(op, [x], y, options, **values)])


def convolution(
    weights=None, bias=None, kind: str = "int8", zero: int = 0, out=(1, 4, 4, 3), padding: int = 0
) -> bytes:
    w = Writer()
    weights = np.ones((3, 3, 3, 2)) if weights is None else weights
    bias = np.zeros(3) if bias is None else bias
    x, y = w.tensor((1, 4, 4, 2), *CODE, kind=kind), w.tensor(out, *CODE, kind=kind)
    f, b = w.tensor(weights.shape, 0.1, zero, weights), w.tensor((3,), 0.005, 0, bias, "int32")
    made = w.op("CONV_2D", [x, f, b], y, "Conv2DOptions", strideH=1, strideW=1, padding=padding)
    return w.file([x], [made])


def partly_float() -> bytes:
    w = Writer()
    x, y = w.tensor((1, 4), *CODE), w.tensor((1, 4), *CODE)
    floats = [w.tensor((1, 4), kind="float32") for _ in range(2)]
    w.op("DEQUANTIZE", [x], floats[0], "DequantizeOptions")
    w.op("FLOOR", floats[:1], floats[1])
    return w.file([x], [w.op("QUANTIZE", floats[1:], y, "QuantizeOptions")])


def free(signature) -> bytes:
    w = Writer()
    x, y = w.tensor((1, 4, 4, 2), *CODE), w.tensor((1, 4, 4, 2), *CODE)
    w.graph.tensors[x].shapeSignature = signature
    return w.file([x], [w.op("RELU", [x], y)])


def joined(count: int) -> bytes:
    w = Writer()
    x = w.tensor((1, 4), *CODE)
    y = w.tensor((1, 4 * count), *CODE)
    return w.file([x], [w.op("CONCATENATION", [x] * count, y, "ConcatenationOptions", axis=1)])


def cut(begin, size) -> bytes:
    w = Writer()
    x, y = w.tensor((1, 4, 4, 2), *CODE), w.tensor(size, *CODE)
    at = w.tensor((4,), None, 0, None if begin is None else np.array(begin), "int32")
    sizes = w.tensor((4,), None, 0, np.array(size), "int32")
    return w.file([x, *([at] if begin is None else [])], [w.op("SLICE", [x, at, sizes], y, "SliceOptions")])


def pair(first, second) -> bytes:
    w = Writer()
    a, b, y = w.tensor(first, *CODE), w.tensor(second, *CODE), w.tensor(first, *CODE)
    return w.file([a, b], [w.op("SUB", [a, b], y, "SubOptions")])


BAD = {
    "unknown op": (one("FLOOR"), "op 0 FLOOR ('t1') cannot run on cortex-m: it is not supported; supported are ADD"),
    "gelu": (one("GELU"), 'TFLite Micro has no GELU: rewrite = ["gelu"] in the recipe'),
    "partly float": (partly_float(), "op 1 FLOOR ('t3') cannot run on cortex-m: it computes in float"),
    "float": (convolution(kind="float32"), "op 0 CONV_2D ('t1') cannot run on cortex-m: it computes in float"),
    "left in float": (
        one("LEAKY_RELU", kind="float32"),
        "op 0 LEAKY_RELU ('t1') cannot run on cortex-m: it computes in float: rewrite = [\"leaky_relu\"]",
    ),
    "sixteen bits": (convolution(kind="int16"), "needs int8 numbers in and out"),
    "dynamic shape": (one("RELU", shape=(1, 0, 4, 2)), "has the shape [1, 0, 4, 2]: export with fixed sizes"),
    "free axis": (free([-1, -1, 4, 2]), "the input 't0' has the free shape [-1, -1, 4, 2]: export with fixed sizes"),
    "clamp": (one("RELU_0_TO_1"), 'TFLite Micro has no clamp to [0, 1]: rewrite = ["clamp"]'),
    "eleven inputs": (joined(11), "at most 10 inputs, all int8, as in TFLite Micro"),
    "slice outside": (cut([0, 0, 3, 0], [1, 4, 4, 2]), "constant int32 ranges inside the input"),
    "computed slice": (cut(None, [1, 4, 4, 2]), "constant int32 ranges inside the input"),
    "logistic": (one("LOGISTIC"), "an output with scale 1/256 and zero point -128"),
    "operands": (pair((1, 4, 4, 2), (1, 3, 4, 2)), "two int8 operands whose shapes give the output's"),
    "falling slope": (one("LEAKY_RELU", options="LeakyReluOptions", alpha=-0.5), "a slope of at least 0"),
    "weights' zero point": (convolution(zero=3), "constant int8 weights with zero point 0"),
    "wrong size": (convolution(out=(1, 3, 4, 3)), "an output of the size that window, stride, dilation and padding"),
    "groups": (convolution(np.ones((3, 3, 3, 1))), "groups of equal size"),
    "overflow": (convolution(bias=np.full(3, 2**31 - 1)), "sums fit in 32 bits"),
    "activation": (
        one("MAX_POOL_2D", options="Pool2DOptions", fusedActivationFunction=4),
        "a fused activation of NONE, RELU",
    ),
    "tied": (one("RESHAPE", out=(1, 4, 4, 3)), "as many numbers out as in"),
    "softmax": (one("SOFTMAX"), "scale 1/256 and zero point -128"),
    "five axes": (one("MEAN", shape=(1, 2, 2, 2, 2)), "at most four axes"),
    "no file": (b"hello world, this is text", "is no TFLite file"),
    "cut off": (convolution()[:200], "is damaged"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_refused_in_one_line(name: str, tmp_path: Path) -> None:
    content, words = BAD[name]
    path = tmp_path / "bad.tflite"
    path.write_bytes(content)
    with pytest.raises(TargetError) as caught:
        program.compile_file(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.kind == "unsupported"


def test_the_good_neighbour_passes(tmp_path: Path) -> None:
    """The refusals above are not because everything is refused."""
    path = tmp_path / "good.tflite"
    path.write_bytes(convolution())
    assert program.compile_file(path).macs == 4 * 4 * 3 * 18
    path.write_bytes(free([-1, 4, 4, 2]))  # a free batch is one sample here
    assert program.compile_file(path).graph.inputs[0].shape == (1, 4, 4, 2)


def test_damage_anywhere_is_one_line_or_a_valid_model(tmp_path: Path) -> None:
    content = bytearray(random_graphs.graph(0))
    rng = np.random.default_rng(0)
    path = tmp_path / "damaged.tflite"
    for _ in range(60):
        broken = bytearray(content)
        for at in rng.integers(8, len(broken), 3):
            broken[at] ^= 1 << int(rng.integers(0, 8))
        path.write_bytes(broken)
        try:
            program.compile_file(path)
        except TargetError as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_foreign_folders_stay(tmp_path: Path) -> None:
    made = program.compile_graph(graph.parse(convolution()))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(TargetError, match="was not generated here"):
        emit.write(made, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    emit.write(made, tmp_path / "c")
    emit.write(made, tmp_path / "c")  # its own folder is replaced
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "mine"]
    with pytest.raises(TargetError, match="cannot prefix C names"):
        emit.write(made, tmp_path / "d", "my model")


def test_document_is_the_table() -> None:
    text = support.document()
    assert all(f"| {op} |" in text for op in (*support.OPS, *support.REFUSED))
    page = Path(support.__file__).with_name("OPS.md").read_text()
    assert page == text, "run `.venv/bin/python -m targets.cortex_m.support > targets/cortex_m/OPS.md`"
