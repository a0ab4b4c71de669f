"""Ranges to scale and zero point: the cases that have a rule of their own, and refusals."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from calibration.errors import CalibrationError
from calibration.qparams import QParams, dequantize, from_range, limits, quantize
from calibration.schemes import SCHEMES, Granularity, TensorScheme

U8, S8 = SCHEMES["u8s8"].activation, SCHEMES["s8s8"].activation
WEIGHT = SCHEMES["u8s8"].weight


@pytest.mark.parametrize(
    ("scheme", "lo", "hi", "scale", "zero"),
    [
        (U8, 0.0, 255.0, 1.0, 0),
        (U8, -255.0, 0.0, 1.0, 255),
        (U8, -1.0, 254.0, 1.0, 1),
        (S8, 0.0, 255.0, 1.0, -128),
        (U8, 51.0, 255.0, 1.0, 0),  # widened to 0
        (WEIGHT, -3.0, 127.0, 1.0, 0),
        (TensorScheme(8, False, True, Granularity.PER_TENSOR), -127.0, 5.0, 1.0, 128),
    ],
)
def test_known_ranges(scheme: TensorScheme, lo: float, hi: float, scale: float, zero: int) -> None:
    qparams = from_range(lo, hi, scheme)
    assert (float(qparams.scale), int(qparams.zero_point)) == (scale, zero)
    assert qparams.scale.dtype == np.float32
    assert qparams.zero_point.dtype == np.int64
    assert qparams.scale.shape == ()


def test_always_zero_has_unit_scale() -> None:
    assert (float(from_range(0, 0, U8).scale), int(from_range(0, 0, S8).zero_point)) == (1.0, -128)
    dead = from_range([-1.0, 0.0], [1.0, 0.0], WEIGHT, axis=0)
    assert dead.scale.tolist() == [np.float32(1 / 127), 1.0]


def test_subnormal_range_has_a_normal_scale() -> None:
    assert float(from_range(0, 1e-44, U8).scale) == np.finfo(np.float32).tiny


@pytest.mark.parametrize(("lo", "hi"), [(np.nan, 1.0), (0.0, np.inf), (-np.inf, 0.0), (2.0, 1.0), (-3e38, 3e38)])
def test_impossible_ranges_are_refused_by_name(lo: float, hi: float) -> None:
    with pytest.raises(CalibrationError, match="tensor 'conv1'"):
        from_range(lo, hi, U8, name="conv1")
    with pytest.raises(CalibrationError, match="name not known here"):
        from_range(lo, hi, U8)


def test_limits_are_exact() -> None:
    qparams = QParams(np.float32(0.1), np.int64(3), U8)
    assert tuple(map(float, limits(qparams))) == (float(np.float32(0.1)) * -3, float(np.float32(0.1)) * 252)
    lo, hi = limits(from_range([-1.0, -2.0], [1.0, 2.0], WEIGHT, axis=0))
    assert lo.shape == hi.shape == (2,)
    assert (lo == -hi).all()


def test_nan_has_no_code() -> None:
    with pytest.raises(CalibrationError, match="1 of 3 values are NaN"):
        quantize(np.array([0.0, np.nan, 1.0]), from_range(0, 1, U8))


@pytest.mark.parametrize(
    ("scale", "zero", "axis"),
    [
        (np.ones(3), np.zeros(3), None),
        (np.ones(()), np.zeros(()), 0),
        (np.ones(3), np.zeros(2), 0),
        (np.ones((3, 1)), np.zeros((3, 1)), 0),
        (np.float32(0), 0, None),
        (np.float32(-1), 0, None),
        (np.float32(np.nan), 0, None),
        (np.float32(np.inf), 0, None),
        (np.float32(1), 256, None),
        (np.float32(1), -1, None),
    ],
)
def test_wrong_qparams_cannot_be_made(scale: np.ndarray, zero: np.ndarray, axis: int | None) -> None:
    with pytest.raises(CalibrationError):
        QParams(scale, zero, U8, axis)


def test_qparams_do_not_change() -> None:
    source = np.array([1.0, 2.0], np.float32)
    qparams = QParams(source, np.zeros(2, np.int64), U8, 0)
    source[0] = 9.0
    assert qparams.scale.tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="read-only"):
        qparams.scale[0] = 3.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        qparams.axis = None  # type: ignore[misc]


def test_channel_axis_must_exist_and_may_count_from_the_end() -> None:
    qparams = from_range([-1.0, -2.0], [1.0, 2.0], WEIGHT, axis=-1)
    x = np.array([[1.0, 2.0], [-1.0, -2.0]])
    assert quantize(x, qparams).tolist() == [[127, 127], [-127, -127]]
    np.testing.assert_allclose(dequantize(quantize(x, qparams), qparams), x, rtol=1e-6)
    with pytest.raises(CalibrationError, match="axis 1 does not exist"):
        quantize(np.zeros(2), from_range([0.0, 0.0], [1.0, 1.0], WEIGHT, axis=1))


def test_only_bits_with_a_storage_type() -> None:
    with pytest.raises(CalibrationError, match="4 bits"):
        quantize(np.zeros(1), from_range(0, 1, TensorScheme(4, False, False, Granularity.PER_TENSOR)))
