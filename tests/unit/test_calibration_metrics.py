"""Metrics against arithmetic done by hand, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from calibration.errors import CalibrationError
from calibration.metrics import agreement, flips, sqnr_db, top1, worst_error

LABELS = np.array([0, 1, 2, 0])
FLOAT = np.eye(3)[[0, 1, 0, 1]]  # right, right, wrong, wrong
INT8 = np.eye(3)[[0, 2, 2, 2]]  # right, lost, gained, wrong


def test_sqnr_by_hand() -> None:
    assert sqnr_db([3.0, 4.0], [3.0, 4.5]) == pytest.approx(20.0)  # 25 / 0.25
    assert sqnr_db([1.0], [-1.0]) == pytest.approx(10 * math.log10(1 / 4))
    assert sqnr_db([1.0, 2.0], [1.0, 2.0]) == math.inf
    assert sqnr_db([0.0, 0.0], [0.0, 0.0]) == math.inf
    assert sqnr_db([0.0, 0.0], [0.0, 1e-3]) == -math.inf


def test_sqnr_of_a_uniform_quantizer_is_the_textbooks() -> None:
    x = np.random.default_rng(0).uniform(-1, 1, 200_000)
    step = 2 / 2**8
    assert sqnr_db(x, np.round(x / step) * step) == pytest.approx(20 * 8 * math.log10(2), abs=0.1)  # 6.02 dB a bit


def test_sums_do_not_lose_small_errors_of_float32() -> None:
    x = np.full(1_000_000, 1.0, np.float32)
    assert sqnr_db(x, x + np.float32(2.0**-12)) == pytest.approx(20 * math.log10(2.0**12))


def test_worst_error() -> None:
    assert worst_error(np.array([1, -2, 3], np.float32), np.array([1, -5, 4], np.float32)) == 3.0


def test_decisions_by_hand() -> None:
    assert agreement(FLOAT, INT8) == 0.25
    assert flips(LABELS, FLOAT, INT8) == (1, 1)
    assert top1(LABELS, FLOAT) == 0.5
    assert agreement([[-np.inf, 0.0]], [[0.0, np.inf]]) == 1.0


def test_flips_explain_the_difference_in_accuracy() -> None:
    random = np.random.default_rng(0)
    labels, before, after = random.integers(0, 5, 500), random.normal(size=(500, 5)), random.normal(size=(500, 5))
    lost, gained = flips(labels, before, after)
    assert (gained - lost) / 500 == pytest.approx(top1(labels, after) - top1(labels, before))
    assert (gained, lost) == flips(labels, after, before)


@pytest.mark.parametrize("measure", [sqnr_db, worst_error, agreement, lambda a, b: flips([0, 1], a, b)])
def test_nan_is_never_a_result(measure: Callable[..., object]) -> None:
    good, bad = np.eye(2), np.array([[1.0, 0.0], [np.nan, 1.0]])
    for pair in ((good, bad), (bad, good), (bad, bad)):
        with pytest.raises(CalibrationError, match="NaN"):
            measure(*pair)


@pytest.mark.parametrize(
    "call",
    [
        lambda: sqnr_db([1.0], [1.0, 2.0]),
        lambda: sqnr_db([], []),
        lambda: sqnr_db([np.inf], [np.inf]),
        lambda: worst_error(np.zeros((2, 1)), np.zeros((1, 2))),
        lambda: agreement(FLOAT, INT8[:2]),
        lambda: agreement(FLOAT[:0], INT8[:0]),
        lambda: agreement(FLOAT[0], INT8[0]),
        lambda: flips(LABELS[:3], FLOAT, INT8),
        lambda: flips(LABELS, FLOAT, INT8[:3]),
        lambda: top1(LABELS.astype(float), FLOAT),
        lambda: top1(LABELS[:1], FLOAT),
    ],
)
def test_what_cannot_be_compared_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises(CalibrationError):
        call()
