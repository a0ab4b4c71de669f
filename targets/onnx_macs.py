"""Multiply-accumulates of ONNX operators, from the shapes of what they read and make.

One MAC is one multiplication with its addition; biases, scales and activations are not counted. A table from the
operator to its rule; a fused or an integer form of an operator is counted as the operator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Shape = tuple[int, ...]
Rule = Callable[["Ends"], int]


@dataclass(frozen=True)
class Ends:
    """An operator's shapes, () for an input that is left out, and its attributes."""

    inputs: Sequence[Shape]
    out: Shape
    attributes: Mapping[str, Any] = field(default_factory=dict)


def _conv(data: int = 0, weight: int = 1) -> Rule:
    """Each output value costs one multiplication per weight that reaches it."""
    return lambda ends: math.prod(ends.out) * math.prod(ends.inputs[weight][1:])


def _conv_transpose(ends: Ends) -> int:
    """Each input value meets the whole kernel."""
    return math.prod(ends.inputs[0]) * math.prod(ends.inputs[1][1:])


def _gemm(weight: int = 1) -> Rule:
    return lambda ends: math.prod(ends.out) * ends.inputs[weight][1 if ends.attributes.get("transB") else 0]


def _matmul(weight: int = 1) -> Rule:
    """Each output value is a sum over the axis of the second factor before its last, or its only one."""

    def rule(ends: Ends) -> int:
        second = ends.inputs[weight]
        inner = second[-1] if ends.attributes.get("transB") or len(second) == 1 else second[-2]
        return math.prod(ends.out) * inner

    return rule


def _einsum(ends: Ends) -> int:
    return einsum(str(ends.attributes["equation"]), ends.inputs)


def _recurrent(ends: Ends) -> int:
    """All weights at each step of each sample."""
    return math.prod(ends.inputs[0][:2]) * (math.prod(ends.inputs[1]) + math.prod(ends.inputs[2]))


def _attention(ends: Ends) -> int:
    """Queries times keys, then times values: [batch, heads, length, size] each, or [batch, length, heads * size]."""
    query, key, value = ends.inputs[:3]
    if len(query) == 4:
        return math.prod(query[:3]) * key[2] * (query[3] + value[3])
    heads = int(ends.attributes.get("q_num_heads", 1))
    shared = int(ends.attributes.get("kv_num_heads", heads))
    return math.prod(query[:2]) * key[1] * (query[2] + heads * value[2] // shared)


def _packed_attention(ends: Ends) -> int:
    """Query, key and value from one product with [width, 3 * size] weights, then as above."""
    (batch, length, _), weight = ends.inputs[:2]
    return batch * length * (math.prod(weight) + length * 2 * weight[1] // 3)


def einsum(equation: str, shapes: Sequence[Shape]) -> int:
    """Of an einsum that contracts its operands from the left, two at a time; one operand alone multiplies nothing.

    An ellipsis stands for axes that broadcast.
    """
    left, _, right = equation.replace(" ", "").partition("->")
    terms = [_labels(term, len(shape)) for term, shape in zip(left.split(","), shapes, strict=True)]
    sizes: dict[Any, int] = {}
    for labels, shape in zip(terms, shapes, strict=True):
        for label, size in zip(labels, shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    every = [label for labels in terms for label in labels]
    ellipsis = [label for label in sizes if isinstance(label, int)]
    kept = (
        [*right.replace("...", ""), *ellipsis] if "->" in equation else [one for one in sizes if every.count(one) == 1]
    )
    total, have = 0, set(terms[0])
    for index, labels in enumerate(terms[1:], 2):
        joined = have | set(labels)
        total += math.prod(sizes[label] for label in joined)
        later = {label for others in terms[index:] for label in others} | set(kept)
        have = joined & later
    return total


def _labels(term: str, rank: int) -> list[Any]:
    """The labels of a term's axes; those of its ellipsis are numbers from the right, -1 for the last."""
    before, dots, after = term.partition("...")
    free = rank - len(before) - len(after) if dots else 0
    return [*before, *range(-free, 0), *after]


PLAIN: dict[str, Rule] = {  # what has weights that a quantizer may take
    "Conv": _conv(),
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm(),
    "MatMul": _matmul(),
    "MatMulInteger": _matmul(),
}
RECURRENT: dict[str, Rule] = {"GRU": _recurrent, "LSTM": _recurrent, "RNN": _recurrent}
RULES: dict[str, Rule] = {
    **PLAIN,
    **RECURRENT,
    "Einsum": _einsum,
    "Attention": _attention,
    "MultiHeadAttention": _attention,
    "ConvInteger": _conv(),
    "FusedConv": _conv(),
    "FusedGemm": _gemm(),
    "FusedMatMul": _matmul(),
    "QGemm": _gemm(3),
    "QLinearConv": _conv(weight=3),
    "QLinearMatMul": _matmul(3),
}


def rule_of(node: Any) -> Rule | None:
    """A node's rule; None for one that multiplies no tensors."""
    if node.op_type == "Attention" and node.domain == "com.microsoft":
        return _packed_attention
    return RULES.get(node.op_type)
