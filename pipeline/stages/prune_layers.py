"""prune, whole layers: the residual blocks that matter least go until a MACs budget is met."""

from __future__ import annotations

from typing import Any

from pipeline.errors import UsageError
from pipeline.stages import Job


def run(job: Job) -> dict[str, Any]:
    """Inputs and files as for `prune`.

    Settings: macs, criterion (a key of compression.blocks.SCORES), samples; schedule "greedy" scores again after each
    block, the others once. Metadata: as for `prune`; layers [{name, before, after}] with 1 and 0 or 1 of each block.
    Raises UsageError when the budget cannot be met and for a criterion that has no score for a block.
    """
    from pipeline import models, tasks
    from pipeline.compression import blocks, macs, structure, training
    from pipeline.compression.sight import Sight
    from pipeline.data import load_split

    settings = job.settings
    name = settings["criterion"]
    if name not in blocks.SCORES:
        raise UsageError(
            f"prune.criterion = '{name}' has no score for a whole layer: take one of {', '.join(blocks.SCORES)}"
        )
    with training.deterministic(job.seed):
        train = load_split(job.inputs["data"], "train")
        example = training.tensors(train.inputs, slice(0, 2))
        original = macs.count(models.load(job.user, job.inputs["float"]), example).macs
        model = models.load(job.user, job.inputs["model"])
        found, kept = blocks.find(model, example)
        budget = int(float(settings["macs"]) * original)
        task = tasks.of(settings, job.user)
        sight = Sight(model, [], *training.drawn(train, int(settings.get("samples", 256)), job.seed), job.seed, task)
        try:
            gone, rounds = blocks.choose(sight, example, budget, name, settings.get("schedule") == "greedy")
        except ValueError as error:
            whole = "; ".join(f"'{one.name}': {one.reason}" for one in kept)
            raise UsageError(
                f"prune.macs = {settings['macs']:g} cannot be met by whole layers: {error}. These stay: {whole}"
            ) from error
        edits = blocks.edits_for(one for one in found if one in gone)
        structure.apply(model, edits)
        steps = [*models.edits_of(job.inputs["model"]), edits]
        models.save(model, steps, job.out, *models.kept_of(job.inputs["model"]))
        return {
            **training.facts(model, job.inputs["data"], task=task),
            "float_macs": original,
            "budget_macs": budget,
            "macs_share": round(macs.count(model, example).macs / original, 6),
            "rounds": rounds,
            "layers": [{"name": one, "before": 1, "after": int(one not in gone)} for one in found],
            "kept": [{"name": one.name, "width": one.width, "reason": one.reason} for one in kept],
        }
