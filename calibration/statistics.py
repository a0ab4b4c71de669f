"""Statistics: one observer for each activation of ONE float graph, and the ranges that follow from them."""

from __future__ import annotations

import copy
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.channels import KINDS, PerChannel
from calibration.errors import CalibrationError, label
from calibration.observers import Arrays, MinMax, Samples
from calibration.qparams import QParams, from_range
from calibration.rules import observer
from calibration.schemes import Granularity, Scheme, TensorScheme

_FORMAT = 3
ABSURD = 1e30  # beyond it a number is a marker (an attention mask's -3.4e38), not a signal


@dataclass
class Statistics:
    """What was seen of each tensor of the graph with this hash.

    `kind` is the class of the observers that `update` makes for new names: Samples answer every rule, a Histogram all
    but "moving_average", a MinMax only "minmax". Values beyond +-ABSURD, infinity too, are left out, so that they
    saturate at the ends of the range that the others need; `absurd` counts them: tensor name -> how many. With an
    `axis` each of its indices has an observer of that class.
    """

    graph_sha256: str
    tensors: dict[str, MinMax] = field(default_factory=dict)
    kind: type[MinMax] = Samples
    absurd: dict[str, int] = field(default_factory=dict)
    axis: int | None = None

    def update(self, batch: Mapping[str, npt.ArrayLike]) -> None:
        """Take in a batch: tensor name -> values, any shape. Raises CalibrationError naming the tensor."""
        for name, values in batch.items():
            try:
                fresh = self.kind() if self.axis is None else PerChannel(self.kind, self.axis)
                beyond = self.tensors.setdefault(name, fresh).update(values, ABSURD)
            except CalibrationError as error:
                raise CalibrationError(f"{label(name)}: {error}: look at the calibration data and the model") from error
            if beyond:
                self.absurd[name] = self.absurd.get(name, 0) + beyond

    def merge(self, other: Statistics) -> None:
        """Take in what `other` has seen of the same graph. Raises CalibrationError for another graph."""
        if other.graph_sha256 != self.graph_sha256:
            raise CalibrationError(
                f"statistics of graph {other.graph_sha256[:12]} cannot be merged into those of graph "
                f"{self.graph_sha256[:12]}: their tensors are not the same; calibrate the graph at hand"
            )
        for name, seen in other.tensors.items():
            if name in self.tensors:
                self.tensors[name].merge(seen)
            else:
                self.tensors[name] = copy.deepcopy(seen)
        for name, count in other.absurd.items():
            self.absurd[name] = self.absurd.get(name, 0) + count

    def save(self, path: Path) -> None:
        """Write an .npz; equal statistics make equal bytes."""
        names = sorted(self.tensors)
        header = {
            "format": _FORMAT,
            "graph_sha256": self.graph_sha256,
            "kind": self.kind.__name__,
            "absurd": self.absurd,
            "axis": self.axis,
            "tensors": [[name, type(self.tensors[name]).__name__] for name in names],
        }
        arrays: Arrays = {"header": np.frombuffer(json.dumps(header, sort_keys=True).encode(), np.uint8)}
        for index, name in enumerate(names):  # numbered, because a tensor may be called anything
            arrays |= {f"{index}/{key}": value for key, value in self.tensors[name].to_arrays().items()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for key, array in arrays.items():
                member = zipfile.ZipInfo(f"{key}.npy", date_time=(1980, 1, 1, 0, 0, 0))
                member.create_system = 0
                with archive.open(member, "w") as stream:
                    np.lib.format.write_array(stream, array, version=(1, 0), allow_pickle=False)

    @classmethod
    def load(cls, path: Path) -> Statistics:
        """Read what `save` wrote. Raises CalibrationError for a damaged or foreign file, OSError for none."""
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                arrays = {key: stored[key] for key in stored.files}
            header = json.loads(arrays["header"].tobytes())
            if header["format"] != _FORMAT:
                raise CalibrationError(f"format {header['format']}, expected {_FORMAT}")
            tensors = {
                name: (KINDS | {PerChannel.__name__: PerChannel})[kind].from_arrays(_below(arrays, f"{index}/"))
                for index, (name, kind) in enumerate(header["tensors"])
            }
            return cls(header["graph_sha256"], tensors, KINDS[header["kind"]], header["absurd"], header["axis"])
        except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise CalibrationError(f"{path}: not statistics, or damaged ({error}): calibrate again") from error


def _below(arrays: Mapping[str, npt.NDArray[Any]], prefix: str) -> Arrays:
    return {key.removeprefix(prefix): value for key, value in arrays.items() if key.startswith(prefix)}


def solve(statistics: Statistics, scheme: Scheme, observer_name: str) -> dict[str, QParams]:
    """Tensor name -> QParams for the scheme's activations by a rule (calibration/rules.py): one for each whole tensor,
    or, where the scheme has a scale for each channel, one for each index along the axis of the statistics.

    Raises CalibrationError for an unknown rule, and for a tensor (or channel) that was never seen, or not remembered
    well enough for the rule or the scheme.
    """
    least, rule = observer(observer_name)
    activation, ranges = scheme.activation, {}
    for name, seen in statistics.tensors.items():
        axis, parts = _parts(name, seen, activation)
        for index, one in enumerate(parts):
            where = label(name) if axis is None else f"{label(name)}, channel {index}"
            if not isinstance(one, least):
                raise CalibrationError(
                    f"{where}: '{observer_name}' needs a {least.__name__}, these statistics hold a "
                    f"{type(one).__name__}: calibrate again"
                )
            if one.n == 0 and name in statistics.absurd:
                raise CalibrationError(f"{where}: every value is beyond {ABSURD:g}: no range holds such numbers")
            if one.n == 0:
                raise CalibrationError(f"{where}: no value was observed: feed the calibration set first")
        ends = [rule(one, activation) for one in parts]
        lo, hi = ends[0] if axis is None else np.transpose(ends)
        ranges[name] = from_range(lo, hi, activation, axis, name=name)
    return ranges


def _parts(name: str, seen: MinMax, activation: TensorScheme) -> tuple[int | None, list[MinMax]]:
    """What has a range of its own, and the axis of these; None for a whole tensor."""
    if activation.granularity is Granularity.PER_TENSOR:
        return None, [seen]
    if not isinstance(seen, PerChannel):
        raise CalibrationError(
            f"{label(name)}: observed as a whole, but a range for each channel is asked: give an axis"
        )
    if not seen.channels:
        raise CalibrationError(f"{label(name)}: no value was observed: feed the calibration set first")
    return seen.axis, seen.channels
