"""Real factors as TFLite Micro's integer arithmetic writes them: a Q31 multiplier and a power of two.

Source of every rule: tensorflow/lite/kernels/internal/quantization_util.cc and the kernels' Prepare functions.
"""

from __future__ import annotations

import math

import numpy as np

INT8_MIN, INT8_MAX = -128, 127


def quantize_multiplier(factor: float) -> tuple[int, int]:
    """(multiplier, shift) with factor ~ multiplier / 2^31 * 2^shift; multiplier in [2^30, 2^31) or 0.

    A factor below 2^-32 becomes (0, 0). Raises ValueError for a negative, infinite or NaN factor.
    """
    if not (math.isfinite(factor) and factor >= 0):
        raise ValueError(f"a rescaling factor must be finite and not negative, not {factor}")
    mantissa, shift = math.frexp(factor)
    multiplier = math.floor(mantissa * 2**31 + 0.5)
    if multiplier == 2**31:
        multiplier, shift = 2**30, shift + 1
    return (0, 0) if multiplier == 0 or shift < -31 else (multiplier, shift)


def rounded_code(value: float, scale: np.float32, zero_point: int) -> int:
    """The code of a real value, rounded half away from zero in float32, not clipped."""
    scaled = np.float32(value) / np.float32(scale)
    return zero_point + int(math.copysign(math.floor(abs(float(scaled)) + 0.5), scaled))


def activation_range(activation: str, scale: np.float32, zero_point: int) -> tuple[int, int]:
    """The codes between which a fused activation ("NONE", "RELU", "RELU6", "RELU_N1_TO_1") keeps the output."""
    bounds = {"NONE": (None, None), "RELU": (0.0, None), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0)}
    low, high = bounds[activation]
    return (
        INT8_MIN if low is None else max(INT8_MIN, rounded_code(low, scale, zero_point)),
        INT8_MAX if high is None else min(INT8_MAX, rounded_code(high, scale, zero_point)),
    )


def mean_multiplier(multiplier: int, shift: int, count: int) -> tuple[int, int]:
    """A rescaling that also divides by `count` (tensorflow/lite/kernels/internal/reference/reduce.h)."""
    up = min(count.bit_length() - 1, 32, 31 + shift)
    return (multiplier << up) // count, shift - up


def softmax_scaling(beta: float, scale: float) -> tuple[int, int, int]:
    """(multiplier, left shift, smallest difference) of gemmlowp's exponential with 5 integer bits; beta * scale must be
    at least 2^-26."""
    multiplier, shift = quantize_multiplier(min(beta * scale * 2**26, 2**31 - 1.0))
    return multiplier, shift, -math.floor(31.0 * 2**26 / 2**shift)


INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1


def saturated(value: int) -> int:
    """Into 32 bits."""
    return min(max(value, INT32_MIN), INT32_MAX)


def high_product(a: int, b: int) -> int:
    """a * b / 2^31, half up: SaturatingRoundingDoublingHighMul (gemmlowp/fixedpoint/fixedpoint.h)."""
    return saturated((a * b + (1 << 30)) >> 31)


def divide_by_power_of_two(value: int, exponent: int) -> int:
    """value / 2^exponent, half away from zero: RoundingDivideByPOT."""
    mask = (1 << exponent) - 1
    return (value >> exponent) + ((value & mask) > (mask >> 1) + (value < 0))


def requantize(value: int, multiplier: int, shift: int) -> int:
    """value * multiplier / 2^31 * 2^shift with two roundings: MultiplyByQuantizedMultiplier."""
    return divide_by_power_of_two(high_product(value << max(shift, 0), multiplier), max(-shift, 0))


def clamp_code(value: int, low: int = INT8_MIN, high: int = INT8_MAX) -> int:
    """Between two codes."""
    return min(max(value, low), high)
