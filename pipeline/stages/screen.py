"""screen: what every candidate says on the selection split. The cheap evidence: nothing is timed yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline import tasks
from pipeline.data import Split, load_named, load_split
from pipeline.stages import Job, faults, measure
from targets import base, registry


def run(job: Job) -> dict[str, Any]:
    """Inputs: data, reference, float, and `candidate:ID` for each. Settings `bound` (confidence, relative): for tasks
    without classes, whose cost of quantization the metric's own bound tells. Metadata `candidates`: a row each, but for
    those of `failed`: id -> why there is no answer of it that could be judged."""
    settings = job.settings
    target = registry.load(settings["target"])
    floating = base.read_manifest(job.inputs["float"])
    entrants = measure.entrants(job, target, floating)
    split = load_split(job.inputs["data"], "selection")
    original = load_named(job.inputs["reference"] / "selection.npz")
    task = tasks.settled(tasks.of(settings, job.user, job.inputs["data"]), original, split.labels)
    with measure.workspace(split, floating) as folder:
        found = faults.answers(target, entrants, folder, settings["batch"], settings)
    answers, failed = found.outputs, found.failed | faults.not_finite(entrants, found.outputs)
    reference = next(entrant.id for entrant in entrants if entrant.candidate.precision == "f32")
    rows = [
        {"id": one.id, **_evidence(settings, task, split, original, answers[reference], answers[one.id])}
        for one in entrants
        if one.id not in failed
    ]
    return {"candidates": rows, "failed": failed, "device": found.result["device"], "n": len(split)}


def _evidence(
    settings: Mapping[str, Any],
    task: tasks.Task,
    split: Split,
    original: base.Batch,
    floating: base.Batch,
    outputs: base.Batch,
) -> dict[str, Any]:
    found = measure.compare(task, split.labels, original, floating, outputs)
    if task.classifies or not found["finite"]:
        return found
    return found | {"quant_bound": measure.bound(task, split.labels, floating, outputs, **settings["bound"])}
