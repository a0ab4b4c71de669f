"""verify: what ships, on the gate split, at the deployment batch and at a large one."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from pipeline import lengths, tasks
from pipeline.artifact import sha256_file
from pipeline.data import Split, load_named, load_split
from pipeline.errors import UsageError
from pipeline.release import samples
from pipeline.stages import Job, faults, measure
from pipeline.stages.reference import at_length, by_group
from targets import base, registry


def run(job: Job) -> dict[str, Any]:
    """Inputs: data, reference, float, shipped. Metadata: `runs`, one a batch, and the digest that was verified;
    `lengths`: one run more for each length below the greatest, at the first batch, where the setting `lengths` says
    "free"; `failed`: why what was to ship does not run at one of them, and there are no runs, else None.

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
    task = tasks.settled(tasks.of(settings, job.user, job.inputs["data"]), original, split.labels)
    told = {"runs": [], "lengths": [], "sha256": shipped.sha256, "n": len(split)}
    try:
        runs = _runs(job, target, entrants, split, original, task, settings["batches"])
        shorter = _shorter(job, target, entrants, split, task)
    except _CannotRunError as fault:
        return {**told, "failed": str(fault)}
    return {**told, "runs": runs, "lengths": shorter, "failed": None}


class _CannotRunError(Exception):
    """What was to ship does not run."""


def _shorter(
    job: Job, target: base.Target, entrants: Sequence[measure.Entrant], split: Split, task: tasks.Task
) -> list[dict[str, Any]]:
    """One run more for each length below the greatest, where lengths are free."""
    settings, shorter = job.settings, []
    varying = lengths.load(job.inputs["data"]) if settings.get("lengths") == "free" else None
    if varying:
        for length in varying.compared[:-1]:
            answers = load_named(job.inputs["reference"] / f"{at_length('gate', length)}.npz")
            part = varying.shortened(split, length)
            rows = _runs(job, target, entrants, part, answers, task, settings["batches"][:1], length)
            shorter += [{**row, "length": length} for row in rows]
    return shorter


def _runs(
    job: Job,
    target: base.Target,
    entrants: Sequence[measure.Entrant],
    split: Split,
    original: base.Batch,
    task: tasks.Task,
    batches: Sequence[int],
    length: int | None = None,
) -> list[dict[str, Any]]:
    """What ships and the runtime's own float over the split, once a batch."""
    settings, runs = job.settings, []
    with measure.workspace(split, entrants[0].model) as folder:
        for batch in batches:
            found = faults.answers(target, entrants, folder, batch, settings)
            answers, result = found.outputs, found.result
            if found.failed:
                raise _CannotRunError(f"at batch {batch}: {found.failed['shipped']}")
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
                    **_kept(split, original, answers["shipped"], evidence, task, job, samples.file_name(batch, length)),
                }
            )
    return runs


def _kept(
    split: Any,
    original: base.Batch,
    shipped: base.Batch,
    evidence: dict[str, Any],
    task: tasks.Task,
    job: Job,
    file_name: str,
) -> dict[str, Any]:
    """Per-sample evidence as a file, its digest, and the flips of each slice."""
    if not evidence["finite"]:
        return {"slices": {}, "samples_sha256": None}
    names = json.loads((job.inputs["data"] / "declared.json").read_text())["labels"]
    answers = None
    if evidence["flips"] is not None:
        answers = samples.from_logits(
            split.labels, measure.judged(task, original), measure.judged(task, shipped), names
        )
    more = [tasks.Task(name, folder=task.folder) for name in job.settings.get("scores", ()) if name != task.metric]
    own = [score for one in more for score in tasks.own(one)]
    try:
        found = tasks.kept(task, original, shipped, split.labels, *own)
    except ValueError as error:
        raise UsageError(f"gate: {error}") from error
    kept = samples.Samples(len(split), answers, found, split.groups, split.tags, task.output)
    file = job.out / file_name
    kept.save(file)
    return {"slices": samples.slices(kept), "samples_sha256": sha256_file(file)}
