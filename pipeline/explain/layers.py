"""Two models of one graph tapped on the same inputs: what rounding did to each tensor. Memory does not grow with them.

Tensors go by the float graph's names in both (targets/base.py), so nothing is matched here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from targets.base import Batch, Session

Array = npt.NDArray[Any]
Ends = Mapping[str, tuple[float, float, float]]  # tensor -> real numbers of its lowest and highest code, and its step
ALIVE_STEPS = 1.5  # a channel that moves by more cannot round to one code


@dataclass(frozen=True)
class LayerRow:
    """One tensor, float beside int8. `sqnr_db` is None where both are the same; `worst_error` is in the tensor's unit.

    `clipped`: share of float's values beyond the ends of the codes. `range_used`: float's range as a share of the
    codes'. `shift_steps`: the mean error in steps; `level_db`: what SQNR would be without it. `dead`: channels that
    move in float and stand still in int8, along `dead_axis` of the graph's layout. None: it has no codes of its own.
    """

    name: str
    sqnr_db: float | None
    worst_error: float
    clipped: float | None = None
    range_used: float | None = None
    shift_steps: float | None = None
    level_db: float | None = None
    dead: tuple[int, ...] = ()
    dead_axis: int | None = None


def compare(
    floating: Session, quantized: Session, names: Sequence[str], batches: Iterable[Batch], ends: Ends
) -> list[LayerRow]:
    """A row for each of `names`, which both sessions can tap. `batches` are in the program's layout."""
    seen = {name: Seen(ends.get(name)) for name in names}
    for batch in batches:
        wanted, found = floating.tap(batch, names), quantized.tap(batch, names)
        for name in names:
            seen[name].update(wanted[name], found[name])
    return [one.row(name) for name, one in seen.items()]


def first_break(rows: Sequence[LayerRow], fall_db: float = 10.0, floor_db: float = 10.0) -> str | None:
    """The first tensor that is much worse than all before it, or hardly the same signal at all."""
    least = math.inf
    for row in rows:
        db = math.inf if row.sqnr_db is None else row.sqnr_db
        if db < floor_db or (least < math.inf and db < least - fall_db):
            return row.name
        least = min(least, db)
    return None


@dataclass
class Seen:
    """Sums over all batches of one tensor."""

    ends: tuple[float, float, float] | None
    n: int = 0
    signal: float = 0.0
    noise: float = 0.0
    error: float = 0.0
    worst: float = 0.0
    clipped: int = 0
    low: float = math.inf
    high: float = -math.inf
    channels: dict[int, list[Array]] = field(default_factory=dict)  # axis -> float and int8 minima and maxima

    def update(self, wanted: Array, found: Array) -> None:
        """Take in the tensor of a batch, float and int8."""
        signal, other = wanted.astype(np.float64), found.astype(np.float64)
        error = other - signal
        self.n += signal.size
        self.signal += float(np.square(signal).sum())
        self.noise += float(np.square(error).sum())
        self.error += float(error.sum())
        self.worst = max(self.worst, float(np.abs(error).max(initial=0.0)))
        self.low, self.high = min(self.low, float(signal.min())), max(self.high, float(signal.max()))
        if self.ends is not None:
            low, high, step = self.ends
            self.clipped += int(((signal < low - step / 2) | (signal > high + step / 2)).sum())
        for axis in range(1, signal.ndim):
            others = tuple(a for a in range(signal.ndim) if a != axis)
            now = [function(array, axis=others) for array in (signal, other) for function in (np.min, np.max)]
            before = self.channels.get(axis)
            if before is not None and len(before[0]) == len(now[0]):
                mins, maxs = np.minimum, np.maximum
                now = [f(a, b) for f, a, b in zip((mins, maxs, mins, maxs), before, now, strict=True)]
            self.channels[axis] = now

    def row(self, name: str) -> LayerRow:
        """What all batches came to."""
        dead_axis, dead = self._dead()
        known = self.ends is not None
        low, high, step = self.ends or (0.0, 1.0, 1.0)
        mean = self.error / self.n
        return LayerRow(
            name,
            _db(self.signal, self.noise),
            self.worst,
            self.clipped / self.n if known else None,
            (self.high - self.low) / (high - low) if known else None,
            mean / step if known else None,
            _db(self.signal, max(0.0, self.noise - self.n * mean**2)) if known else None,
            dead,
            dead_axis,
        )

    def _dead(self) -> tuple[int | None, tuple[int, ...]]:
        """Along the axis that has most; a whole tensor that stands still is dead along its first."""
        step = self.ends[2] if self.ends else (self.high - self.low) / 255
        best: tuple[int | None, tuple[int, ...]] = (None, ())
        for axis, (float_low, float_high, low, high) in self.channels.items():
            still = np.flatnonzero((high == low) & (float_high - float_low > ALIVE_STEPS * step))
            if len(still) > len(best[1]):
                best = axis, tuple(int(i) for i in still)
        return best


def _db(signal: float, noise: float) -> float | None:
    """SQNR; None without noise."""
    if noise <= 0:
        return None
    return round(10 * math.log10(signal / noise), 2) if signal > 0 else -math.inf
