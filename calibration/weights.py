"""The weight step: codes for a layer's weights that suit its inputs, and the bias that undoes what is left on average.

Every runtime here rounds weights to w = scale * code, symmetric per output channel, scale = max |w| / 127. A layer is
linear, so all that its inputs x have to say about an error e = Wq - W of one output channel is in two moments of the
patches that the kernel sees, padding included, over samples and positions:

    mean error       e . E[x]          taken off the bias
    error variance   e' C e            made small by the choice of codes; C = E[x x'] - E[x] E[x]'

Codes are chosen among the two neighbours of w / scale by coordinate descent on e' C e (the objective of Nagel et al.
2020, "Up or Down? Adaptive Rounding", arXiv:2004.10568, eq. 13, without training). The largest code of a channel stays
+-127, so a converter that computes max |w| / 127 for itself finds the same scale and the very same codes. Weights of
half the range, for CPUs that add pairs of products in 16 bits, have +-64 in its place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from calibration.errors import CalibrationError
from calibration.qparams import SMALLEST_SCALE, Float32, Float64

Codes = npt.NDArray[np.int8]

LARGEST_CODE = 127
HALF_RANGE_CODE = 64  # twice 255 * 64 fits in 16 bits
DAMPING = 1e-2  # of the mean variance, added to every input's: few samples must not make a direction look free
SWEEPS = 8  # at most; a sweep without a change ends the descent earlier


@dataclass(frozen=True)
class Geometry:
    """How a kernel meets its input, one number for each spatial axis; none for a fully connected layer.

    `padding` is (before, after), with zeros. `groups` > 1: each sees its own share of the input channels. `spread` > 1:
    its inputs lie that far apart, with zeros between them, before they are padded: so a transposed convolution is one.
    """

    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    spread: tuple[int, ...] = ()


def patches(x: npt.ArrayLike, geometry: Geometry) -> Float32:
    """What the kernel sees: float32 [groups, K, patches], K = channels / groups * kernel, in the weights' order.

    `x`: [n, channels, *space] for a convolution, [..., channels] for a fully connected layer.
    """
    array = np.asarray(x, np.float32)
    if not geometry.kernel:
        return np.ascontiguousarray(array.reshape(1, -1, array.shape[-1]).transpose(0, 2, 1))
    axes = tuple(range(2, array.ndim))
    padded = np.pad(_spread_out(array, geometry.spread), ((0, 0), (0, 0), *geometry.padding))
    reach = tuple((size - 1) * step + 1 for size, step in zip(geometry.kernel, geometry.dilation, strict=True))
    index = tuple(slice(None, None, step) for step in (*geometry.stride, *geometry.dilation))
    windows: Float32 = np.lib.stride_tricks.sliding_window_view(padded, reach, axes)[(slice(None), slice(None), *index)]
    samples, channels = windows.shape[:2]
    places, taps = math.prod(windows.shape[2 : array.ndim]), math.prod(geometry.kernel)
    split = windows.reshape(samples, geometry.groups, channels // geometry.groups, places, taps)
    return np.ascontiguousarray(split.transpose(1, 2, 4, 0, 3)).reshape(geometry.groups, -1, samples * places)


def _spread_out(array: Float32, spread: tuple[int, ...]) -> Float32:
    if not spread:
        return array
    sizes = [(size - 1) * step + 1 for size, step in zip(array.shape[2:], spread, strict=True)]
    out = np.zeros((*array.shape[:2], *sizes), np.float32)
    out[(slice(None), slice(None), *(slice(None, None, step) for step in spread))] = array
    return out


class Moments:
    """Streaming first and, unless `second` is False, second moments of a layer's patches; sums in float64."""

    def __init__(self, geometry: Geometry, second: bool = True) -> None:
        self.geometry, self.second, self.n = geometry, second, 0
        self._sum: Float64 | None = None
        self._products: Float64 | None = None

    def update(self, x: npt.ArrayLike) -> None:
        """Take in a batch of the layer's input. Raises CalibrationError where values are NaN or infinite."""
        seen = patches(x, self.geometry)
        if not np.isfinite(seen).all():
            bad = int((~np.isfinite(np.asarray(x))).sum())
            raise CalibrationError(f"{bad} of {np.size(x)} values that a layer gets are NaN or infinite")
        total = seen.sum(axis=2, dtype=np.float64)
        self._sum = total if self._sum is None else self._sum + total
        if self.second:
            products = np.matmul(seen, seen.transpose(0, 2, 1)).astype(np.float64)
            self._products = products if self._products is None else self._products + products
        self.n += seen.shape[2]

    @property
    def mean(self) -> Float64:
        """E[x]: float64 [groups, K]. Raises CalibrationError before any value."""
        if self._sum is None or self.n == 0:
            raise CalibrationError("no input of this layer was seen: feed the calibration set first")
        return self._sum / self.n

    @property
    def raw(self) -> Float64:
        """E[x x']: float64 [groups, K, K]."""
        mean = self.mean
        if self._products is None:
            raise CalibrationError(f"only first moments were kept of {mean.shape[1]} inputs")
        return self._products / self.n

    @property
    def covariance(self) -> Float64:
        """C = E[x x'] - E[x] E[x]': float64 [groups, K, K]."""
        mean = self.mean
        return self.raw - mean[:, :, None] * mean[:, None, :]


def scales(weight: npt.ArrayLike, largest: int = LARGEST_CODE) -> Float32:
    """max |w| / largest code of each output channel (axis 0): float32 [channels]. A channel of zeros gets the scale 1.

    Raises CalibrationError for NaN and infinity.
    """
    array = np.asarray(weight, np.float32)
    if not np.isfinite(array).all():
        raise CalibrationError(f"{int((~np.isfinite(array)).sum())} of {array.size} weights are NaN or infinite")
    most = np.abs(array).reshape(len(array), -1).max(axis=1)
    return np.where(most > 0, np.maximum(most / np.float32(largest), SMALLEST_SCALE), 1.0).astype(np.float32)


def nearest(weight: npt.ArrayLike, largest: int = LARGEST_CODE) -> Codes:
    """Each weight's nearest code, what every runtime does by itself: int8, same shape."""
    array = np.asarray(weight, np.float32)
    codes = np.clip(np.rint(array / _spread(scales(array, largest), array.ndim)), -largest, largest)
    return np.asarray(codes, np.int8)


def dequantized(codes: Codes, scale: Float32) -> Float32:
    """scale * code: float32, same shape; its largest weight over 127 is `scale` again, to within float32 rounding."""
    return np.asarray(codes.astype(np.float32) * _spread(scale, codes.ndim), np.float32)


def rounded(weight: npt.ArrayLike, second: Float64, largest: int = LARGEST_CODE) -> Codes:
    """Codes whose error e has a small e' S e: int8, same shape. Never worse than `nearest` on that objective.

    `weight`: [out, K...]; `second`: S, [groups, K, K], symmetric. Coordinate descent from the nearest codes: a code may
    move to the other neighbour of w / scale where that lowers the objective; +-largest neither moves nor is moved to.
    """
    array = np.asarray(weight, np.float32)
    scale = scales(array, largest)
    groups, inputs = second.shape[:2]
    if array.size != len(array) * inputs or len(array) % groups:
        raise CalibrationError(f"weights {list(array.shape)} do not fit moments {list(second.shape)}")
    exact = (array / _spread(scale, array.ndim)).astype(np.float64).reshape(groups, -1, inputs)
    code = np.rint(exact)
    frozen = np.abs(code) >= largest
    diagonal = np.diagonal(second, axis1=1, axis2=2)
    damping = DAMPING * diagonal.mean(axis=1)
    curve = diagonal + damping[:, None]  # what one step of a code costs by itself
    error = code - exact
    for _ in range(SWEEPS):
        gradient = np.matmul(error, second) + damping[:, None, None] * error  # [groups, out, K]
        moved = False
        for j in np.flatnonzero(curve.any(axis=0)):
            # The other neighbour lies one step against the sign of the error.
            step = -np.sign(error[:, :, j])
            gain = step * gradient[:, :, j] + curve[:, None, j] / 2 < -1e-12 * curve[:, None, j]
            free = gain & ~frozen[:, :, j] & (np.abs(code[:, :, j] + step) < largest)
            group, channel = np.nonzero(free)
            if len(group) == 0:
                continue
            moved, by = True, step[group, channel]
            code[group, channel, j] += by
            error[group, channel, j] += by
            gradient[group, channel] += by[:, None] * second[group, j]
            gradient[group, channel, j] += by * damping[group]
        if not moved:
            break
    return code.reshape(array.shape).astype(np.int8)


def bias_shift(weight: npt.ArrayLike, stepped: npt.ArrayLike, mean: Float64) -> Float64:
    """What `stepped` weights lose on average, (W - Wq) . E[x]: float64 [out], to be added to the bias."""
    lost = np.asarray(weight, np.float64) - np.asarray(stepped, np.float64)
    groups, inputs = mean.shape
    return np.asarray(np.einsum("gok,gk->go", lost.reshape(groups, -1, inputs), mean).reshape(-1), np.float64)


def error_power(weight: npt.ArrayLike, stepped: npt.ArrayLike, second: Float64) -> float:
    """Sum over output channels of e' S e: the expected squared error of the layer's outputs, in their own unit."""
    error = np.asarray(stepped, np.float64) - np.asarray(weight, np.float64)
    groups, inputs = second.shape[:2]
    error = error.reshape(groups, -1, inputs)
    return float(np.sum(np.matmul(error, second) * error))


def _spread(scale: Float32, ndim: int) -> Float32:
    return scale.reshape(-1, *[1] * (ndim - 1))


def same_padding(kernel: Sequence[int], dilation: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Zeros before and after each axis that keep its length at stride 1, the odd one after: PyTorch's "same"."""
    total = [(size - 1) * step for size, step in zip(kernel, dilation, strict=True)]
    return tuple((one // 2, one - one // 2) for one in total)
