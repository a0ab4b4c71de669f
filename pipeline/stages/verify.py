"""verify: what ships, on the gate split, at the deployment batch and at a large one."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from pipeline.artifact import sha256_file
from pipeline.data import load_split, share_by_group
from pipeline.release import samples
from pipeline.stages import Job, measure
from targets import base, registry


def run(job: Job) -> dict[str, Any]:
    """Inputs: data, reference, float, shipped. Metadata: `runs`, one a batch, and the digest that was verified.

    Files: `samples-BATCH.npz`, what became of each sample (pipeline/release/samples.py), where outputs are finite.
    """
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
            logits, result = measure.outputs(target, entrants, folder, batch, settings)
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
                    "groups": share_by_group(split, logits["shipped"].argmax(axis=1) == split.labels),
                    **_kept(split, original, logits["shipped"], evidence["finite"], job, batch),
                }
            )
    return {"runs": runs, "sha256": shipped.sha256, "n": len(split)}


def _kept(split: Any, original: Any, logits: Any, finite: bool, job: Job, batch: int) -> dict[str, Any]:
    """Per-sample evidence as a file, its digest, and the flips of each slice."""
    if not finite:
        return {"slices": {}, "samples_sha256": None}
    kept = samples.from_logits(split.labels, original, logits, split.groups)
    file = job.out / samples.file_name(batch)
    kept.save(file)
    names = json.loads((job.inputs["data"] / "declared.json").read_text())["labels"]
    return {"slices": samples.slices(kept, names), "samples_sha256": sha256_file(file)}
