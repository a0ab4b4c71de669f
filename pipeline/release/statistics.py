"""Statistics of paired outcomes: two models judged on the same n samples.

Of the n samples `lost` are right with the original model and wrong with the deployed one, `gained` the other way
round; the rest say nothing about the difference. The drop is (lost - gained) / n, a share in [-1, 1] (not points).
Standard library only, because a finished run that is asked again must answer at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import Literal

Decision = Literal["pass", "fail", "inconclusive"]

_TAIL = 1e-7  # probability left out at each end of a binomial distribution
_EXACT_UP_TO = 10_000  # samples; beyond it the asymptotic sample size is close and the exact one slow


def tango_upper(lost: int, gained: int, n: int, confidence: float = 0.95) -> float:
    """One-sided upper score bound for the drop (lost - gained) / n, a share in [-1, 1].

    The bound is the largest drop D that the score test of H0: p_lost - p_gained = D does not reject, that is, the root
    of (lost - gained - n D) / sqrt(n (2 q + D (1 - D))) = -z with q the maximum-likelihood p_gained under H0. It is
    found by bisection to the last bit and never rounded down.

    Source: T. Tango, Statistics in Medicine 17:891-908 (1998), the score statistic and its closed-form q.
    Raises ValueError for counts that are not 0 <= lost + gained <= n, n >= 1, or a confidence outside [0.5, 1).
    """
    _check_counts(lost, gained, n)
    z = _z(confidence)
    low, high = (lost - gained) / n, 1.0
    while low < (middle := (low + high) / 2) < high:
        if _excess(middle, lost, gained, n, z) > 0:
            low = middle
        else:
            high = middle
    return high


def tango_lower(lost: int, gained: int, n: int, confidence: float = 0.95) -> float:
    """One-sided lower score bound for the drop: minus the upper bound of the gain."""
    return -tango_upper(gained, lost, n, confidence)


def tango_interval(lost: int, gained: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided score interval (low, high) for the drop; `confidence` is shared by both sides."""
    one_sided = (1 + confidence) / 2
    return tango_lower(lost, gained, n, one_sided), tango_upper(lost, gained, n, one_sided)


def noninferior(lost: int, gained: int, n: int, margin: float, confidence: float = 0.95) -> Decision:
    """Whether the true drop is shown to be below `margin` (a share), shown to be above it, or neither.

    "pass": the one-sided upper bound is below the margin. "fail": the one-sided lower bound is above it.
    """
    _check_margin(margin)
    if tango_upper(lost, gained, n, confidence) < margin:
        return "pass"
    return "fail" if tango_lower(lost, gained, n, confidence) > margin else "inconclusive"


def power(n: int, margin: float, lost_rate: float, gained_rate: float, confidence: float = 0.95) -> float:
    """Probability that `noninferior` says "pass" on n samples when the true rates are these (all shares).

    Exact: (lost, gained) is trinomial, so gained is Binomial(n, gained_rate) and lost given gained is
    Binomial(n - gained, lost_rate / (1 - gained_rate)); for each gained, the largest lost that passes is looked up.
    The tails left out make the result too small by at most 4e-7, never too large.
    """
    return _chance(n, margin, lost_rate, gained_rate, _z(confidence))


def chances(
    n: int, margin: float, lost_rate: float, gained_rate: float, confidence: float = 0.95
) -> dict[Decision, float]:
    """Probability of each decision of `noninferior` at these true rates: exact, as in `power`, to 1e-6."""
    passes = _chance(n, margin, lost_rate, gained_rate, _z(confidence))
    # "fail" is the same score test from the other side; what it does not reject is "pass" or "inconclusive".
    fails = max(0.0, 1 - 4e-7 - _chance(n, margin, lost_rate, gained_rate, -_z(confidence)))
    return {"pass": passes, "fail": fails, "inconclusive": max(0.0, 1 - passes - fails)}


def _chance(n: int, margin: float, lost_rate: float, gained_rate: float, z: float) -> float:
    """Probability that the score statistic of H0: drop = margin lies below -z."""
    _check_counts(0, 0, n)
    _check_margin(margin)
    _check_rates(lost_rate, gained_rate)
    share = min(1.0, lost_rate / (1 - gained_rate)) if gained_rate < 1 else 0.0
    fewest_gained, probabilities = _binomial(n, gained_rate)
    total, most_lost = 0.0, -1
    for gained, probability in enumerate(probabilities, fewest_gained):
        # More gained allows more lost, so the largest `lost` below only moves up.
        while most_lost < n - gained and _excess(margin, most_lost + 1, gained, n, z) < 0:
            most_lost += 1
        total += probability * _binomial_cdf(most_lost, n - gained, share)
    return min(1.0, total)


def samples_to_decide(
    lost: int, gained: int, n: int, margin: float, target_power: float = 0.8, confidence: float = 0.95
) -> int | None:
    """About how many samples give `noninferior` this power to say "pass", if the rates seen were the true ones.

    As `samples_for`, at the rates lost / n and gained / n.
    """
    _check_counts(lost, gained, n)
    return samples_for(lost / n, gained / n, margin, target_power, confidence)


def samples_for(
    lost_rate: float, gained_rate: float, margin: float, target_power: float = 0.8, confidence: float = 0.95
) -> int | None:
    """How many samples give `noninferior` this power to say "pass" at these true rates (all shares).

    None when the drop is at or beyond the margin: no number of samples would do. The asymptotic sample size
    n = ((z_a s0 + z_b s1) / (margin - drop))^2, with s0^2 and s1^2 the variance of one pair's difference under H0
    (constrained estimate) and at the true rates, is refined with the exact power up to 10,000 samples. Exact power
    is a saw-tooth in n, so a slightly smaller n may reach it too.

    Source of the asymptotic form: J. Nam, Biometrics 53:1422-1430 (1997), for the same score test.
    """
    _check_margin(margin)
    _check_rates(lost_rate, gained_rate)
    drop = lost_rate - gained_rate
    if margin - drop < 1e-12:
        return None
    s0 = math.sqrt(_variance(margin, lost_rate, gained_rate, 1))
    s1 = math.sqrt(max(0.0, lost_rate + gained_rate - drop**2))
    guess = math.ceil(((_z(confidence) * s0 + _z(target_power) * s1) / (margin - drop)) ** 2)
    if guess > _EXACT_UP_TO:
        return guess

    def decides(count: int) -> bool:
        return power(count, margin, lost_rate, gained_rate, confidence) >= target_power

    enough = max(1, guess)
    while not decides(enough):
        enough += math.ceil(enough / 20)
    too_few = enough - math.ceil(enough / 20)
    while too_few > 0 and decides(too_few):
        enough, too_few = too_few, too_few - math.ceil(too_few / 20)
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        enough, too_few = (middle, too_few) if decides(middle) else (enough, middle)
    return enough


def worse_p(lost: int, gained: int, n: int, margin: float) -> float:
    """One-sided p-value of the score test of H0: drop <= margin. Small: the drop is shown to be larger.

    The test that `noninferior` says "fail" by, as a p-value, so that several claims can share one error rate.
    """
    _check_counts(lost, gained, n)
    _check_margin(margin)
    distance, variance = lost - gained - n * margin, n * _variance(margin, lost, gained, n)
    if distance <= 0:
        return 1.0  # more than 0.5: nothing that Holm's method would ever look at
    return 1 - NormalDist().cdf(distance / math.sqrt(variance)) if variance > 0 else 0.0


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values adjusted for being several: reject those at or below alpha, and a false claim among them has at most
    probability alpha, whatever their dependence.

    Source: S. Holm, Scandinavian Journal of Statistics 6:65-70 (1979).
    """
    adjusted: dict[str, float] = {}
    least = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        least = max(least, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = least
    return {name: adjusted[name] for name in p_values}


def mcnemar_p(lost: int, gained: int) -> float:
    """Exact two-sided p-value of McNemar's test (H0: lost and gained are equally likely).

    Shown beside the interval and never used as proof of parity: a large p-value may only mean few samples.
    Source: Q. McNemar, Psychometrika 12:153-157 (1947), in its exact binomial form; twice the smaller tail, at most 1.
    """
    discordant = lost + gained
    _check_counts(lost, gained, max(1, discordant))
    fewer = min(lost, gained)
    term = tail = math.exp(_log_choose(discordant, fewer) - discordant * math.log(2))
    for k in range(fewer, 0, -1):
        term *= k / (discordant - k + 1)
        tail += term
        if term < tail * 1e-18:
            break
    return min(1.0, 2 * tail)


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Two-sided Wilson score interval (low, high) for a proportion.

    Source: E. B. Wilson, JASA 22:209-212 (1927). Raises ValueError unless 0 <= successes <= n and n >= 1.
    """
    _check_counts(successes, 0, n)
    z = _z((1 + confidence) / 2)
    share = successes / n
    scale = 1 + z * z / n
    centre = (share + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At the ends the interval touches 0 or 1 exactly; rounding must not leave a sliver.
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == n else centre + half)


def _excess(drop: float, lost: float, gained: float, n: float, z: float) -> float:
    """Positive while the score test at level z does not reject `drop` from above; decreases through 0 at the bound.

    Multiplied out, so that a variance of 0 (no discordant pair, or a drop of 1) divides nothing.
    """
    return lost - gained - n * drop + z * math.sqrt(n * _variance(drop, lost, gained, n))


def _variance(drop: float, lost: float, gained: float, n: float) -> float:
    """Variance of one pair's difference, 2 q + D (1 - D), with q Tango's constrained estimate of p_gained.

    q is the larger root of 2 n q^2 + B q + C = 0, B = (2 n - lost + gained) D - lost - gained, C = -gained D (1 - D).
    """
    a = 2 * n
    b = (2 * n - lost + gained) * drop - lost - gained
    c = -gained * drop * (1 - drop)
    root = math.sqrt(max(0.0, b * b - 4 * a * c))
    # The form that adds numbers of one sign loses no digits.
    q = (root - b) / (2 * a) if b <= 0 else -2 * c / (root + b)
    return max(0.0, 2 * q + drop * (1 - drop))


def _binomial(n: int, p: float) -> tuple[int, list[float]]:
    """First count and probabilities of Binomial(n, p), each tail cut where what is left is below _TAIL."""
    if n == 0 or p <= 0:
        return 0, [1.0]
    if p >= 1:
        return n, [1.0]
    odds = p / (1 - p)
    mode = min(n, int((n + 1) * p))
    peak = math.exp(_log_choose(n, mode) + mode * math.log(p) + (n - mode) * math.log1p(-p))
    below, above = [], [peak]
    term, k, ratio = peak, mode, mode / ((n - mode + 1) * odds)
    # Ratios fall away from the mode, so a geometric series bounds the rest.
    while k > 0 and (ratio >= 1 or term * ratio / (1 - ratio) > _TAIL):
        term, k = term * ratio, k - 1
        below.append(term)
        ratio = k / ((n - k + 1) * odds)
    first = k
    term, k, ratio = peak, mode, (n - mode) * odds / (mode + 1)
    while k < n and (ratio >= 1 or term * ratio / (1 - ratio) > _TAIL):
        term, k = term * ratio, k + 1
        above.append(term)
        ratio = (n - k) * odds / (k + 1)
    return first, below[::-1] + above


def _binomial_cdf(count: int, n: int, p: float) -> float:
    first, chances = _binomial(n, p)
    return sum(chances[: max(0, count - first + 1)])


def binomial_lower(count: int, n: int, confidence: float = 0.95) -> float:
    """Exact one-sided lower bound of a share that was seen `count` times in n (Clopper and Pearson 1934)."""
    if count <= 0:
        return 0.0
    low, high = 0.0, count / n
    for _ in range(60):
        middle = (low + high) / 2
        tail = 1 - _binomial_cdf(count - 1, n, middle)
        low, high = (middle, high) if tail < 1 - confidence else (low, middle)
    return low


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _z(probability: float) -> float:
    if not 0.5 <= probability < 1:
        raise ValueError(f"confidence and power must be at least 0.5 and below 1, got {probability}")
    return NormalDist().inv_cdf(probability)


def _check_counts(lost: int, gained: int, n: int) -> None:
    if not (n >= 1 and lost >= 0 and gained >= 0 and lost + gained <= n):
        raise ValueError(f"need n >= 1 and 0 <= lost + gained <= n, got lost {lost}, gained {gained}, n {n}")


def _check_rates(lost_rate: float, gained_rate: float) -> None:
    if not (lost_rate >= 0 and gained_rate >= 0 and lost_rate + gained_rate <= 1 + 1e-12):
        raise ValueError(f"rates must be at least 0 and sum to at most 1, got {lost_rate} and {gained_rate}")


def _check_margin(margin: float) -> None:
    if not 0 < margin < 1:
        raise ValueError(f"margin must be a share between 0 and 1, got {margin}")
