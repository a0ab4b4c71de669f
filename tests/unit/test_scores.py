"""Metrics of other tasks: values against scikit-learn, bounds against SciPy, and what resampling cannot see."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn

from pipeline.release import metrics, scores
from pipeline.release.evidence import SCORES
from pipeline.release.samples import Samples, load
from pipeline.release.scores import Own, Pair

Reference = Callable[[Any, Any], float]
RNG = np.random.default_rng


def numbers(seed: int, n: int = 200) -> tuple[Any, Any, Any]:
    rng = RNG(seed)
    targets = rng.normal(size=(n, 6)).astype(np.float32)
    return targets, *(targets + noise * rng.normal(size=targets.shape).astype(np.float32) for noise in (0.3, 0.4))


def truths(seed: int, n: int = 200) -> tuple[Any, Any, Any]:
    rng = RNG(seed)
    targets = rng.integers(0, 2, n)
    logits = rng.normal(size=(n, 2)).astype(np.float32) + np.eye(2, dtype=np.float32)[targets]
    return targets, logits, np.round(logits + 0.3 * rng.normal(size=(n, 2)), 1).astype(np.float32)  # rounded: ties


def pixels(seed: int, n: int = 60) -> tuple[Any, Any, Any]:
    rng = RNG(seed)
    targets = rng.integers(-1, 3, (n, 5, 4))
    logits = rng.normal(size=(n, 3, 5, 4)) + 2 * np.moveaxis(np.eye(3)[targets], -1, 1)
    return targets, *(a.astype(np.float32) for a in (logits, logits + 0.8 * rng.normal(size=logits.shape)))


def words(seed: int, n: int = 60) -> tuple[Any, Any, Any]:
    rng = RNG(seed)
    targets = rng.integers(1, 6, (n, 7))
    targets[np.arange(7) >= rng.integers(2, 8, n)[:, None]] = -1
    heard = [
        np.where(rng.random(targets.shape) < rate, rng.integers(-1, 6, targets.shape), targets) for rate in (0.1, 0.2)
    ]
    return targets, *heard


def iou(targets: Any, outputs: Any) -> float:
    there = targets >= 0
    return float(sklearn.jaccard_score(targets[there], outputs.argmax(axis=1)[there], average="macro"))


def word_error_rate(targets: Any, outputs: Any) -> float:
    """Levenshtein's recursion as it is defined."""

    def distance(a: tuple[int, ...], b: tuple[int, ...]) -> int:
        @cache
        def d(i: int, j: int) -> int:
            if not i or not j:
                return i + j
            return min(d(i - 1, j) + 1, d(i, j - 1) + 1, d(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

        return d(len(a), len(b))

    rows = [(tuple(a[a >= 0]), tuple(b[b >= 0])) for a, b in zip(targets, outputs, strict=True)]
    return sum(distance(a, b) for a, b in rows) / sum(len(a) for a, _ in rows)


def cosine(targets: Any, outputs: Any) -> float:
    return float(np.mean(1 - sklearn.pairwise.paired_cosine_distances(targets.astype(float), outputs.astype(float))))


# Metric -> (samples, an independent value, the sign of what a lower value loses).
CASES: dict[str, tuple[Callable[[int], tuple[Any, Any, Any]], Reference, int]] = {
    "mae": (numbers, lambda t, o: float(sklearn.mean_absolute_error(t, o)), -1),
    "mse": (numbers, lambda t, o: float(sklearn.mean_squared_error(t, o)), -1),
    "rmse": (numbers, lambda t, o: math.sqrt(sklearn.mean_squared_error(t, o)), -1),
    "cosine": (numbers, cosine, 1),
    "f1": (truths, lambda t, o: float(sklearn.f1_score(t, o.argmax(axis=1))), 1),
    "auc": (truths, lambda t, o: float(sklearn.roc_auc_score(t, o[:, 1].astype(float) - o[:, 0].astype(float))), 1),
    "mean_iou": (pixels, iou, 1),
    "word_error_rate": (words, word_error_rate, -1),
}


def evidence(targets: Any, before: Any, after: Any, groups: Any = None, own: tuple[Own, ...] = ()) -> Samples:
    kept = scores.keep(targets, {"y": before}, {"y": after}, own)
    return Samples(len(before), None, kept, groups)


def test_every_metric_has_an_independent_value() -> None:
    assert CASES.keys() | {"cosine_to_float"} == SCORES.keys() == scores.SCORES.keys()


@pytest.mark.parametrize("name", CASES)
def test_values_are_those_of_others(name: str) -> None:
    make, reference, sign = CASES[name]
    targets, before, after = make(1)
    scale = 100 if SCORES[name] == "points" else 1
    wanted = [scale * reference(targets, one) for one in (before, after)]
    found = metrics.measure(name, evidence(targets, before, after), 0.95)
    assert [found.float_value, found.value] == pytest.approx(wanted, abs=1e-5)
    assert found.drop == pytest.approx(sign * (wanted[0] - wanted[1]), abs=1e-5)
    assert found.unit == SCORES[name]
    share = metrics.measure(name, evidence(targets, before, after), 0.95, relative=True)
    assert share.drop == pytest.approx(100 * sign * (wanted[0] - wanted[1]) / wanted[0], abs=1e-4)
    assert share.unit == "% of float"


@pytest.mark.parametrize("name", ["mae", "rmse", "auc"])
def test_bounds_are_those_of_scipy(name: str) -> None:
    make, reference, sign = CASES[name]
    targets, before, after = make(2)
    scale = 100 if SCORES[name] == "points" else 1

    def drop(index: Any) -> float:
        at = np.asarray(index, int)
        return sign * scale * (reference(targets[at], before[at]) - reference(targets[at], after[at]))

    wanted = stats.bootstrap(
        (np.arange(len(targets)),), drop, vectorized=False, method="BCa", n_resamples=1_500, confidence_level=0.9,
        rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    found = metrics.measure(name, evidence(targets, before, after), 0.95)
    assert found.low is not None
    assert found.high is not None
    assert [found.low, found.high] == pytest.approx(list(wanted), abs=0.12 * (found.high - found.low))


def test_ties_in_a_rank_count_half() -> None:
    targets, ties = np.array([1, 0, 1, 0]), np.zeros(4, np.float32)
    assert scores.value("auc", scores.SCORES["auc"].of(targets, ties)) == 0.5


def test_ctc_is_read_greedily() -> None:
    path = np.array([[0, 3, 3, 0, 3, 2, 2, 0]])
    steps = np.eye(4, dtype=np.float32)[path]
    assert scores.SCORES["word_error_rate"].of(np.array([[3, 3, 2]]), steps).tolist() == [[0, 3]]
    assert scores.SCORES["word_error_rate"].of(np.array([[3, 2, -1]]), steps).tolist() == [[1, 2]]


def test_groups_are_drawn_whole() -> None:
    targets, before, after = numbers(3, n=120)
    copies = [np.repeat(array, 10, axis=0) for array in (targets, before, after)]
    each = np.repeat(np.arange(120), 10).astype(str)

    def width(samples: Samples) -> float:
        found = metrics.measure("mae", samples, 0.95)
        assert found.high is not None
        assert found.low is not None
        return found.high - found.low

    single = width(evidence(targets, before, after))
    assert width(evidence(*copies)) == pytest.approx(single / 10**0.5, rel=0.1)
    assert width(evidence(*copies, groups=each)) == pytest.approx(single, rel=0.1)
    halves = np.repeat(["a", "b"], 600)
    assert "conditional on these 2 groups" in metrics.measure("mae", evidence(*copies, groups=halves), 0.95).method


@pytest.mark.parametrize("name", CASES)
def test_no_change_proves_parity_only_with_samples_enough(name: str) -> None:
    """Identical outputs: the bound is what as many worst answers as chance may hide would cost, and shrinks with n."""
    make, _, _ = CASES[name]
    bounds = []
    for n in (60, 2_000):
        targets, before, _ = make(4, n)  # type: ignore[call-arg]
        found = metrics.measure(name, evidence(targets, before, before), 0.95)
        assert found.drop == 0
        assert "only 0 answers changed" in found.method
        bounds.append(found.high)
    assert 0 < bounds[1] < bounds[0] / 5  # type: ignore[operator]


def test_what_the_data_cannot_say_is_unavailable_with_the_reason() -> None:
    targets, before, after = numbers(5)
    found = metrics.measure("mean_iou", evidence(targets, before, after), 0.95)
    assert found.drop is None
    assert found.method.endswith("it takes classes [n, ...], scores [n, classes, ...]")
    assert metrics.measure("accuracy", evidence(targets, before, after), 0.95).method == "the task is no classification"


def test_several_outputs_have_their_own_metrics() -> None:
    targets, before, after = numbers(6)
    one, other = {"pose": before, "size": before[:, 0]}, {"pose": after, "size": after[:, 0]}
    kept = scores.keep({"pose": targets, "size": targets[:, 0]}, one, other)
    assert {"mae", "cosine", "mae@size", "rmse@size"} <= kept.keys()
    alone = scores.keep(targets[:, 0], {"size": before[:, 0]}, {"size": after[:, 0]})
    assert np.array_equal(kept["mae@size"].after, alone["mae"].after)
    assert "mae@size" not in scores.keep(targets, one, other)  # one array is the first output's


def test_a_score_of_the_users_own() -> None:
    def near(outputs: Any, wanted: Any) -> Any:
        return (np.abs(outputs - wanted).max(axis=1) < 1).astype(float)

    targets, before, after = numbers(7)
    own = Own("mine:near", near)
    found = metrics.measure("mine:near", evidence(targets, before, after, own=(own,)), 0.95)
    assert found.drop == pytest.approx(near(before, targets).mean() - near(after, targets).mean())
    assert found.unit == ""
    with pytest.raises(ValueError, match=r"mine:mean returned shape \[\], expected one score a sample: \[200\]"):
        evidence(targets, before, after, own=(Own("mine:mean", lambda o, t: np.mean(o)),))
    with pytest.raises(ValueError, match="NaN or infinity for 200 of 200"):
        evidence(targets, before, after, own=(Own("mine:nan", lambda o, t: o[:, 0] * np.nan),))


def test_evidence_survives_the_file(tmp_path: Path) -> None:
    targets, before, after = numbers(8)
    kept = evidence(targets, before, after, np.repeat(["a", "b"], 100))
    kept.save(tmp_path / "samples-1.npz")
    again = load(tmp_path / "samples-1.npz")
    assert again.answers is None
    assert again.scores.keys() == kept.scores.keys()
    part, half = again.part("group:b"), evidence(targets[100:], before[100:], after[100:])
    assert part is not None
    assert metrics.measure("mae", part, 0.95).drop == metrics.measure("mae", half, 0.95).drop
    assert isinstance(again.scores["mae"], Pair)


def test_each_samples_own_figure_and_more_is_better() -> None:
    targets, before, _ = numbers(9)
    found = scores.each("mae", targets, before)
    assert found == pytest.approx(-np.abs(before - targets).mean(axis=1))
    images, logits, _ = pixels(9)
    alone = [iou_there(t[None], o[None]) for t, o in zip(images, logits, strict=True)]
    assert scores.each("mean_iou", images, logits) == pytest.approx(alone)
    with pytest.raises(ValueError, match="mean_iou takes classes"):
        scores.each("mean_iou", targets, before)


def iou_there(targets: Any, outputs: Any) -> float:
    """Over the classes that are there or answered."""
    there = targets >= 0
    truth, answer = targets[there], outputs.argmax(axis=1)[there]
    classes = np.union1d(truth, answer)
    return float(sklearn.jaccard_score(truth, answer, average="macro", labels=classes))
