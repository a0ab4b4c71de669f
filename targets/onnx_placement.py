"""Where an ONNX graph stays float between integer products: beside normalizations, at biases, before float readers."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from targets import onnx_graph

if TYPE_CHECKING:
    import onnx

# A normalization divides by the spread of its input and a softmax takes exponents: 8 bits for what they read, outlier
# channels and masks of -3.4e38 included, is what ruins transformers.
_NORMS = frozenset(
    {"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization", "SkipLayerNormalization", "Softmax"}
)
_PRODUCTS = ("Gemm", "MatMul")  # their integer kernels can leave real numbers
_PAIR = ("QuantizeLinear", "DequantizeLinear")


def beside_norms(graph: onnx.ModelProto) -> list[str]:
    """Names of the nodes that stay float: normalizations, softmax, and all that touches these with no product between.

    With the additions of biases behind products of more than two axes, which are a part of the product's own kernel.
    """
    made, readers = _ends(graph)
    found: dict[str, onnx.NodeProto] = {}
    stored = {tensor.name for tensor in graph.graph.initializer}
    todo = [node for node in graph.graph.node if node.op_type in _NORMS]
    while todo:
        node = todo.pop()
        if node.name in found or node.op_type in onnx_graph.WORK or node.op_type in onnx_graph.RECURRENT:
            continue
        found[node.name] = node
        todo += [made[name] for name in node.input if name in made]
        todo += [reader for name in node.output for reader in readers[name]]
    for node in graph.graph.node:
        constant = [name for name in node.input if name in stored]
        behind = any(name in made and made[name].op_type == "MatMul" for name in node.input)
        if node.op_type == "Add" and len(constant) == 1 and behind:
            found[node.name] = node
    return list(found)


def spare_float_readers(graph: onnx.ModelProto) -> None:
    """Take QuantizeLinear -> DequantizeLinear off what a Gemm or MatMul makes where only float ops, or nobody, read it.

    The product then leaves real numbers: an op less, and 4 dB for the logits of keyword spotting.
    """
    made, readers = _ends(graph)
    outputs = {value.name for value in graph.graph.output}
    for quantize in [node for node in graph.graph.node if node.op_type == _PAIR[0]]:
        source, behind = made.get(quantize.input[0]), readers[quantize.output[0]]
        if source is None or source.op_type not in _PRODUCTS or [node.op_type for node in behind] != [_PAIR[1]]:
            continue
        before, after = quantize.input[0], behind[0].output[0]
        if len(readers[before]) > 1 or any(_is_integer(node, readers) for node in readers[after]):
            continue
        name = after if after in outputs else before
        source.output[0] = name
        for reader in readers[after]:
            reader.input[:] = [name if one == after else one for one in reader.input]
        for node in (quantize, behind[0]):
            graph.graph.node.remove(node)
    read = {name for node in graph.graph.node for name in node.input}
    for initializer in [one for one in graph.graph.initializer if one.name not in read]:
        graph.graph.initializer.remove(initializer)


def _is_integer(node: onnx.NodeProto, readers: dict[str, list[onnx.NodeProto]]) -> bool:
    """A product or convolution, or an op whose output is rounded: it runs on the codes."""
    rounded = (reader.op_type == _PAIR[0] for name in node.output for reader in readers[name])
    return node.op_type in onnx_graph.WORK or node.op_type == _PAIR[0] or any(rounded)


def _ends(graph: onnx.ModelProto) -> tuple[dict[str, onnx.NodeProto], dict[str, list[onnx.NodeProto]]]:
    """Who makes and who reads each tensor."""
    made = {name: node for node in graph.graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.graph.node:
        for name in node.input:
            readers[name].append(node)
    return made, readers
