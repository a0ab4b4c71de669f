"""Observers: growth, extremes, bounded memory, refusals; rules on shapes that were traps."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.errors import CalibrationError
from calibration.observers import BINS, Histogram, MinMax, Samples
from calibration.qparams import fake_quantize, from_range
from calibration.rules import (
    OBSERVERS,
    divergence,
    entropy,
    least,
    minmax,
    moving_average,
    mse,
    observer,
    octav,
    percentile,
    squared_error,
)
from calibration.schemes import SCHEMES, Granularity, TensorScheme

U8 = SCHEMES["u8s8"].activation
LARGEST, SUBNORMAL = float(np.finfo(np.float32).max), float(np.finfo(np.float32).smallest_subnormal)


def histogram_of(*batches: object) -> Samples:
    made = Samples()
    for batch in batches:
        made.update(np.asarray(batch))
    return made


def test_memory_does_not_grow_with_updates() -> None:
    random, histogram, most = np.random.default_rng(0), Histogram(), 0
    for step in range(1000):
        histogram.update(random.normal(size=64) * 1.1 ** (step % 500))
        most = max(most, histogram.counts.nbytes)
    assert most <= BINS * 8
    assert sum(array.nbytes for array in histogram.to_arrays().values()) <= BINS * 8 + 64
    assert histogram.n == int(histogram.counts.sum()) == 64_000


@pytest.mark.parametrize(
    "batches",
    [
        ([SUBNORMAL], [LARGEST]),
        ([-SUBNORMAL, SUBNORMAL], [-LARGEST, LARGEST]),
        ([0.0, -0.0], [0.0]),
        ([-3.0, -1.0], [-1e-30]),
        ([1.0], [2.0], [4096.0], [4096.0 * 4096.0]),
        ([np.nextafter(np.float32(1), np.float32(0))], [1.0]),
    ],
)
def test_growth_loses_no_value(batches: tuple[list[float], ...]) -> None:
    histogram = histogram_of(*batches)
    everything = [value for batch in batches for value in batch]
    assert (histogram.lo, histogram.hi) == (
        float(np.float32(min(everything))),
        float(np.float32(max(everything))),
    )
    assert int(histogram.counts.sum()) == histogram.n == len(everything)
    assert len(histogram.counts) <= BINS
    negative = int(histogram.counts[: -histogram.first].sum())
    assert negative == sum(value < 0 for value in everything)


def test_integers_and_halves_and_empties_are_values_too() -> None:
    histogram = histogram_of(np.array([[1, 2], [3, -4]], np.int8), np.array([0.5], np.float16), [], np.array([True]))
    assert (histogram.n, histogram.lo, histogram.hi) == (6, -4.0, 3.0)


@pytest.mark.parametrize("kind", [MinMax, Histogram])
@pytest.mark.parametrize(
    "values", [[1.0, np.nan, np.nan], [np.inf, 0.0, -np.inf], np.array([1e300, -1e300, 0.0], np.float64)]
)
def test_nan_and_infinity_are_counted_and_nothing_is_taken_in(kind: type[MinMax], values: object) -> None:
    made = kind()
    made.update(np.ones(5))
    before = {name: array.tobytes() for name, array in made.to_arrays().items()}
    with pytest.raises(CalibrationError, match="2 of 3 values are NaN or infinite"):
        made.update(values)  # type: ignore[arg-type]
    assert {name: array.tobytes() for name, array in made.to_arrays().items()} == before


@pytest.mark.parametrize("values", [np.array(["a"]), np.array([1j]), np.array([None])])
def test_only_numbers_are_observed(values: np.ndarray) -> None:
    with pytest.raises(CalibrationError, match="cannot be observed"):
        Histogram().update(values)


def test_other_classes_do_not_merge() -> None:
    with pytest.raises(CalibrationError, match="MinMax cannot be merged into Histogram"):
        Histogram().merge(MinMax())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "harm",
    [
        {"n": np.array(7)},
        {"lo": np.array(np.nan)},
        {"lo": np.array(-np.inf)},
        {"hi": np.array(0.5)},
        {"exponent": np.array(0)},
        {"zeros": np.array(9)},
        {"counts": np.zeros(3, np.int64)},
        {"counts": np.array(1)},
    ],
)
def test_damaged_state_is_refused(harm: dict[str, np.ndarray]) -> None:
    arrays = histogram_of([1.0, -2.0, 0.0]).to_arrays()
    with pytest.raises(CalibrationError, match="damaged Histogram"):
        Histogram.from_arrays(arrays | harm)
    with pytest.raises(CalibrationError, match="damaged Histogram"):
        Histogram.from_arrays({name: array for name, array in arrays.items() if name not in harm})


def test_unknown_rule_names_the_nearest() -> None:
    with pytest.raises(CalibrationError, match="unknown observer 'minmx': did you mean 'minmax'"):
        observer("minmx")
    with pytest.raises(CalibrationError, match=r"did you mean 'percentile_99\.99"):
        observer("percentile")
    assert observer("mse") == OBSERVERS["mse"]


def test_percentiles_of_any_numbers_have_names() -> None:
    seen = histogram_of(np.arange(1001, dtype=np.float32))
    for name, ends in {"percentile_99": (10, 990), "percentile_0_99": (0, 990), "percentile_5_99.9": (50, 999)}.items():
        kind, rule = observer(name)
        assert kind is Histogram
        assert rule(seen, U8) == pytest.approx(ends, abs=1.01)
    for name in ("percentile_40", "percentile_60_99", "percentile_1_101"):
        with pytest.raises(CalibrationError, match="no sensible range"):
            observer(name)


def test_moving_average_is_the_mean_of_the_samples_extremes() -> None:
    seen = histogram_of([[-1.0, 4.0], [-3.0, 2.0]], [[0.5, 1.0]])
    assert moving_average(seen, U8) == (pytest.approx(-3.5 / 3), pytest.approx(7 / 3))
    assert seen.samples == 3
    alone = histogram_of(5.0, -1.0)  # numbers without an axis are samples too
    assert moving_average(alone, U8) == (2.0, 2.0)


@pytest.mark.parametrize("name", OBSERVERS)
@pytest.mark.parametrize("value", [0.0, 3.25, -3.25])
def test_a_constant_tensor_is_exact_by_every_rule(name: str, value: float) -> None:
    kind, rule = observer(name)
    made = kind()
    made.update(np.full(100, value))
    qparams = from_range(*rule(made, U8), U8)
    np.testing.assert_allclose(fake_quantize(np.array([value]), qparams), [value], rtol=1e-3)


def test_mse_clips_a_lone_outlier_that_costs_more_than_it_is_worth() -> None:
    values = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
    values[0] = 40.0
    lo, hi = mse(histogram_of(values), U8)
    # least of n * step^2 / 12 + (40 - hi)^2, with step = (hi - lo) / 255, by its derivative
    cost = len(values) / 12 / 255**2
    assert hi == pytest.approx((40 + cost * lo) / (1 + cost), rel=0.05)
    assert -5.5 < lo < -3
    assert minmax(histogram_of(values), U8) == (float(values.min()), 40.0)


@pytest.mark.parametrize("zeros", [0, 2_000_000])
def test_expected_error_is_the_true_error(zeros: int) -> None:
    values = np.random.default_rng(0).exponential(size=5000).astype(np.float32)
    histogram = histogram_of(values, np.zeros(zeros))  # zeros are exact: they must not count as rounding noise
    ends = np.array([0.2, 0.5, 0.8, 1.0]) * histogram.hi
    width = 2.0**histogram.exponent
    expected = squared_error(histogram, np.zeros(4), ends / width, U8) * width**2
    true = [np.sum((fake_quantize(values, from_range(0, end, U8)).astype(np.float64) - values) ** 2) for end in ends]
    np.testing.assert_allclose(expected, true, rtol=0.1)


def test_mse_keeps_what_16_bits_can_keep() -> None:
    histogram = histogram_of(np.random.default_rng(0).standard_t(2, 1000))
    scheme = TensorScheme(16, True, False, Granularity.PER_TENSOR)
    assert mse(histogram, scheme) == (histogram.lo, histogram.hi)


def test_percentile_cuts_each_tail() -> None:
    values = np.arange(-1000, 1001, dtype=np.float32)
    lo, hi = percentile(histogram_of(values), U8, 1.0, 99.0)
    assert (lo, hi) == pytest.approx((-980, 980), abs=1.01)
    few = histogram_of(values[:50])
    assert percentile(few, U8, 1.0, 99.0) == (few.lo, few.hi)


SHAPES = {
    "normal": lambda rng: rng.normal(0, 1, 20_000),
    "long tail": lambda rng: rng.standard_t(2.5, 20_000),
    "rectified": lambda rng: np.maximum(rng.normal(0, 1, 20_000), 0),
    "one outlier": lambda rng: np.append(rng.normal(0, 1, 20_000), 60.0),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_octav_is_near_the_best_clip_of_its_noise_model(shape: str) -> None:
    x = SHAPES[shape](np.random.default_rng(0)).astype(np.float32)
    lo, hi = octav(histogram_of(x), U8)
    size = np.abs(x[x != 0]).astype(np.float64)
    two_sided = x.min() < 0 < x.max()
    k = 1 / ((3 if two_sided else 12) * 255**2)

    def noise(clip: float) -> float:
        over = size > clip
        return k * clip**2 * float((~over).sum()) + float(((size[over] - clip) ** 2).sum())

    best = min(noise(clip) for clip in np.linspace(0.02, 1.0, 3000) * size.max())
    assert noise(max(-lo, hi)) <= 1.02 * best
    assert x.min() <= lo <= hi <= x.max()


@pytest.mark.parametrize("shape", SHAPES)
def test_entropy_against_loops(shape: str) -> None:
    x = SHAPES[shape](np.random.default_rng(1)).astype(np.float32)
    seen = histogram_of(x)
    width = 2.0**seen.exponent
    size = np.abs(x[x != 0])
    share = [0.0] * (int(size.max() / width) + 1)
    for value in size:
        share[int(value / width)] += 1
    levels = 128 if x.min() < 0 < x.max() else 256

    def loops(end: int) -> float:
        p = share[:end]
        p[-1] += sum(share[end:])
        q = [0.0] * end
        for level in range(levels):
            cells = range(level * end // levels, (level + 1) * end // levels)
            held = [cell for cell in cells if share[cell] > 0]
            for cell in held:
                q[cell] = sum(share[c] for c in cells) / len(held)
        if any(a > 0 and b == 0 for a, b in zip(p, q, strict=True)):
            return float("inf")
        return sum(a / sum(p) * np.log(a / sum(p) / (b / sum(q))) for a, b in zip(p, q, strict=True) if a > 0)

    some = [levels, levels + 37, (levels + len(share)) // 2, len(share)]
    for end in some:
        assert divergence(np.array(share), end, levels) == pytest.approx(loops(end), rel=1e-9, abs=1e-12)
    lo, hi = entropy(seen, U8)
    chosen = divergence(np.array(share), round(max(-lo, hi) / width), levels) if max(-lo, hi) < size.max() else 0.0
    assert chosen <= min(divergence(np.array(share), end, levels) for end in some) + 1e-12
    assert x.min() <= lo <= hi <= x.max()


@pytest.mark.parametrize("rule", [octav, entropy])
@pytest.mark.parametrize("values", [[0.0, 0.0], [3.0, 3.0], [-2.0, -1.0], [1e-40, 5e-40], [-1e29, 1.0]])
def test_clipping_rules_stay_within_what_was_seen(rule, values: list[float]) -> None:
    seen = histogram_of(values)
    lo, hi = rule(seen, U8)
    assert min(seen.lo, 0.0) <= lo <= 0.0 <= hi <= max(seen.hi, 0.0)
    assert (lo, hi) != (0.0, 0.0) or not any(values)


def test_a_recipe_remembers_only_what_its_rules_need() -> None:
    assert least(["minmax"]) is MinMax
    assert least(["minmax", "mse", "percentile_99.9"]) is Histogram
    assert least(["moving_average", "mse"]) is Samples
    with pytest.raises(CalibrationError, match="did you mean 'mse'"):
        least(["minmax", "msee"])


def test_markers_beyond_a_limit_are_left_out_and_counted() -> None:
    made = Samples()
    assert made.update([[1.0, -3e38], [2.0, 3e38]], most=1e30) == 2
    assert (made.n, made.lo, made.hi, made.samples) == (2, 1.0, 2.0, 1)
    assert made.update([[-3e38]], most=1e30) == 1
    assert made.n == 2
