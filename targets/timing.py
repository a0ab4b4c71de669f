"""From raw samples to figures. The samples stay stored; everything here can be computed again from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from math import comb
from typing import Any

import numpy as np
import numpy.typing as npt

P99_NEEDS = 1000  # fewer samples hold under ten of the slowest percent
BLOCKS = 40  # enough for a narrow interval, few enough that a block outlasts most disturbances

Samples = npt.NDArray[np.int64]


def latency(samples_ns: Samples) -> dict[str, float | int | None]:
    """{"p50", "p90", "p99"} in ms (p99 None below 1000 samples) and the count "n".

    `samples_ns`: int64 [n], one inference each. Raises ValueError when it is empty or a value is not positive.
    """
    _check(samples_ns)
    p50, p90, p99 = (float(q) / 1e6 for q in np.percentile(samples_ns, (50, 90, 99)))
    n = len(samples_ns)
    return {"p50": p50, "p90": p90, "p99": p99 if n >= P99_NEEDS else None, "n": n}


def speedup(candidate_ns: Samples, reference_ns: Samples, confidence: float = 0.95) -> Mapping[str, float | None]:
    """How many times faster the candidate is: {"median", "low", "high"}, above 1 is faster; None below 6 rounds.

    Both int64 [n], entry i from the same interleaved round. The rounds are cut into up to 40 blocks of neighbours; each
    gives the ratio of its two medians; "median" is the median of these, "low" and "high" its distribution-free interval
    (the order statistics that a binomial with p = 1/2 picks; Conover, Practical Nonparametric Statistics, 3.2).
    Latencies are skewed and neighbouring rounds alike, so an interval that took each round for independent and normal
    would be too narrow. Within a block both models met the same clock frequency and the same neighbours, so what drifts
    cancels; between blocks little is shared (method of batch means). Deterministic. Raises ValueError when the lengths
    differ or a value is not positive.
    """
    _check(candidate_ns)
    _check(reference_ns)
    n = len(candidate_ns)
    if n != len(reference_ns):
        raise ValueError(f"{n} and {len(reference_ns)} samples: a speed-up needs paired rounds")
    ratios = [np.median(reference_ns[a:b]) / np.median(candidate_ns[a:b]) for a, b in pairwise(_edges(n))]
    return _interval(ratios, confidence) or {"median": None, "low": None, "high": None}


def median_ms(samples_ns: Samples, confidence: float = 0.95) -> dict[str, float] | None:
    """The typical latency with its interval, {"median", "low", "high"} in ms, from the medians of blocks of neighbours.

    As in `speedup`, and None below 6 samples. It says what one run knows: another run may meet another clock.
    """
    _check(samples_ns)
    return _interval([np.median(samples_ns[a:b]) / 1e6 for a, b in pairwise(_edges(len(samples_ns)))], confidence)


def _edges(n: int) -> npt.NDArray[np.int64]:
    return np.linspace(0, n, min(BLOCKS, n) + 1).astype(np.int64)


def _interval(values: Sequence[Any], confidence: float) -> dict[str, float] | None:
    """The median with its distribution-free interval; None where there are too few values for one."""
    ordered, blocks = np.sort(values), len(values)
    # The largest k such that at most (1 - confidence) / 2 is the chance of fewer than k blocks below the true median.
    chances = accumulate(comb(blocks, below) / 2**blocks for below in range(blocks))
    k = sum(chance <= (1 - confidence) / 2 for chance in chances)
    if k == 0:
        return None
    return {"median": float(np.median(ordered)), "low": float(ordered[k - 1]), "high": float(ordered[blocks - k])}


def _check(samples: Any) -> None:
    if samples.ndim != 1 or not len(samples) or not np.issubdtype(samples.dtype, np.integer) or (samples <= 0).any():
        raise ValueError(f"samples must be positive integers [n] in ns, got {samples.dtype} {list(samples.shape)}")
