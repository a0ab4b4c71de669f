"""observe: one calibration set through the target's own float graph, one sample batch at a time."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from calibration.statistics import KINDS, Statistics
from pipeline.data import load_split
from pipeline.stages import Job
from targets import base, registry
from targets.session import tap_ahead


def run(job: Job) -> dict[str, Any]:
    """Inputs: float, data. Files: `statistics.npz`. Memory does not grow with the number of samples.

    Setting `kind`: the class of observers, the least that the recipe's rules need.

    Metadata `absurd`: tensor -> how many values beyond +-1e30 (masks) were left out of its range; `constant`: tensors
    that had one value for everything.
    """
    target = registry.load(job.settings["target"])
    model = base.read_manifest(job.inputs["float"])
    split = load_split(job.inputs["data"], "calibration")
    samples = min(job.settings["samples"], len(split))
    floating = next(c for c in target.candidates(model) if c.precision == "f32")
    statistics = Statistics(model.sha256, kind=KINDS[job.settings["kind"]])
    began = time.perf_counter()
    step = model.inputs[0].shape[0] or 1  # a fixed batch is fed as it is; a free one sample by sample
    starts = range(0, samples - step + 1, step)
    batches = ({name: np.asarray(a[start : start + step]) for name, a in split.inputs.items()} for start in starts)
    with target.open(model, floating) as session:
        for start, seen in zip(starts, tap_ahead(session, batches, model.tensors), strict=True):
            statistics.update(seen)
            left_s = (time.perf_counter() - began) / (start + step) * (samples - start - step)
            job.emit({"event": "progress", "done": start + step, "total": samples, "left_s": left_s})
    statistics.save(job.out / "statistics.npz")
    constant = sorted(name for name, seen in statistics.tensors.items() if seen.n > 1 and seen.lo == seen.hi)
    return {"samples": samples, "tensors": len(model.tensors), "absurd": statistics.absurd, "constant": constant}
