"""How near a quantized model's outputs are to the float model's. NaN is never a result: it raises CalibrationError."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.errors import CalibrationError

Labels = npt.NDArray[np.int64]


def sqnr_db(reference: npt.ArrayLike, test: npt.ArrayLike) -> float:
    """Signal to quantization noise ratio, 10 log10(sum ref^2 / sum (ref - test)^2), in dB, over all values.

    inf when both are identical (all zeros included), -inf when only the reference is all zeros. Sums in float64.
    """
    signal, other = _pair(reference, test)
    noise = signal - other
    power = float(np.sum(signal * signal)), float(np.sum(noise * noise))
    if power[1] == 0.0:
        return math.inf
    return 10.0 * math.log10(power[0] / power[1]) if power[0] > 0.0 else -math.inf


def worst_error(reference: npt.ArrayLike, test: npt.ArrayLike) -> float:
    """The largest |reference - test|, in the outputs' own unit."""
    signal, other = _pair(reference, test)
    return float(np.max(np.abs(signal - other)))


def agreement(reference_logits: npt.ArrayLike, test_logits: npt.ArrayLike) -> float:
    """Share (0..1) of samples for which both have the same top class; logits [n, classes], ties to the first class."""
    reference, test = _classes(reference_logits, "reference"), _classes(test_logits, "test")
    _same_length(reference, test)
    return float(np.mean(reference == test))


def flips(labels: npt.ArrayLike, reference_logits: npt.ArrayLike, test_logits: npt.ArrayLike) -> tuple[int, int]:
    """(lost, gained): samples that only the reference gets right, and that only the test model gets right.

    Labels are integers [n]; logits [n, classes].
    """
    truth = _labels(labels)
    reference, test = _classes(reference_logits, "reference"), _classes(test_logits, "test")
    _same_length(truth, reference)
    _same_length(truth, test)
    before, after = reference == truth, test == truth
    return int(np.sum(before & ~after)), int(np.sum(after & ~before))


def top1(labels: npt.ArrayLike, logits: npt.ArrayLike) -> float:
    """Share (0..1) of samples whose top class is the label; labels integers [n], logits [n, classes]."""
    truth, found = _labels(labels), _classes(logits, "model")
    _same_length(truth, found)
    return float(np.mean(truth == found))


def _pair(reference: npt.ArrayLike, test: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    first, second = np.asarray(reference, np.float64), np.asarray(test, np.float64)
    if first.shape != second.shape or first.size == 0:
        raise CalibrationError(f"cannot compare outputs of shapes {list(first.shape)} and {list(second.shape)}")
    for name, array in (("reference", first), ("test", second)):
        bad = int((~np.isfinite(array)).sum())
        if bad:
            raise CalibrationError(f"{bad} of {array.size} {name} values are NaN or infinite")
    return first, second


def _classes(logits: npt.ArrayLike, name: str) -> Labels:
    """Top class of each row; an infinite logit may win or lose, a NaN cannot be ranked."""
    array = np.asarray(logits)
    if array.ndim != 2 or array.size == 0:
        raise CalibrationError(f"{name} logits have shape {list(array.shape)}, expected [n, classes]")
    bad = int(np.isnan(array).any(axis=1).sum()) if array.dtype.kind == "f" else 0
    if bad:
        raise CalibrationError(f"{name} logits of {bad} of {len(array)} samples hold NaN")
    return np.asarray(array.argmax(axis=1), np.int64)


def _labels(labels: npt.ArrayLike) -> npt.NDArray[Any]:
    array = np.asarray(labels)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise CalibrationError(f"labels are {array.dtype} {list(array.shape)}, expected integers [n]")
    return array


def _same_length(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> None:
    if len(first) != len(second):
        raise CalibrationError(f"{len(first)} and {len(second)} samples cannot be compared pairwise")
