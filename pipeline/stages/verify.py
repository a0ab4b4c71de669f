"""verify: what ships, on the gate split, at the deployment batch and at a large one."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.data import load_split
from pipeline.stages import Job, measure
from targets import base, registry


def run(job: Job) -> dict[str, Any]:
    """Inputs: data, reference, float, shipped. Metadata: `runs`, one a batch, and the digest that was verified."""
    settings = job.settings
    target = registry.load(settings["target"])
    floating = base.read_manifest(job.inputs["float"])
    shipped = base.read_manifest(job.inputs["shipped"])
    entrants = [
        measure.Entrant("float", floating, next(c for c in target.candidates(floating) if c.precision == "f32")),
        measure.Entrant("shipped", shipped, base.find(target, floating, settings["candidate"])),
    ]
    split = load_split(job.inputs["data"], "gate")
    original = np.load(job.inputs["reference"] / "gate.npy")
    runs = []
    with measure.workspace(split, floating) as folder:
        for batch in settings["batches"]:
            logits, result = measure.outputs(target, entrants, folder, batch, settings["threads"])
            evidence = measure.compare(split.labels, original, logits["float"], logits["shipped"])
            model = result["models"]["shipped"]
            runs.append(
                {
                    "device": result["device"],
                    "runtime": model["runtime"],
                    "runtime_version": model["runtime_version"],
                    "precision": model["precision"],
                    "batch": batch,
                    **evidence,
                    "groups": _by_group(split, logits["shipped"]),
                }
            )
    return {"runs": runs, "sha256": shipped.sha256, "n": len(split)}


def _by_group(split: Any, logits: Any) -> dict[str, float]:
    if split.groups is None:
        return {}
    right = logits.argmax(axis=1) == split.labels
    return {str(group): round(float(right[split.groups == group].mean()), 6) for group in np.unique(split.groups)}
