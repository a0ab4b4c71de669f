"""One small convolutional network in many ways to write an ONNX file, old and new, made without an exporter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE = (3, 16, 16)
CLASSES = 5
PARAMS = (16 * 27 + 16) + 2 * 16 + (32 * 16 * 9 + 32) + (32 * CLASSES + CLASSES)  # no running mean, no bounds of a Clip
MACS = 16 * 16 * 16 * 27 + 8 * 8 * 32 * 16 * 9 + 32 * CLASSES


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    found = {
        "w1": rng.normal(size=(16, 3, 3, 3)) * 0.3,
        "b1": rng.normal(size=16) * 0.1,
        "scale": rng.uniform(0.5, 1.5, 16),
        "shift": rng.normal(size=16) * 0.1,
        "mean": rng.normal(size=16) * 0.1,
        "var": rng.uniform(0.5, 1.5, 16),
        "w2": rng.normal(size=(32, 16, 3, 3)) * 0.1,
        "b2": rng.normal(size=32) * 0.1,
        "w3": rng.normal(size=(32, CLASSES)) * 0.3,
        "b3": rng.normal(size=CLASSES) * 0.1,
    }
    return {name: array.astype(np.float32) for name, array in found.items()}


def network(
    opset: int = 18, ir: int = 8, batch: str | int = "n", height: str | int = 16, as_inputs: bool = False
) -> onnx.ModelProto:
    """Its nodes have no names."""
    stored = weights()
    pads = [0, 0, 1, 1, 0, 0, 1, 1]
    if opset >= 11:
        stored |= {"low": np.array(0, np.float32), "high": np.array(6, np.float32), "pads": np.array(pads)}
    if opset >= 18:
        stored["axes"] = np.array([2, 3])
    old, node = opset < 11, helper.make_node
    nodes = [
        node("Pad", ["x.1"] if old else ["x.1", "pads"], ["p"], mode="reflect", **({"pads": pads} if old else {})),
        node("Conv", ["p", "w1", "b1"], ["c1"], kernel_shape=[3, 3]),
        node("BatchNormalization", ["c1", "scale", "shift", "mean", "var"], ["n1"]),
        node("Relu", ["n1"], ["r1"]),
        node("Conv", ["r1", "w2", "b2"], ["c2"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Clip", ["c2"] if old else ["c2", "low", "high"], ["r2"], **({"min": 0.0, "max": 6.0} if old else {})),
        node("ReduceMean", ["r2"], ["g"], axes=[2, 3], keepdims=0)
        if opset < 18
        else node("ReduceMean", ["r2", "axes"], ["g"], keepdims=0),
        node("MatMul", ["g", "w3"], ["mm"]),
        node("Add", ["mm", "b3"], ["27"]),
    ]
    inputs = [helper.make_tensor_value_info("x.1", TensorProto.FLOAT, [batch, 3, height, 16])]
    tensors = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    if as_inputs:
        inputs += [helper.make_tensor_value_info(one.name, one.data_type, list(one.dims)) for one in tensors]
    outputs = [helper.make_tensor_value_info("27", TensorProto.FLOAT, [batch, CLASSES])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
    onnx.checker.check_model(model)
    return model


def as_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """With nodes in place of its initializers, one behind an Identity."""
    graph = model.graph
    made = [helper.make_node("Constant", [], [f"{t.name}_"], value=t) for t in graph.initializer]
    passed = [helper.make_node("Identity", [f"{t.name}_"], [t.name]) for t in graph.initializer]
    nodes = [*made, *passed, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    del graph.initializer[:]
    return model


def as_function(model: onnx.ModelProto) -> onnx.ModelProto:
    """With its last two nodes in a local function."""
    graph = model.graph
    body = [helper.make_node("MatMul", ["a", "b"], ["t"]), helper.make_node("Add", ["t", "c"], ["o"])]
    model.functions.add().CopyFrom(
        helper.make_function("local", "Dense", ["a", "b", "c"], ["o"], body, [helper.make_opsetid("", 18)])
    )
    model.opset_import.append(helper.make_opsetid("local", 1))
    del graph.node[-2:]
    graph.node.append(helper.make_node("Dense", ["g", "w3", "b3"], ["27"], domain="local"))
    return model


def forms(folder: Path) -> dict[str, Path]:
    """What it is -> a file of it, all of the same network."""
    made = {
        "opset 18": network(),
        "opset 8, IR 3, batch 1": network(8, 3, batch=1, as_inputs=True),
        "opset 9, initializers as inputs": network(9, 4, as_inputs=True),
        "opset 9": network(9, 4),
        "opset 11, IR 3": network(11, 3, as_inputs=True),
        "free height": network(17, height="H"),
        "constants": as_constants(network()),
        "a function": as_function(network()),
    }
    paths = {name: folder / f"{index}.onnx" for index, name in enumerate(made)}
    for name, model in made.items():
        onnx.save(model, paths[name])
    for name, least in (("all external", 0), ("large ones external", 1024)):
        paths[name] = folder / f"external{least}.onnx"
        onnx.save(
            network(17), paths[name], save_as_external_data=True, location=f"weights{least}.bin", size_threshold=least
        )
    return paths
