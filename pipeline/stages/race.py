"""race: every candidate of a target on the selection split, and timed interleaved with that runtime's own float.

Only measures. Which candidate ships follows from these figures alone (pipeline/release/choose.py), so a stored race
makes everything after it deterministic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from pipeline import tasks
from pipeline.data import Split, load_named, load_split
from pipeline.release import metrics, samples, scores
from pipeline.stages import Job, measure
from targets import base, registry, timing


def run(job: Job) -> dict[str, Any]:
    """Inputs: data, reference, float, and `candidate:ID` for each. Files: `samples.npz` (raw, ns, int64)."""
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
        raw, timed = measure.time(target, entrants, folder, job)
    reference = next(entrant.id for entrant in entrants if entrant.candidate.precision == "f32")
    rows = [
        {
            "id": entrant.id,
            **measure.compare(task, split.labels, original, answers[reference], answers[entrant.id]),
            **_loss(settings, task, split, answers[reference], answers[entrant.id]),
            "latency_ms": timing.latency(raw[entrant.id]),
            "speedup": timing.speedup(raw[entrant.id], raw[reference]),
        }
        for entrant in entrants
    ]
    return {"candidates": rows, "device": timed["device"], "models": timed["models"], "n": len(split)}


def _loss(
    settings: Mapping[str, Any], task: tasks.Task, split: Split, floating: base.Batch, outputs: base.Batch
) -> dict[str, Any]:
    """`quant_loss`: what the task's metric lost by quantization, with bounds; only where flips do not decide."""
    if "confidence" not in settings:
        return {}
    if any(not np.isfinite(outputs[name]).all() for name in floating):
        return {"quant_loss": None}  # `finite` says why
    answers = None
    if task.classifies:
        answers = samples.from_logits(split.labels, measure.first(floating), measure.first(outputs))
    kept = scores.keep(split.labels, floating, outputs, tasks.own(task.metric, task.folder))
    seen = samples.Samples(len(split), answers, kept, split.groups)
    found = metrics.measure(task.metric, seen, settings["confidence"], settings["relative"])
    return {"quant_loss": asdict(found)}
