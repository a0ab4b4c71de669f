"""verify: what ships, on the gate split, at the deployment batch and at a large one."""

from __future__ import annotations

import json
import time
from typing import Any

from pipeline import tasks
from pipeline.artifact import sha256_file
from pipeline.data import load_named, load_split
from pipeline.errors import UsageError
from pipeline.release import samples, scores
from pipeline.stages import Job, measure
from pipeline.stages.reference import by_group
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
    original = load_named(job.inputs["reference"] / "gate.npz")
    task = tasks.of(settings, job.user)
    runs = []
    with measure.workspace(split, floating) as folder:
        for batch in settings["batches"]:
            answers, result = measure.outputs(target, entrants, folder, batch, settings)
            evidence = measure.compare(task, split.labels, original, answers["float"], answers["shipped"])
            model = result["models"]["shipped"]
            runs.append(
                {
                    "device": result["device"],
                    "runtime": model["runtime"],
                    "runtime_version": model["runtime_version"],
                    "precision": model["precision"],
                    "batch": batch,
                    "measured_at": round(time.time(), 3),
                    **evidence,
                    "groups": by_group(task, split, answers["shipped"]),
                    **_kept(split, original, answers["shipped"], evidence, task, job, batch),
                }
            )
    return {"runs": runs, "sha256": shipped.sha256, "n": len(split)}


def _kept(
    split: Any,
    original: base.Batch,
    shipped: base.Batch,
    evidence: dict[str, Any],
    task: tasks.Task,
    job: Job,
    batch: int,
) -> dict[str, Any]:
    """Per-sample evidence as a file, its digest, and the flips of each slice."""
    if not evidence["finite"]:
        return {"slices": {}, "samples_sha256": None}
    names = json.loads((job.inputs["data"] / "declared.json").read_text())["labels"]
    answers = None
    if evidence["flips"] is not None:
        answers = samples.from_logits(split.labels, measure.first(original), measure.first(shipped), names)
    wanted = [
        tasks.Task(name, folder=task.folder) for name in dict.fromkeys([task.metric, *job.settings.get("scores", ())])
    ]
    own = tuple(score for one in wanted for score in tasks.own(one))
    try:
        found = scores.keep(tasks.fitted(original, split.labels), original, shipped, own)
    except ValueError as error:
        raise UsageError(f"gate: {error}") from error
    kept = samples.Samples(len(split), answers, found, split.groups, split.tags)
    file = job.out / samples.file_name(batch)
    kept.save(file)
    return {"slices": samples.slices(kept), "samples_sha256": sha256_file(file)}
