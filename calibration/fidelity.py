"""How near each output of a quantized model is to float's, and each channel of it; and which channels stand still.

One SQNR over an output hides what its large values drown: where boxes in pixels share a scale with scores below one,
all scores may be zero at 50 dB. So each channel is looked at by itself: along axis 1 (PyTorch's order) and, of outputs
with more than two axes, along the last (a head that ends with channels last) too; in an output of [n, classes] they are
one. Sums are in float64, a part of the samples at a time: beside the outputs nothing grows with n.

A channel stands still when no value of it differs between samples. That is a fault where float's moves, which is asked
of the samples, not of the places within one: a grid that is added to a dead channel does not bring it to life. What
counts as a motion (`least`) is at least
- a step of 8 bits, symmetric, over the output's own range: less may be one code in any sound int8 model;
- a thousandth of the channel's own largest value: less is constant but for rounding errors of float;
- in an output of shares (all of it within 0 and 1: softmax, sigmoid, one-hot) a 32nd of its range, and two codes of the
  256 that runtimes give to shares: classes that do not occur stay near zero and may well be zero in int8;
- of a channel of shares (above 0, at most 1) in an output that goes far beyond, with steps of more than an eighth, only
  those two codes: its unit is another, and that output's range says nothing of it;
and it must be there without the two samples that lie furthest out to either side: a class that occurs once or twice and
flips is lost accuracy, which is judged as such, and no dead channel.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.errors import CalibrationError

Array = npt.NDArray[Any]
CHUNK = 1 << 18  # values at a time
NAMED = 5  # channels of an output that are named, the worst
LOWEST_DB = -200.0  # stands for an output that is zero in float and is not in int8
STEP, PART, ROUNDING = 1 / 127, 1 / 32, 1e-3
TWO_CODES, COARSE = 2 / 256, 1 / 8  # of shares
ONE = 1 + 1e-6  # a share, with float's rounding
OUTLIERS, ENOUGH = 2, 20  # samples left out at either end, where there are as many as ENOUGH


@dataclass(frozen=True)
class Channel:
    """`at`: where, "[:, 3]" or "[..., 3]". `moved`: of one that stands still, float's motion in the output's unit."""

    at: str
    sqnr_db: float
    moved: float | None = None


@dataclass(frozen=True)
class Output:
    """One output. `channels`: how many there are; `worst`: those that are furthest from float, of those that move in
    it; `still`: some that move in float and stand still here; `dead`: how many these are. SQNR of infinity: identical.
    """

    name: str
    sqnr_db: float
    worst_error: float
    channels: int
    worst: tuple[Channel, ...] = ()
    still: tuple[Channel, ...] = ()
    dead: int = 0


def outputs(floating: Mapping[str, Array], deployed: Mapping[str, Array]) -> list[Output]:
    """Each output [n, ...] of a runtime's float model beside the same one of another model, the worst first.

    Raises CalibrationError for shapes that differ and for values that are not finite.
    """
    found = [output(name, values, deployed[name]) for name, values in floating.items()]
    return sorted(found, key=lambda one: (one.dead == 0, one.sqnr_db))


def output(name: str, floating: Array, deployed: Array) -> Output:
    """One output. Raises CalibrationError as `outputs` does."""
    if floating.shape != deployed.shape or floating.size == 0:
        raise CalibrationError(f"cannot compare outputs of shapes {list(floating.shape)} and {list(deployed.shape)}")
    if floating.ndim == 1:
        floating, deployed = floating[:, None], deployed[:, None]
    axes = [_Axis(axis, floating.shape) for axis in dict.fromkeys((1, floating.ndim - 1))]
    power = noise = worst = 0.0
    for rows in _rows(floating.shape):
        wanted, got = floating[rows].astype(np.float64), deployed[rows].astype(np.float64)
        if not (np.isfinite(wanted).all() and np.isfinite(got).all()):
            raise CalibrationError(f"output '{name}' has values that are NaN or infinite")
        apart = np.abs(wanted - got)
        worst = max(worst, float(apart.max()))
        signal, error, moved = wanted * wanted, apart * apart, deployed[rows] != deployed[:1]
        power, noise = power + float(signal.sum()), noise + float(error.sum())
        for one in axes:
            one.update(wanted, signal, error, moved)
    whole = float(axes[0].low.min()), float(axes[0].high.max())
    channels = [c for one in axes for c in one.channels(whole)]
    still = next((found for one in axes if (found := one.still(floating, whole))), [])
    return Output(
        name,
        _db(power, noise),
        worst,
        sum(one.count for one in axes),
        tuple(sorted(channels, key=lambda c: c.sqnr_db)[:NAMED]),
        tuple(sorted(still, key=lambda c: -(c.moved or 0.0))[:NAMED]),
        len(still),
    )


def _rows(shape: tuple[int, ...]) -> Iterator[slice]:
    step = max(1, CHUNK // max(1, math.prod(shape[1:])))
    return (slice(start, start + step) for start in range(0, shape[0], step))


def _db(power: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return max(LOWEST_DB, 10 * math.log10(power / noise)) if power > 0 else LOWEST_DB


@dataclass
class _Axis:
    """Sums of each channel along one axis."""

    axis: int
    shape: tuple[int, ...]
    power: Array = field(init=False)
    noise: Array = field(init=False)
    low: Array = field(init=False)
    high: Array = field(init=False)
    moves: Array = field(init=False)

    def __post_init__(self) -> None:
        self.count = self.shape[self.axis]
        self.others = tuple(axis for axis in range(len(self.shape)) if axis != self.axis)
        self.power, self.noise = np.zeros(self.count), np.zeros(self.count)
        self.low, self.high = np.full(self.count, np.inf), np.full(self.count, -np.inf)
        self.moves = np.zeros(self.count, bool)

    def update(self, wanted: Array, signal: Array, error: Array, moved: Array) -> None:
        self.power += signal.sum(self.others)
        self.noise += error.sum(self.others)
        self.low = np.minimum(self.low, wanted.min(self.others))
        self.high = np.maximum(self.high, wanted.max(self.others))
        self.moves |= moved.any(self.others)

    def at(self, index: int) -> str:
        return f"[:, {index}]" if self.axis == 1 else f"[..., {index}]"

    def channels(self, whole: tuple[float, float]) -> list[Channel]:
        """The worst of those that differ from float and are not constant there, with their SQNR."""
        decibels = np.array([_db(power, noise) for power, noise in zip(self.power, self.noise, strict=True)])
        moving = self.high - self.low > ROUNDING * np.maximum(np.abs(self.low), np.abs(self.high))
        if whole[0] >= 0 and whole[1] <= ONE:  # classes that do not occur say nothing
            moving &= self.high - self.low >= PART * (whole[1] - whole[0])
        there = np.flatnonzero(moving & (self.noise > 0))
        worst = there[np.argsort(decibels[there], kind="stable")[:NAMED]].tolist()
        return [Channel(self.at(index), float(decibels[index])) for index in worst]

    def still(self, floating: Array, whole: tuple[float, float]) -> list[Channel]:
        """Those that stand still and do not in float."""
        enough, some = least(self.low, self.high, whole, bool(self.moves.any())), []
        for index in np.flatnonzero(~self.moves & (self.high - self.low >= enough) & (enough > 0)).tolist():
            moved = motion(np.take(floating, index, axis=self.axis))
            if moved >= enough[index]:
                sqnr = _db(float(self.power[index]), float(self.noise[index]))
                some.append(Channel(self.at(index), sqnr, moved))
        return some


def least(low: Array, high: Array, whole: tuple[float, float], some: bool = True) -> Array:
    """What counts as a motion of each channel, from their lowest and highest values and those of the whole output.

    `some`: other channels of the output move. 0 where nothing does: the output is constant.
    """
    span = whole[1] - whole[0]
    enough = np.full(low.shape, STEP * span)
    if whole[0] >= 0 and whole[1] <= ONE:
        enough[:] = max(PART * span, TWO_CODES if some else 0.0)
    elif STEP * span > COARSE:
        enough[(low > 0) & (high <= ONE)] = TWO_CODES
    return np.asarray(np.maximum(enough, ROUNDING * np.maximum(np.abs(low), np.abs(high))))


def motion(channel: Array) -> float:
    """How far a channel [n, ...] moves over the samples, the furthest of them left out.

    At the place that moves most, or in each sample's highest or lowest value, for what moves now here, now there.
    """
    flat = channel.reshape(len(channel), -1).astype(np.float64)
    ends = np.stack([flat.max(axis=1), flat.min(axis=1)], axis=1)
    return max(float(_range(flat).max()), float(_range(ends).max()))


def _range(values: Array) -> Array:
    """Highest less lowest along axis 0, without outliers."""
    n = len(values)
    cut = OUTLIERS if n >= ENOUGH else 0
    ordered = np.partition(values, (cut, n - 1 - cut), axis=0)
    return np.asarray(ordered[n - 1 - cut] - ordered[cut])
