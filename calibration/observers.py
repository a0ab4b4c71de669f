"""Observers: what is remembered of a tensor's values, and the rules that turn it into a range.

An observer is streaming (memory does not grow with the values), order-independent, and mergeable: any split of the
same values over updates and merges ends in the same state. Values are taken as float32.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from calibration.errors import CalibrationError
from calibration.qparams import Float32, Float64, middle, steps
from calibration.schemes import TensorScheme

Arrays = dict[str, npt.NDArray[Any]]

BINS = 4096  # a histogram has at most so many bins (32 KiB), and more than half as many once two values differ
_FINEST = -161  # bins of 2**-161 resolve the smallest subnormal float32, 2**-149, into 4096
_CHUNK = 1 << 16  # values counted at a time: bounds the scratch memory, and stays in the cache


class MinMax:
    """How many values there were, the lowest and the highest. Before any value: lo = inf, hi = -inf."""

    def __init__(self) -> None:
        self.n, self.lo, self.hi = 0, math.inf, -math.inf

    def update(self, x: npt.ArrayLike) -> None:
        """Take in every value of `x` (any shape; float, integer or bool).

        Raises CalibrationError with a count, and takes nothing in, where values are NaN or infinite as float32.
        """
        values = _values(x)
        if values.size == 0:
            return
        lo, hi = float(values.min()) + 0.0, float(values.max()) + 0.0  # + 0.0: no -0, which would depend on order
        if not (math.isfinite(lo) and math.isfinite(hi)):
            bad = int((~np.isfinite(values)).sum())
            raise CalibrationError(f"{bad} of {values.size} values are NaN or infinite (as float32)")
        self._widen(lo, hi)
        self.n += values.size
        self._count(values)

    def merge(self, other: Self) -> None:
        """Take in all that `other`, of the same class, has seen; `other` stays as it is."""
        if type(other) is not type(self):
            raise CalibrationError(f"{type(other).__name__} cannot be merged into {type(self).__name__}")
        self._widen(other.lo, other.hi)
        self.n += other.n
        self._add(other)

    def to_arrays(self) -> Arrays:
        """The whole state: `n` int64 [], `lo` and `hi` float64 []."""
        return {"n": np.array(self.n, np.int64), "lo": np.array(self.lo), "hi": np.array(self.hi)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """The observer that `to_arrays` described. Raises CalibrationError when the arrays contradict each other."""
        made = cls()
        try:
            made.n, made.lo, made.hi = int(arrays["n"]), float(arrays["lo"]), float(arrays["hi"])
            made._restore(arrays)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CalibrationError(f"damaged {cls.__name__}: {type(error).__name__} {error}") from error
        ends = (made.lo, made.hi)
        if not (
            ends == (math.inf, -math.inf) if made.n == 0 else made.n > 0 and -math.inf < ends[0] <= ends[1] < math.inf
        ):
            raise CalibrationError(f"damaged {cls.__name__}: {made.n} values in {made.lo}..{made.hi}")
        return made

    def _widen(self, lo: float, hi: float) -> None:
        self.lo, self.hi = min(self.lo, lo), max(self.hi, hi)

    def _count(self, values: Float32) -> None:
        """What a subclass remembers of finite values inside lo..hi."""

    def _add(self, other: Self) -> None:
        """What a subclass remembers of what `other` remembers."""

    def _restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """What a subclass wrote in `to_arrays`."""


class Histogram(MinMax):
    """Counts in bins [i * 2**exponent, (i + 1) * 2**exponent), i = first .. first + len(counts) - 1, around 0.

    The exponent is the smallest with which at most BINS bins span lo..hi and 0, so it follows from lo and hi alone.
    It only grows, and then pairs of bins become one: that is what makes the state independent of the order. Scaling by
    a power of two is exact in float64, so every value lands in its bin. `zeros`: how many values were exactly 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.zeros = 0
        self.exponent, self.first, bins = _grid(0.0, 0.0)
        self.counts: npt.NDArray[np.int64] = np.zeros(bins, np.int64)

    def to_arrays(self) -> Arrays:
        """As MinMax, and `zeros`, `exponent`, `first` int64 [], `counts` int64 [bins]."""
        own = {"zeros": self.zeros, "exponent": self.exponent, "first": self.first, "counts": self.counts}
        return super().to_arrays() | {name: np.array(value, np.int64) for name, value in own.items()}

    def _widen(self, lo: float, hi: float) -> None:
        super()._widen(lo, hi)
        exponent, first, bins = _grid(min(self.lo, 0.0), max(self.hi, 0.0))
        if (exponent, first, bins) != (self.exponent, self.first, len(self.counts)):
            old = (self.counts, self.exponent, self.first)
            self.counts, self.exponent, self.first = np.zeros(bins, np.int64), exponent, first
            self._pour(*old)

    def _pour(self, counts: npt.NDArray[np.int64], exponent: int, first: int) -> None:
        """Add counts whose bins are as fine as these or finer."""
        shift = min(self.exponent - exponent, 62)  # by then every index has become 0 or -1
        np.add.at(self.counts, ((np.arange(len(counts)) + first) >> shift) - self.first, counts)

    def _count(self, values: Float32) -> None:
        self.zeros += values.size - int(np.count_nonzero(values))
        for start in range(0, values.size, _CHUNK):
            scaled = np.multiply(values[start : start + _CHUNK], 2.0**-self.exponent, dtype=np.float64)
            index = np.floor(scaled, out=scaled).astype(np.int64) - self.first
            self.counts += np.bincount(index, minlength=len(self.counts))

    def _add(self, other: Self) -> None:
        self.zeros += other.zeros
        self._pour(other.counts, other.exponent, other.first)

    def _restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        self.zeros, self.exponent, self.first = (int(arrays[name]) for name in ("zeros", "exponent", "first"))
        self.counts = np.array(arrays["counts"], np.int64)
        grid = (self.exponent, self.first, len(self.counts))
        if grid != _grid(min(self.lo, 0.0), max(self.hi, 0.0)):
            raise CalibrationError(f"bins {grid} do not fit {self.lo}..{self.hi}")
        if int(self.counts.sum()) != self.n or self.counts.min() < 0 or not 0 <= self.zeros <= self.counts[-self.first]:
            raise CalibrationError(f"counts do not add up to {self.n} values")


def _values(x: npt.ArrayLike) -> Float32:
    """Flat float32; what float32 cannot hold becomes infinite, and is refused there."""
    array = np.asarray(x)
    if array.dtype.kind not in "fiub":
        raise CalibrationError(f"values of type {array.dtype} cannot be observed: expected numbers")
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False).reshape(-1)


def _grid(lo: float, hi: float) -> tuple[int, int, int]:
    """Exponent, first index and number of the bins for lo <= 0 <= hi (both float32 numbers)."""
    exponent = _FINEST if lo == hi else math.frexp(hi - lo)[1] - 13  # the least that can do; at most two more
    while True:
        first, last = math.floor(math.ldexp(lo, -exponent)), math.floor(math.ldexp(hi, -exponent))
        if last - first < BINS:
            return exponent, first, last - first + 1
        exponent += 1


def minmax(observer: MinMax, scheme: TensorScheme) -> tuple[float, float]:
    """All that was seen, whatever the scheme."""
    return observer.lo, observer.hi


def percentile(observer: Histogram, scheme: TensorScheme, p: float) -> tuple[float, float]:
    """All but the outer (100 - p) % of the values on each side, to within one bin; never beyond what was seen."""
    cut = math.floor(round((100.0 - p) / 100.0 * observer.n, 6))  # rounded, because 100 - 99.9 is not quite 0.1
    below = np.cumsum(observer.counts)
    low = int(np.searchsorted(below, cut, side="right"))  # the bin of the cut-th value, from 0
    high = int(np.searchsorted(below, observer.n - 1 - cut, side="right")) + 1
    edges = (math.ldexp(index + observer.first, observer.exponent) for index in (low, high))
    return max(next(edges), observer.lo), min(next(edges), observer.hi)


# Shares of each tail that are tried: first at all sizes down to 1/256 and 0, then closer and closer around the best.
_SHARES = (np.append(2.0 ** (-np.arange(17) / 2), 0.0), *(2.0 ** (np.arange(3, -4, -1) / 6 / 3**i) for i in range(3)))


def mse(observer: Histogram, scheme: TensorScheme) -> tuple[float, float]:
    """The range with the least expected squared error of rounding and clipping, by search over both tails.

    Values count as spread evenly over their bin; exact zeros cost nothing, since zero has a code. A scheme with steps
    finer than the bins (16 bits) gets the min-max range: the histogram cannot see what clipping would gain there.
    """
    ends = min(observer.lo, 0.0), max(observer.hi, 0.0)
    if ends[0] == ends[1] or steps(scheme) > BINS // 2:
        return ends
    if scheme.symmetric:
        ends = -max(-ends[0], ends[1]), max(-ends[0], ends[1])
    tied, fixed = scheme.symmetric, ends[0] == 0.0 or ends[1] == 0.0
    width = 2.0**observer.exponent
    best = np.ones(2)
    for shares in _SHARES:
        low, high = (np.minimum(share * shares, 1.0) for share in best)
        tries = np.stack([high, high] if tied or fixed else [g.ravel() for g in np.meshgrid(low, high)])
        lo, hi = tries[0] * ends[0] / width, tries[1] * ends[1] / width
        best = tries[:, int(np.argmin(squared_error(observer, lo, hi, scheme)))]  # of equals the first, the widest
    return max(float(best[0]) * ends[0], min(observer.lo, 0.0)), min(float(best[1]) * ends[1], max(observer.hi, 0.0))


def squared_error(observer: Histogram, lo: Float64, hi: Float64, scheme: TensorScheme) -> Float64:
    """Expected sum of squared quantization errors for ranges `lo`..`hi` [tries]; all in bin widths. Float64 [tries].

    With N(t) values below t, codes at v_0 .. v_m, a step s, and b_i midway between neighbours, summation by parts gives

        sum over cells of the integral of (x - v)^2 dN  =  integral of (x - v_m)^2 dN  -  2 s sum_i I(b_i)

    where I(b) is the integral of N up to b. N is linear within a bin, so one look-up a midpoint is exact.
    """
    counts = observer.counts.astype(np.float64)
    counts[-observer.first] -= observer.zeros
    left = np.arange(len(counts)) + float(observer.first)
    below = np.concatenate([[0.0], np.cumsum(counts)])
    area = np.concatenate([[0.0], np.cumsum(below[:-1] + counts / 2)])  # I at the bins' edges

    step = np.where(scheme.symmetric, 2 * np.maximum(-lo, hi), hi - lo) / steps(scheme)
    step = np.maximum(step, 1e-9)  # the empty range: far below a bin, so as bad as it gets
    zero = np.full(step.shape, float(middle(scheme)))
    if not scheme.symmetric:
        zero = np.clip(np.rint(scheme.qmin - lo / step), scheme.qmin, scheme.qmax)
    top = (scheme.qmax - zero) * step
    middles = (np.arange(scheme.qmin, scheme.qmax) + 0.5 - zero[:, None]) * step[:, None] - observer.first
    inside = np.clip(middles, 0.0, len(counts))
    index = np.minimum(inside.astype(np.int64), len(counts) - 1)
    part = inside - index
    area_at = area[index] + part * (below[index] + part / 2 * counts[index]) + below[-1] * (middles - inside).clip(0.0)
    total = counts @ (left * left + left + 1 / 3) - 2 * top * (counts @ (left + 0.5)) + top * top * below[-1]
    return np.asarray(total - 2 * step * area_at.sum(axis=1), np.float64)


def octav(observer: Histogram, scheme: TensorScheme) -> tuple[float, float]:
    """Clip at the magnitude s with the least expected squared error of uniform rounding noise and clipping.

    The fixed point of Sakr et al. 2022, "Optimal Clipping and Magnitude-aware Differentiation" (OCTAV,
    arXiv:2206.06501, eq. 6), s = E[|x|; |x| > s] / (k P(0 < |x| <= s) + P(|x| > s)), with k s^2 the noise of the
    scheme's step. Values count as their bin's middle. Never beyond what was seen.
    """
    size, share = _magnitudes(observer)
    total = float(share.sum())
    if total == 0.0:
        return min(observer.lo, 0.0), max(observer.hi, 0.0)
    k = 1.0 / ((3.0 if _two_sided(observer, scheme) else 12.0) * steps(scheme) ** 2)
    clip = float(size @ share) / total
    for _ in range(100):
        over = size > clip
        before, clip = (
            clip,
            float(size[over] @ share[over]) / (k * float(share[~over].sum()) + float(share[over].sum())),
        )
        if abs(clip - before) <= 1e-9 * before:
            break
    return _within(observer, clip)


def entropy(observer: Histogram, scheme: TensorScheme) -> tuple[float, float]:
    """Clip at the magnitude whose quantized histogram has the least Kullback-Leibler divergence from the clipped one.

    Migacz 2017, "8-bit inference with TensorRT" (GTC): values beyond the threshold count in the last bin, and each
    level's values are spread evenly over its bins that hold any. Exact zeros have a code and do not count. At most
    256 thresholds are tried.
    """
    size, share = _magnitudes(observer)
    levels = (steps(scheme) + 1) // (2 if _two_sided(observer, scheme) else 1)
    bins = int(np.flatnonzero(share)[-1]) + 1 if share.any() else 0
    if bins <= levels:
        return min(observer.lo, 0.0), max(observer.hi, 0.0)
    tries = np.unique(np.linspace(levels, bins, 256).astype(int))
    best = min(tries, key=lambda end: (divergence(share, int(end), levels), -end))
    width = 2.0**observer.exponent
    return _within(observer, float(size[best - 1]) + width / 2)


def divergence(share: Float64, end: int, levels: int) -> float:
    """KL(P || Q) of a histogram of magnitudes clipped at bin `end` and its `levels`-level form; inf where Q lacks P."""
    clipped = share[:end].copy()
    clipped[-1] += share[end:].sum()
    starts = np.arange(levels) * end // levels
    inside = share[:end]
    held = (inside > 0).astype(np.float64)
    counts = np.maximum(np.add.reduceat(held, starts), 1.0)
    spread = np.repeat(np.add.reduceat(inside, starts) / counts, np.diff(np.append(starts, end))) * held
    if spread.sum() == 0.0 or (spread[clipped > 0] == 0.0).any():
        return math.inf
    there = clipped > 0
    p, q = clipped[there] / clipped.sum(), spread[there] / spread.sum()
    return float(np.sum(p * np.log(p / q)))


def _magnitudes(observer: Histogram) -> tuple[Float64, Float64]:
    """|x| of each bin's middle, from 0 up, and how many values it holds; without exact zeros."""
    counts = observer.counts.astype(np.float64)
    counts[-observer.first] -= observer.zeros
    negative, positive = counts[: -observer.first][::-1], counts[-observer.first :]
    share = np.zeros(max(len(negative), len(positive)))
    share[: len(negative)] += negative
    share[: len(positive)] += positive
    return np.asarray((np.arange(len(share)) + 0.5) * 2.0**observer.exponent, np.float64), share


def _two_sided(observer: Histogram, scheme: TensorScheme) -> bool:
    return scheme.symmetric or (observer.lo < 0.0 < observer.hi)


def _within(observer: Histogram, clip: float) -> tuple[float, float]:
    return max(-clip, min(observer.lo, 0.0)), min(clip, max(observer.hi, 0.0))


Rule = Callable[[Any, TensorScheme], tuple[float, float]]

OBSERVERS: dict[str, tuple[type[MinMax], Rule]] = {
    "minmax": (MinMax, minmax),
    "mse": (Histogram, mse),
    "octav": (Histogram, octav),
    "entropy": (Histogram, entropy),
    "percentile_99.99": (Histogram, partial(percentile, p=99.99)),
    "percentile_99.999": (Histogram, partial(percentile, p=99.999)),
}


def observer(name: str) -> tuple[type[MinMax], Rule]:
    """The least class of observer that a rule needs, and the rule. Raises CalibrationError with the nearest name."""
    if name not in OBSERVERS:
        nearest = difflib.get_close_matches(name, OBSERVERS, n=1, cutoff=0.0)[0]
        raise CalibrationError(f"unknown observer '{name}': did you mean '{nearest}'? Known: {', '.join(OBSERVERS)}")
    return OBSERVERS[name]
