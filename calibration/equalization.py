"""Equalization: what one channel has too much of moves into the weights that read it, and the network stays the same.

A layer reads y = W x. With factors f > 0 for each input channel, (W f) (x / f) is the same y, and x / f may suit 8 bits
better: one scale has to hold all its channels, while each output channel of the weights has a scale of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from calibration.errors import CalibrationError
from calibration.qparams import Float32, Float64
from calibration.weights import Geometry, dequantized, nearest, patches, scales

ALPHAS = (0.35, 0.5, 0.65, 0.8, 0.95)
ROWS = 512  # samples and positions of a layer's input that are kept for the comparison
LEAST_DB = 0.5  # what a pass must gain to be used
STEPS = 255


@dataclass
class Inputs:
    """What a layer was given: extremes of each channel, and patches [groups, K, rows] of some of it."""

    geometry: Geometry
    lo: Float64 | None = None
    hi: Float64 | None = None
    rows: Float32 | None = None

    def update(self, x: Float32) -> None:
        """Take in a batch, as `calibration.weights.patches` does."""
        channels = np.moveaxis(x, 1 if self.geometry.kernel else -1, 0).reshape(
            x.shape[1 if self.geometry.kernel else -1], -1
        )
        lo, hi = channels.min(axis=1).astype(np.float64), channels.max(axis=1).astype(np.float64)
        self.lo = lo if self.lo is None else np.minimum(self.lo, lo)
        self.hi = hi if self.hi is None else np.maximum(self.hi, hi)
        if self.rows is None or self.rows.shape[2] < ROWS:
            seen = patches(x[:1] if self.geometry.kernel else x, self.geometry)
            seen = seen[:, :, :: max(1, seen.shape[2] // 64)]
            self.rows = seen if self.rows is None else np.concatenate([self.rows, seen], axis=2)

    @property
    def most(self) -> Float64:
        """max |x| of each channel: float64 [channels]."""
        return np.maximum(np.abs(self.ends[0]), np.abs(self.ends[1]))

    @property
    def ends(self) -> tuple[Float64, Float64]:
        """Lowest and highest value of each channel. Raises CalibrationError before any value."""
        if self.lo is None or self.hi is None:
            raise CalibrationError("no input of this layer was seen: feed the calibration set first")
        return self.lo, self.hi


def smoothing(activation: Float64, weight: Float64, alpha: float) -> Float64:
    """Factors for each channel: max |x|^alpha / max |w|^(1 - alpha), their geometric mean 1.

    Xiao et al. 2022, "SmoothQuant" (arXiv:2211.10438, eq. 4). Channels without signal or weights keep 1.
    """
    return _centred(activation**alpha, weight ** (1 - alpha))


def cross_layer(first: Float64, second: Float64) -> Float64:
    """Factors that give a channel's weights equal ranges in the layer that makes it and the one that reads it.

    Nagel et al. 2019, "Data-Free Quantization" (arXiv:1906.04721, eq. 11), sqrt(r1 / r2), their geometric mean 1.
    """
    return _centred(np.sqrt(first), np.sqrt(second))


def _centred(over: Float64, under: Float64) -> Float64:
    there = (over > 0) & (under > 0)
    factors = np.ones(over.shape)
    if there.any():
        ratio = np.log(over[there] / under[there])
        factors[there] = np.exp(np.clip(ratio - ratio.mean(), -np.log(1e4), np.log(1e4)))
    return factors


def most_of(weight: Float32, geometry: Geometry) -> Float64:
    """max |w| of each input channel: float64 [channels]. `weight`: [out, channels / groups, *kernel]."""
    split = np.abs(weight).reshape(geometry.groups, -1, *weight.shape[1:])
    axes = (1, *range(3, split.ndim))
    return np.asarray(split.max(axis=axes).reshape(-1), np.float64)


def scaled(weight: Float32, factors: Float64, geometry: Geometry) -> Float32:
    """The weights that read a channel divided by its factor: float32, same shape."""
    split = weight.reshape(geometry.groups, -1, *weight.shape[1:])
    spread = factors.reshape(geometry.groups, 1, -1, *[1] * (weight.ndim - 2))
    return np.asarray((split * spread).reshape(weight.shape), np.float32)


def output_error(weight: Float32, inputs: Inputs, factors: Float64) -> float:
    """Mean squared error of the outputs with int8 weights, one scale a channel, and 8-bit inputs of one scale."""
    assert inputs.rows is not None
    groups, length, _ = inputs.rows.shape
    spread = np.repeat(factors, length * groups // len(factors)).reshape(groups, length, 1)
    moved = scaled(weight, factors, inputs.geometry)
    codes = dequantized(nearest(moved), scales(moved)).reshape(groups, -1, length)
    lo, hi = (end / factors for end in inputs.ends)
    seen = rounded_inputs((inputs.rows / spread).astype(np.float32), float(lo.min()), float(hi.max()))
    exact = np.matmul(weight.reshape(groups, -1, length), inputs.rows)
    return float(np.mean(np.square(np.matmul(codes, seen) - exact, dtype=np.float64)))


def rounded_inputs(x: Float32, lo: float, hi: float) -> Float32:
    """x on the 256 codes of the range lo..hi, widened to hold 0: float32."""
    lo, hi = min(lo, 0.0), max(hi, 0.0)
    step = np.float32((hi - lo) / STEPS or 1.0)
    zero = np.rint(-lo / step)
    return np.asarray((np.clip(np.rint(x / step) + zero, 0, STEPS) - zero) * step, np.float32)


def smoothed(weights: Sequence[Float32], inputs: Inputs) -> tuple[Float64, float]:
    """Factors for the layers that read one input, by the alpha with the least error of their outputs; the gain in dB.

    Each layer's error counts as a share of what it is without factors.
    """
    ones = np.ones(len(inputs.most))
    before = [max(output_error(weight, inputs, ones), 1e-30) for weight in weights]
    most = np.max([most_of(weight, inputs.geometry) for weight in weights], axis=0)
    best, least = ones, 1.0
    for alpha in ALPHAS:
        factors = smoothing(inputs.most, most, alpha)
        error = float(np.mean([output_error(w, inputs, factors) / b for w, b in zip(weights, before, strict=True)]))
        if error < least:
            best, least = factors, error
    return best, float(-10 * np.log10(max(least, 1e-30)))
