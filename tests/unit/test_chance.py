"""A float model is no evidence unless it is shown to beat the best answer that looks at no input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import beta

from pipeline.release import chance, gate
from pipeline.release.evidence import Chance, Evidence, Policy, Run
from pipeline.release.statistics import binomial_lower

Array = npt.NDArray[np.floating] | npt.NDArray[np.integer]
RNG = np.random.default_rng(0)
N = 120


def logits(labels: Array, right: Array, classes: int) -> Array:
    """Scores that name the label where `right`, else the class after it."""
    said = np.where(right, labels, (labels + 1) % classes)
    return np.eye(classes, dtype=np.float32)[said]


@pytest.mark.parametrize(("count", "n"), [(0, 9), (1, 9), (8, 9), (9, 9), (430, 497), (4, 497), (9000, 10_000)])
def test_the_exact_bound_is_clopper_and_pearsons(count: int, n: int) -> None:
    wanted = 0.0 if count == 0 else float(beta.ppf(0.05, count, n - count + 1))
    assert binomial_lower(count, n) == pytest.approx(wanted, abs=1e-6)


LABELS = RNG.choice(4, N, p=[0.4, 0.3, 0.2, 0.1])
PIXELS = RNG.integers(0, 3, (N, 4, 4))
BINARY = (RNG.random(N) < 0.3).astype(np.int64)
NUMBERS = RNG.normal(size=(N, 5)).astype(np.float32)
WORDS = RNG.integers(1, 6, (N, 4))
RIGHT = RNG.random(N) < 0.8
SOUND = {
    "accuracy": (LABELS, logits(LABELS, RIGHT, 4)),
    "top2": (LABELS, logits(LABELS, RIGHT, 4) + 0.1 * np.eye(4)[LABELS]),
    "balanced_accuracy": (LABELS, logits(LABELS, RIGHT, 4)),
    "macro_f1": (LABELS, logits(LABELS, RIGHT, 4)),
    "f1": (BINARY, np.where(RIGHT, 2 * BINARY - 1, 1 - 2 * BINARY).astype(np.float32)),
    "auc": (BINARY, (BINARY + 0.5 * RNG.normal(size=N)).astype(np.float32)),
    "mae": (NUMBERS, NUMBERS + 0.5 * RNG.normal(size=NUMBERS.shape).astype(np.float32)),
    "mse": (NUMBERS, NUMBERS + 0.5 * RNG.normal(size=NUMBERS.shape).astype(np.float32)),
    "rmse": (NUMBERS, NUMBERS + 0.5 * RNG.normal(size=NUMBERS.shape).astype(np.float32)),
    "cosine": (NUMBERS, NUMBERS + 0.5 * RNG.normal(size=NUMBERS.shape).astype(np.float32)),
    "mean_iou": (PIXELS, np.moveaxis(np.eye(3, dtype=np.float32)[PIXELS], -1, 1)),
    "word_error_rate": (WORDS, np.where(RNG.random(WORDS.shape) < 0.9, WORDS, 6)),
}


@pytest.mark.parametrize("metric", SOUND)
def test_what_knows_something_is_told_from_what_does_not(metric: str) -> None:
    targets, output = SOUND[metric]
    seen = chance.beside(metric, targets, output)
    assert seen is not None
    assert seen.shown, seen
    turned = chance.beside(metric, targets, np.roll(output, 7, axis=0))  # the answers of other samples
    assert turned is not None
    assert not turned.shown, turned
    recorded = chance.recorded(seen)
    assert recorded is not None
    assert Chance(**recorded).shown


def test_every_metric_has_a_rival_or_is_left_out_on_purpose() -> None:
    from pipeline.release.evidence import SCORES

    assert set(chance.CONSTANTS) == set(SCORES) - {"cosine_to_float"}
    assert chance.beside("own:score", NUMBERS, NUMBERS) is None


def test_always_the_largest_class_is_never_shown() -> None:
    for share in (0.3, 0.6, 0.99, 1.0):
        labels = (np.arange(500) >= 500 * share).astype(np.int64)
        seen = chance.beside("accuracy", labels, np.tile([[1.0, 0.0]], (500, 1)))
        assert seen is not None
        assert not seen.shown


def test_all_right_is_shown_unless_shuffled_answers_are_too() -> None:
    for rare, shown in ((1, True), (0, False)):  # one of 100 in another class: one shuffle of a hundred is all right
        labels = (np.arange(100) < rare).astype(np.int64)
        seen = chance.beside("accuracy", labels, np.eye(2)[labels])
        assert seen is not None
        assert seen.shown == shown


def test_answers_drawn_without_a_look_pass_in_at_most_one_of_twenty() -> None:
    rng, labels, passed = np.random.default_rng(1), np.repeat([0, 1, 2], [50, 30, 20]), 0
    for _ in range(400):
        said = rng.choice(3, 100, p=[0.6, 0.2, 0.2])
        seen = chance.beside("accuracy", labels, np.eye(3)[said])
        passed += bool(seen and seen.shown)
    assert passed <= 20


SOUND_RUN = Evidence(
    n=500,
    batches=(1,),
    runs=(Run(1, 500, 0, 0, True),),
    verified_sha256="a",
    artifact_sha256="a",
    leaked=0,
)
AT_CHANCE = Chance(0.008, 0.103, -0.1, "always the largest class", "exact binomial bound 0.3%")


def test_the_gate_fails_a_float_model_at_chance() -> None:
    policy = Policy(5.0)
    assert gate.judge(policy, SOUND_RUN).verdict == "pass"
    verdict = gate.judge(policy, replace(SOUND_RUN, chance=AT_CHANCE))
    assert verdict.verdict == "fail"
    (reason,) = verdict.reasons
    assert reason.startswith(
        "float at chance: accuracy 0.80% of 500 gate samples is not shown (95 %) to beat always the largest class, "
        "10.30% (exact binomial bound 0.3%): look for"
    )
    assert "gate.allow_chance = true" in reason


def test_samples_of_one_class_are_named_as_what_no_model_can_beat() -> None:
    seen = chance.beside("accuracy", np.ones(96, np.int64), np.tile([[0.0, 1.0]], (96, 1)))
    (reason,) = gate.judge(Policy(5.0), replace(SOUND_RUN, chance=seen)).reasons
    assert "always the largest class, 100.00% (exact binomial bound 96.9%): one answer is right everywhere" in reason
    assert "bring gate samples of other classes; gate.allow_chance = true" in reason


@pytest.mark.parametrize("gain", [None, float("nan"), 0.0, -1.0])
def test_a_gain_that_is_not_there_is_none(gain: float | None) -> None:
    assert gate.judge(Policy(5.0), replace(SOUND_RUN, chance=replace(AT_CHANCE, gain_low=gain))).verdict == "fail"


def test_chance_that_is_meant_passes_and_is_told() -> None:
    verdict = gate.judge(Policy(5.0, allow_chance=True), replace(SOUND_RUN, chance=AT_CHANCE))
    assert verdict.verdict == "pass"
    assert any("gate.allow_chance says so" in reason for reason in verdict.reasons)
