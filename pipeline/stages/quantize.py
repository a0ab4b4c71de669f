"""quantize: one candidate of one target, checked on the runtime's own compiled graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calibration import encodings
from calibration.encodings import Encoding
from calibration.errors import CalibrationError
from calibration.qparams import Ranges
from calibration.schemes import SCHEMES, Scheme
from calibration.statistics import Statistics, solve
from pipeline import lengths
from pipeline.data import load_split
from pipeline.errors import UsageError
from pipeline.explain import sensitivity
from pipeline.stages import Job, faithful
from targets import base, codes, registry


def run(job: Job) -> dict[str, Any]:
    """Inputs: float, data, and for a candidate of ours statistics. Files: the model and its manifest.

    A float candidate is the float model itself, inspected like every other. `weights` among the settings says which
    weight step the float model has had, and goes into the metadata; so do the names of tensors with `encodings`.
    """
    target = registry.load(job.settings["target"])
    floating = base.read_manifest(job.inputs["float"])
    candidate = base.find(target, floating, job.settings["candidate"])
    model = floating if candidate.quantizer == "none" else maker(job).make((), job.out)
    ops = target.inspect(model, candidate)
    if apart := _differs(job, target, floating, model, candidate):
        job.emit({"event": "note", "message": f"{target.name}/{candidate.id}: {apart}"})
    return {
        "differs": apart,
        "candidate": candidate.id,
        "quantizer": candidate.quantizer,
        "scheme": candidate.scheme,
        "observer": candidate.observer,
        "weights": job.settings["weights"],
        "edited": sorted(job.settings.get("encodings", ())),
        "kept": list(job.settings.get("keep", ())),
        "precision": candidate.precision,
        "size_bytes": model.size_bytes,
        "weight_bytes": target.weight_bytes(model),
        "sha256": model.sha256,
        "half_range": codes.half_range(codes.read(model.path)) if candidate.precision == "int8" else [],
        **shares(ops),
    }


def _differs(job: Job, target: base.Target, floating: base.Model, model: base.Model, candidate: base.Candidate) -> str:
    """See faithful.differs, on a few calibration samples."""
    step = floating.inputs[0].shape[0] or LOOKED_AT
    inputs = load_split(job.inputs["data"], "calibration").inputs
    return faithful.differs(
        target, floating, model, candidate, {name: np.array(array[:step]) for name, array in inputs.items()}
    )


LOOKED_AT = 8  # calibration samples on which a compiled graph is compared with its file


def maker(job: Job) -> sensitivity.Maker:
    """How the job's candidate is made, to be made again with layers left in float. Inputs and settings as in `run`."""
    target, floating = registry.load(job.settings["target"]), base.read_manifest(job.inputs["float"])
    candidate, ranges = base.find(target, floating, job.settings["candidate"]), None
    candidate = base.keeping(candidate, job.settings.get("keep", ()))
    if candidate.quantizer == "ours":
        assert candidate.scheme is not None
        assert candidate.observer is not None
        ranges = _ranges(job, SCHEMES[candidate.scheme], candidate.observer)
    data, samples = job.inputs["data"], job.settings["samples"]
    return sensitivity.Maker(target, floating, candidate, ranges, lambda: calibration_batches(data, samples, floating))


def _ranges(job: Job, scheme: Scheme, observer: str) -> Ranges:
    """What the observer makes of the statistics, with the ranges of the user's own encodings in their place."""
    statistics = Statistics.load(job.inputs["statistics"] / "statistics.npz")
    edited = job.settings.get("encodings")
    if edited is None:
        return solve(statistics, scheme, observer)
    given = {name: Encoding(**row) for name, row in edited.items()}
    try:
        return encodings.apply(solve(statistics, scheme, job.settings["observer"]), given, scheme.activation)
    except CalibrationError as error:
        raise UsageError(f"{job.settings['target']}: encodings: {error}") from error


FLOATS = ("f32", "f16", "bf16")
INTEGERS = ("int8", "int16")
# Ops that move or convert numbers and compute nothing: in float they are no island.
PASSIVE = frozenset({"reshape", "transpose", "reorder", "convert", "quantize", "dequantize"})
PASSIVE |= {"quantizelinear", "dequantizelinear"}


def shares(ops: Sequence[base.OpInfo]) -> dict[str, Any]:
    """int8 share by MACs and by count over the ops that the capability table calls int8; the float islands by name.

    Activations of 16 bits on weights of 8 count as int8.
    """
    capable = [op for op in ops if op.int8_capable]
    macs = sum(op.macs for op in ops)
    return {
        "int8_mac_share": round(sum(op.macs for op in ops if op.precision in INTEGERS) / macs, 4) if macs else None,
        "int8_op_share": round(sum(op.precision in INTEGERS for op in capable) / len(capable), 4) if capable else None,
        "float_ops": [
            f"{op.type} {op.name} ({op.precision})"
            for op in ops
            if op.precision in FLOATS and (op.int8_capable or op.type.lower() not in PASSIVE)
        ],
        "precisions": {
            precision: sum(op.precision == precision for op in ops)
            for precision in sorted({op.precision for op in ops})
        },
    }


def calibration_batches(folder: Path, samples: int, model: base.Model) -> Iterator[base.Batch]:
    """The first `samples` of the calibration split: a fixed batch at a time, or one by one where it is free.

    Where the model takes any length, they are cut to the lengths that are compared, in turn, the greatest first: ranges
    of one length alone do not fit the others.
    """
    split, varying = load_split(folder, "calibration"), None
    if any(spec.varies for spec in model.inputs):
        varying = lengths.load(folder)
    step = model.inputs[0].shape[0] or 1
    for number, start in enumerate(range(0, min(samples, len(split)) - step + 1, step), 1):
        batch = {name: np.asarray(array[start : start + step]) for name, array in split.inputs.items()}
        yield varying.cut(batch, varying.compared[-number % len(varying.compared)]) if varying else batch
