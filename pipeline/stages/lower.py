"""lower: the exported program becomes a float graph in the target's own format, and must still say the same."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from calibration.metrics import sqnr_db, worst_error
from pipeline import lengths
from pipeline.data import load_named, load_split
from pipeline.errors import StageError
from pipeline.stages import Job, blame
from pipeline.stages.export import read_program
from targets import base, registry

AT_A_LENGTH = 8  # samples that are compared at each length
PARITY_DB = 60.0  # float kernels that add in another order stay above 100; a wrong layout or op falls far below


def run(job: Job) -> dict[str, Any]:
    """Inputs: program, expected (the pt2 program), data. Files: the float model and its manifest.

    Raises StageError when an output of the runtime's float differs from PyTorch's by more than float noise.
    """
    target = registry.load(job.settings["target"])
    model = base.write_manifest(_lowered(target, job))
    candidates = target.candidates(model)
    expected = load_named(job.inputs["expected"] / "expected.npz")
    samples = len(next(iter(expected.values())))
    actual = _run(target, model, candidates[0], job.inputs["data"], samples)
    found = {name: _parity(expected[name], actual[name]) for name in expected}
    worst, parity = min(found.items(), key=lambda item: item[1])
    if parity < PARITY_DB:
        raise StageError(
            f"{target.name}: its float graph differs from PyTorch: '{worst}' by {parity:.1f} dB on {samples} "
            f"calibration samples, expected at least {PARITY_DB:g}: {_wrong_op(target, job)} is lowered wrongly; write "
            f"it otherwise, or try another version of {', '.join(target.packages)}"
        )
    shorter = _lengths(target, model, candidates[0], job.inputs)
    return {
        **shorter,
        "size_bytes": model.size_bytes,
        "weight_bytes": target.weight_bytes(model),
        "sha256": model.sha256,
        "tensors": len(model.tensors),
        "free_batch": model.inputs[0].shape[0] is None,
        "parity_db": round(parity, 2) if np.isfinite(parity) else None,
        "worst_error": max(worst_error(expected[name], actual[name]) for name in expected),
        "candidates": [asdict(candidate) for candidate in candidates],
    }


def _lowered(target: base.Target, job: Job) -> base.Model:
    """The float model. Raises TargetError, naming an op: where the converter names none, the one that is found."""
    try:
        return target.lower(read_program(job.inputs["program"]), job.out)
    except base.TargetError as error:
        if ".py:" in str(error) or error.kind == "missing":
            raise
        op = _looked_for(lambda folder: blame.refused(target, read_program(job.inputs["expected"]), folder), job)
        raise base.TargetError(f"{error}: it ends at {op}" if op else str(error), error.kind) from error


def _wrong_op(target: base.Target, job: Job) -> str:
    inputs = {name: np.array(array[: blame.SAMPLES]) for name, array in _calibration(job).items()}
    source = read_program(job.inputs["expected"])
    return _looked_for(lambda folder: blame.wrong(target, source, inputs, folder, PARITY_DB), job) or "an op"


def _calibration(job: Job) -> Mapping[str, Any]:
    return load_split(job.inputs["data"], "calibration").inputs


def _looked_for(search: Callable[[Path], str], job: Job) -> str:
    """What a search in a `.pt2` program finds; empty where it breaks too: the fault itself is what is told."""
    if read_program(job.inputs["expected"]).kind != "pt2":
        return ""
    with tempfile.TemporaryDirectory(prefix="deploy-") as folder, contextlib.suppress(Exception):
        return search(Path(folder))
    return ""


def _lengths(
    target: base.Target, model: base.Model, candidate: base.Candidate, inputs: Mapping[str, Path]
) -> dict[str, Any]:
    """Where a length varies: parity with the program at both bounds and between, {"lengths": {length: dB}}.

    Raises StageError where they differ by more than float noise.
    """
    varying = lengths.load(inputs["data"])
    if varying is None or all(spec.varies is None for spec in model.inputs):
        return {}
    import torch

    from pipeline import interface

    torch.set_num_threads(1)
    source = read_program(inputs["expected"])
    program: Any = torch.export.load(source.path).module(check_guards=False)
    samples = {name: np.array(array[:AT_A_LENGTH]) for name, array in load_split(inputs["data"], "gate").inputs.items()}
    found: dict[int, float | None] = {}
    with target.open(model, candidate) as session:
        for length in varying.compared:
            batch = varying.cut(samples, length)
            with torch.no_grad():
                told = interface.by_name(program(*(torch.from_numpy(array) for array in batch.values())))
            actual = session.run(batch)
            rows = zip(source.outputs, told.values(), strict=True)
            apart = min(_parity(one.float().numpy(), actual[spec.name]) for spec, one in rows)
            if apart < PARITY_DB:
                raise StageError(
                    f"{target.name}: at a length of {length} its float graph differs from PyTorch by {apart:.1f} dB, "
                    f"expected at least {PARITY_DB:g}: a size was written into the graph; compute it from the input's "
                    "shape, or raise the lower bound"
                )
            found[length] = round(apart, 2) if np.isfinite(apart) else None
    return {"lengths": found}


def _parity(expected: Any, actual: Any) -> float:
    return sqnr_db(expected, actual) if np.isfinite(actual).all() else float("-inf")


def _run(target: base.Target, model: base.Model, candidate: base.Candidate, data: Path, samples: int) -> base.Batch:
    split = load_split(data, "calibration")
    step = model.inputs[0].shape[0] or samples
    rows = []
    with target.open(model, candidate) as session:
        for start in range(0, samples, step):
            batch = {name: np.asarray(array[start : start + step]) for name, array in split.inputs.items()}
            rows.append(session.run(batch))
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
