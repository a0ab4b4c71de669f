"""The gate beside computations that others wrote: statsmodels, SciPy, and enumeration, each to 1e-6."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import optimize, stats

from pipeline.release import bootstrap, metrics, scores
from pipeline.release.gate import Policy, judge
from pipeline.release.samples import Samples
from pipeline.release.statistics import holm, mcnemar_p, power, tango_upper, wilson_interval
from tests.unit.test_gate import EVIDENCE, SMALL

with warnings.catch_warnings():  # its own imports warn, not ours
    warnings.simplefilter("ignore")
    from statsmodels.stats import contingency_tables, multitest, proportion

TO = 1e-6
TABLES = [(12, 8, 860), (0, 0, 50), (5, 0, 200), (0, 7, 200), (30, 22, 860), (300, 250, 1_000), (1, 1, 2)]


@pytest.mark.parametrize(("lost", "gained", "n"), TABLES)
def test_mcnemar_is_that_of_statsmodels(lost: int, gained: int, n: int) -> None:
    table = [[n - lost - gained, lost], [gained, 0]]
    wanted = 1.0 if lost + gained == 0 else contingency_tables.mcnemar(table, exact=True).pvalue
    assert mcnemar_p(lost, gained) == pytest.approx(wanted, abs=TO)


@pytest.mark.parametrize(("lost", "gained", "n"), TABLES)
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_wilson_is_that_of_statsmodels(lost: int, gained: int, n: int, confidence: float) -> None:
    wanted = proportion.proportion_confint(lost, n, alpha=1 - confidence, method="wilson")
    assert wilson_interval(lost, n, confidence) == pytest.approx(wanted, abs=TO)


@pytest.mark.parametrize("seed", range(20))
def test_holm_is_that_of_statsmodels(seed: int) -> None:
    p = np.random.default_rng(seed).beta(0.3, 2, 12)
    wanted = multitest.multipletests(p, method="holm")[1]
    assert list(holm({str(i): value for i, value in enumerate(p)}).values()) == pytest.approx(wanted, abs=TO)


def likelihood_bound(lost: int, gained: int, n: int, confidence: float) -> float:
    """Tango's bound without his formulas: Rao's score of the trinomial likelihood at its numeric maximum."""

    def z_of(drop: float) -> float:
        def cells(q: float) -> tuple[float, float, float]:
            return q + drop, q, 1 - drop - 2 * q

        def minus_log(q: float) -> float:
            return -sum(
                count * math.log(cell)
                for count, cell in zip((lost, gained, n - lost - gained), cells(q), strict=True)
                if count
            )

        low, high = max(0.0, -drop), (1 - drop) / 2
        q = optimize.minimize_scalar(
            minus_log, bounds=(low + 1e-15, high - 1e-15), options={"xatol": 1e-14}, method="bounded"
        ).x
        variance = n * (2 * q + drop * (1 - drop))
        return float((lost - gained - n * drop) / math.sqrt(variance)) + stats.norm.ppf(confidence)

    return float(optimize.brentq(z_of, (lost - gained) / n + 1e-12, 1 - 1e-9, xtol=1e-13))


@pytest.mark.parametrize(("lost", "gained", "n"), TABLES[:1] + TABLES[2:6])
def test_the_verdict_rests_on_the_bound_that_the_likelihood_gives(lost: int, gained: int, n: int) -> None:
    run = replace(SMALL, n=n, lost=lost, gained=gained)
    verdict = judge(Policy(margin_points=50), replace(EVIDENCE, n=n, batches=(1,), runs=(run,)))
    check = next(check for check in verdict.checks if check.name == "accuracy")
    assert check.value is not None
    assert check.value / 100 == pytest.approx(likelihood_bound(lost, gained, n, 0.95), abs=TO)


@pytest.mark.parametrize("n", [6, 9])
@pytest.mark.parametrize("rates", [(0.1, 0.1), (0.3, 0.05), (0.0, 0.2)])
def test_power_is_the_sum_over_every_outcome_of_every_sample(n: int, rates: tuple[float, float]) -> None:
    """All 3^n sequences of lost, gained and same, one by one."""
    chances = (*rates, 1 - sum(rates))
    total = 0.0
    for outcome in itertools.product(range(3), repeat=n):
        if tango_upper(outcome.count(0), outcome.count(1), n) < 0.45:
            total += math.prod(chances[kind] for kind in outcome)
    assert power(n, 0.45, *rates) == pytest.approx(total, abs=TO)


def own_mae(before: Any, after: Any, axis: int) -> Any:
    return after.mean(axis=axis) - before.mean(axis=axis)


def own_rmse(before: Any, after: Any, axis: int) -> Any:
    return np.sqrt(after.mean(axis=axis)) - np.sqrt(before.mean(axis=axis))


@pytest.mark.parametrize(("name", "statistic"), [("mae", own_mae), ("rmse", own_rmse)])
@pytest.mark.parametrize("seed", [0, 1])
def test_bca_is_that_of_scipy_on_the_same_draws(name: str, statistic: Callable[..., Any], seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets = rng.normal(size=150)
    before, after = (targets + size * rng.standard_t(5, 150) for size in (0.3, 0.33))
    kept = scores.keep(targets, {"y": before}, {"y": after})
    found = metrics.measure(name, Samples(150, None, kept), 0.95)
    errors = [kept[name].before[:, 0], kept[name].after[:, 0]]
    wanted = stats.bootstrap(
        errors, statistic, paired=True, vectorized=True, method="BCa", n_resamples=9_999, confidence_level=0.9,
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    assert [found.low, found.high] == pytest.approx(list(wanted), abs=TO)


@pytest.mark.parametrize(("lost", "n"), [(3, 60), (6, 120), (12, 400)])
def test_bca_counts_half_of_the_draws_that_tie_with_the_estimate(lost: int, n: int) -> None:
    """A share of few samples ties in a tenth of all draws: counted whole, the bound moves by half a point."""
    data = np.repeat([1.0, 0.0], [lost, n - lost])
    low, high = bootstrap.bca(np.ones(n, int), lambda weights: weights @ data / n)
    rng = np.random.default_rng(0)
    drawn = data[rng.integers(0, n, (9_999, n))].mean(axis=1)
    ties = float(np.mean(np.isclose(drawn, lost / n)))
    assert ties > 0.1
    bias = stats.norm.ppf(np.mean(drawn < lost / n - 1e-9) + ties / 2)
    left_out = (lost - data) / (n - 1)
    spread = left_out.mean() - left_out
    acceleration = (spread**3).sum() / (6 * (spread**2).sum() ** 1.5)
    for level, bound in ((0.05, low), (0.95, high)):
        z = bias + stats.norm.ppf(level)
        wanted = np.quantile(drawn, stats.norm.cdf(bias + z / (1 - acceleration * z)))
        assert bound == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("estimate", [5.0, -1.0])
def test_where_all_draws_lie_on_one_side_the_bounds_are_their_ends(estimate: float) -> None:
    def statistic(weights: Any) -> Any:
        return np.where((weights == 1).all(axis=1), estimate, np.minimum(weights[:, 0], 4.0))

    assert bootstrap.bca(np.ones(30, int), statistic) == (0.0, 4.0)


def test_where_nothing_moves_the_bounds_are_the_estimate() -> None:
    assert bootstrap.bca(np.ones(30, int), lambda weights: np.full(len(weights), 0.25)) == (0.25, 0.25)


def test_every_replicate_and_every_unit_is_looked_at_however_they_are_portioned(monkeypatch: Any) -> None:
    monkeypatch.setattr(bootstrap, "CHUNK_NUMBERS", 50)  # five rows of ten units at a time
    seen: list[int] = []

    def statistic(weights: Any) -> Any:
        seen.append(len(weights))
        return weights @ np.arange(10.0)

    bootstrap.bca(np.ones(10, int), statistic, replicates=11)
    assert seen == [1, 5, 5, 1, 5, 5]
