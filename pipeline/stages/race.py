"""race: every candidate of a target on the selection split, and timed interleaved with that runtime's own float.

Only measures. Which candidate ships follows from these figures alone (pipeline/release/choose.py), so a stored race
makes everything after it deterministic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline import tasks
from pipeline.data import Split, load_named, load_split
from pipeline.stages import Job, measure
from targets import base, registry, timing


def run(job: Job) -> dict[str, Any]:
    """Inputs: data, reference, float, and `candidate:ID` for each. Settings `bound` (confidence, relative): for tasks
    without classes, whose cost of quantization the metric's own bound tells. Files: `samples.npz` (raw, ns, int64)."""
    settings = job.settings
    target = registry.load(settings["target"])
    floating = base.read_manifest(job.inputs["float"])
    entrants = [
        measure.Entrant(
            identifier,
            base.read_manifest(job.inputs[f"candidate:{identifier}"]),
            base.find(target, floating, identifier),
        )
        for identifier in settings["candidates"]
    ]
    split = load_split(job.inputs["data"], "selection")
    original = load_named(job.inputs["reference"] / "selection.npz")
    task = tasks.of(settings, job.user)
    with measure.workspace(split, floating) as folder:
        answers, _ = measure.outputs(target, entrants, folder, settings["batch"], settings)
        timed = measure.time(target, entrants, folder, job)
    raw, counted = timed.ns, measure.counts(timed.result)
    reference = next(entrant.id for entrant in entrants if entrant.candidate.precision == "f32")
    rows = [
        {
            "id": entrant.id,
            **_evidence(settings, task, split, original, answers[reference], answers[entrant.id]),
            "latency_ms": timing.latency(raw[entrant.id]) if entrant.id in raw else None,
            "speedup": timing.speedup(raw[entrant.id], raw[reference], timed.rounds) if entrant.id in raw else None,
            "board": counted.get(entrant.id),
        }
        for entrant in entrants
    ]
    return {"candidates": rows, "device": timed.result["device"], "models": timed.result["models"], "n": len(split)}


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
