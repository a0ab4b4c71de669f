"""The gate's statistics against references that share no formula with them, and against published values."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import optimize, stats

from pipeline.release.statistics import (
    chances,
    holm,
    mcnemar_p,
    noninferior,
    power,
    samples_for,
    samples_to_decide,
    tango_interval,
    tango_lower,
    tango_upper,
    wilson_interval,
    worse_p,
)

# Corners and ordinary tables: (lost, gained, n).
TABLES = [
    (0, 0, 1), (1, 0, 1), (0, 1, 1), (0, 0, 50), (50, 0, 50), (0, 50, 50), (25, 25, 50), (49, 1, 50), (1, 49, 50),
    (30, 20, 50), (1, 0, 50), (0, 1, 50), (49, 0, 50), (0, 49, 50), (1, 7, 21), (12, 8, 860), (34, 34, 860),
    (60, 17, 860), (0, 0, 10_000), (370, 280, 10_000), (5_000, 5_000, 10_000), (1, 0, 10_000),
]  # fmt: skip


def cells(drop: float, t: float) -> tuple[float, float, float]:
    """Shares (lost, gained, neither) with lost - gained = drop; t in [0, 1] runs from least to most discordant."""
    span = (1 - abs(drop)) / 2
    return max(0.0, drop) + t * span, max(0.0, -drop) + t * span, 2 * span * (1 - t)


def most_likely(drop: float, counts: tuple[int, int, int]) -> tuple[float, float, float]:
    """The cells that maximise the trinomial likelihood under H0, by bisecting the slope of a concave function."""

    def slope(t: float) -> float:
        shares = cells(drop, t)
        return sum(weight * k / share for k, share, weight in zip(counts, shares, (1, 1, -2), strict=True) if k)

    low, high = 1e-15, 1 - 1e-15
    if slope(low) <= 0:
        return cells(drop, 0)
    if slope(high) >= 0:
        return cells(drop, 1)
    return cells(drop, float(optimize.brentq(slope, low, high, xtol=1e-16, rtol=1e-15)))


def score_chi_square(drop: float, lost: int, gained: int, n: int) -> float:
    """Rao's score statistic as Pearson's chi-square at the constrained maximum: no variance formula in it."""
    counts = (lost, gained, n - lost - gained)
    shares = most_likely(drop, counts)
    return sum((k - n * share) ** 2 / (n * share) for k, share in zip(counts, shares, strict=True) if share)


def reference_upper(lost: int, gained: int, n: int, confidence: float) -> float:
    if lost == n:
        return 1.0
    z = stats.norm.ppf(confidence)
    estimate = (lost - gained) / n
    return float(
        optimize.brentq(
            lambda drop: math.sqrt(score_chi_square(drop, lost, gained, n)) - z,
            estimate + 1e-9,
            1 - 1e-12,
            xtol=1e-12,
        )
    )


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
@pytest.mark.parametrize("table", TABLES, ids=str)
def test_upper_bound_against_brute_force(table: tuple[int, int, int], confidence: float) -> None:
    assert tango_upper(*table, confidence) == pytest.approx(reference_upper(*table, confidence), abs=1e-8)


@pytest.mark.parametrize("table", TABLES, ids=str)
def test_lower_bound_against_brute_force(table: tuple[int, int, int]) -> None:
    lost, gained, n = table
    assert tango_lower(*table) == pytest.approx(-reference_upper(gained, lost, n, 0.95), abs=1e-8)


def test_published_interval() -> None:
    # Airway hyper-responsiveness before and after transplantation: Fagerland, Lydersen, Laake, Statistics in Medicine
    # 33:2850-2875 (2014), table V, Tango asymptotic score interval.
    low, high = tango_interval(1, 7, 21)
    assert (round(low, 3), round(high, 3)) == (-0.517, -0.026)


def test_no_discordant_pair_has_a_closed_form() -> None:
    z = stats.norm.ppf(0.95)
    for n in (1, 10, 268, 10_000):
        assert tango_upper(0, 0, n) == pytest.approx(z**2 / (n + z**2), abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((-1, 0, 10), "lost -1"),
        ((0, -1, 10), "gained -1"),
        ((6, 5, 10), "n 10"),
        ((0, 0, 0), "n 0"),
        ((math.nan, 0, 10), "lost nan"),
        ((0, 0, 10, math.nan), "confidence"),
        ((0, 0, 10, 1.0), "confidence"),
    ],
)
def test_impossible_counts_are_refused(arguments: tuple[float, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tango_upper(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("margin", [0.0, -0.01, 1.0, math.nan])
def test_impossible_margins_are_refused(margin: float) -> None:
    for call in (lambda: noninferior(1, 1, 10, margin), lambda: power(10, margin, 0.1, 0.1)):
        with pytest.raises(ValueError, match="margin"):
            call()


@pytest.mark.parametrize("rates", [(0.6, 0.6), (-0.1, 0.1), (math.nan, 0.1)])
def test_impossible_rates_are_refused(rates: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="rates"):
        power(10, 0.1, *rates)


@pytest.mark.parametrize(
    ("lost", "gained", "decision"),
    [(12, 8, "pass"), (0, 0, "pass"), (0, 860, "pass"), (40, 17, "inconclusive"), (60, 17, "fail"), (860, 0, "fail")],
)
def test_noninferior_decides_all_three_ways(lost: int, gained: int, decision: str) -> None:
    assert noninferior(lost, gained, 860, 0.03) == decision


def test_a_bound_at_the_margin_decides_nothing() -> None:
    assert noninferior(12, 8, 860, tango_upper(12, 8, 860)) == "inconclusive"
    assert noninferior(60, 17, 860, tango_lower(60, 17, 860)) == "inconclusive"


def test_gate_without_discordant_pairs_still_needs_samples() -> None:
    assert noninferior(0, 0, 267, 0.01) == "inconclusive"
    assert noninferior(0, 0, 268, 0.01) == "pass"


def trinomial(n: int, lost_rate: float, gained_rate: float) -> dict[tuple[int, int], float]:
    shares = [lost_rate, gained_rate, 1 - lost_rate - gained_rate]
    tables = [(lost, gained) for lost in range(n + 1) for gained in range(n + 1 - lost)]
    counts = np.array([(lost, gained, n - lost - gained) for lost, gained in tables])
    return dict(zip(tables, stats.multinomial.pmf(counts, n, shares), strict=True))


def test_coverage_by_enumeration(record_property: pytest.RecordProperty) -> None:
    """How often the one-sided 95 % bound is at or above the true drop, over every table of small samples.

    A score bound is approximate: it dips below 95 % at some points of the grid. The floor here is what was found.
    """
    rates = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
    worst = (1.0, 0, 0.0, 0.0)
    for n in (5, 10, 20, 40):
        bounds = {(b, c): tango_upper(b, c, n) for b in range(n + 1) for c in range(n + 1 - b)}
        for lost_rate in rates:
            for gained_rate in rates:
                chance = trinomial(n, lost_rate, gained_rate)
                # A bound that equals the true drop covers it; 1e-12 forgives the rounding of the subtraction.
                covered = sum(chance[t] for t, bound in bounds.items() if bound >= lost_rate - gained_rate - 1e-12)
                worst = min(worst, (covered, n, lost_rate, gained_rate))
    print("least coverage {:.4f} at n = {}, lost {}, gained {}".format(*worst))
    record_property("least_coverage", float(worst[0]))
    assert worst[0] >= 0.92


@pytest.mark.parametrize("n", [300, 860, 3_000, 10_000])
@pytest.mark.parametrize("margin", [0.01, 0.02, 0.03])
@pytest.mark.parametrize("flips", [0.035, 0.05, 0.08, 0.15])
def test_false_passes_at_gate_sizes(n: int, margin: float, flips: float) -> None:
    """A model that really loses the whole margin passes in about 5 % of all gates, not more."""
    assert power(n, margin, (flips + margin) / 2, (flips - margin) / 2) <= 0.055


@pytest.mark.parametrize("n", [1, 7, 30])
@pytest.mark.parametrize("rates", [(0.0, 0.0), (0.1, 0.05), (0.3, 0.7), (0.0, 0.2), (1.0, 0.0), (0.0, 1.0)])
def test_power_against_full_enumeration(n: int, rates: tuple[float, float]) -> None:
    wanted = sum(p for (b, c), p in trinomial(n, *rates).items() if noninferior(b, c, n, 0.15) == "pass")
    assert power(n, 0.15, *rates) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("n", [1, 7, 30])
@pytest.mark.parametrize("rates", [(0.0, 0.0), (0.1, 0.05), (0.3, 0.7), (0.4, 0.05), (1.0, 0.0), (0.0, 1.0)])
def test_chances_against_full_enumeration(n: int, rates: tuple[float, float]) -> None:
    wanted = {"pass": 0.0, "fail": 0.0, "inconclusive": 0.0}
    for (lost, gained), chance in trinomial(n, *rates).items():
        wanted[noninferior(lost, gained, n, 0.15)] += chance
    assert chances(n, 0.15, *rates) == pytest.approx(wanted, abs=2e-6)


@pytest.mark.parametrize("table", [t for t in TABLES if t[2] > 1], ids=str)
@pytest.mark.parametrize("margin", [0.005, 0.02, 0.1])
def test_worse_p_against_brute_force(table: tuple[int, int, int], margin: float) -> None:
    lost, gained, n = table
    above = lost - gained > n * margin
    wanted = stats.norm.sf(math.sqrt(score_chi_square(margin, *table))) if above else 1.0
    assert worse_p(*table, margin) == pytest.approx(wanted, abs=1e-7)
    assert (worse_p(*table, margin) < 0.05) == (noninferior(*table, margin) == "fail")


@pytest.mark.parametrize("n", [3, 10, 40])
@pytest.mark.parametrize("alpha", [0.05, 0.01, 0.002])
def test_a_small_slice_is_rarely_called_worse_without_being_so(n: int, alpha: float) -> None:
    """False claims at a true drop of exactly the margin, by enumeration; the score test is approximate, so 2.5 alpha.

    What Holm's method does with several slices is exact arithmetic on these.
    """
    for margin in (0.01, 0.05):
        claims = [
            (lost, gained) for lost in range(n + 1) for gained in range(n + 1 - lost)
            if worse_p(lost, gained, n, margin) <= alpha
        ]  # fmt: skip
        for flips in (margin, 0.1, 0.2, 0.5):
            chance = trinomial(n, (flips + margin) / 2, (flips - margin) / 2)
            assert sum(chance[claim] for claim in claims) <= 2.5 * alpha + 1e-12


@pytest.mark.parametrize(
    "p", [[0.01], [0.04, 0.01, 0.03], [0.5, 0.5], [0.001, 0.001, 0.9, 0.02], [1.0, 0.0, 0.3, 0.05, 0.012]]
)
def test_holm_against_closed_testing(p: list[float]) -> None:
    """Holm is Bonferroni on every intersection of claims: a claim stands when all those that hold it do."""
    names = dict(enumerate(p))
    wanted = {
        str(i): max(
            min(1.0, len(group) * min(names[j] for j in group))
            for size in range(1, len(p) + 1)
            for group in itertools.combinations(names, size)
            if i in group
        )
        for i in names
    }
    assert holm({str(i): value for i, value in names.items()}) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("n", "margin", "drop", "flips", "figure"),
    [
        (860, 0.02, 0.007, 0.08, 0.38),
        (860, 0.03, 0.007, 0.08, 0.75),
        (10_000, 0.01, 0.009, 0.065, 0.11),
        (10_000, 0.01, 0.007, 0.065, 0.33),
        (10_000, 0.01, 0.005, 0.065, 0.63),
    ],
)
def test_power_against_simulation(n: int, margin: float, drop: float, flips: float, figure: float) -> None:
    """Gates drawn at random, and figures simulated beforehand (two digits, from a few thousand gates)."""
    rates = ((flips + drop) / 2, (flips - drop) / 2)
    exact = power(n, margin, *rates)
    draws = np.random.default_rng(7).multinomial(n, [*rates, 1 - flips], size=4_000)
    passed = {(b, c): noninferior(b, c, n, margin) == "pass" for b, c in {(int(r[0]), int(r[1])) for r in draws}}
    share = float(np.mean([passed[int(r[0]), int(r[1])] for r in draws]))
    assert share == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 4_000))
    assert figure == pytest.approx(exact, abs=0.02)


@pytest.mark.parametrize("table", [(10, 10, 1_000, 0.01), (40, 32, 860, 0.02), (3, 0, 100, 0.05), (0, 0, 50, 0.01)])
def test_samples_to_decide_reaches_the_power_and_no_sooner(table: tuple[int, int, int, float]) -> None:
    lost, gained, n, margin = table
    enough = samples_to_decide(lost, gained, n, margin)
    assert enough is not None
    assert power(enough, margin, lost / n, gained / n) >= 0.8
    assert power(enough - 1, margin, lost / n, gained / n) < 0.8


@pytest.mark.parametrize("table", [(200, 190, 1_000, 0.022), (400, 0, 1_000, 0.412)])
def test_asymptotic_sample_size_has_the_power(table: tuple[int, int, int, float]) -> None:
    """Beyond 10,000 samples the size is asymptotic; the exact power must agree with it."""
    lost, gained, n, margin = table
    enough = samples_to_decide(lost, gained, n, margin)
    assert enough is not None
    assert enough > 10_000
    assert power(enough, margin, lost / n, gained / n) == pytest.approx(0.8, abs=0.005)


@pytest.mark.parametrize("table", [(20, 10, 1_000, 0.01), (30, 10, 1_000, 0.01), (3, 0, 100, 0.03)])
def test_no_sample_size_passes_a_drop_at_the_margin(table: tuple[int, int, int, float]) -> None:
    assert samples_to_decide(*table) is None


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (0, 1), (5, 5), (12, 8), (8, 12), (60, 17), (400, 520), (0, 40)])
def test_mcnemar_against_scipy(lost: int, gained: int) -> None:
    wanted = stats.binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert mcnemar_p(lost, gained) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (0, 50), (50, 50), (3, 50), (760, 860), (9_999, 10_000)])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_wilson_against_scipy(successes: int, n: int, confidence: float) -> None:
    wanted = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert wilson_interval(successes, n, confidence) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


def test_nothing_heavy_is_imported() -> None:
    """The gate is on the path of a run that is answered from the store."""
    code = (
        "import sys, pipeline.release.gate; print(sorted({'numpy', 'scipy', 'torch', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("rates", "margin"),
    # ((z_a s0 + z_b s1) / (margin - drop))^2 by another way to s0: the cells that maximise the likelihood
    [((0.2, 0.19), 0.022), ((0.05, 0.05), 0.005), ((0.4, 0.0), 0.412), ((0.01, 0.0), 0.0111)],
)
def test_the_sample_size_above_ten_thousand_is_nams(rates: tuple[float, float], margin: float) -> None:
    lost, gained = rates
    counts = (round(lost * 10**6), round(gained * 10**6))
    p_lost, p_gained, _ = most_likely(margin, (*counts, 10**6 - sum(counts)))
    s0 = math.sqrt(p_lost + p_gained - margin**2)
    s1 = math.sqrt(lost + gained - (lost - gained) ** 2)
    needed = ((stats.norm.ppf(0.95) * s0 + stats.norm.ppf(0.8) * s1) / (margin - (lost - gained))) ** 2
    assert needed > 10_000
    assert samples_for(lost, gained, margin) == math.ceil(needed)
    stricter = ((stats.norm.ppf(0.99) * s0 + stats.norm.ppf(0.9) * s1) / (margin - (lost - gained))) ** 2
    assert samples_for(lost, gained, margin, 0.9, 0.99) == math.ceil(stricter)
