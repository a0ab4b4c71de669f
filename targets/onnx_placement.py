"""Where an ONNX graph stays float between integer products: beside normalizations, at biases, before float readers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING

from targets import onnx_graph

if TYPE_CHECKING:
    import onnx

# No integer kernels, and choosy: a normalization divides by the spread of its input, a softmax takes exponents, spectra
# are squared. 8 bits for what they read, outlier channels and masks of -3.4e38 included, ruin transformers.
_FLOAT = frozenset(
    {"Div", "Erf", "Exp", "Gelu", "Log", "Pow", "Softmax", "Sqrt", "Tanh"}
    | {"LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"}
)
# Integers pass through: quantized by onnxruntime, or only moved; a mean of integers is read as one.
_PASSED = frozenset(
    {
        "Add",
        "AveragePool",
        "Clip",
        "Concat",
        "Expand",
        "Flatten",
        "GlobalAveragePool",
        "Identity",
        "LeakyRelu",
        "MaxPool",
    }
    | {"Mul", "Pad", "ReduceMean", "Relu", "Reshape", "Resize", "Sigmoid", "Slice", "Split", "Squeeze", "Transpose"}
    | {"Unsqueeze", "Where"}
)
_ARITHMETIC = ("Add", "LeakyRelu", "Mul", "Sigmoid")
_JOIN = "Concat"  # in integers all that it joins shares one scale: a detector's scores beside its pixels are all 0
_PRODUCTS = ("Gemm", "MatMul")  # their integer kernels can leave real numbers
_PAIR = ("QuantizeLinear", "DequantizeLinear")


def floats(graph: onnx.ModelProto) -> list[str]:
    """Names of the nodes that stay float, beside those for which there is no integer kernel:

    - normalizations, softmax, tanh and other curves, and all that touches these without a product between;
    - what is not between integers: no product or input of the graph before it, or no product after it, by way of ops
      that integers pass through (rounding for one op among float ones costs time and bits, and what is joined for an
      output would share one scale);
    - the addition of a bias behind a product of more than two axes, which is a part of the product's own kernel.
    """
    made, readers = _ends(graph)
    nodes = list(graph.graph.node)

    def before(node: onnx.NodeProto) -> list[onnx.NodeProto]:
        return [made[name] for name in node.input if name in made]

    def after(node: onnx.NodeProto) -> list[onnx.NodeProto]:
        return [reader for name in node.output for reader in readers[name]]

    def work(node: onnx.NodeProto) -> bool:
        return node.op_type in onnx_graph.WORK

    def passes(node: onnx.NodeProto) -> bool:
        return node.op_type in _PASSED and node.name not in found

    found: set[str] = set()
    found = _reached([node for node in nodes if node.op_type in _FLOAT], lambda n: [*before(n), *after(n)], _may_float)
    fed = [reader for value in graph.graph.input for reader in readers[value.name]]
    below = _reached([*(one for node in nodes if work(node) for one in after(node)), *fed], after, passes)
    above = _reached([one for node in nodes if work(node) for one in before(node)], before, passes)
    found |= {node.name for node in nodes if node.op_type in (*_ARITHMETIC, _JOIN)} - (below & above)
    stored = {tensor.name for tensor in graph.graph.initializer}
    for node in nodes:
        constants = sum(name in stored for name in node.input)
        if node.op_type == "Add" and constants == 1 and any(one.op_type == "MatMul" for one in before(node)):
            found.add(node.name)
    return [node.name for node in nodes if node.name in found and node.op_type not in ("Relu", "Clip")]  # fused


def _reached(
    start: Iterable[onnx.NodeProto],
    step: Callable[[onnx.NodeProto], Iterable[onnx.NodeProto]],
    may: Callable[..., bool],
) -> set[str]:
    """Names of the nodes that `may` be entered and are reached by steps from `start`."""
    found: set[str] = set()
    todo = list(start)
    while todo:
        node = todo.pop()
        if node.name not in found and may(node):
            found.add(node.name)
            todo += step(node)
    return found


def _may_float(node: onnx.NodeProto) -> bool:
    return node.op_type not in onnx_graph.WORK and node.op_type not in onnx_graph.RECURRENT


def spare_float_readers(graph: onnx.ModelProto, floating: Collection[str], source: onnx.ModelProto) -> None:
    """Take QuantizeLinear -> DequantizeLinear off what a Gemm or MatMul makes where only float ops, or nobody, read it.

    `floating`: names of nodes that were left float; `source`: the float graph. The product then leaves real numbers: an
    op less, and 4 dB for the logits of keyword spotting. Where the quantizer has dropped a Relu or Clip, since an
    asymmetric range does its work, the rounding stays: it is all that clamps.
    """
    made, readers = _ends(graph)
    clamped = onnx_graph.clamped(source).values()  # where the clamp is gone, the product carries the name of its output
    clamps = {name for name in clamped if name in made and made[name].op_type not in onnx_graph.CLAMPS}
    outputs = {value.name for value in graph.graph.output}
    for quantize in [node for node in graph.graph.node if node.op_type == _PAIR[0]]:
        source, behind = made.get(quantize.input[0]), readers[quantize.output[0]]
        if source is None or source.op_type not in _PRODUCTS or [node.op_type for node in behind] != [_PAIR[1]]:
            continue
        before, after = quantize.input[0], behind[0].output[0]
        if (
            before in clamps
            or len(readers[before]) > 1
            or any(node.name not in floating and _is_integer(node, readers) for node in readers[after])
        ):
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
