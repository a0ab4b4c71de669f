"""From raw samples to figures. The samples stay stored; everything here can be computed again from them.

They come from several processes (targets/measurement.py says why), one after the other in one array.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from math import comb
from typing import Any

import numpy as np
import numpy.typing as npt

P99_NEEDS = 1000  # fewer samples hold under ten of the slowest percent
DISTURBED = 0.05  # a share of change that is named
BLOCKS, BLOCK = 10, 20  # of a process, and the rounds that one has at least: its medians must be worth something

Samples = npt.NDArray[np.int64]


def latency(samples_ns: Samples) -> dict[str, float | int | None]:
    """{"p50", "p90", "p99"} in ms (p99 None below 1000 samples) and the count "n".

    `samples_ns`: int64 [n], one inference each. Raises ValueError when it is empty or a value is not positive.
    """
    _check(samples_ns)
    p50, p90, p99 = (float(q) / 1e6 for q in np.percentile(samples_ns, (50, 90, 99)))
    n = len(samples_ns)
    return {"p50": p50, "p90": p90, "p99": p99 if n >= P99_NEEDS else None, "n": n}


def speedup(
    candidate_ns: Samples, reference_ns: Samples, rounds: Sequence[int], confidence: float = 0.95
) -> Mapping[str, float | None]:
    """How many times faster the candidate is: {"median", "low", "high"}, above 1 is faster; None below 6 processes.

    Both int64 [n], entry i from the same interleaved round; `rounds`: of each process, adding up to n. A process's
    ratio is the median over blocks of neighbouring rounds of the ratio of the two medians: within a block both models
    met the same clock frequency and the same neighbours, so what drifts cancels. Over processes, see `across`.
    Deterministic. Raises ValueError when the lengths differ or a value is not positive.
    """
    _check(candidate_ns)
    _check(reference_ns)
    n = len(candidate_ns)
    if n != len(reference_ns):
        raise ValueError(f"{n} and {len(reference_ns)} samples: a speed-up needs paired rounds")
    pairs = zip(_split(candidate_ns, rounds), _split(reference_ns, rounds), strict=True)
    ratios = [_ratio(candidate, reference) for candidate, reference in pairs]
    return across(ratios, confidence) or {"median": None, "low": None, "high": None}


def median_ms(samples_ns: Samples, rounds: Sequence[int], confidence: float = 0.95) -> dict[str, float] | None:
    """The typical latency with its interval, {"median", "low", "high"} in ms, from the medians of the processes.

    As in `speedup`. It says what one moment knows: another run may meet another clock.
    """
    _check(samples_ns)
    return across([float(np.median(part)) / 1e6 for part in _split(samples_ns, rounds)], confidence)


def across(values: Sequence[float], confidence: float = 0.95) -> dict[str, float] | None:
    """The median over processes with its distribution-free interval: the order statistics that a binomial with p = 1/2
    picks (Conover, Practical Nonparametric Statistics, 3.2), of 10 processes the second and the ninth. None below 6,
    which are too few for 95 %. A process is slow or fast as a whole, and one in several may be disturbed: nothing here
    takes them for normal.
    """
    ordered, n = np.sort(values), len(values)
    # The largest k such that at most (1 - confidence) / 2 is the chance of fewer than k values below the true median.
    chances = accumulate(comb(n, below) / 2**n for below in range(n))
    k = sum(chance <= (1 - confidence) / 2 for chance in chances)
    if k == 0:
        return None
    return {"median": float(np.median(ordered)), "low": float(ordered[k - 1]), "high": float(ordered[n - k])}


def disturbances(samples_ns: Samples, conditions: Sequence[Mapping[str, Any]], steady: bool) -> list[str]:
    """What makes a measurement less than quiet, in words; empty where nothing was seen.

    `conditions`: the agent's looks at the device before, during and after. Named are: a warm-up that did not settle, a
    drift beyond 5 % between the medians of the first and the last third, cores whose frequency fell by more than 5 %,
    a load beyond the cores that were allowed, and other processes that took the core in more than 1 % of the rounds.
    What the device does not tell is not named: no frequency, no throttling seen.
    """
    _check(samples_ns)
    said = [] if steady else ["the warm-up did not settle"]
    third = len(samples_ns) // 3
    if third:
        drift = float(np.median(samples_ns[-third:]) / np.median(samples_ns[:third]) - 1)
        if abs(drift) > DISTURBED:
            pace = "slower" if drift > 0 else "faster"
            said.append(f"drift: the last third is {abs(drift):.0%} {pace} than the first")
    clocks = [float(np.mean(look["frequencies_khz"])) / 1e3 for look in conditions if look["frequencies_khz"]]
    if clocks and clocks[-1] < max(clocks) * (1 - DISTURBED):
        said.append(f"throttled: the cores fell from {max(clocks):.0f} to {clocks[-1]:.0f} MHz")
    loads = [look["load_1m"] for look in conditions if look["load_1m"] is not None]
    cores = len(conditions[0]["affinity"] or []) if conditions else 0
    if loads and cores and max(loads) > cores:
        said.append(f"neighbours: load {max(loads):.1f} on {cores} cores")
    taken = [look["preempted"] for look in conditions if look["preempted"] is not None]
    if len(taken) > 1 and taken[-1] - taken[0] > len(samples_ns) / 100:
        said.append(f"neighbours: other processes took the core {taken[-1] - taken[0]:,} times")
    return said


def _split(samples_ns: Samples, rounds: Sequence[int]) -> list[Samples]:
    if sum(rounds) != len(samples_ns) or min(rounds) < 1:
        raise ValueError(f"processes of {list(rounds)} rounds do not make {len(samples_ns)} samples")
    return np.split(samples_ns, np.cumsum(rounds)[:-1])


def _ratio(candidate_ns: Samples, reference_ns: Samples) -> float:
    n = len(candidate_ns)
    edges = np.linspace(0, n, max(1, min(BLOCKS, n // BLOCK)) + 1).astype(np.int64)
    return float(np.median([np.median(reference_ns[a:b]) / np.median(candidate_ns[a:b]) for a, b in pairwise(edges)]))


def _check(samples: Any) -> None:
    if samples.ndim != 1 or not len(samples) or not np.issubdtype(samples.dtype, np.integer) or (samples <= 0).any():
        raise ValueError(f"samples must be positive integers [n] in ns, got {samples.dtype} {list(samples.shape)}")
