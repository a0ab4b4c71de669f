"""`deploy storage`: the weights of a checkpoint or of a finished run, in their smallest formats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.compression import codebook, storage
from pipeline.errors import UsageError
from pipeline.models import WEIGHTS
from pipeline.outcome import PYTORCH
from pipeline.release import report

Array = npt.NDArray[Any]
LEVELS: dict[str, Callable[[Array, int], Array]] = {"kmeans": codebook.kmeans, "power2": codebook.powers_of_two}


def read(path: Path) -> dict[str, Array]:
    """Tensor name -> array: of a checkpoint, of a packed file, or of the network that a finished run delivered.

    Raises UsageError when there are no weights at `path`, or several networks.
    """
    from pipeline.stages import load

    if path.is_dir():
        path = _of_run(path)
    if path.is_file() and path.read_bytes()[: len(storage.MAGIC)] == storage.MAGIC:
        return storage.unpack(path.read_bytes(), str(path))
    return {name: tensor.detach().numpy() for name, tensor in load.read(path).items()}


def reshape(weights: dict[str, Array], levels: str | None, int8: bool) -> tuple[dict[str, Array], float | None]:
    """The weights on fewer levels or as int8 codes with their scales, and the SQNR in dB (None where nothing changed).

    Only float tensors of two and more dims change. `levels`: "kmeans:4" or "power2:4". int8: symmetric, one scale for
    each output channel. Raises UsageError for other levels.
    """
    change = _levels(levels) if levels else None
    found: dict[str, Array] = {}
    signal = noise = 0.0
    for name, array in weights.items():
        if array.ndim < 2 or array.dtype.kind != "f" or not (change or int8):
            found[name] = array
            continue
        seen = change(array) if change else array
        if int8:
            found[name], found[f"{name}.scale"], seen = _int8(seen)
        else:
            found[name] = seen
        signal += float(np.square(array, dtype=np.float64).sum())
        noise += float(np.square(array - seen, dtype=np.float64).sum())
    if not (change or int8):
        return found, None
    return found, 10 * float(np.log10(signal / noise)) if noise > 0 and signal > 0 else None


def rows(weights: dict[str, Array]) -> list[storage.Row]:
    """One a tensor, in the model's order."""
    return [storage.measure(name, array)[0] for name, array in weights.items()]


def totals(rows: Sequence[storage.Row]) -> dict[str, float]:
    """Bytes of the whole model: dense, each format where it can hold all, the smallest of each, and the bound."""
    shared = set.intersection(*(set(row.bytes_by) for row in rows)) if rows else set()
    return {
        "dense_bytes": sum(row.dense_bytes for row in rows),
        **{name: sum(row.bytes_by[name] for row in rows) for name in rows[0].bytes_by if name in shared},
        "smallest_bytes": sum(row.bytes_by[row.best] for row in rows),
        "bound_bytes": round(sum(row.bound_bytes for row in rows)),
    }


def saves() -> dict[str, dict[str, str]]:
    """Target -> what the formats save there, and what saves time too.

    No target's runtime is given anything but dense weights: a packed file is unpacked before.
    """
    from targets import registry

    sparse = dict.fromkeys([*(name for name in storage.FORMATS if name != "dense"), "zstd"], "storage only")
    both = {"int8": "storage; time as the race of a run says", "fewer units": "storage; time as prune.latency measures"}
    return dict.fromkeys(registry.names(), sparse | both)


def _of_run(folder: Path) -> Path:
    found = [file for file in (folder / WEIGHTS, *sorted(folder.glob(f"{PYTORCH}/**/{WEIGHTS}"))) if file.is_file()]
    if not found:
        report.read(folder)  # says where there is no run
        raise UsageError(f"{folder}: this run delivered no network: run 'deploy' again, or name a checkpoint")
    if len(found) > 1:
        names = ", ".join(str(file.parent) for file in found)
        raise UsageError(f"{folder} holds a network for each target: name one of {names}")
    return found[0]


def _levels(text: str) -> Callable[[Array], Array]:
    kind, _, bits = text.partition(":")
    if kind not in LEVELS or bits not in ("2", "3", "4", "5", "6", "7", "8"):
        raise UsageError(f"--levels {text}: expected KIND:BITS, kinds {', '.join(LEVELS)}, bits 2 to 8 ('kmeans:4')")
    return lambda array: LEVELS[kind](array, int(bits))


def _int8(array: Array) -> tuple[Array, Array, Array]:
    """Codes, scales, and what they stand for."""
    from calibration.qparams import dequantize, from_range, quantize
    from calibration.schemes import Granularity, TensorScheme

    scheme = TensorScheme(8, signed=True, symmetric=True, granularity=Granularity.PER_CHANNEL, narrow=True)
    flat = array.reshape(len(array), -1)
    qparams = from_range(flat.min(1, initial=0), flat.max(1, initial=0), scheme, axis=0)
    codes = quantize(array, qparams)
    return codes.astype(np.int8), qparams.scale, dequantize(codes, qparams)
