"""The weights that an ONNX graph stores: their bytes, in half precision, and a copy for each layer that shares them."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from targets import onnx_graph

if TYPE_CHECKING:
    import onnx

LARGE_CONSTANT = 64  # numbers; smaller constants are scalars and shapes


def half_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with its larger float constants in half precision, behind a Cast each: the file shrinks.

    A runtime folds the Cast when it loads the file, and computes in float32.
    """
    import onnx
    from onnx import helper, numpy_helper

    halved = onnx.ModelProto()
    halved.CopyFrom(model)
    graph = halved.graph
    casts = []
    for one in graph.initializer:
        if one.data_type != onnx.TensorProto.FLOAT or math.prod(one.dims) < LARGE_CONSTANT:
            continue
        name, stored = one.name, numpy_helper.to_array(one)
        if np.abs(stored).max() > np.finfo(np.float16).max:
            continue
        one.CopyFrom(numpy_helper.from_array(stored.astype(np.float16), f"{name}_half"))
        casts.append(helper.make_node("Cast", [one.name], [name], f"{name}_cast", to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    graph.ClearField("node")
    graph.node.extend(nodes)
    return halved


def weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of the weights and biases of the ops of `macs`, as stored: float, or the integers that are dequantized."""
    import onnx

    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    used: set[str] = set()
    for node in model.graph.node:
        if node.op_type not in onnx_graph.WORK and node.op_type not in onnx_graph.RECURRENT:
            continue
        for name in node.input[1:4]:
            producer = producers.get(name)
            through = producer is not None and producer.op_type in ("DequantizeLinear", "Cast")
            used.add(producer.input[0] if producer is not None and through else name)
    return sum(
        math.prod(initializers[name].dims) * onnx.helper.tensor_dtype_to_np_dtype(initializers[name].data_type).itemsize
        for name in used
        if name in initializers
    )


def own_weights(model: onnx.ModelProto) -> None:
    """Give each convolution and product its own copy of int8 weights that several share.

    With exact kernels on CPUs without VNNI ONNX Runtime makes other codes of them when it loads a file, names
    the result after the weights, and breaks where that name is taken.
    """
    import onnx

    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8}
    rounded = {node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear"}
    taken: Counter[str] = Counter()
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        reader, ends = node, (1, 3)  # of the weights and their zero points
        if node.op_type in onnx_graph.WORK and (before := rounded.get(node.input[1])) is not None:
            reader, ends = onnx.NodeProto(), (0, 2)
            reader.CopyFrom(before)
        weights = reader.input[ends[0]] if node.op_type in onnx_graph.WORK else ""
        if weights in stored and taken[weights]:
            last = f"_{taken[weights]}"
            for end in ends:
                if len(reader.input) > end and (one := stored.get(reader.input[end])):
                    graph.initializer.add().CopyFrom(one)
                    graph.initializer[-1].name = reader.input[end] = one.name + last
            if reader is not node:
                reader.name, reader.output[0] = reader.name + last, reader.output[0] + last
                node.input[1] = reader.output[0]
                nodes.append(reader)
        taken[weights] += 1
        nodes.append(node)
    graph.ClearField("node")
    graph.node.extend(nodes)


# Inputs that hold settings or statistics and nothing that is learned: bounds, sizes, scales of codes, running means.
_SETTINGS = {
    "BatchNormalization": (3, 4),
    "Clip": (1, 2),
    "DequantizeLinear": (1, 2),
    "Dropout": (1, 2),
    "Pad": (1, 2, 3),
    "QuantizeLinear": (1, 2),
    "Resize": (1, 2, 3),
}
_CODES = {  # inputs that hold weights and biases as integers
    "ConvInteger": (1,),
    "DequantizeLinear": (0,),
    "MatMulInteger": (1,),
    "QGemm": (3, 6),
    "QLinearConv": (3, 8),
    "QLinearMatMul": (3,),
}


def parameters(model: onnx.ModelProto) -> int:
    """How many numbers were learned: those of every stored tensor of one axis or more that an op reads as no setting.

    A tensor that several read counts once; of integers only the weights and biases count. As a module's parameters are,
    however the file is written.
    """
    import onnx

    real = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
    stored = {tensor.name: tensor for tensor in model.graph.initializer if tensor.dims}
    learned: set[str] = set()
    for node in model.graph.node:
        codes, settings = _CODES.get(node.op_type, ()), _SETTINGS.get(node.op_type, ())
        for index, name in enumerate(node.input):
            if name not in stored:
                continue
            is_real = stored[name].data_type in real
            if index in codes or (
                is_real and index not in settings and not (codes and node.op_type != "DequantizeLinear")
            ):
                learned.add(name)
    return sum(math.prod(stored[name].dims) for name in learned)
