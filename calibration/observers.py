"""Observers: what is remembered of a tensor's values. The rules that turn it into a range: calibration/rules.py.

An observer is streaming (memory does not grow with the values), order-independent, and mergeable: any split of the
same values over updates and merges ends in the same state. Values are taken as float32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from calibration.errors import CalibrationError
from calibration.qparams import Float32

Arrays = dict[str, npt.NDArray[Any]]

BINS = 4096  # a histogram has at most so many bins (32 KiB), and more than half as many once two values differ
_FINEST = -161  # bins of 2**-161 resolve the smallest subnormal float32, 2**-149, into 4096
_CHUNK = 1 << 16  # values counted at a time: bounds the scratch memory, and stays in the cache


class MinMax:
    """How many values there were, the lowest and the highest. Before any value: lo = inf, hi = -inf."""

    def __init__(self) -> None:
        self.n, self.lo, self.hi = 0, math.inf, -math.inf

    def update(self, x: npt.ArrayLike, most: float = math.inf) -> int:
        """Take in every value of `x` (any shape; float, integer or bool) but those beyond +-`most`: how many these are.

        Where some are left out no rows are left: the others count as one sample. Raises CalibrationError with a count,
        and takes nothing in, where values are NaN, or infinite as float32 and no `most` is given.
        """
        values, rows = _values(x), np.shape(x)[0] if np.ndim(x) else 1
        if values.size == 0:
            return 0
        lo, hi = float(values.min()) + 0.0, float(values.max()) + 0.0  # + 0.0: no -0, which would depend on order
        unbounded = math.isinf(most)
        if math.isnan(lo) or (unbounded and not (math.isfinite(lo) and math.isfinite(hi))):
            bad = int((~np.isfinite(values) if unbounded else np.isnan(values)).sum())
            raise CalibrationError(f"{bad} of {values.size} values are NaN" + unbounded * " or infinite (as float32)")
        if max(-lo, hi) > most:
            kept = values[np.abs(values) <= most]
            MinMax.update(self, kept[None])
            return values.size - kept.size
        self._widen(lo, hi)
        self.n += values.size
        self._count(values)
        self._note(values.reshape(rows, -1), lo, hi)
        return 0

    def merge(self, other: Self) -> None:
        """Take in all that `other`, of the same class, has seen; `other` stays as it is."""
        if type(other) is not type(self):
            raise CalibrationError(f"{type(other).__name__} cannot be merged into {type(self).__name__}")
        self._widen(other.lo, other.hi)
        self.n += other.n
        self._add(other)

    def to_arrays(self) -> Arrays:
        """The whole state: `n` int64 [], `lo` and `hi` float64 []."""
        return {"n": np.array(self.n, np.int64), "lo": np.array(self.lo), "hi": np.array(self.hi)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Self:
        """The observer that `to_arrays` described. Raises CalibrationError when the arrays contradict each other."""
        made = cls()
        try:
            made.n, made.lo, made.hi = int(arrays["n"]), float(arrays["lo"]), float(arrays["hi"])
            made._restore(arrays)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise CalibrationError(f"damaged {cls.__name__}: {type(error).__name__} {error}") from error
        ends = (made.lo, made.hi)
        if not (
            ends == (math.inf, -math.inf) if made.n == 0 else made.n > 0 and -math.inf < ends[0] <= ends[1] < math.inf
        ):
            raise CalibrationError(f"damaged {cls.__name__}: {made.n} values in {made.lo}..{made.hi}")
        return made

    def _widen(self, lo: float, hi: float) -> None:
        self.lo, self.hi = min(self.lo, lo), max(self.hi, hi)

    def _count(self, values: Float32) -> None:
        """What a subclass remembers of finite values inside lo..hi."""

    def _note(self, samples: Float32, lo: float, hi: float) -> None:
        """What a subclass remembers of an update's samples [n, ...], whose extremes are lo and hi."""

    def _add(self, other: Self) -> None:
        """What a subclass remembers of what `other` remembers."""

    def _restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """What a subclass wrote in `to_arrays`."""


class Histogram(MinMax):
    """Counts in bins [i * 2**exponent, (i + 1) * 2**exponent), i = first .. first + len(counts) - 1, around 0.

    The exponent is the smallest with which at most BINS bins span lo..hi and 0, so it follows from lo and hi alone.
    It only grows, and then pairs of bins become one: that is what makes the state independent of the order. Scaling by
    a power of two is exact in float64, so every value lands in its bin. `zeros`: how many values were exactly 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.zeros = 0
        self.exponent, self.first, bins = _grid(0.0, 0.0)
        self.counts: npt.NDArray[np.int64] = np.zeros(bins, np.int64)

    def to_arrays(self) -> Arrays:
        """As MinMax, and `zeros`, `exponent`, `first` int64 [], `counts` int64 [bins]."""
        own = {"zeros": self.zeros, "exponent": self.exponent, "first": self.first, "counts": self.counts}
        return super().to_arrays() | {name: np.array(value, np.int64) for name, value in own.items()}

    def _widen(self, lo: float, hi: float) -> None:
        super()._widen(lo, hi)
        exponent, first, bins = _grid(min(self.lo, 0.0), max(self.hi, 0.0))
        if (exponent, first, bins) != (self.exponent, self.first, len(self.counts)):
            old = (self.counts, self.exponent, self.first)
            self.counts, self.exponent, self.first = np.zeros(bins, np.int64), exponent, first
            self._pour(*old)

    def _pour(self, counts: npt.NDArray[np.int64], exponent: int, first: int) -> None:
        """Add counts whose bins are as fine as these or finer."""
        shift = min(self.exponent - exponent, 62)  # by then every index has become 0 or -1
        np.add.at(self.counts, ((np.arange(len(counts)) + first) >> shift) - self.first, counts)

    def _count(self, values: Float32) -> None:
        # Scaled up, float32 stays exact too, and is faster; scaled down, its smallest numbers would become 0.
        kind = np.float32 if -120 <= self.exponent <= 0 else np.float64
        scale, first = kind(2.0**-self.exponent), np.int32(self.first)
        size = min(values.size, _CHUNK)
        room, indices, equal = np.empty(size, kind), np.empty(size, np.int32), np.empty(size, np.bool_)
        for start in range(0, values.size, _CHUNK):
            chunk = values[start : start + _CHUNK]
            n = chunk.size
            self.zeros += int(np.count_nonzero(np.equal(chunk, 0, out=equal[:n])))
            scaled, index = np.multiply(chunk, scale, out=room[:n]), indices[:n]
            if first:  # where nothing is below 0, cutting off is rounding down
                np.floor(scaled, out=scaled)
            np.copyto(index, scaled, casting="unsafe")
            if first:
                index -= first
            self.counts += np.bincount(index, minlength=len(self.counts))

    def _add(self, other: Self) -> None:
        self.zeros += other.zeros
        self._pour(other.counts, other.exponent, other.first)

    def _restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        self.zeros, self.exponent, self.first = (int(arrays[name]) for name in ("zeros", "exponent", "first"))
        self.counts = np.array(arrays["counts"], np.int64)
        grid = (self.exponent, self.first, len(self.counts))
        if grid != _grid(min(self.lo, 0.0), max(self.hi, 0.0)):
            raise CalibrationError(f"bins {grid} do not fit {self.lo}..{self.hi}")
        if int(self.counts.sum()) != self.n or self.counts.min() < 0 or not 0 <= self.zeros <= self.counts[-self.first]:
            raise CalibrationError(f"counts do not add up to {self.n} values")


class Samples(Histogram):
    """A Histogram that also remembers the sums of its samples' lowest and highest values, for their means.

    A sample is a row of the first axis of what `update` gets; a number alone is a sample too. The sums are exact, in
    units of 2**-149 (the smallest float32), so they do not depend on the order: `low_sum`, `high_sum`, `samples`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.samples, self.low_sum, self.high_sum = 0, 0, 0

    def _note(self, samples: Float32, lo: float, hi: float) -> None:
        self.samples += len(samples)
        one = len(samples) == 1  # its extremes are known
        self.low_sum += _units(lo) if one else sum(map(_units, samples.min(axis=1).tolist()))
        self.high_sum += _units(hi) if one else sum(map(_units, samples.max(axis=1).tolist()))

    def to_arrays(self) -> Arrays:
        """As Histogram, `samples` int64 [], and the sums as decimal digits, uint8 [digits]."""
        sums = {"low_sum": self.low_sum, "high_sum": self.high_sum}
        digits = {name: np.frombuffer(str(value).encode(), np.uint8) for name, value in sums.items()}
        return super().to_arrays() | {"samples": np.array(self.samples, np.int64)} | digits

    def _add(self, other: Self) -> None:
        super()._add(other)
        self.samples += other.samples
        self.low_sum += other.low_sum
        self.high_sum += other.high_sum

    def _restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        super()._restore(arrays)
        self.samples = int(arrays["samples"])
        self.low_sum, self.high_sum = (int(arrays[name].tobytes()) for name in ("low_sum", "high_sum"))
        if not (self.samples <= self.n and (self.samples > 0) == (self.n > 0)):
            raise CalibrationError(f"{self.samples} samples of {self.n} values")


def _units(value: float) -> int:
    """A float32 number as a whole multiple of 2**-149: exact."""
    return int(math.ldexp(value, 149))


def _values(x: npt.ArrayLike) -> Float32:
    """Flat float32; what float32 cannot hold becomes infinite, and is refused there."""
    array = np.asarray(x)
    if array.dtype.kind not in "fiub":
        raise CalibrationError(f"values of type {array.dtype} cannot be observed: expected numbers")
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False).reshape(-1)


def _grid(lo: float, hi: float) -> tuple[int, int, int]:
    """Exponent, first index and number of the bins for lo <= 0 <= hi (both float32 numbers)."""
    exponent = _FINEST if lo == hi else math.frexp(hi - lo)[1] - 13  # the least that can do; at most two more
    while True:
        first, last = math.floor(math.ldexp(lo, -exponent)), math.floor(math.ldexp(hi, -exponent))
        if last - first < BINS:
            return exponent, first, last - first + 1
        exponent += 1
