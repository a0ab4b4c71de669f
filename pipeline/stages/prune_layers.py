"""prune, whole layers: the residual blocks that matter least go until the stop holds."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from pipeline.errors import UsageError
from pipeline.stages import Job


def run(job: Job) -> dict[str, Any]:
    """Inputs and files as for `prune`.

    Settings: a stop (compression.stops.STOPS), criterion (a key of compression.blocks.SCORES), samples; schedule
    "greedy" scores again after each block, the others once. Metadata: as for `prune`; layers [{name, before, after}]
    with 1 and 0 or 1 of each block. Raises UsageError when the stop cannot hold and for a criterion that has no score
    for a block.
    """
    from pipeline import models, tasks
    from pipeline.compression import blocks, macs, sizes, stops, structure, training
    from pipeline.compression.sight import of_job
    from pipeline.data import load_split
    from pipeline.stages import prune_measured

    settings = job.settings
    name = settings["criterion"]
    if name not in blocks.SCORES:
        raise UsageError(
            f"prune.criterion = '{name}' has no score for a whole layer: take one of {', '.join(blocks.SCORES)}"
        )
    stop = stops.of(settings)
    with training.deterministic(job.seed), ExitStack() as stack:
        example = training.tensors(load_split(job.inputs["data"], "train").inputs, slice(0, 2))
        floating = models.load(job.user, job.inputs["float"])
        original = macs.count(floating, example).macs
        model = models.load(job.user, job.inputs["model"])
        found, kept = blocks.find(model, example)
        greedy = settings.get("schedule") == "greedy"
        asked = (of_job(job, model, []), example)
        if stop.name in stops.COUNTED:
            value = sizes.of(stop.name, example)
            limit = stop.limit(value(floating))
        else:
            judge = prune_measured.judge(job, stop, floating, stack)
            value, limit = judge.of, stop.limit(judge.whole)
        try:
            take = blocks.spare if stop.name == "drop" else blocks.choose
            gone, rounds = take(*asked, limit, name, greedy, value)
        except ValueError as error:
            whole = "; ".join(f"'{one.name}': {one.reason}" for one in kept)
            raise UsageError(f"{stop.says()} cannot be met by whole layers: {error}. These stay: {whole}") from error
        if not gone and stop.name == "drop":
            raise UsageError(f"{stop.says()} cannot be met by whole layers: without any one of them more is lost")
        edits = blocks.edits_for(one for one in found if one in gone)
        structure.apply(model, edits)
        steps = [*models.edits_of(job.inputs["model"]), edits]
        models.save(model, steps, job.out, *models.kept_of(job.inputs["model"]))
        return {
            **training.facts(model, job.inputs["data"], task=tasks.of(settings, job.user, job.inputs["data"])),
            "float_macs": original,
            "macs_share": round(macs.count(model, example).macs / original, 6),
            "stop": {"name": stop.name, "limit": limit, "reached": value(model)},
            "rounds": rounds,
            "layers": [{"name": one, "before": 1, "after": int(one not in gone)} for one in found],
            "kept": [{"name": one.name, "width": one.width, "reason": one.reason} for one in kept],
        }
