"""Other metrics: values against scikit-learn, bounds against SciPy's bootstrap and known coverage."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn

from calibration.metrics import flips, top1
from pipeline.release import metrics
from pipeline.release.bootstrap import bca
from pipeline.release.samples import Answers, Samples, from_logits, load, slices
from pipeline.release.statistics import tango_lower, tango_upper


def answers(seed: int, n: int = 400, classes: int = 5, noise: float = 0.5, groups: int | None = None) -> Samples:
    """Labels in uneven shares, a float model that is often right, a deployed one that adds noise."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, n, p=np.arange(1, classes + 1) / (classes * (classes + 1) / 2))
    original = rng.normal(size=(n, classes)) + 2.5 * np.eye(classes)[labels]
    deployed = original + noise * rng.normal(size=(n, classes))
    tags = None if groups is None else rng.integers(0, groups, n).astype(str)
    return evidence(labels, original.astype(np.float32), deployed.astype(np.float32), tags)


def evidence(labels: Any, original: Any, deployed: Any, groups: Any = None) -> Samples:
    return Samples(len(labels), from_logits(labels, original, deployed), groups=groups)


def of(samples: Samples) -> Answers:
    assert samples.answers is not None
    return samples.answers


@pytest.mark.parametrize("seed", range(5))
def test_values_are_those_of_scikit_learn(seed: int) -> None:
    every = answers(seed)
    s = of(every)
    classes = np.unique(s.labels)

    def reference(predicted: Any) -> dict[str, float]:
        return {
            "balanced_accuracy": sklearn.balanced_accuracy_score(s.labels, predicted),
            "macro_f1": sklearn.f1_score(s.labels, predicted, average="macro", labels=classes, zero_division=0),
        }

    before, after = reference(s.float_class), reference(s.deployed_class)
    for name in before:
        wanted = 100 * (before[name] - after[name])
        assert metrics.measure(name, every, 0.95).drop == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("k", [2, 3, 4])
def test_top_k_is_that_of_scikit_learn_with_the_paired_bound(k: int) -> None:
    rng = np.random.default_rng(k)
    labels = rng.integers(0, 5, 300)
    logits = [rng.normal(size=(300, 5)) + np.eye(5)[labels] for _ in range(2)]
    found = metrics.measure(f"top{k}", evidence(labels, logits[0], logits[1]), 0.9)
    right = [sklearn.top_k_accuracy_score(labels, one, k=k) for one in logits]
    assert found.drop == pytest.approx(100 * (right[0] - right[1]), abs=1e-9)
    hits = [(np.argsort(-one, axis=1)[:, :k] == labels[:, None]).any(axis=1) for one in logits]
    lost, gained = int((hits[0] & ~hits[1]).sum()), int((hits[1] & ~hits[0]).sum())
    assert found.low == pytest.approx(100 * tango_lower(lost, gained, 300, 0.9))
    assert found.high == pytest.approx(100 * tango_upper(lost, gained, 300, 0.9))


def test_top_k_of_too_few_classes_says_nothing() -> None:
    found = metrics.measure("top5", answers(0), 0.95)
    assert found.drop is None
    assert found.method == "top5 is always right with 5 classes"


@pytest.mark.parametrize("name", ["balanced_accuracy", "macro_f1"])
def test_bounds_are_those_of_scipy(name: str) -> None:
    every = answers(3, n=250, noise=0.8)
    s = of(every)

    def score(labels: Any, answer: Any) -> float:
        values = []
        for c in np.unique(labels):
            right, there = ((answer == c) & (labels == c)).sum(), (labels == c).sum()
            values.append(right / there if name == "balanced_accuracy" else 2 * right / (there + (answer == c).sum()))
        return float(np.mean(values))

    def drop(labels: Any, before: Any, after: Any) -> float:
        return score(labels, before) - score(labels, after)

    reference = stats.bootstrap(
        (s.labels, s.float_class, s.deployed_class), drop, paired=True, vectorized=False, method="BCa",
        n_resamples=1_500, confidence_level=0.9, rng=np.random.default_rng(1),
    )  # fmt: skip
    found = metrics.measure(name, every, 0.95)
    width = found.high - found.low  # type: ignore[operator]
    wanted = 100 * np.array(reference.confidence_interval)
    assert [found.low, found.high] == pytest.approx(wanted, abs=0.12 * width)


def test_many_groups_are_drawn_whole_and_few_are_a_condition() -> None:
    few, many = answers(4, groups=3), answers(4, groups=40)
    assert "conditional on these 3 groups" in metrics.measure("macro_f1", few, 0.95).method
    assert metrics.measure("macro_f1", many, 0.95).method == "paired BCa bootstrap over 40 groups"


def test_copies_of_a_recording_do_not_make_the_claim_stronger() -> None:
    """Every sample ten times under its own group: by sample the interval shrinks, by group it must not."""
    one = answers(5, n=120, noise=0.8)
    fields = ("labels", "float_class", "deployed_class", "float_rank", "deployed_rank")
    copies = Answers(**{name: np.repeat(getattr(of(one), name), 10) for name in fields}, names=of(one).names)
    tags = np.repeat(np.arange(120), 10).astype(str)

    def width(samples: Samples) -> float:
        found = metrics.measure("balanced_accuracy", samples, 0.95)
        return found.high - found.low  # type: ignore[operator]

    single = width(one)
    assert width(Samples(1_200, copies)) == pytest.approx(single / 10**0.5, rel=0.1)
    assert width(Samples(1_200, copies, groups=tags)) == pytest.approx(single, rel=0.1)


def test_bounds_cover_what_they_say() -> None:
    """The mean of counts, whose truth is known: one-sided bounds at 90 % over 300 data sets."""
    rng = np.random.default_rng(0)
    values = np.array([0.0, 1.0, 4.0])
    shares = np.array([0.6, 0.3, 0.1])
    truth = values @ shares

    def mean(weights: Any) -> Any:
        return weights @ values / weights.sum(axis=1)

    low = high = 0
    for seed in range(300):
        times = rng.multinomial(150, shares)
        bounds = bca(times, mean, 0.9, replicates=600, seed=seed)
        low, high = low + (bounds[0] <= truth), high + (bounds[1] >= truth)
    assert low / 300 == pytest.approx(0.9, abs=0.05)
    assert high / 300 == pytest.approx(0.9, abs=0.05)


def test_no_change_proves_parity_only_with_samples_enough() -> None:
    """A bootstrap of identical answers has no width; a bound of 0 points from 50 samples would be a lie."""
    for n, below in ((50, 15.0), (5_000, 0.5)):
        s = answers(6, n=n, noise=0.0)
        found = metrics.measure("balanced_accuracy", s, 0.95)
        assert found.drop == 0
        assert 100 * 2.7 / (n + 2.7) * 0.5 < found.high < below  # type: ignore[operator]
        assert "only 0 answers changed" in found.method


def test_evidence_survives_the_file_and_names_its_slices(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 90)
    before, after = (rng.normal(size=(90, 3)) + np.eye(3)[labels] for _ in range(2))
    names = ["a", "b", "c"]
    tags = {"light": np.where(np.arange(90) % 3, "day", "night")}
    kept = Samples(90, from_logits(labels, before, after, names), {}, np.repeat(["ann", "bob"], 45), tags)
    kept.save(tmp_path / "samples-1.npz")
    again = load(tmp_path / "samples-1.npz")
    rows = slices(again)
    assert list(rows) == [
        *(f"class:{name}" for name in names),
        "group:ann",
        "group:bob",
        "tag:light=day",
        "tag:light=night",
    ]
    for kind in ("class", "group", "tag:light"):
        parts = [row for name, row in rows.items() if name.startswith(kind)]
        sums = [sum(part[field] for part in parts) for field in ("lost", "gained", "n", "float_right")]
        assert sums == [*flips(labels, before, after), 90, round(90 * top1(labels, before))]
    assert rows["group:ann"]["lost"] == flips(labels[:45], before[:45], after[:45])[0]
    assert rows["tag:light=night"]["n"] == 30
    night = again.part("tag:light=night")
    assert night is not None
    assert (night.n, list(slices(night))[-1]) == (30, "tag:light=night")
    assert again.part("tag:light=dusk") is None
    assert next(iter(slices(evidence(labels, before, after)))) == "class:0"
    kept.save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "samples-1.npz").read_bytes()
