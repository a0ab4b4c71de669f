"""The integers of a deployed file's weights, one by one: what the exporter really stored."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.int8]
FULL = 127  # the largest code of a channel that uses its whole range
HALF = 64  # a vendor's guard against overflow where products have no wide accumulator
FEW = 8  # weights below which a small largest code may be chance


def read(path: Path) -> dict[str, Codes]:
    """Name of the weight in the file -> int8 [output channels, rest]; nothing for other kinds of file."""
    reader = READERS.get(path.suffix)
    return reader(path) if reader else {}


def half_range(codes: Mapping[str, Codes]) -> list[str]:
    """Weights of which no code is beyond +-64: a bit of precision is given away."""
    found = {name: int(np.abs(array.astype(np.int16)).max()) for name, array in codes.items() if array.size >= FEW}
    return sorted(name for name, largest in found.items() if 0 < largest <= HALF)


def _onnx(path: Path) -> dict[str, Codes]:
    import onnx
    from onnx import numpy_helper

    from targets import onnx_graph

    graph = onnx_graph.load(path).graph
    readers = {name: node for node in graph.node for name in node.input}
    found = {}
    for one in graph.initializer:
        array = numpy_helper.to_array(one) if one.data_type == onnx.TensorProto.INT8 else np.zeros(0, np.int8)
        if array.ndim > 1:
            found[one.name] = array.T if _inputs_first(one.name, readers) else array.reshape(len(array), -1)
    return found


def _inputs_first(weight: str, readers: Mapping[str, Any]) -> bool:
    """Does a weight lie as [inputs, outputs]? That of a MatMul does, and of a Gemm that does not turn it."""
    product = readers.get(weight)
    if product is not None and product.op_type == "DequantizeLinear":
        product = readers.get(product.output[0])
    if product is None or product.op_type not in ("Gemm", "MatMul"):
        return False
    return not any(attribute.name == "transB" and attribute.i for attribute in product.attribute)


def _openvino(path: Path) -> dict[str, Codes]:
    from targets import agent, openvino_graph

    found: dict[str, Codes] = {}
    for node in openvino_graph.weighted(agent.import_openvino().Core().read_model(str(path))):
        constant = openvino_graph.stored(node.input_value(1))
        if constant.get_element_type().get_type_name() != "i8":
            continue
        codes = np.array(constant.data)
        channels = openvino_graph.channels_of(node, codes.ndim)
        name = constant.get_friendly_name()  # not always unique
        turned = np.moveaxis(codes, channels, range(len(channels)))
        rows = math.prod(turned.shape[: len(channels)])
        found[name if name not in found else f"{name}:{len(found)}"] = turned.reshape(rows, -1)
    return found


# Which axis of a filter counts output channels, and the order of the others as in PyTorch.
_ORDER = {
    "CONV_2D": (0, 3, 1, 2),
    "DEPTHWISE_CONV_2D": (3, 0, 1, 2),
    "FULLY_CONNECTED": (0, 1),
    "TRANSPOSE_CONV": (0, 3, 1, 2),
}


def _tflite(path: Path) -> dict[str, Codes]:
    from targets.tflite import flatbuffer

    found = {}
    for op in flatbuffer.ops(flatbuffer.read(path)):
        if op.type not in _ORDER or op.inputs[1].type != "INT8" or op.inputs[1].data is None:
            continue
        weight: Any = op.inputs[1]
        codes = weight.data.view(np.int8).reshape(weight.shape).transpose(_ORDER[op.type])
        found[weight.name] = codes.reshape(len(codes), -1)
    return found


READERS: dict[str, Callable[[Path], dict[str, Codes]]] = {".onnx": _onnx, ".tflite": _tflite, ".xml": _openvino}
