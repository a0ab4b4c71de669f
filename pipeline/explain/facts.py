"""Gathering: a quantized model beside its float graph on the same samples, in this process, on the runtime itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from calibration.errors import CalibrationError
from calibration.metrics import sqnr_db
from pipeline.explain import layers
from pipeline.explain.causes import BATCH_DB, Facts
from pipeline.lengths import Lengths
from pipeline.stages.quantize import shares
from targets import base, encodings
from targets.base import Batch


@dataclass(frozen=True)
class Pair:
    """A float graph, what a quantizer made of it (or of it after the weight step), and how that is run.

    `output`: the one that is judged, and that the rules look at; empty: the first.
    """

    target: base.Target
    floating: base.Model
    quantized: base.Model
    candidate: base.Candidate
    output: str = ""

    @property
    def float_candidate(self) -> base.Candidate:
        """How the float graph is run."""
        return next(c for c in self.target.candidates(self.floating) if c.precision == "f32")


@dataclass(frozen=True)
class Gathered:
    """`facts` for the rules; all outputs of both models for the same inputs. `lengths`: SQNR in dB of the worst output
    at each length that exports are compared at, where an axis is free.
    """

    facts: Facts
    inputs: Batch
    wanted: Batch
    found: Batch
    lengths: dict[int, float]


def gather(
    pair: Pair, inputs: Batch, classes: Sequence[str] = (), tapped: int = 64, varying: Lengths | None = None
) -> Gathered:
    """Both models on `inputs` (the program's layout, [n, ...]); layer by layer, and at other lengths where these are
    `varying`, on the first `tapped` of them.

    Raises TargetError or ValueError where a model does not load or run.
    """
    step = pair.floating.inputs[0].shape[0] or 1
    n = len(next(iter(inputs.values()))) // step * step
    inputs = {name: np.asarray(array[:n]) for name, array in inputs.items()}
    some = {name: array[: max(step, min(n, tapped) // step * step)] for name, array in inputs.items()}
    outputs = {spec.name for spec in pair.floating.outputs}
    known = {*pair.floating.tensors}
    names = [name for name in pair.quantized.tensors if name in known]
    with (
        pair.target.open(pair.floating, pair.float_candidate) as floating,
        pair.target.open(pair.quantized, pair.candidate) as quantized,
    ):
        rows = []  # a board shows no activations
        if names:
            rows = layers.compare(floating, quantized, names, _parts(some, step), ends_of(pair.quantized.path))
        wanted, found = _run(floating, inputs, step), _run(quantized, inputs, step)
        at_lengths: dict[int, float] = {}
        if varying is not None and any(spec.varies for spec in pair.floating.inputs):
            for length in varying.compared:
                cut = varying.cut(some, length)
                at_lengths[length] = _worst_db(_run(floating, cut, step), _run(quantized, cut, step))
        free = pair.quantized.inputs[0].shape[0] is None
        together = quantized.run(some) if free else None
        few = {name: array[:8] for name, array in some.items()}
        alone_db = mixes_at = None
        if together is not None:
            alone_db = _worst_db({name: found[name][: len(array)] for name, array in together.items()}, together)
            if alone_db < BATCH_DB:
                mixes_at = _mixes_at(quantized, names, few)
    if not outputs & set(names):  # a graph whose outputs no quantizer rounds
        rows = [*rows, *_ends(wanted, found, sorted(outputs))]
    judged = pair.output or pair.floating.outputs[0].name
    facts = Facts(
        rows=rows,
        floating=wanted[judged],
        quantized=found[judged],
        claims_int8=pair.candidate.precision == "int8",
        int8_mac_share=shares(pair.target.inspect(pair.quantized, pair.candidate))["int8_mac_share"],
        alone_db=None if alone_db in (None, float("inf")) else alone_db,
        mixes_at=mixes_at,
        classes=classes,
    )
    return Gathered(facts, inputs, wanted, found, at_lengths)


def ends_of(path: Path) -> dict[str, tuple[float, float, float]]:
    """What the codes of a file stand for, where its format can be read: tensor -> lowest, highest, step."""
    try:
        found = encodings.read(path).activations
    except (base.TargetError, CalibrationError):
        return {}
    ends = {}
    for name, one in found.items():
        if len(one.scale) == 1:
            ends[name.removesuffix("_QuantizeLinear_Input")] = (*one.ends[0], one.scale[0])
    return ends


def _parts(batch: Batch, step: int) -> Iterator[Batch]:
    for start in range(0, len(next(iter(batch.values()))), step):
        yield {name: array[start : start + step] for name, array in batch.items()}


def _run(session: base.Session, inputs: Batch, step: int) -> Batch:
    """One by one, or as many at a time as the model's batch is fixed at."""
    rows = [session.run(part) for part in _parts(inputs, step)]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def _worst_db(wanted: Batch, found: Batch) -> float:
    return min(same_db(wanted[name], found[name]) for name in wanted)


def same_db(one: Any, other: Any) -> float:
    """SQNR; minus infinity where either is not finite."""
    return sqnr_db(one, other) if np.isfinite(one).all() and np.isfinite(other).all() else float("-inf")


def _mixes_at(session: base.Session, names: Sequence[str], batch: Batch) -> str | None:
    """The first tensor whose values depend on the other samples."""
    together = session.tap(batch, names)
    alone = [session.tap(part, names) for part in _parts(batch, 1)]
    for name in names:
        if same_db(np.concatenate([row[name] for row in alone]), together[name]) < BATCH_DB:
            return name
    return None


def _ends(wanted: Batch, found: Batch, names: Sequence[str]) -> list[layers.LayerRow]:
    """Rows of the outputs, which no codes stand for."""
    rows = []
    for name in names:
        seen = layers.Seen(None)
        seen.update(wanted[name], found[name])
        rows.append(seen.row(name))
    return rows
