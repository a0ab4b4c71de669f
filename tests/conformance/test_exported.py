"""The integers of the deployed files beside what was asked: one scale where numbers only move, 32-bit biases."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx import numpy_helper

from calibration.qparams import QParams, limits
from targets import agent, onnx_graph, openvino_graph
from targets.base import Candidate, Target
from targets.tflite import flatbuffer

from .case import OWNER, Case, hand_over
from .networks import moves

Array = npt.NDArray[Any]
SHAPE = (3, 12, 10)


@pytest.fixture(scope="module")
def case_of(installed: Callable[[str], Target], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    owner = {key: value.format(moves.__name__) for key, value in OWNER.items()}

    def draw(rng: np.random.Generator, n: int) -> dict[str, Array]:
        return {"input": rng.standard_normal((n, *SHAPE)).astype(np.float32)}

    folder = tmp_path_factory.mktemp("moves")
    network = hand_over("moves", owner, draw, folder)
    return lambda target: Case(installed(target), network, folder / target)


def ours(case: Case) -> tuple[Candidate, dict[str, QParams]]:
    candidate = next(c for c in case.candidates if (c.quantizer, c.observer) == ("ours", "minmax"))
    return candidate, dict(case.ranges(candidate) or {})


def codes_of(bias: Array, scale: Array) -> Array:
    """What a bias must be stored as: whole steps of the products' own scale."""
    return np.rint(bias.astype(np.float64) / scale.astype(np.float64)).astype(np.int64)


def test_onnxruntime(case_of: Callable[[str], Case]) -> None:
    case = case_of("onnxruntime")
    candidate, asked = ours(case)
    graph = onnx_graph.load(case.artifact(candidate).path).graph
    values = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    floats = {one.name: numpy_helper.to_array(one) for one in onnx_graph.load(case.model.path).graph.initializer}
    made = {name: node for node in graph.node for name in node.output}
    rounded = {node.input[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}

    def pair(node: Any) -> tuple[float, int]:
        return float(values[node.input[1]]), int(values[node.input[2]])

    for name, node in rounded.items():  # what a tensor shares with the one that it was moved from is checked below
        if made[name].op_type not in MOVED if name in made else True:
            assert pair(node) == (pytest.approx(float(asked[name].scale), rel=1e-6), int(asked[name].zero_point))
    moved = [node for node in graph.node if node.op_type in MOVED]
    assert {node.op_type for node in moved} == MOVED
    for node in moved:
        assert pair(made[node.input[0]]) == pair(rounded[node.output[0]]), node.op_type
    work = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(work) == 5
    for node in work:
        data, weight, bias = (made[name] for name in node.input)
        scale = values[bias.input[1]]
        np.testing.assert_array_equal(scale, values[data.input[1]] * values[weight.input[1]])
        assert not values[bias.input[2]].any()
        stored = values[bias.input[0]]
        assert stored.dtype == np.int32
        np.testing.assert_array_equal(stored, codes_of(floats[bias.output[0]], scale))
        weights = values[weight.input[0]].reshape(len(scale), -1)
        assert (np.abs(weights).max(axis=1) == 127).all()
    assert [made[out.name].op_type for out in graph.output] == ["Softmax", "Sigmoid"]  # between no products: float


MOVED = {"MaxPool", "Pad", "Transpose", "Reshape"}


def ir(path: Path) -> list[Any]:
    return list(agent.import_openvino().Core().read_model(str(path)).get_ordered_ops())


def test_openvino(case_of: Callable[[str], Case]) -> None:
    """One rounding serves all that only moves; its plugin adds biases to the 32-bit sums in float, from the file."""
    case = case_of("openvino")
    candidate, asked = ours(case)
    nodes, floats = ir(case.artifact(candidate).path), ir(case.model.path)

    def source(node: Any, port: int = 0) -> Any:
        return node.input_value(port).get_node()

    rounded = [node for node in nodes if node.get_type_name() == "FakeQuantize"]
    for node in rounded:
        lo, hi = limits(asked[min(node.input_value(0).get_names())])
        ends = [float(source(node, port).data.item()) for port in (1, 2, 3, 4)]
        assert ends == [np.float32(lo), np.float32(hi)] * 2
        assert node.get_attributes()["levels"] == 256
    for work in openvino_graph.weighted(agent.import_openvino().Core().read_model(str(case.artifact(candidate).path))):
        node = source(work)
        while node.get_type_name() in ("MaxPool", "Transpose", "Reshape"):
            node = source(node)
        assert node.get_type_name() == "FakeQuantize", work.get_friendly_name()
        codes = openvino_graph.stored(work.input_value(1)).data
        assert codes.dtype == np.int8
        assert (np.abs(codes.astype(int)).reshape(len(codes), -1).max(axis=1) == 127).all()
    assert len(rounded) == 4  # input, pooled, joined, moved: none twice

    def biases(of: list[Any]) -> list[bytes]:
        constants = [openvino_graph.stored(node.input_value(1)) for node in of if node.get_type_name() == "Add"]
        return [constant.data.tobytes() for constant in constants if constant is not None]

    assert biases(nodes) == biases(floats)
    assert len(biases(nodes)) == 5


def test_tflite(case_of: Callable[[str], Case]) -> None:
    case = case_of("tflite")
    candidate, asked = ours(case)
    ops, floats = (flatbuffer.ops(flatbuffer.read(m.path)) for m in (case.artifact(candidate), case.model))
    assert [op.type for op in ops] == [op.type for op in floats]

    def pair(tensor: flatbuffer.Tensor) -> tuple[float, int]:
        assert tensor.scale is not None
        assert tensor.zero_point is not None
        assert len(tensor.scale) == 1
        return float(tensor.scale[0]), int(tensor.zero_point[0])

    tied = {"MAX_POOL_2D", "CONCATENATION", "PAD", "TRANSPOSE", "RESHAPE"}
    assert tied <= {op.type for op in ops}
    groups: list[set[str]] = []
    for op in ops:
        if op.type in tied:
            ends = [t for t in (*op.inputs, *op.outputs) if t.type == "INT8"]
            assert len({pair(t) for t in ends}) == 1, op.type
            names = {t.name for t in ends}
            groups = [g for g in groups if not g & names] + [names.union(*(g for g in groups if g & names))]
    fixed = {op.outputs[0].name: op.type for op in ops if op.type in ("SOFTMAX", "LOGISTIC")}
    assert len(fixed) == 2
    for tensor in {t.name: t for op in ops for t in (*op.inputs, *op.outputs) if t.name in asked}.values():
        group = next((g for g in groups if tensor.name in g), {tensor.name})
        wanted = {(float(asked[name].scale), int(asked[name].zero_point)) for name in group if name in asked}
        assert pair(tensor) in ({(1 / 256, -128)} if tensor.name in fixed else wanted), tensor.name
    work = [(op, before) for op, before in zip(ops, floats, strict=True) if len(op.inputs) == 3 and op.type not in tied]
    assert len(work) == 5
    for op, before in work:
        data, weight, bias = op.inputs
        assert data.scale is not None
        assert weight.scale is not None
        assert bias.scale is not None
        assert bias.zero_point is not None
        assert (bias.type, bias.zero_point.any()) == ("INT32", False)
        np.testing.assert_allclose(bias.scale, data.scale * weight.scale, rtol=1e-7)
        stored, real = bias.data, before.inputs[2].data
        assert stored is not None
        assert real is not None
        np.testing.assert_array_equal(stored.view(np.int32), codes_of(real.view(np.float32), bias.scale))
