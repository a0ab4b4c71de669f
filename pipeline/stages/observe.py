"""observe: one calibration set through the target's own float graph, one sample batch at a time."""

from __future__ import annotations

import time
from typing import Any

from calibration.channels import KINDS
from calibration.observers import Samples
from calibration.statistics import Statistics
from pipeline.data import load_split
from pipeline.stages import Job
from pipeline.stages.quantize import calibration_batches
from targets import base, registry
from targets.session import tap_ahead


def run(job: Job) -> dict[str, Any]:
    """Inputs: float, data. Files: `statistics.npz`. Memory does not grow with the number of samples.

    Setting `kind`: the class of observers, the least that the recipe's rules need; without one, for every rule.

    Metadata `absurd`: tensor -> how many values beyond +-1e30 (masks) were left out of its range; `constant`: tensors
    that had one value for everything.
    """
    target = registry.load(job.settings["target"])
    model = base.read_manifest(job.inputs["float"])
    samples = min(job.settings["samples"], len(load_split(job.inputs["data"], "calibration")))
    floating = next(c for c in target.candidates(model) if c.precision == "f32")
    statistics = Statistics(model.sha256, kind=KINDS[job.settings.get("kind", Samples.__name__)])
    began = time.perf_counter()
    step = model.inputs[0].shape[0] or 1
    batches = calibration_batches(job.inputs["data"], samples, model)
    with target.open(model, floating) as session:
        for done, seen in enumerate(tap_ahead(session, batches, model.tensors), 1):
            statistics.update(seen)
            job.emit(
                {
                    "event": "progress",
                    "done": done * step,
                    "total": samples,
                    "left_s": (time.perf_counter() - began) / done * (samples / step - done),
                }
            )
    statistics.save(job.out / "statistics.npz")
    constant = sorted(name for name, seen in statistics.tensors.items() if seen.n > 1 and seen.lo == seen.hi)
    return {"samples": samples, "tensors": len(model.tensors), "absurd": statistics.absurd, "constant": constant}
