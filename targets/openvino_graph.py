"""OpenVINO's IR as this target sees it: which ops do the work, where activations are quantized, stable names.

Knows the graph's types only, nothing of files, quantizers or the plugin.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from targets import onnx_macs

# IR type -> (axes of the weight that are output channels, which end of the op its MACs are counted at, first weight
# axis that multiplies). MatMul is apart: its axes depend on its attributes.
WORK: dict[str, tuple[tuple[int, ...], Callable[[Any], Any], int]] = {
    "Convolution": ((0,), lambda node: node.output(0), 1),
    "GroupConvolution": ((0, 1), lambda node: node.output(0), 2),
    "ConvolutionBackpropData": ((1,), lambda node: node.input_value(0), 1),
    "GroupConvolutionBackpropData": ((0, 2), lambda node: node.input_value(0), 2),
    "MatMul": ((), lambda node: node.output(0), 0),
}
WORK_LAYERS = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul"})  # their names once compiled
RECURRENT = frozenset({"GRUSequence", "LSTMSequence", "RNNSequence"})
DEQUANTIZED = "/DequantizationMultiply"  # what OpenVINO names the scaling that it moves behind an integer op
_NORMS = frozenset({"MVN", "Softmax"})
_MIXING = _NORMS | {"NormalizeL2", *(f"Reduce{how}" for how in ("L1", "L2", "Max", "Mean", "Min", "Prod", "Sum"))}
_PASSED = frozenset(
    {
        "Add",
        "AvgPool",
        "Clamp",
        "Concat",
        "HSwish",
        "MaxPool",
        "Multiply",
        "PRelu",
        "Pad",
        "ReduceMean",
        "Relu",
        "Reshape",
    }
    | {"Sigmoid", "Split", "Squeeze", "StridedSlice", "Transpose", "Unsqueeze", "VariadicSplit"}
)
_EXTREMES = frozenset({"ReduceMax", "ReduceMin"})
# Integers pass through unchanged.
_MOVES = frozenset({"MaxPool", "Reshape", "Squeeze", "Unsqueeze", "Transpose"}) | _EXTREMES


def macs(model: Any) -> Iterator[tuple[Any, int]]:
    """(node, multiply-accumulates) of each convolution, product and recurrent layer of a model with static shapes."""
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind in RECURRENT:  # all weights at each step
            weights = [math.prod(port.get_shape()) for port in node.input_values()[-3:-1]]
            yield node, math.prod(list(node.input_value(0).get_shape())[:2]) * sum(weights)
        if kind == "ScaledDotProductAttention":  # query times keys, then times values
            query, key, value = (list(node.input_value(i).get_shape()) for i in range(3))
            yield node, math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
        if kind == "Einsum":
            shapes = [tuple(port.get_shape()) for port in node.input_values()]
            yield node, onnx_macs.einsum(node.get_attributes()["equation"], shapes)
        if kind == "MatMul":
            data = list(node.input_value(0).get_shape())
            inner = data[-2] if node.get_attributes().get("transpose_a") and len(data) > 1 else data[-1]
            yield node, math.prod(node.output(0).get_shape()) * inner
        elif kind in WORK:
            _, end, first = WORK[kind]
            yield node, math.prod(end(node).get_shape()) * math.prod(list(node.input_value(1).get_shape())[first:])


def mixing(model: Any) -> dict[str, str]:
    """Name -> IR type of the ops that make a value of several and are no products: no kernel takes them along."""
    nodes = model.get_ordered_ops()
    return {node.get_friendly_name(): node.get_type_name() for node in nodes if node.get_type_name() in _MIXING}


def weighted(model: Any) -> list[Any]:
    """Convolutions and products with stored weights, in execution order."""
    nodes = [node for node in model.get_ordered_ops() if node.get_type_name() in WORK]
    return [node for node in nodes if stored(node.input_value(1)) is not None]


def rounded(model: Any) -> dict[str, Any]:
    """Activations that a FakeQuantize rounds, by name, in execution order -> the port behind it."""
    nodes = [node for node in model.get_ordered_ops() if node.get_type_name() == "FakeQuantize"]
    found: dict[str, Any] = {}
    for node in nodes:
        names = node.input_value(0).get_names()
        if names and stored(node.input_value(0)) is None:
            found.setdefault(min(names), node.output(0))
    return found


def placement(model: Any, without: frozenset[str] = frozenset()) -> list[tuple[Any, int, str]]:
    """Where activations are quantized: (node, input index, tensor name), in execution order.

    The data input of every convolution and product (both inputs where none is a weight), and both inputs of an
    addition of two activations that does not stay float (`_floats`). The place moves up through ops that only move
    values, so that these run on integers. Ops called as `without` says are passed over, and those of `misread`.
    """
    places, without = [], without | _floats(model) | misread(model)
    for node in model.get_ordered_ops():
        if node.get_friendly_name() in without:
            continue
        for place, index in _places(node):
            port = place.input_value(index)
            if port.get_element_type().get_type_name() == "f32":
                places.append((place, index, min(port.get_names())))
    return places


def misread(model: Any) -> frozenset[str]:
    """Friendly names of ops whose rounded input the CPU plugin would compute wrongly: they stay float.

    It fuses a FakeQuantize, and the ops on single values before it, into the ReduceMax or ReduceMin above, also through
    a Concat: that then keeps its running extreme in 8 bits (-0.3 to 27 dB, with OpenVINO 2026.4 on AVX2 and AVX-512).
    Other reductions and 50 other ops were tried so and are right; so is an extreme of what is rounded already, to which
    `_MOVES` leads.
    """
    found = set()
    for node in model.get_ordered_ops():
        todo = [place.input_value(index).get_node() for place, index in _places(node)]
        while todo:
            source = todo.pop()
            if source.get_type_name() in _EXTREMES:
                found.add(node.get_friendly_name())
            todo += _fused_above(source)
    return frozenset(found)


def _fused_above(node: Any) -> list[Any]:
    """What makes the activations of a Concat, or of an op on single values: one that reads one, of its own shape."""
    read = [port for port in node.input_values() if stored(port) is None]
    if node.get_type_name() == "Concat":
        return [port.get_node() for port in read]
    if len(read) != 1 or len(node.outputs()) != 1 or node.get_type_name() in WORK:
        return []
    return [port.get_node() for port in read if port.get_partial_shape() == node.output(0).get_partial_shape()]


def _places(node: Any) -> Iterator[tuple[Any, int]]:
    """Above which inputs of which ops an op's own activations would be rounded; none for an op that stays float."""
    kind = node.get_type_name()
    inputs = [0, 1] if kind in ("MatMul", "Add") else [0] if kind in WORK else []
    inputs = [i for i in inputs if stored(node.input_value(i)) is None]
    if kind == "Add" and len(inputs) < 2:  # a bias
        return
    for i in inputs:
        place, index = node, i
        while (source := place.input_value(index).get_node()).get_type_name() in _MOVES:
            place, index = source, 0
        yield place, index


def _floats(model: Any) -> set[str]:
    """Friendly names of the ops that stay float.

    All that touches a normalization or a softmax without a product between: 8 bits for what these read, outlier
    channels and masks of -3.4e38 included, is what ruins transformers. And what is not between products, by way of ops
    that integers pass through: rounding for one op among float ones costs time and bits.
    """
    nodes = list(model.get_ordered_ops())
    work = [node for node in nodes if node.get_type_name() in WORK]
    stop = frozenset({*WORK, *RECURRENT, "ScaledDotProductAttention", "Constant", "Parameter", "Result"})

    def before(node: Any) -> list[Any]:
        return [port.get_node() for port in node.input_values()]

    def after(node: Any) -> list[Any]:
        return [reader.get_node() for port in node.outputs() for reader in port.get_target_inputs()]

    norms = [node for node in nodes if node.get_type_name() in _NORMS]
    found = _reached(norms, lambda node: [*before(node), *after(node)], lambda node: node.get_type_name() not in stop)

    def passes(node: Any) -> bool:
        return node.get_type_name() in _PASSED and node.get_friendly_name() not in found

    below = _reached([one for node in work for one in after(node)], after, passes)
    above = _reached([one for node in work for one in before(node)], before, passes)
    return found | ({node.get_friendly_name() for node in nodes if node.get_type_name() == "Add"} - (below & above))


def _reached(start: list[Any], step: Callable[[Any], list[Any]], may: Callable[[Any], bool]) -> set[str]:
    found: set[str] = set()
    todo = list(start)
    while todo:
        node = todo.pop()
        if node.get_friendly_name() not in found and may(node):
            found.add(node.get_friendly_name())
            todo += step(node)
    return found


def channels_of(node: Any, rank: int) -> tuple[int, ...]:
    """The weight's axes that are output channels."""
    if node.get_type_name() != "MatMul":
        return WORK[node.get_type_name()][0]
    if rank == 1:
        return ()
    return (rank - 2 if node.get_attributes().get("transpose_b") else rank - 1,)


def stored(port: Any) -> Any:
    """The Constant behind a port, seen through what decompresses or fake-quantizes it; None for an activation."""
    node = port.get_node()
    while node.get_type_name() in ("Convert", "Subtract", "Multiply", "FakeQuantize", "Reshape"):
        node = node.input_value(0).get_node()
    return node if node.get_type_name() == "Constant" else None


def owners_of(model: Any, work: Mapping[str, int]) -> dict[str, str]:
    """Names that a compiled layer may carry -> the op of the IR: its own, or those of the ops fused after it."""
    owners = {}
    for node in model.get_ordered_ops():
        if (name := node.get_friendly_name()) not in work:
            continue
        for _ in range(4):  # bias, activation, FakeQuantize
            owners[node.get_friendly_name()] = name
            readers = list(node.output(0).get_target_inputs())
            if len(readers) != 1 or readers[0].get_node().get_friendly_name() in work:
                break
            node = readers[0].get_node()
    return owners


def name_ops(model: Any) -> None:
    """Names that count from a process-wide counter ("Constant_2482") become the op's own place in the graph.

    Otherwise the bytes of a file would depend on what else this process has converted.
    """
    for index, node in enumerate(model.get_ordered_ops()):
        if re.fullmatch(rf"({node.get_type_name()}|[A-Z]\w*)_\d+", node.get_friendly_name()):
            node.set_friendly_name(f"{node.get_type_name()}.{index}")


def name_tensors(model: Any, keep: set[str]) -> None:
    """One name a tensor: the program's where it is one, else the first in order, else made of the op's."""
    for node in model.get_ordered_ops():
        if node.get_type_name() in ("Constant", "Result"):
            continue
        for index, port in enumerate(node.outputs()):
            names = port.get_names()
            one = min(names & keep or names, default=f"{node.get_friendly_name()}:{index}")
            port.get_tensor().set_names({one})
