"""shapes: which layers of a network a target's kernels should be timed on before its widths are chosen."""

from __future__ import annotations

from typing import Any

from pipeline.stages import Job


def run(job: Job) -> dict[str, Any]:
    """Inputs: model, data. Settings: granularity. Metadata: shapes (compression.shapes.Shape), groups: name -> index
    in shapes, None where nothing is timed for it. No files.
    """
    from pipeline import models
    from pipeline.compression import macs, shapes, training, units
    from pipeline.data import load_split

    with training.deterministic(job.seed):
        example = training.tensors(load_split(job.inputs["data"], "train").inputs, slice(0, 2))
        model = models.load(job.user, job.inputs["model"])
        units.prepare(job.settings["granularity"], model, example)
        layers = macs.count(model, example).layers
        groups, _ = units.groups(job.settings["granularity"], model, example)
        seen = shapes.outputs_of(model, layers, lambda: model(*example))
        found = shapes.of_groups(model, groups, layers, seen)
    timed = shapes.chosen(found)
    nearest = [shapes.nearest(one, timed) if one is not None else None for one in found]
    return {
        "shapes": [shapes.record(one) for one in timed],
        "groups": {
            group.name: timed.index(one) if one is not None else None
            for group, one in zip(groups, nearest, strict=True)
        },
    }
