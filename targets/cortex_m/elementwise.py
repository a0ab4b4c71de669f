"""Ops of two numbers each, of one shape or broadcast; with one number for an operand they are tables (lookup.py).

Sources: tensorflow/lite/kernels/internal/reference/add.h, sub.h, integer_ops/mul.h, maximum_minimum.h;
tensorflow/lite/micro/kernels/squared_difference.cc; the factors from their Prepare functions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from targets.cortex_m import lookup
from targets.cortex_m.call import Call, code_range, scale, zero
from targets.cortex_m.fixed_point import INT8_MAX, INT8_MIN, clamp_code, quantize_multiplier, requantize
from targets.cortex_m.graph import Node, Value
from targets.cortex_m.shapes import runs, steps_of


@dataclass(frozen=True)
class Pairs:
    """`numbers` fill `params`; `function` is the same in Python. `dense`: a kernel for operands of one shape."""

    kernel: str
    params: str
    numbers: tuple[int, ...]
    function: Callable[[int, int], int]
    dense: str | None = None


def _lower(pairs: Callable[[Node], Pairs]) -> Callable[[Node], list[Call]]:
    def lower(node: Node) -> list[Call]:
        (a, b), y, found = node.inputs, node.outputs[0], pairs(node)
        if b.data is not None and b.size == 1:
            second = int(b.data.ravel()[0])
            return [lookup.call(lambda code: found.function(code, second), a, y)]
        if a.data is not None and a.size == 1:
            first = int(a.data.ravel()[0])
            return [lookup.call(lambda code: found.function(first, code), b, y)]
        if found.dense is not None and a.size == b.size == y.size:
            return [Call(found.dense, found.params, (y.size, *found.numbers), (a, b), y)]
        walk = runs(y.shape, _steps(a, y), _steps(b, y))
        params = found.params.replace("nn_", "nn_broadcast_", 1)
        return [Call(found.kernel, params, ((0, *found.numbers), walk), (a, b), y)]

    return lower


def _steps(value: Value, output: Value) -> list[int]:
    """Along each axis of the output; 0 where the operand is broadcast."""
    missing = len(output.shape) - len(value.shape)
    return [0] * missing + [
        0 if size == 1 else step for size, step in zip(value.shape, steps_of(value.shape), strict=True)
    ]


def _rescaled_operands(
    node: Node, left: int, shares: list[float]
) -> tuple[list[int], Callable[[int, int], tuple[int, int]]]:
    """Numbers and function that bring both operands to one scale, `left` bits below the point."""
    pairs = [(zero(v), *quantize_multiplier(share)) for v, share in zip(node.inputs, shares, strict=True)]

    def function(a: int, b: int) -> tuple[int, int]:
        found = [requantize((code - at) << left, *factor) for code, (at, *factor) in zip((a, b), pairs, strict=True)]
        return found[0], found[1]

    return [n for at, *factor in pairs for n in (-at, *factor)], function


def _sum(kernel: str, sign: int, dense: str | None, real: Callable[[np.float32], Any]) -> Callable[[Node], Pairs]:
    """`real`: the precision in which its Prepare divides."""

    def pairs(node: Node) -> Pairs:
        y, (low, high) = node.outputs[0], code_range(node)
        twice = real(2 * max(scale(v) for v in node.inputs))
        numbers, operands = _rescaled_operands(node, 20, [float(real(scale(v)) / twice) for v in node.inputs])
        total = quantize_multiplier(float(twice / real(2**20 * scale(y))))

        def function(a: int, b: int) -> int:
            first, second = operands(a, b)
            return clamp_code(requantize(first + sign * second, *total) + zero(y), low, high)

        return Pairs(kernel, "nn_add_params", (*numbers, zero(y), *total, low, high), function, dense)

    return pairs


def _squared_difference(node: Node) -> Pairs:
    y = node.outputs[0]
    twice = 2 * max(float(scale(v)) for v in node.inputs)
    numbers, operands = _rescaled_operands(node, 7, [float(scale(v)) / twice for v in node.inputs])
    total = quantize_multiplier(twice * twice / (2**14 * float(scale(y))))

    def function(a: int, b: int) -> int:
        first, second = operands(a, b)
        return clamp_code(requantize((first - second) ** 2, *total) + zero(y))

    numbers = [*numbers, zero(y), *total, INT8_MIN, INT8_MAX]
    return Pairs("nn_squared_difference", "nn_add_params", tuple(numbers), function)


def _mul(node: Node) -> Pairs:
    (a, b), y, (low, high) = node.inputs, node.outputs[0], code_range(node)
    factor = quantize_multiplier(float(scale(a)) * float(scale(b)) / float(scale(y)))

    def function(first: int, second: int) -> int:
        return clamp_code(requantize((first - zero(a)) * (second - zero(b)), *factor) + zero(y), low, high)

    numbers = (-zero(a), -zero(b), zero(y), *factor, low, high)
    return Pairs("nn_mul_broadcast", "nn_mul_params", numbers, function, "nn_mul")


def _extreme(sign: int) -> Callable[[Node], Pairs]:
    """The codes themselves are compared."""

    def pairs(node: Node) -> Pairs:
        return Pairs("nn_extreme", "nn_extreme_params", (sign,), max if sign > 0 else min)

    return pairs


LOWER: dict[str, Callable[[Node], list[Call]]] = {
    "ADD": _lower(_sum("nn_add_broadcast", 1, "nn_add", float)),
    "SUB": _lower(_sum("nn_sub", -1, None, np.float32)),
    "MUL": _lower(_mul),
    "SQUARED_DIFFERENCE": _lower(_squared_difference),
    "MAXIMUM": _lower(_extreme(1)),
    "MINIMUM": _lower(_extreme(-1)),
}
