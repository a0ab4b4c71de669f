"""One-sided BCa bootstrap bounds for statistics of weighted units: plain NumPy, and the same bounds for the same data.

Data are `units` that are drawn together (one sample, or all samples of one group); equal units may be one with a
multiplicity. A statistic is a function of how often each unit was drawn, so one draw serves every metric that can be
had from weighted sums, and those from weighted ranks too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
REPLICATES = 9_999
CHUNK_NUMBERS = 2_000_000  # weights held at a time


def bca(
    times: Array,
    statistic: Callable[[Array], Array],
    confidence: float = 0.95,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> tuple[float, float]:
    """(low, high): one-sided bounds, each at `confidence`.

    `times`: how many units each row stands for, int [u]; `statistic` maps weights [r, u] to values [r]. Where no
    replicate or no jackknife value differs, both bounds are the estimate: whoever asks must know that resampling
    cannot see what the sample does not hold.

    Source: B. Efron, JASA 82:171-185 (1987): bias correction from the share of replicates below the estimate (ties
    half), acceleration from the jackknife over units.
    """
    estimate = float(statistic(times[None].astype(np.float64))[0])
    values = np.concatenate([statistic(weights) for weights in _draws(times, replicates, seed)])
    values = values[np.isfinite(values)]  # a draw without any positive has no AUC
    left_out = np.concatenate([statistic(weights) for weights in _without_each(times)])
    left_out = np.where(np.isfinite(left_out), left_out, estimate)
    below = float((np.mean(values < estimate) + np.mean(values <= estimate)) / 2)
    spread = np.average(left_out, weights=times) - left_out
    scale = float((times * spread**2).sum())
    if not 0 < below < 1 or scale == 0:
        return (estimate, estimate) if np.ptp(values) == 0 else (float(values.min()), float(values.max()))
    acceleration = float((times * spread**3).sum()) / (6 * scale**1.5)
    normal = NormalDist()
    bias = normal.inv_cdf(below)

    def quantile(level: float) -> float:
        z = bias + normal.inv_cdf(level)
        return float(np.quantile(values, normal.cdf(bias + z / (1 - acceleration * z))))

    return quantile(1 - confidence), quantile(confidence)


def _draws(times: Array, replicates: int, seed: int) -> Iterator[Array]:
    """Weights [r, u] of drawing as many units as there are, with replacement."""
    rng = np.random.default_rng(seed)
    n, u = int(times.sum()), len(times)
    for rows in _rows(replicates, u):
        if (times == 1).all():  # counting draws is faster than a multinomial over many units
            drawn = rng.integers(0, u, (rows, u)) + u * np.arange(rows)[:, None]
            yield np.bincount(drawn.reshape(-1), minlength=rows * u).reshape(rows, u).astype(np.float64)
        else:
            yield rng.multinomial(n, times / n, size=rows).astype(np.float64)


def _without_each(times: Array) -> Iterator[Array]:
    """Weights [r, u] with one unit of each row left out in turn."""
    u, start = len(times), 0
    for rows in _rows(u, u):
        weights = np.repeat(times[None].astype(np.float64), rows, axis=0)
        weights[np.arange(rows), start + np.arange(rows)] -= 1
        start += rows
        yield weights


def _rows(wanted: int, units: int) -> Iterator[int]:
    step = max(1, CHUNK_NUMBERS // units)
    while wanted > 0:
        yield min(step, wanted)
        wanted -= step
