"""Observers of channels: one for each, so that every rule gives a range for each channel too."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from calibration.errors import CalibrationError
from calibration.observers import Arrays, Histogram, MinMax, Samples

KINDS: dict[str, type[MinMax]] = {kind.__name__: kind for kind in (MinMax, Histogram, Samples)}


class PerChannel(MinMax):
    """An observer of class `kind` for each index along `axis` of what it is given, and MinMax of all of it.

    As streaming, independent of order and mergeable as these. `channels` is empty before any value.
    """

    def __init__(self, kind: type[MinMax] = Histogram, axis: int = 1) -> None:
        super().__init__()
        self.kind, self.axis = kind, axis
        self.channels: list[MinMax] = []

    def update(self, x: npt.ArrayLike, most: float = math.inf) -> int:
        """As MinMax. Raises CalibrationError, and takes nothing in, where `x` has other channels than before."""
        array = np.asarray(x)
        if not -array.ndim <= self.axis < array.ndim:
            raise CalibrationError(f"axis {self.axis} does not exist in values of shape {list(array.shape)}")
        split = np.moveaxis(array, self.axis, 0)
        channels = self.channels or [self.kind() for _ in split]
        self._check(len(split), len(channels))
        beyond = super().update(array, most)
        self.channels = channels
        for seen, values in zip(channels, split, strict=True):
            seen.update(values, most)
        return beyond

    def to_arrays(self) -> Arrays:
        """As MinMax, `kind` (its name, uint8), `axis` and `size` int64 [], and those of each channel as "INDEX/KEY"."""
        own: Arrays = {"kind": np.frombuffer(self.kind.__name__.encode(), np.uint8)}
        own |= {"axis": np.array(self.axis), "size": np.array(len(self.channels))}
        each = {f"{i}/{k}": array for i, one in enumerate(self.channels) for k, array in one.to_arrays().items()}
        return super().to_arrays() | own | each

    def merge(self, other: Self) -> None:
        """As MinMax. Raises CalibrationError where `other` has other channels or other observers of these."""
        if isinstance(other, PerChannel):
            said = [f"channels of axis {one.axis} in {one.kind.__name__}" for one in (other, self)]
            if said[0] != said[1]:
                raise CalibrationError(f"{said[0]} cannot be merged into {said[1]}")
            if self.channels and other.channels:
                self._check(len(other.channels), len(self.channels))
        super().merge(other)

    def _add(self, other: Self) -> None:
        if not self.channels:
            self.channels = copy.deepcopy(other.channels)
            return
        for seen, more in zip(self.channels, other.channels, strict=False):  # none where it saw nothing
            seen.merge(more)

    def _restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        self.kind, self.axis = KINDS[arrays["kind"].tobytes().decode()], int(arrays["axis"])
        parts: list[Arrays] = [{} for _ in range(int(arrays["size"]))]
        for name, array in arrays.items():
            index, _, key = name.partition("/")
            if key:
                parts[int(index)][key] = array
        self.channels = [self.kind.from_arrays(part) for part in parts]

    def _check(self, found: int, wanted: int) -> None:
        if found != wanted:
            raise CalibrationError(f"{found} channels along axis {self.axis}, {wanted} before: is it the same tensor?")
