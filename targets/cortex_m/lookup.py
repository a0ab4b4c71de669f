"""Ops of one number each as tables of 256 codes: one kernel for all, and TFLite Micro's arithmetic stands here.

Sources: gemmlowp/fixedpoint/fixedpoint.h; tensorflow/lite/kernels/internal/reference/integer_ops/logistic.h and tanh.h,
reference/hard_swish.h and leaky_relu.h; tensorflow/lite/micro/kernels/elementwise.cc.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from targets.cortex_m.call import Call, scale, zero
from targets.cortex_m.fixed_point import (
    INT8_MAX,
    INT8_MIN,
    INT32_MAX,
    clamp_code,
    divide_by_power_of_two,
    high_product,
    quantize_multiplier,
    requantize,
    saturated,
)
from targets.cortex_m.graph import Node, Value

INTEGER_BITS = 4  # of the input of LOGISTIC and TANH
RSQRT_BITS = 20  # below the point of an inverse root


def call(function: Callable[[int], int], source: Value, output: Value) -> Call:
    """`function` maps a code of `source` to one of `output`."""
    codes = [function(code) for code in (*range(INT8_MAX + 1), *range(INT8_MIN, 0))]  # in the order of unsigned bytes
    table = np.array(codes, np.int8)
    return Call("nn_lookup", "nn_lookup_params", (output.size,), (source,), output, {"table": table})


def _exp_near_zero(a: int) -> int:
    """exp(a) for a in [-1/4, 0), both Q0.31."""
    constant, third = 1895147668, 715827883  # exp(-1/8), 1/3
    x = a + (1 << 28)
    square = high_product(x, x)
    cube = high_product(square, x)
    fourth = divide_by_power_of_two(high_product(square, square), 2)
    tail = divide_by_power_of_two(high_product(fourth + cube, third) + square, 1)
    return constant + high_product(constant, x + tail)


def _exp_of_negative(a: int, integer_bits: int) -> int:
    """exp(a) for a <= 0, from so many integer bits to Q0.31."""
    if a == 0:
        return INT32_MAX
    factors = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)  # exp(-2^k), k from -2
    quarter = 1 << (29 - integer_bits)
    within = (a & (quarter - 1)) - quarter
    result = _exp_near_zero(within << integer_bits)
    for bit, factor in enumerate(factors[: integer_bits + 2]):
        if (within - a) & (quarter << bit):
            result = high_product(result, factor)
    return result


def _inverse_of_one_plus(x: int) -> int:
    """2 / (1 + x) in Q2.29 for x in [0, 1] in Q0.31: three Newton steps."""
    half = (x + INT32_MAX + 1) >> 1
    y = 1515870810 + high_product(half, -1010580540)  # 48/17 - 32/17 d
    for _ in range(3):
        y += saturated(high_product(y, (1 << 29) - high_product(half, y)) << 2)
    return y


def _sigmoid(a: int) -> int:
    """Q4.27 to Q0.31."""
    if a == 0:
        return 1 << 30
    positive = saturated(_inverse_of_one_plus(_exp_of_negative(-abs(a), INTEGER_BITS)) << 1)
    return positive if a > 0 else INT32_MAX - positive


def _tanh(a: int) -> int:
    """Q4.27 to Q0.31."""
    if a == 0:
        return 0
    doubled = _inverse_of_one_plus(_exp_of_negative(-abs(a), INTEGER_BITS + 1))  # the same bits stand for 2 a
    positive = saturated((doubled - (1 << 29)) << 2)
    return positive if a > 0 else -positive


def _saturating(curve: Callable[[int], int], fraction_bits: int) -> Callable[[Node], list[Call]]:
    """LOGISTIC and TANH: the curve in fixed point, the ends where the input leaves it."""

    def lower(node: Node) -> list[Call]:
        x, y = node.inputs[0], node.outputs[0]
        mantissa, shift = math.frexp(float(scale(x)) * 2 ** (31 - INTEGER_BITS))
        multiplier = math.floor(mantissa * 2**31 + 0.5)
        radius = math.floor((2**INTEGER_BITS - 1) * 2 ** (31 - INTEGER_BITS) / 2.0**shift)

        def function(code: int) -> int:
            value = code - zero(x)
            if abs(value) >= radius:
                return INT8_MIN if value <= -radius else INT8_MAX
            found = divide_by_power_of_two(curve(requantize(value, multiplier, shift)), 31 - fraction_bits)
            return clamp_code(found + zero(y))

        return [call(function, x, y)]

    return lower


def _half_word(multiplier: int) -> int:
    """A Q31 multiplier in 16 bits: DownScaleInt32ToInt16Multiplier."""
    return min((multiplier + (1 << 15)) >> 16, 2**15 - 1)


def _product(a: int, b: int) -> int:
    """a * b / 2^15, half up, in 16 bits."""
    return min((a * b + (1 << 14)) >> 15, 2**15 - 1)


def _short(value: int) -> int:
    """Saturated into 16 bits."""
    return min(max(value, -(2**15)), 2**15 - 1)


def hard_swish_scaling(node: Node) -> tuple[tuple[int, int], tuple[int, int]]:
    """(multiplier, shift) to the output's scale, and to the one on which 3 is 2^15; float32 as in its Prepare."""
    fine = np.float32(1 / 128) * scale(node.inputs[0])
    return (
        quantize_multiplier(float(fine / scale(node.outputs[0]))),
        quantize_multiplier(float(fine / (np.float32(3) / np.float32(32768)))),
    )


def _hard_swish(node: Node) -> list[Call]:
    x, y = node.inputs[0], node.outputs[0]
    (out_multiplier, out_shift), (multiplier, shift) = hard_swish_scaling(node)

    def function(code: int) -> int:
        fine = (code - zero(x)) * 128
        linear = _product(fine, _half_word(out_multiplier))
        gate = _short(fine << max(shift - 1, 0))
        gate = _product(gate, _half_word(multiplier))
        gate = _short(gate << 1) if shift > 0 else divide_by_power_of_two(gate, -shift)
        gate = (gate + (1 << 15)) >> 1
        product = gate * linear
        found = product >> 15 if product >= 0 else -(-product >> 15)  # toward zero
        wrapped = (divide_by_power_of_two(found, -out_shift) + zero(y) + (1 << 15)) % (1 << 16) - (1 << 15)
        return clamp_code(wrapped)

    return [call(function, x, y)]


def _leaky_relu(node: Node) -> list[Call]:
    x, y = node.inputs[0], node.outputs[0]
    steep = quantize_multiplier(float(scale(x) / scale(y)))
    flat = quantize_multiplier(float(scale(x) * np.float32(node.option("alpha")) / scale(y)))

    def function(code: int) -> int:
        value = code - zero(x)
        return clamp_code(zero(y) + requantize(value, *(steep if value >= 0 else flat)))

    return [call(function, x, y)]


def _inverse_root(value: int) -> tuple[int, int]:
    """(multiplier, shift) of 1 / sqrt(value): GetInvSqrtQuantizedMultiplierExp, in Q3.28."""
    if value <= 1:
        return INT32_MAX, 0
    pairs = (31 - value.bit_length()) // 2 - 1
    shift, value = 11 - pairs, value << 2 * pairs
    whole = value >> 1
    half = divide_by_power_of_two(whole, 1)
    root = 1 << 28
    for _ in range(5):
        cube = saturated(high_product(high_product(root, root), root) << 6)
        root = saturated((high_product((1 << 28) + (1 << 27), root) - high_product(half, cube)) << 3)
    root = high_product(root, 1518500250)  # sqrt(1/2)
    return (root << -shift, 0) if shift < 0 else (root, -shift)


def _rsqrt(node: Node) -> list[Call]:
    """TFLite Micro stops at an input below zero; here, as at zero, the largest code stands for what is not a number."""
    x, y = node.inputs[0], node.outputs[0]
    multiplier, shift = quantize_multiplier(1 / (math.sqrt(float(scale(x))) * float(scale(y))))

    def function(code: int) -> int:
        if code <= zero(x):
            return INT8_MAX
        root, root_shift = _inverse_root(code - zero(x))
        data = requantize(1, root, root_shift + RSQRT_BITS)
        return clamp_code(requantize(data, multiplier, shift - RSQRT_BITS) + zero(y))

    return [call(function, x, y)]


LOWER: dict[str, Callable[[Node], list[Call]]] = {
    "LOGISTIC": _saturating(_sigmoid, 8),
    "TANH": _saturating(_tanh, 7),
    "HARD_SWISH": _hard_swish,
    "LEAKY_RELU": _leaky_relu,
    "RSQRT": _rsqrt,
}
