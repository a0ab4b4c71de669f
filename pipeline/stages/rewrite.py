"""rewrite: the network computes in another way what a target lacks, before the rest of its training."""

from __future__ import annotations

import math
from typing import Any

from pipeline.stages import Job


def run(job: Job) -> dict[str, Any]:
    """Inputs: model, data. Files: a model folder.

    Settings: passes (keys of rewrites.PASSES). Metadata: metric and loss of the rewritten model (selection),
    metric_before, params, macs, calls (pass -> calls rewritten). Raises UsageError for a pass that changes nothing.
    """
    from pipeline import interface, models, rewrites, tasks
    from pipeline.compression import training
    from pipeline.data import load_split

    task, passes = tasks.of(job.settings, job.user, job.inputs["data"]), job.settings["passes"]
    selection = load_split(job.inputs["data"], "selection")
    with training.deterministic(job.seed):
        model = models.load(job.user, job.inputs["model"])
        before, _ = training.evaluate(model, selection, task)
        with rewrites.Rewriting(passes) as mode:
            model(*training.tensors(selection.inputs, slice(0, 2)))
        rewrites.check(mode)
        interface.rewrite(model, passes)
        models.save(model, models.edits_of(job.inputs["model"]), job.out, *models.kept_of(job.inputs["model"]))
        facts = training.facts(model, job.inputs["data"], task=task)
        told = tasks.figure(task, before) if math.isfinite(before) else None
        return {**facts, "metric_before": told, "calls": dict(mode.done)}
