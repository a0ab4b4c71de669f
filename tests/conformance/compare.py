"""How checks compare and expect refusals: with words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import numpy as np
import numpy.typing as npt

from calibration.metrics import sqnr_db
from targets.base import Batch, Model, TensorSpec

WORST_ROW_DB = 12.0  # how much worse than the whole a single row may be

E = TypeVar("E", bound=Exception)


def nearer_than(least_db: float, wanted: npt.NDArray[Any], found: npt.NDArray[Any], what: str) -> None:
    """SQNR over all rows, and for the worst row alone: one bad row must not hide among good ones."""
    assert np.isfinite(found).all(), f"{what}: {int((~np.isfinite(found)).sum())} values are NaN or infinite"
    assert found.shape == wanted.shape, f"{what}: shape {found.shape}, expected {wanted.shape}"
    whole = sqnr_db(wanted, found)
    assert whole >= least_db, f"{what}: {whole:.1f} dB, at least {least_db:.0f} are asked"
    power = float(np.mean(np.square(wanted, dtype=np.float64)))
    noise = max(float(np.mean(np.square(row))) for row in found.astype(np.float64) - wanted)
    worst = 10 * np.log10(power / noise) if noise else np.inf
    assert worst >= least_db - WORST_ROW_DB, f"{what}: {whole:.1f} dB, but the worst row has {worst:.1f}"


def same(least_db: float, wanted: Batch, found: Batch, what: str) -> None:
    """All outputs, by name."""
    assert set(found) == set(wanted), f"{what}: outputs {sorted(found)}, expected {sorted(wanted)}"
    for name in wanted:
        nearer_than(least_db, wanted[name], found[name], f"{what}, output '{name}'")


def refusal(kind: type[E] | tuple[type[E], ...], what: str, work: Callable[[], object]) -> E:
    """The error that `work` ends in. AssertionError when it ends well; any other error passes through."""
    try:
        work()
    except kind as error:
        return error
    raise AssertionError(what)


def interface(specs: tuple[TensorSpec, ...]) -> list[tuple[str, str, tuple[int | None, ...]]]:
    """Name, dtype, and the shape of one sample in the program's layout."""
    rows = []
    for spec in specs:
        back = range(len(spec.shape)) if spec.permutation is None else np.argsort(spec.permutation)
        rows.append((spec.name, spec.dtype, tuple(spec.shape[i] for i in back)[1:]))
    return rows


def described(model: Model) -> tuple[object, ...]:
    """All that a manifest must bring back."""
    return model.path.name, model.inputs, model.outputs, model.tensors, model.sha256


def parts(batch: Batch, step: int) -> Iterator[Batch]:
    """`step` samples at a time."""
    for start in range(0, len(next(iter(batch.values()))), step):
        yield {name: array[start : start + step] for name, array in batch.items()}


class Untouchable:
    """A calibration set that must not be read."""

    def __iter__(self) -> NoReturn:
        raise AssertionError("it read the calibration set before it looked at the scheme")
