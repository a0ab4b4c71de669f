"""Figures from samples: against NumPy, and the interval's coverage against simulated autocorrelated latencies."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets.timing import latency, median_ms, speedup

samples = st.lists(st.integers(1, 10**9), min_size=6, max_size=200)


@given(samples)
def test_latency_is_numpys_quantiles_in_ms(values):
    ns = np.array(values, np.int64)
    found = latency(ns)
    assert found["n"] == len(values)
    assert found["p50"] == pytest.approx(np.median(ns) / 1e6)
    assert found["p90"] == pytest.approx(np.quantile(ns, 0.9) / 1e6)
    assert found["p99"] is None


def test_p99_appears_with_a_thousand_samples():
    ns = np.arange(1, 1001) * 1_000_000
    assert latency(ns[:999])["p99"] is None
    assert latency(ns)["p99"] == pytest.approx(np.quantile(ns, 0.99) / 1e6)


runs = st.lists(st.integers(1, 20), min_size=6, max_size=12)  # rounds of each process


@given(runs, st.integers(2, 50), st.randoms(use_true_random=False))
def test_a_reference_that_takes_k_times_as_long_is_a_speedup_of_exactly_k(rounds, k, random):
    ns = np.array([random.randint(1, 10**9) for _ in range(sum(rounds))], np.int64)
    assert speedup(ns, ns * k, rounds) == {"median": k, "low": k, "high": k}


@given(runs, st.randoms(use_true_random=False))
def test_the_interval_holds_the_median(rounds, random):
    a, b = np.array([[random.randint(1, 10**6) for _ in range(sum(rounds))] for _ in range(2)], np.int64)
    one = speedup(a, b, rounds)
    assert one["low"] <= one["median"] <= one["high"]


@given(st.lists(st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)), min_size=6, max_size=30))
def test_the_interval_turns_over_with_the_models(pairs):
    """Exactly so with one round a process: a median of two ratios does not."""
    a, b = np.array(pairs, np.int64).T
    one, other = speedup(a, b, [1] * len(a)), speedup(b, a, [1] * len(a))
    assert other["low"] == pytest.approx(1 / one["high"])
    assert other["high"] == pytest.approx(1 / one["low"])


def test_more_confidence_is_a_wider_interval():
    rng = np.random.default_rng(0)
    a, b = rng.integers(900, 1100, (2, 400))
    narrow, wide = speedup(a, b, [20] * 20, 0.8), speedup(a, b, [20] * 20, 0.99)
    assert wide["low"] < narrow["low"] < narrow["high"] < wide["high"]


def test_fewer_than_six_processes_say_nothing():
    a = np.array([5, 6, 7, 8, 9], np.int64)
    assert speedup(a, a * 2, [1] * 5) == {"median": None, "low": None, "high": None}
    assert median_ms(a, [3, 2]) is None


@pytest.mark.parametrize("memory", [0.0, 0.9])
def test_the_interval_covers_the_truth_when_processes_differ_and_rounds_are_autocorrelated(memory):
    """A process-wide bias a model (1 %, in one process of ten 10 %), AR(1) noise, and a drift that both share; the true
    ratio of medians is 1.25. An interval from the rounds of one process would miss it nearly always.
    """
    rng, covered, trials, rounds = np.random.default_rng(7), 0, 400, [200] * 10
    for _ in range(trials):
        shocks = rng.standard_normal((2, 2000)) * 0.05
        noise = np.zeros_like(shocks)
        for t in range(1, 2000):
            noise[:, t] = memory * noise[:, t - 1] * (t % 200 > 0) + shocks[:, t]
        bias = rng.normal(0, 0.01, (2, 10)) * np.where(rng.random(10) < 0.1, 10, 1)
        drift = 0.3 * np.sin(np.linspace(0, 3, 2000))
        level = drift + noise + np.repeat(bias, 200, axis=1)
        candidate, reference = (1e6 * np.exp(level) * [[1.0], [1.25]]).astype(np.int64)
        found = speedup(candidate, reference, rounds)
        covered += found["low"] <= 1.25 <= found["high"]
    assert covered / trials >= 0.93  # 95 % less two standard errors


@pytest.mark.parametrize(
    "bad", [np.array([], np.int64), np.array([1, 0, 3]), np.array([1.0, 2.0]), np.ones((2, 3), np.int64)]
)
def test_samples_that_no_clock_gives_are_refused(bad):
    with pytest.raises(ValueError, match="positive integers"):
        latency(bad)
    with pytest.raises(ValueError, match="positive integers"):
        speedup(np.array([1, 2, 3]), bad, [3])


def test_unpaired_rounds_are_refused():
    with pytest.raises(ValueError, match="paired"):
        speedup(np.array([1, 2, 3]), np.array([1, 2]), [3])


def test_rounds_that_do_not_make_the_samples_are_refused():
    with pytest.raises(ValueError, match="do not make 3 samples"):
        median_ms(np.array([1, 2, 3]), [1, 1])


def test_the_typical_latency_has_an_interval_that_covers_it() -> None:
    """Processes that differ, whose true median is known: covered in about 98 of 100 runs (10 processes)."""
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(400):
        process = np.repeat(rng.normal(0, 0.05, 10), 200)
        ns = (1e6 * np.exp(process + rng.normal(0, 0.02, 2000))).astype(np.int64)
        found = median_ms(ns, [200] * 10)
        assert found is not None
        assert found["low"] <= found["median"] <= found["high"]
        covered += found["low"] <= 1.0 <= found["high"]
    assert 380 <= covered < 400
