"""Rules: from what an observer remembers to a range. Each has a name in recipes: `[calibrate] observers`."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np

from calibration.errors import CalibrationError
from calibration.observers import BINS, Histogram, MinMax, Samples
from calibration.qparams import Float64, middle, steps
from calibration.schemes import TensorScheme


def minmax(observer: MinMax, scheme: TensorScheme) -> tuple[float, float]:
    """All that was seen, whatever the scheme."""
    return observer.lo, observer.hi


def moving_average(observer: Samples, scheme: TensorScheme) -> tuple[float, float]:
    """From the mean of the samples' lowest values to that of their highest: what a moving average tends to.

    All samples weigh the same, so that neither their order nor a merge matters (an exponential average forgets the
    first ones). It clips every sample that is wider than the mean: the default of several vendors, and rarely good.
    """
    unit = observer.samples << 149
    return observer.low_sum / unit, observer.high_sum / unit


def percentile(observer: Histogram, scheme: TensorScheme, low: float, high: float) -> tuple[float, float]:
    """From the `low`-th to the `high`-th percentile of the values, to within one bin; never beyond what was seen."""
    # Rounded, because 100 - 99.9 is not quite 0.1.
    cut, keep = (math.floor(round(share / 100.0 * observer.n, 6)) for share in (low, 100.0 - high))
    below = np.cumsum(observer.counts)
    first = int(np.searchsorted(below, cut, side="right"))  # the bin of the cut-th value, from 0
    last = int(np.searchsorted(below, observer.n - 1 - keep, side="right")) + 1
    edges = (math.ldexp(index + observer.first, observer.exponent) for index in (first, last))
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
    "moving_average": (Samples, moving_average),
    "mse": (Histogram, mse),
    "octav": (Histogram, octav),
    "entropy": (Histogram, entropy),
    "percentile_99.99": (Histogram, partial(percentile, low=0.01, high=99.99)),
    "percentile_99.999": (Histogram, partial(percentile, low=0.001, high=99.999)),
}


def least(names: Iterable[str]) -> type[MinMax]:
    """The least class of observer that all these rules can work on. Raises CalibrationError for an unknown one."""
    return max((observer(name)[0] for name in names), key=lambda kind: len(kind.__mro__), default=MinMax)


AUTO = ("minmax", "mse", "percentile_99.999")  # what `observers = "auto"` races
_TAILS = re.compile(r"percentile_(?:(\d+(?:\.\d+)?)_)?(\d+(?:\.\d+)?)")


def observer(name: str) -> tuple[type[MinMax], Rule]:
    """The least class of observer that a rule needs, and the rule.

    Beside the names of OBSERVERS there are "percentile_99.9" (the same share cut from each tail) and
    "percentile_0.1_99.99" (each tail by itself), with any numbers. Raises CalibrationError with the nearest name.
    """
    if name in OBSERVERS:
        return OBSERVERS[name]
    if tails := _TAILS.fullmatch(name):
        high = float(tails[2])
        low = float(tails[1]) if tails[1] else 100.0 - high
        if not 0 <= low < 50 < high <= 100:
            raise CalibrationError(
                f"'{name}' keeps no sensible range: write 'percentile_LOW_HIGH' with LOW < 50 < HIGH"
            )
        return Histogram, partial(percentile, low=low, high=high)
    nearest = difflib.get_close_matches(name, OBSERVERS, n=1, cutoff=0.0)[0]
    raise CalibrationError(f"unknown observer '{name}': did you mean '{nearest}'? Known: {', '.join(OBSERVERS)}")
