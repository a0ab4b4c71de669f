"""Products that are no plain convolution: of two activations, transposed, in groups. Plain C, as they are rarer.

Sources: tensorflow/lite/kernels/internal/reference/batch_matmul.h, integer_ops/transpose_conv.h and conv.h.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from targets.cortex_m.call import Call, Number, code_range, scale, zero
from targets.cortex_m.fixed_point import INT8_MAX, INT8_MIN, quantize_multiplier
from targets.cortex_m.graph import Node, Value
from targets.cortex_m.shapes import SAME, same_padding, steps_of


def matrix(value: Value, turned: bool) -> tuple[int, int]:
    """Rows and columns of each matrix, as the product sees them."""
    rows, columns = value.shape[-2:]
    return (columns, rows) if turned else (rows, columns)


def _batch_matmul(node: Node) -> list[Call]:
    (a, b), y = node.inputs, node.outputs[0]
    turned = bool(node.option("adjX")), bool(node.option("adjY"))
    (rows, depth), (_, columns) = matrix(a, turned[0]), matrix(b, turned[1])
    batches = (1,) * (3 - len(y.shape[:-2])) + y.shape[:-2]

    def batch_steps(value: Value) -> tuple[int, ...]:
        found = [0 if n == 1 else s for n, s in zip(value.shape, steps_of(value.shape), strict=True)][:-2]
        return (0,) * (3 - len(found)) + tuple(found)

    inner = [(1, v.shape[-1]) if t else (v.shape[-1], 1) for v, t in zip((a, b), turned, strict=True)]
    (row_a, depth_a), (depth_b, column_b) = inner
    factor = quantize_multiplier(float(scale(a) * scale(b)) / float(scale(y)))  # the product of scales is float32
    numbers: tuple[Number, ...] = (
        batches,
        batch_steps(a),
        batch_steps(b),
        *(rows, columns, depth, row_a, depth_a, depth_b, column_b),
        *(-zero(a), -zero(b), zero(y), *factor, INT8_MIN, INT8_MAX),
    )
    return [Call("nn_matmul", "nn_matmul_params", numbers, (a, b), y)]


def transposed_padding(node: Node) -> tuple[int, int]:
    """Above and to the left, of the convolution that this one turns round."""
    weights, y = node.inputs[1], node.outputs[0]
    strides = node.option("strideH"), node.option("strideW")
    if node.option("padding") != SAME:
        return 0, 0
    above, left = (same_padding(y.shape[1 + i], weights.shape[1 + i], strides[i], 1)[1] for i in (0, 1))
    return above, left


def _tables(weights: Value, bias: Value | None, factors: list[float]) -> dict[str, Any]:
    """Weights as they lie in the file, bias (or None), and a rescaling for each channel."""
    pairs = [quantize_multiplier(factor) for factor in factors * (weights.shape[0] // len(factors))]
    assert weights.data is not None
    return {
        "weights": weights.data.ravel(),
        "bias": None if bias is None or bias.data is None else bias.data.ravel(),
        "multiplier": np.array([multiplier for multiplier, _ in pairs], np.int32),
        "shift": np.array([shift for _, shift in pairs], np.int8),
    }


def _factors(x: Value, weights: Value, y: Value) -> list[float]:
    assert weights.scale is not None
    return [float(scale(x)) * float(s) / float(scale(y)) for s in weights.scale]


def _transpose_conv(node: Node) -> list[Call]:
    weights, x, y = node.inputs[1], node.inputs[2], node.outputs[0]
    bias = node.inputs[3] if len(node.inputs) > 3 else None
    numbers = (
        *(*x.shape, *y.shape[1:], *weights.shape[1:3]),
        *(node.option("strideH"), node.option("strideW"), 1, 1, *transposed_padding(node)),
        *(-zero(x), zero(y), *code_range(node)),
    )
    tables = _tables(weights, bias, _factors(x, weights, y))
    return [Call("nn_transpose_conv", "nn_conv_params", numbers, (x,), y, tables)]


def in_groups(node: Node) -> bool:
    """A CONV_2D whose filters see a part of the channels each."""
    return node.op == "CONV_2D" and node.inputs[1].shape[3] != node.inputs[0].shape[3]


def grouped(node: Node, sizes: tuple[int, ...]) -> list[Call]:
    """A convolution in groups; `sizes` as lower.sizes gives them."""
    x, weights, y = node.inputs[0], node.inputs[1], node.outputs[0]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    numbers = (*sizes, -zero(x), zero(y), *code_range(node), x.shape[3] // weights.shape[3])
    tables = _tables(weights, bias, _factors(x, weights, y))
    return [Call("nn_conv_2d_grouped", "nn_grouped_conv_params", numbers, (x,), y, tables)]


LOWER: dict[str, Callable[[Node], list[Call]]] = {"BATCH_MATMUL": _batch_matmul, "TRANSPOSE_CONV": _transpose_conv}
