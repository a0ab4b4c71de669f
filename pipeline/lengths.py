"""An axis that varies between declared bounds: token sequences of 1 to 128, sound of any length up to ten seconds.

Samples lie padded with zeros to the upper bound, where all stages work; an input that the data call the mask says what
of each is there. Exports leave the axis free where the target can, and are compared at several lengths.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pipeline.data import Split

Array = npt.NDArray[Any]
KEYS = ("inputs", "min", "max", "mask")
EXAMPLE = '{"inputs": {"ids": 1, "mask": 1}, "min": 1, "max": 128, "mask": "mask"}'


@dataclass(frozen=True)
class Lengths:
    """`inputs`: those that vary together -> their axis (1: the first of a sample). `lowest`, `highest`: bounds.

    `mask`: the input that is 1 where a sample is and 0 where it is padded; None where the model takes none.
    """

    inputs: Mapping[str, int]
    lowest: int
    highest: int
    mask: str | None = None

    @property
    def compared(self) -> tuple[int, ...]:
        """Where exports are compared: both bounds, and between them, geometrically, up to two more."""
        between = np.geomspace(self.lowest, self.highest, 4).round().astype(int).tolist()
        return tuple(dict.fromkeys(between))

    def cut(self, batch: Mapping[str, Array], length: int) -> dict[str, Array]:
        """Every varying input's first `length` steps. `batch`: input name -> [n, ...]."""
        return {
            name: np.take(array, np.arange(length), self.inputs[name]) if name in self.inputs else np.asarray(array)
            for name, array in batch.items()
        }

    def shortened(self, split: Split, length: int) -> Split:
        """A split with its inputs cut."""
        return replace(split, inputs=self.cut(split.inputs, length))

    def record(self) -> dict[str, Any]:
        """As JSON, in the form that a data factory gives."""
        return {"inputs": dict(self.inputs), "min": self.lowest, "max": self.highest, "mask": self.mask}


def of(returned: Mapping[str, Any], where: str) -> Lengths | None:
    """What a data factory declares as "lengths"; None where nothing varies. Raises UsageError."""
    given = returned.get("lengths")
    if given is None:
        return None
    example = f"expected for example {EXAMPLE}"
    if not isinstance(given, Mapping) or not {"inputs", "min", "max"} <= set(given) <= set(KEYS):
        raise UsageError(f"{where}: lengths is {given!r}, {example}")
    inputs = given["inputs"]
    named = dict(inputs) if isinstance(inputs, Mapping) else dict.fromkeys(inputs, 1)
    whole = [*named.values(), given["min"], given["max"]]
    if not named or not all(isinstance(one, int) and one >= 1 for one in whole) or given["min"] >= given["max"]:
        raise UsageError(f"{where}: lengths: axes and bounds are whole numbers from 1, min below max; {example}")
    return Lengths(named, given["min"], given["max"], given.get("mask"))


def load(data: Path) -> Lengths | None:
    """What the data stage stored."""
    found = json.loads((data / "declared.json").read_text()).get("lengths")
    return found and of({"lengths": found}, "data")


def padded(inputs: Any, lengths: Lengths, where: str) -> Any:
    """A split's inputs as arrays of the upper bound's length; samples may differ in theirs. The mask is made where the
    data do not bring it. Raises UsageError for a sample out of bounds.
    """
    named = dict(inputs) if isinstance(inputs, Mapping) else {"input": inputs}
    sizes: list[int] | None = None
    for name, axis in lengths.inputs.items():
        if name not in named:
            if name == lengths.mask:
                continue
            raise UsageError(f"{where}: lengths names the input '{name}', the data have {sorted(named)}")
        samples = [np.asarray(sample) for sample in named[name]]
        if any(sample.ndim < axis for sample in samples):
            raise UsageError(f"{where}: lengths: samples of '{name}' have no axis {axis}")
        own = [sample.shape[axis - 1] for sample in samples]
        if bad := [index for index, size in enumerate(own) if not lengths.lowest <= size <= lengths.highest]:
            bounds = f"{lengths.lowest} to {lengths.highest}"
            raise UsageError(f"{where}: '{name}'[{bad[0]}] has {own[bad[0]]} steps, lengths declares {bounds}")
        named[name] = _stacked(samples, axis, lengths.highest, f"{where}: '{name}'")
        sizes = sizes or own
    if lengths.mask and lengths.mask not in named and sizes is not None:
        steps = np.arange(lengths.highest)
        named[lengths.mask] = (steps < np.array(sizes)[:, None]).astype(np.float32)
    return named


def _stacked(samples: Sequence[Array], axis: int, highest: int, where: str) -> Array:
    rows = []
    for sample in samples:
        widths = [(0, highest - size if at == axis - 1 else 0) for at, size in enumerate(sample.shape)]
        rows.append(np.pad(sample, widths))
    try:
        return np.stack(rows)
    except ValueError as error:
        raise UsageError(f"{where}: samples differ in more than the axis that varies: {error}") from error


def check_target(name: str, capability: str, lengths: Lengths | None) -> None:
    """Raise UsageError for a target of fixed shapes where the model has no mask to say what is padding."""
    if lengths is None or capability == "free" or lengths.mask is not None:
        return
    raise UsageError(
        f"{name}: files have fixed shapes, but {sorted(lengths.inputs)} vary from {lengths.lowest} to "
        f"{lengths.highest}: give the model a mask input and name it in lengths, then it runs padded to "
        f"{lengths.highest}; or leave out the target"
    )
