"""Observers: any split and any order of the same values is one state; rules agree with the raw values."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibration.observers import BINS, Histogram, MinMax, Samples
from calibration.qparams import fake_quantize, from_range
from calibration.rules import moving_average, mse, percentile
from calibration.schemes import SCHEMES, Granularity, TensorScheme

RELAXED = settings(deadline=None)  # time is the machine's affair
U8 = SCHEMES["u8s8"].activation
SYMMETRIC = TensorScheme(8, True, True, Granularity.PER_TENSOR)
NARROW = TensorScheme(8, True, True, Granularity.PER_TENSOR, narrow=True)

# Values of every size that float32 has, so that bins grow by many doublings at once.
wild = st.floats(width=32, allow_nan=False, allow_infinity=False)
batches = st.lists(
    st.one_of(
        hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=6), elements=wild),
        hnp.arrays(np.float32, st.integers(0, 40), elements=st.floats(-4, 4, width=32)),
    ),
    max_size=6,
)


def seen(kind: type[MinMax], parts: list[np.ndarray]) -> MinMax:
    made = kind()
    for part in parts:
        made.update(part)
    return made


def state(observer: MinMax) -> dict[str, tuple[str, bytes]]:
    return {name: (str(array.dtype), array.tobytes()) for name, array in observer.to_arrays().items()}


@given(batches, st.randoms(use_true_random=False), st.data())
@RELAXED
@pytest.mark.parametrize("kind", [MinMax, Histogram])
def test_any_split_and_order_is_one_pass(kind: type[MinMax], parts: list[np.ndarray], random, data) -> None:
    whole = np.concatenate([part.ravel() for part in parts]) if parts else np.zeros(0, np.float32)
    one_pass = seen(kind, [whole])
    shuffled = list(parts)
    random.shuffle(shuffled)
    cut = data.draw(st.integers(0, len(parts)))
    first, second = seen(kind, shuffled[:cut]), seen(kind, shuffled[cut:])
    before = state(second)
    first.merge(second)
    assert state(first) == state(one_pass)
    assert state(second) == before
    assert state(kind.from_arrays(first.to_arrays())) == state(first)


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 12), st.integers(1, 4)), elements=wild),
    st.randoms(use_true_random=False),
    st.integers(0, 12),
)
@RELAXED
def test_samples_in_any_split_and_order_are_one_pass(rows: np.ndarray, random, cut: int) -> None:
    order = list(range(len(rows)))
    random.shuffle(order)
    first, second = seen(Samples, [rows[order[:cut]]]), seen(Samples, [rows[[i]] for i in order[cut:]])
    first.merge(second)
    assert state(first) == state(seen(Samples, [rows]))
    assert state(Samples.from_arrays(first.to_arrays())) == state(first)
    exact = [sum(map(Fraction, ends.tolist())) / len(rows) for ends in (rows.min(axis=1), rows.max(axis=1))]
    assert moving_average(first, U8) == tuple(map(float, exact))  # type: ignore[arg-type]


@given(batches)
@RELAXED
def test_every_value_is_counted_in_its_own_bin(parts: list[np.ndarray]) -> None:
    histogram = seen(Histogram, parts)
    assert isinstance(histogram, Histogram)
    values = [float(v) for part in parts for v in part.ravel()]
    width_exponent = histogram.exponent
    expected = np.zeros(len(histogram.counts), np.int64)
    for value in values:
        expected[math.floor(math.ldexp(value, -width_exponent)) - histogram.first] += 1
    assert histogram.counts.tolist() == expected.tolist()
    assert int(histogram.counts.sum()) == histogram.n == len(values)
    assert histogram.zeros == sum(value == 0 for value in values)
    assert len(histogram.counts) <= BINS
    if values:
        assert (histogram.lo, histogram.hi) == (min(values), max(values))
        span = max(histogram.hi, 0.0) - min(histogram.lo, 0.0)
        assert span == 0 or len(histogram.counts) > BINS // 2 - 2  # resolution is kept


def bell(seed: int, n: int, tail: float, shift: float, relu: bool) -> np.ndarray:
    """Heavy-tailed values as activations are: Student t with `tail` degrees of freedom, shifted, perhaps rectified."""
    values = np.random.default_rng(seed).standard_t(tail, n) + shift
    return np.maximum(values, 0.0).astype(np.float32) if relu else values.astype(np.float32)


activations = st.builds(
    bell, st.integers(0, 2**32), st.integers(500, 3000), st.floats(1.5, 30), st.floats(-5, 5), st.booleans()
)


def true_error(values: np.ndarray, lo: float, hi: float, scheme: TensorScheme) -> float:
    return float(np.sum((fake_quantize(values, from_range(lo, hi, scheme)).astype(np.float64) - values) ** 2))


def brute_force(values: np.ndarray, scheme: TensorScheme) -> float:
    """Least true error over a plain grid of ranges, on the raw values."""
    lo, hi = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    if scheme.symmetric:
        return min(true_error(values, -c * max(-lo, hi), c * max(-lo, hi), scheme) for c in np.linspace(0.02, 1, 50))
    lows = np.linspace(0, 1, 12) * lo if lo < 0 else [0.0]
    highs = np.linspace(0, 1, 12 if lo < 0 else 50) * hi if hi > 0 else [0.0]
    return min(true_error(values, a, b, scheme) for a in lows for b in highs if a < b or lo == hi)


@given(activations, st.sampled_from([U8, SYMMETRIC, NARROW]))
@settings(RELAXED, max_examples=30)
def test_mse_is_as_good_as_brute_force_on_raw_values(values: np.ndarray, scheme: TensorScheme) -> None:
    histogram = Histogram()
    histogram.update(values)
    found = true_error(values, *mse(histogram, scheme), scheme)
    assert found <= 1.10 * brute_force(values, scheme)
    assert found <= 1.10 * true_error(values, histogram.lo, histogram.hi, scheme)


@given(batches, st.sampled_from([U8, SYMMETRIC, NARROW]))
@RELAXED
def test_mse_stays_within_what_was_seen(parts: list[np.ndarray], scheme: TensorScheme) -> None:
    histogram = seen(Histogram, parts)
    if histogram.n:
        lo, hi = mse(histogram, scheme)  # type: ignore[arg-type]
        assert min(histogram.lo, 0.0) <= lo <= 0.0 <= hi <= max(histogram.hi, 0.0)


@given(activations | hnp.arrays(np.float32, st.integers(1, 300), elements=wild), st.sampled_from([90.0, 99.0, 99.9]))
@RELAXED
def test_percentile_is_numpys_within_one_bin(values: np.ndarray, p: float) -> None:
    histogram = Histogram()
    histogram.update(values)
    lo, hi = percentile(histogram, U8, 100.0 - p, p)
    ordered = np.sort(values).astype(np.float64)
    cut = int(len(values) * {90.0: 100, 99.0: 10, 99.9: 1}[p] // 1000)  # exact: no float in sight
    width = math.ldexp(1.0, histogram.exponent)
    assert ordered[cut] - width <= lo <= ordered[cut]
    assert ordered[-1 - cut] <= hi <= ordered[-1 - cut] + width
    if len(values) % 1000 == 1:
        assert ordered[cut] == np.percentile(values, 100 - p, method="lower")


def test_percentile_is_numpys_own() -> None:
    values = np.random.default_rng(0).standard_t(3, 10_001).astype(np.float32)
    histogram = Histogram()
    histogram.update(values)
    lo, hi = percentile(histogram, U8, 0.1, 99.9)
    width = 2.0**histogram.exponent
    expected_lo, expected_hi = np.percentile(values.astype(np.float64), [0.1, 99.9])
    assert expected_lo - width <= lo <= expected_lo
    assert expected_hi <= hi <= expected_hi + width
