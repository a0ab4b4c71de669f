"""Scale and zero point: the affine map between integers and real numbers, as ONNX defines it.

real = scale * (code - zero_point). Arithmetic follows ONNX QuantizeLinear and DequantizeLinear (opset 21) bit for bit:
a float32 division, round half to even, add the zero point, saturate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.errors import CalibrationError, label
from calibration.schemes import TensorScheme

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Integers = npt.NDArray[np.integer[Any]]

SMALLEST_SCALE = float(np.finfo(np.float32).tiny)  # below it runtimes that flush subnormals to zero divide by zero
_LARGEST = float(np.finfo(np.float32).max)
_STORAGE = {(8, True): np.int8, (8, False): np.uint8, (16, True): np.int16, (16, False): np.uint16}


@dataclass(frozen=True, eq=False)
class QParams:
    """What the codes of one tensor stand for.

    `scale`: float32, shape [] or [channels], positive. `zero_point`: int64, same shape, within the scheme's codes.
    `axis`: which axis of the tensor the channels are; None exactly when there is one scale for the whole tensor.
    Both arrays are read-only copies. Raises CalibrationError when these do not hold.
    """

    scale: Float32
    zero_point: npt.NDArray[np.int64]
    scheme: TensorScheme
    axis: int | None = None

    def __post_init__(self) -> None:
        scale, zero_point = np.array(self.scale, np.float32), np.array(self.zero_point, np.int64)
        if scale.shape != zero_point.shape or scale.ndim != (self.axis is not None):
            raise CalibrationError(
                f"scale {list(scale.shape)} and zero point {list(zero_point.shape)} with axis {self.axis}: "
                "give both the shape [] with axis None, or both [channels] with an axis"
            )
        if not ((scale > 0) & (scale <= _LARGEST / (self.scheme.qmax - self.scheme.qmin))).all():
            raise CalibrationError(f"scales must be positive, with every code a float32 number: {scale.tolist()}")
        if not ((zero_point >= self.scheme.qmin) & (zero_point <= self.scheme.qmax)).all():
            raise CalibrationError(
                f"zero points must lie in {self.scheme.qmin}..{self.scheme.qmax}: {zero_point.tolist()}"
            )
        scale.flags.writeable = zero_point.flags.writeable = False
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "zero_point", zero_point)


Ranges = Mapping[str, QParams]  # tensor name in ONE graph -> what its codes stand for


def from_range(
    lo: npt.ArrayLike, hi: npt.ArrayLike, scheme: TensorScheme, axis: int | None = None, *, name: str | None = None
) -> QParams:
    """The scheme's QParams that cover the real numbers `lo`..`hi` (shape [] or, with `axis`, [channels]).

    The range is first widened to include 0, whose code is exact. An asymmetric range may therefore shift by up to half
    a step; a symmetric one becomes +-max(|lo|, |hi|). A tensor (or channel) that is always 0 gets the scale 1, the
    lowest code as its zero point where the scheme is asymmetric; a range too small for float32 gets the smallest
    normal scale. Raises CalibrationError for NaN, infinity, lo > hi, and ends beyond a quarter of float32's
    largest number.
    """
    low, high = np.broadcast_arrays(np.asarray(lo, np.float64), np.asarray(hi, np.float64))
    if not (np.isfinite(low) & np.isfinite(high) & (low <= high)).all():
        raise CalibrationError(
            f"{label(name)}: {_text(low)}..{_text(high)} is no range: both ends must be finite and in order; "
            "look for NaN or infinity in the calibration data and in the float model's activations"
        )
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    zero = np.full(low.shape, middle(scheme), np.int64)
    if (np.maximum(-low, high) > _LARGEST / 4).any():  # so that no width and no code overflows
        raise CalibrationError(f"{label(name)}: {_text(low)}..{_text(high)} is too wide for float32 arithmetic")
    wide = 2 * np.maximum(-low, high) if scheme.symmetric else high - low
    step = np.maximum(wide / steps(scheme), SMALLEST_SCALE)
    scale = np.where(wide == 0, 1.0, step).astype(np.float32)
    if not scheme.symmetric:
        zero = np.clip(np.rint(scheme.qmin - low / scale), scheme.qmin, scheme.qmax).astype(np.int64)
    return QParams(scale, zero, scheme, axis)


def middle(scheme: TensorScheme) -> int:
    """The zero point of a symmetric range: 0 for signed codes, 128 for unsigned ones of 8 bits."""
    return (scheme.qmin + scheme.qmax + 1) // 2


def steps(scheme: TensorScheme) -> int:
    """How many steps lie between the ends of a range; a symmetric one leaves the odd lowest code unused."""
    return 2 * (scheme.qmax - middle(scheme)) if scheme.symmetric else scheme.qmax - scheme.qmin


def quantize(x: npt.ArrayLike, qparams: QParams) -> Integers:
    """Real numbers to codes, in the scheme's storage type (int8, uint8, int16, uint16), same shape as `x`.

    Infinities saturate; NaN, which has no code, raises CalibrationError.
    """
    scheme = qparams.scheme
    storage = _STORAGE.get((scheme.bits, scheme.signed))
    if storage is None:
        raise CalibrationError(f"codes of {scheme.bits} bits have no storage type here: use 8 or 16")
    rounded, _, zero = _rounded(x, qparams)
    return (rounded + zero).astype(storage)  # float32 holds every integer of 17 bits exactly


def dequantize(codes: npt.ArrayLike, qparams: QParams) -> Float32:
    """Codes to the real numbers that they stand for: float32, same shape."""
    array = np.asarray(codes)
    scale, zero = _spread(qparams, array.ndim)
    return np.asarray((array.astype(np.int64) - zero).astype(np.float32) * scale, np.float32)


def fake_quantize(x: npt.ArrayLike, qparams: QParams) -> Float32:
    """`dequantize(quantize(x))`, bit for bit, without the integers: float32, same shape."""
    rounded, scale, _ = _rounded(x, qparams)
    rounded += np.float32(0)  # -0 has no code: make it +0
    return np.asarray(rounded * scale, np.float32)


def limits(qparams: QParams) -> tuple[Float64, Float64]:
    """The exact real numbers of the lowest and of the highest code, float64, shaped as the scale.

    A vendor's quantizer that takes limits finds this scale (within float32 rounding) and this zero point in them.
    """
    scale, zero = qparams.scale.astype(np.float64), qparams.zero_point
    lo, hi = scale * (qparams.scheme.qmin - zero), scale * (qparams.scheme.qmax - zero)
    return np.asarray(lo, np.float64), np.asarray(hi, np.float64)


def _spread(qparams: QParams, ndim: int) -> tuple[Float32, npt.NDArray[np.int64]]:
    """Scale and zero point, shaped to broadcast over a tensor of `ndim` axes."""
    if qparams.axis is None:
        return qparams.scale, qparams.zero_point
    if not -ndim <= qparams.axis < ndim:
        raise CalibrationError(f"channel axis {qparams.axis} does not exist in a tensor of {ndim} axes")
    shape = [1] * ndim
    shape[qparams.axis] = -1
    return qparams.scale.reshape(shape), qparams.zero_point.reshape(shape)


def _rounded(x: npt.ArrayLike, qparams: QParams) -> tuple[Float32, Float32, Float32]:
    """Codes less the zero point, as float32; with the scale and the zero point spread over the tensor."""
    array = np.asarray(x, np.float32)
    if np.isnan(array).any():
        raise CalibrationError(f"{int(np.isnan(array).sum())} of {array.size} values are NaN, which has no code")
    scale, zero = _spread(qparams, array.ndim)
    with np.errstate(over="ignore"):  # a quotient beyond float32 is infinite and saturates
        rounded = np.rint(array / scale)
    low, high = ((end - zero).astype(np.float32) for end in (qparams.scheme.qmin, qparams.scheme.qmax))
    return np.asarray(np.clip(rounded, low, high), np.float32), scale, zero.astype(np.float32)


def _text(ends: Float64) -> str:
    """A range's end for a message: the number, or the worst of the channels."""
    bad = ends[~np.isfinite(ends)]
    return f"{float(bad[0] if bad.size else ends.reshape(-1)[0]):.6g}" if ends.size else "nothing"
