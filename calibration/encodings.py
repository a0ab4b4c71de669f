"""Encodings: ranges as a file that people and other tools read and edit, in AIMET's JSON.

AIMET's codes run from 0 to 2**bits - 1, and real = scale * (code + offset), so an offset is minus the zero point of an
unsigned tensor. Written is its format 1.0.0; 0.6.1 (a mapping of lists) is read too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibration.errors import CalibrationError, label
from calibration.qparams import QParams
from calibration.schemes import TensorScheme

VERSION = "1.0.0"


@dataclass(frozen=True)
class Encoding:
    """What the codes of one tensor stand for; `scale` and `offset` have one entry, or one for each channel."""

    bits: int
    symmetric: bool
    scale: tuple[float, ...]
    offset: tuple[int, ...]

    @property
    def ends(self) -> tuple[tuple[float, float], ...]:
        """The real numbers of the lowest and the highest code, for each channel."""
        top = 2**self.bits - 1
        return tuple((s * o, s * (top + o)) for s, o in zip(self.scale, self.offset, strict=True))


@dataclass(frozen=True)
class Encodings:
    """Tensor name -> encoding, for a graph's activations and for its parameters (weights)."""

    activations: Mapping[str, Encoding]
    parameters: Mapping[str, Encoding]


@dataclass(frozen=True)
class Difference:
    """A tensor whose encodings differ; None where one side lacks it."""

    name: str
    left: Encoding | None
    right: Encoding | None


def encoding(scale: Any, zero_point: Any, bits: int, signed: bool, symmetric: bool | None = None) -> Encoding:
    """From a runtime's scale and zero point, each a number or [channels].

    `symmetric` None: yes where every zero point is the middle code.
    """
    scales = np.atleast_1d(np.asarray(scale, np.float32))
    zeros = np.broadcast_to(np.atleast_1d(np.asarray(zero_point, np.int64)), scales.shape)
    offsets = tuple(int(-zero - (2 ** (bits - 1) if signed else 0)) for zero in zeros)
    middle = all(offset == -(2 ** (bits - 1)) for offset in offsets)
    return Encoding(bits, middle if symmetric is None else symmetric, tuple(map(float, scales)), offsets)


def to_qparams(name: str, given: Encoding, scheme: TensorScheme) -> QParams:
    """The scheme's QParams of a whole tensor. Raises CalibrationError where the scheme cannot say it."""
    if len(given.scale) != 1:
        raise CalibrationError(f"{label(name)}: {len(given.scale)} scales, but activations take one for a whole tensor")
    if given.bits != scheme.bits:
        raise CalibrationError(f"{label(name)}: {given.bits} bits, but the scheme's activations have {scheme.bits}")
    zero = -given.offset[0] - (2 ** (scheme.bits - 1) if scheme.signed else 0)
    try:
        return QParams(np.array(given.scale[0], np.float32), np.array(zero, np.int64), scheme)
    except CalibrationError as error:
        raise CalibrationError(f"{label(name)}: {error}") from error


def apply(ranges: Mapping[str, QParams], given: Mapping[str, Encoding], scheme: TensorScheme) -> dict[str, QParams]:
    """`ranges` with those that `given` names replaced. Raises CalibrationError for tensors that are not among them."""
    foreign = sorted(set(given) - set(ranges))
    if foreign:
        raise CalibrationError(
            f"{len(foreign)} of {len(given)} encodings are of another graph: it has no {label(foreign[0])}; "
            "write its own with 'deploy encodings show' and edit those"
        )
    return dict(ranges) | {name: to_qparams(name, one, scheme) for name, one in given.items()}


def diff(left: Encodings, right: Encodings) -> list[Difference]:
    """The tensors whose encodings differ, activations first; what only `right` has comes last."""
    rows = []
    for a, b in ((left.activations, right.activations), (left.parameters, right.parameters)):
        names = [*a, *(name for name in b if name not in a)]
        rows += [Difference(name, a.get(name), b.get(name)) for name in names if a.get(name) != b.get(name)]
    return rows


def to_json(encodings: Encodings) -> str:
    """AIMET's format 1.0.0."""

    def rows(given: Mapping[str, Encoding]) -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                "dtype": "INT",
                "enc_type": "PER_TENSOR" if len(one.scale) == 1 else "PER_CHANNEL",
                "bw": one.bits,
                "is_sym": one.symmetric,
                "scale": list(one.scale),
                "offset": list(one.offset),
            }
            for name, one in given.items()
        ]

    record = {
        "version": VERSION,
        "activation_encodings": rows(encodings.activations),
        "param_encodings": rows(encodings.parameters),
    }
    return json.dumps(record, indent=1) + "\n"


def read(path: Path) -> Encodings:
    """AIMET's formats 1.0.0 and 0.6.1. Raises CalibrationError naming what is wrong, OSError for no file."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        activations, parameters = (
            _section(record[name], f"{path}: {name}") for name in ("activation_encodings", "param_encodings")
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, CalibrationError):
            raise
        what = f"no key {error}" if isinstance(error, KeyError) else str(error)
        raise CalibrationError(f"{path}: not encodings in AIMET's JSON ({what})") from error
    return Encodings(activations, parameters)


def _section(rows: Any, where: str) -> dict[str, Encoding]:
    """The encodings of one section; entries for tensors in float are left out."""
    named: Iterable[tuple[str, Any]]
    named = rows.items() if isinstance(rows, Mapping) else ((row["name"], row) for row in rows)
    found: dict[str, Encoding] = {}
    for name, row in named:
        if name in found:
            raise CalibrationError(f"{where}: {label(name)} stands there twice")
        entries = row if isinstance(row, list) else [row]  # 0.6.1 has a list, one entry for each channel
        if not entries or str(entries[0].get("dtype", "int")).lower() != "int":
            continue
        found[name] = _entry(entries, f"{where}: {label(name)}")
    return found


def _entry(entries: list[Mapping[str, Any]], where: str) -> Encoding:
    first = entries[0]
    scale = [float(value) for entry in entries for value in np.atleast_1d(entry["scale"])]
    offset = [float(value) for entry in entries for value in np.atleast_1d(entry["offset"])]
    bits = int(first["bw"] if "bw" in first else first["bitwidth"])
    symmetric = str(first.get("is_sym", first.get("is_symmetric", False))).lower() == "true"
    if len(offset) == 1 < len(scale):
        offset *= len(scale)
    if not 2 <= bits <= 32 or len(offset) != len(scale) or not scale:
        raise CalibrationError(
            f"{where}: {bits} bits, {len(scale)} scales and {len(offset)} offsets do not go together"
        )
    if not all(np.isfinite(value) and value > 0 for value in scale):
        raise CalibrationError(f"{where}: scales must be positive and finite")
    if not all(value.is_integer() and -(2**bits) < value <= 0 for value in offset):
        raise CalibrationError(f"{where}: offsets must be whole numbers from {1 - 2**bits} to 0")
    return Encoding(bits, symmetric, tuple(scale), tuple(map(int, offset)))
