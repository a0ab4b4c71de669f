"""lower: the exported program becomes a float graph in the target's own format."""

from __future__ import annotations

from typing import Any

from pipeline.stages import Job
from pipeline.stages.export import read_program
from targets import base, registry


def run(job: Job) -> dict[str, Any]:
    """Inputs: program. Files: the float model and its manifest."""
    target = registry.load(job.settings["target"])
    model = target.lower(read_program(job.inputs["program"]), job.out)
    base.write_manifest(model)
    return {
        "size_bytes": model.size_bytes,
        "weight_bytes": target.weight_bytes(model),
        "sha256": model.sha256,
        "tensors": len(model.tensors),
        "free_batch": model.inputs[0].shape[0] is None,
        "candidates": [
            {"id": c.id, "precision": c.precision, "quantizer": c.quantizer} for c in target.candidates(model)
        ],
    }
