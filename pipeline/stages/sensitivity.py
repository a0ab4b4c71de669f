"""sensitivity: the metric against the share that each layer loses, one layer at a time."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline.errors import StageError, UsageError
from pipeline.stages import Job

if TYPE_CHECKING:
    from torch import nn


def run(job: Job) -> dict[str, Any]:
    """Inputs: model, data. Settings: granularity, criterion, samples as for `prune`; ratios (shares that go, 0..1).

    Metadata: metric of the whole network (selection), rows [{name, width, points [{ratio, kept, metric}]}], kept
    [{name, width, reason}] for what cannot be cut. No files. Raises UsageError where a criterion has no score for the
    granularity, or nothing can be cut.
    """
    from pipeline import models, tasks
    from pipeline.compression import blocks, masks, sensitivity, training, units
    from pipeline.compression.sight import of_job
    from pipeline.compression.structure import Kept
    from pipeline.data import load_split

    settings = job.settings
    kinds, criterion, ratios = settings["granularity"], settings["criterion"], settings["ratios"]
    known = {"weight": list(masks.SCORES), "layer": list(blocks.SCORES)}.get(kinds[0])
    if kinds == ["n:m"]:
        raise UsageError("sensitivity: 'n:m' has one ratio for every layer; use granularity = 'weight'")
    if known is not None and criterion not in known:
        raise UsageError(
            f"prune.criterion = '{criterion}' has no score for granularity '{kinds[0]}': one of {', '.join(known)} has"
        )
    selection, task = load_split(job.inputs["data"], "selection"), tasks.of(settings, job.user, job.inputs["data"])

    def judge(model: nn.Module) -> float:
        metric, _ = training.evaluate(model, selection, task)
        if not math.isfinite(metric):
            raise StageError("sensitivity: a network with units taken out gives outputs that are not finite")
        return tasks.figure(task, metric)

    with training.deterministic(job.seed):
        example = training.tensors(load_split(job.inputs["data"], "train").inputs, slice(0, 2))
        model = models.load(job.user, job.inputs["model"])
        sight, kept = of_job(job, model, []), list[Kept]()
        if kinds == ["weight"]:
            going = sensitivity.of_weights(sight, criterion, ratios, judge)
            total = len(masks.prunable(model))
        elif kinds == ["layer"]:
            found, kept = blocks.find(model, example)
            going, total = sensitivity.of_layers(sight, example, judge), len(found)
        else:
            units.prepare(kinds, model, example)
            groups, kept = units.groups(kinds, model, example)
            going = sensitivity.of_groups(replace(sight, groups=groups), criterion, ratios, judge)
            total = len(groups)
        if not total:
            why = "; ".join(f"'{one.name}': {one.reason}" for one in kept) or "it has no such layer"
            raise UsageError(f"sensitivity: nothing of the network can be cut as {', '.join(kinds)}: {why}")
        rows = []
        for row in going:
            rows.append(row)
            job.emit({"event": "progress", "done": len(rows), "total": total})
    told = [{"name": one.name, "width": one.width, "reason": one.reason} for one in kept]
    return {"metric": judge(model), "higher": tasks.higher(task), "rows": rows, "kept": told}
