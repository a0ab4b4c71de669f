"""Statistics: merge, files, ranges."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibration.errors import CalibrationError
from calibration.observers import Histogram, MinMax, Samples
from calibration.qparams import limits
from calibration.rules import OBSERVERS
from calibration.schemes import SCHEMES, Granularity, Scheme
from calibration.statistics import Statistics, solve

SHA = "a" * 64
U8S8 = SCHEMES["u8s8"]
CHANNELS = Scheme("channels", replace(U8S8.activation, granularity=Granularity.PER_CHANNEL), U8S8.weight)


def batch(seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "conv/1:0": random.normal(size=(4, 8, 5)).astype(np.float32) * (seed + 1),
        "../relu": np.maximum(random.normal(size=(4, 16)), 0).astype(np.float32),
        "": np.zeros((4, 3), np.float32),
        "Füße;{}": -random.random((4, 2)).astype(np.float32),
    }


def statistics(*seeds: int) -> Statistics:
    made = Statistics(SHA)
    for seed in seeds:
        made.update(batch(seed))
    return made


def test_equal_statistics_are_equal_bytes(tmp_path: Path) -> None:
    left, right = statistics(0, 1), statistics(3, 2)
    left.merge(right)
    whole = Statistics(SHA)
    for seed in (2, 0, 3, 1):
        whole.update(dict(reversed(batch(seed).items())))
    left.save(tmp_path / "merged.npz")
    whole.save(tmp_path / "whole.npz")
    statistics(0).save(tmp_path / "other.npz")
    assert (tmp_path / "merged.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert (tmp_path / "merged.npz").read_bytes() != (tmp_path / "other.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "whole.npz") as archive:
        assert {member.date_time[0] for member in archive.infolist()} == {1980}


@pytest.mark.parametrize("kind", [MinMax, Histogram, Samples])
def test_a_file_gives_the_same_statistics_again(tmp_path: Path, kind: type[MinMax]) -> None:
    made = Statistics(SHA, kind=kind)
    made.update(batch(0))
    made.save(tmp_path / "first.npz")
    loaded = Statistics.load(tmp_path / "first.npz")
    loaded.save(tmp_path / "second.npz")
    assert (tmp_path / "first.npz").read_bytes() == (tmp_path / "second.npz").read_bytes()
    assert loaded.graph_sha256 == SHA
    assert set(loaded.tensors) == set(batch(0))
    for some in (made, loaded):  # both go on alike
        some.update(batch(9))
        some.save(tmp_path / f"{id(some)}.npz")
    assert (tmp_path / f"{id(made)}.npz").read_bytes() == (tmp_path / f"{id(loaded)}.npz").read_bytes()


def test_damaged_or_foreign_files_are_refused(tmp_path: Path) -> None:
    statistics(0).save(tmp_path / "good.npz")
    good = (tmp_path / "good.npz").read_bytes()
    at = good.index(b"graph_sha256")
    pickled = tmp_path / "pickle.npy"
    np.save(pickled, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "array.npy", np.zeros(3))
    np.savez(tmp_path / "foreign.npz", a=np.zeros(3))
    np.savez(tmp_path / "later.npz", header=np.frombuffer(b'{"format": 4}', np.uint8))
    broken = {
        "empty": b"",
        "text": b"hello",
        "cut": good[: len(good) // 2],
        "flipped": good[:at] + b"G" + good[at + 1 :],
        "pickled": pickled.read_bytes(),
        "array": (tmp_path / "array.npy").read_bytes(),
        "foreign": (tmp_path / "foreign.npz").read_bytes(),
        "later": (tmp_path / "later.npz").read_bytes(),
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CalibrationError, match="not statistics, or damaged"):
            Statistics.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        Statistics.load(tmp_path / "none.npz")


def test_another_graph_is_refused() -> None:
    made = statistics(0)
    with pytest.raises(CalibrationError, match="bbbbbbbbbbbb cannot be merged into those of graph aaaaaaaaaaaa"):
        made.merge(Statistics("b" * 64))


def test_a_bad_tensor_is_named() -> None:
    made = Statistics(SHA)
    with pytest.raises(CalibrationError, match="tensor 'conv': 1 of 2 values are NaN"):
        made.update({"conv": np.array([0.0, np.nan])})


@pytest.mark.parametrize("rule", ["minmax", "mse", "percentile_99.999"])
def test_solve_covers_every_tensor(rule: str) -> None:
    made = statistics(0, 1, 2)
    ranges = solve(made, U8S8, rule)
    assert set(ranges) == set(batch(0))
    relu = ranges["../relu"]
    assert int(relu.zero_point) == 0
    assert relu.axis is None
    lo, hi = limits(relu)
    assert (float(lo), float(hi)) == pytest.approx((0.0, made.tensors["../relu"].hi), rel=0.2)
    assert float(ranges[""].scale) == 1.0


def test_solve_refuses_what_it_cannot_know() -> None:
    coarse = Statistics(SHA, kind=MinMax)
    coarse.update(batch(0))
    assert set(solve(coarse, U8S8, "minmax")) == set(batch(0))
    with pytest.raises(CalibrationError, match="'mse' needs a Histogram"):
        solve(coarse, U8S8, "mse")
    with pytest.raises(CalibrationError, match="did you mean 'mse'"):
        solve(coarse, U8S8, "msee")
    with pytest.raises(CalibrationError, match="tensor 'never': no value"):
        solve(Statistics(SHA, {"never": Histogram()}), U8S8, "mse")
    with pytest.raises(CalibrationError, match="observed as a whole, but a range for each channel is asked"):
        solve(statistics(0), CHANNELS, "minmax")


def test_absurd_constants_are_left_out_and_counted(tmp_path: Path) -> None:
    mask = np.array([0.0, -3.4e38, 2.0, -3.4e38, -1.0], np.float32)
    first, second = Statistics("g"), Statistics("g")
    first.update({"mask": mask, "plain": mask[[0, 2]]})
    second.update({"mask": mask[:2]})
    first.merge(second)
    first.save(tmp_path / "s.npz")
    loaded = Statistics.load(tmp_path / "s.npz")
    assert loaded.absurd == {"mask": 3}
    seen = loaded.tensors["mask"]
    assert (seen.n, seen.lo, seen.hi) == (4, -1.0, 2.0)
    first.update({"mask": np.array([-np.inf, 1.0, np.inf], np.float32)})  # a mask of attention may be infinite
    assert (first.absurd, first.tensors["mask"].n, first.tensors["mask"].lo) == ({"mask": 5}, 5, -1.0)


def test_nan_inside_the_model_names_the_tensor_and_takes_nothing_in() -> None:
    statistics = Statistics("g")
    statistics.update({"log": np.array([1.0, 2.0], np.float32)})
    with pytest.raises(CalibrationError, match="tensor 'log': 2 of 4 values are NaN: look at the calibration data"):
        statistics.update({"log": np.array([np.nan, -np.inf, 9.0, np.nan], np.float32)})
    assert (statistics.tensors["log"].n, statistics.tensors["log"].hi, statistics.absurd) == (2, 2.0, {})


@pytest.mark.parametrize("rule", OBSERVERS)
def test_one_calibration_sample_is_enough_for_every_rule(rule: str) -> None:
    statistics = Statistics("g")
    statistics.update({"x": np.random.default_rng(0).normal(size=(1, 3, 4, 4)).astype(np.float32)})
    found = solve(statistics, SCHEMES["u8s8"], rule)["x"]
    assert 0 < float(found.scale) < 0.1


def test_a_tensor_of_nothing_but_absurd_constants_has_no_range() -> None:
    statistics = Statistics("g")
    statistics.update({"mask": np.full(4, -3.4e38, np.float32)})
    with pytest.raises(CalibrationError, match=r"tensor 'mask': every value is beyond 1e\+30"):
        solve(statistics, SCHEMES["u8s8"], "minmax")


@pytest.mark.parametrize("rule", OBSERVERS)
@pytest.mark.parametrize("axis", [1, -1])
def test_channels_have_the_ranges_that_each_would_have_alone(tmp_path: Path, rule: str, axis: int) -> None:
    random = np.random.default_rng(0)
    batches = [random.normal(size=(4, 3, 5, 3)).astype(np.float32) * [1.0, 30.0, 0.01] for _ in range(3)]
    parts = [Statistics(SHA, axis=axis) for _ in batches]
    for one, values in zip(parts, batches, strict=True):
        one.update({"x": values if axis == -1 else values.swapaxes(1, 3)})
    first, *others = parts
    empty = Statistics(SHA, axis=axis)
    for other in (empty, *reversed(others)):
        first.merge(other)
    first.save(tmp_path / "s.npz")
    loaded = Statistics.load(tmp_path / "s.npz")
    loaded.save(tmp_path / "again.npz")
    assert (tmp_path / "s.npz").read_bytes() == (tmp_path / "again.npz").read_bytes()
    found = solve(loaded, CHANNELS, rule)["x"]
    assert (found.axis, found.scale.shape) == (axis, (3,))
    for channel in range(3):
        alone = Statistics(SHA)
        for values in batches:
            alone.update({"x": values[..., channel]})
        wanted = solve(alone, U8S8, rule)["x"]
        assert (found.scale[channel], found.zero_point[channel]) == (wanted.scale, wanted.zero_point)


def test_channels_that_do_not_fit_are_refused_and_nothing_is_taken_in(tmp_path: Path) -> None:
    made = Statistics(SHA, axis=1)
    made.update({"x": np.ones((2, 3), np.float32)})
    made.save(tmp_path / "before.npz")
    with pytest.raises(CalibrationError, match="tensor 'x': 4 channels along axis 1, 3 before"):
        made.update({"x": np.ones((2, 4), np.float32)})
    with pytest.raises(CalibrationError, match="tensor 'x': axis 1 does not exist in values of shape"):
        made.update({"x": np.ones(3, np.float32)})
    with pytest.raises(CalibrationError, match="tensor 'x': 1 of 3 values are NaN"):
        made.update({"x": np.array([[0.0, np.nan, 1.0]], np.float32)})
    for other in (Statistics(SHA, axis=-1), Statistics(SHA, axis=1), Statistics(SHA)):
        other.update({"x": np.ones((2, 4 if other.axis == 1 else 3), np.float32)})
        with pytest.raises(CalibrationError, match=r"channels along axis 1|cannot be merged"):
            made.merge(other)
    made.save(tmp_path / "after.npz")
    assert (tmp_path / "before.npz").read_bytes() == (tmp_path / "after.npz").read_bytes()
    made.update({"x": np.array([[0.0, 1e31, 1.0]], np.float32)})
    assert made.absurd == {"x": 1}
    masked = Statistics(SHA, axis=1)
    masked.update({"x": np.array([[0.0, -1e31, 1.0]], np.float32)})
    with pytest.raises(CalibrationError, match=r"tensor 'x', channel 1: every value is beyond 1e\+30"):
        solve(masked, CHANNELS, "minmax")
