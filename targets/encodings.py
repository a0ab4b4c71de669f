"""Encodings as they really stand in a deployed file: ONNX QDQ, .tflite, OpenVINO IR."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from calibration import encodings
from calibration.encodings import Encoding, Encodings
from targets.base import TargetError


def read(path: Path) -> Encodings:
    """The encodings in a file, by its suffix (.json: AIMET's). Raises TargetError, CalibrationError or OSError."""
    if path.suffix not in READERS:
        raise TargetError(f"{path}: encodings are read from {', '.join(READERS)}", "unsupported")
    if not path.is_file():
        raise TargetError(f"no file {path}", "unsupported")
    return READERS[path.suffix](path)


def _onnx(path: Path) -> Encodings:
    """QuantizeLinear's inputs are activations; what DequantizeLinear makes of a constant is a parameter."""
    import onnx
    from onnx import numpy_helper

    from targets import onnx_graph

    model = onnx_graph.load(path)
    constants = {i.name: i for i in model.graph.initializer}

    def of(node: onnx.NodeProto, dtype: Any) -> Encoding:
        scale = numpy_helper.to_array(constants[node.input[1]])
        zero = numpy_helper.to_array(constants[node.input[2]]) if len(node.input) > 2 else np.zeros((), dtype)
        kind = zero.dtype
        return encodings.encoding(scale, zero, 8 * kind.itemsize, kind.kind == "i")

    activations: dict[str, Encoding] = {}
    parameters: dict[str, Encoding] = {}
    for node in model.graph.node:
        if len(node.input) < 2 or node.input[1] not in constants:
            continue
        if node.op_type == "QuantizeLinear":
            activations[node.input[0]] = of(node, np.uint8)
        elif node.op_type == "DequantizeLinear" and node.input[0] in constants:
            stored = numpy_helper.to_array(constants[node.input[0]]).dtype
            parameters[node.input[0].removesuffix("_quantized")] = of(node, stored)
    return Encodings(activations, parameters)


def _tflite(path: Path) -> Encodings:
    from targets.tflite import flatbuffer

    activations: dict[str, Encoding] = {}
    parameters: dict[str, Encoding] = {}
    for op in flatbuffer.ops(flatbuffer.read(path)):
        for tensor in (*op.inputs, *op.outputs):
            if tensor.scale is None or tensor.zero_point is None or not tensor.scale.size:
                continue
            kind = parameters if tensor.data is not None else activations
            bits = {"INT8": 8, "INT16": 16, "INT32": 32}.get(tensor.type)
            if bits:
                kind[tensor.name] = encodings.encoding(tensor.scale, tensor.zero_point, bits, True)
    return Encodings(activations, parameters)


def _openvino(path: Path) -> Encodings:
    """Activations only, from FakeQuantize: the IR keeps weights as plain integers and a product."""
    from targets import agent, openvino_graph

    activations = {}
    model = agent.import_openvino().Core().read_model(str(path))
    for node in model.get_ordered_ops():
        if node.get_type_name() != "FakeQuantize" or openvino_graph.stored(node.input_value(0)) is not None:
            continue
        low, high = (node.input_value(i).get_node().data.astype(np.float64).reshape(-1) for i in (1, 2))
        levels = node.get_attributes()["levels"]
        scale = ((high - low) / (levels - 1)).astype(np.float32)
        bits = int(np.ceil(np.log2(levels)))
        zero = np.rint(-low / scale).astype(np.int64)
        activations[min(node.input_value(0).get_names())] = encodings.encoding(scale, zero, bits, False)
    return Encodings(activations, {})


READERS: dict[str, Callable[[Path], Encodings]] = {
    ".json": encodings.read,
    ".onnx": _onnx,
    ".tflite": _tflite,
    ".xml": _openvino,
}
