"""prune, single weights: they become zero, and the network keeps its shape."""

from __future__ import annotations

from typing import Any

from pipeline.errors import StageError, UsageError
from pipeline.stages import Job


def run(job: Job) -> dict[str, Any]:
    """Inputs and files as for `prune`.

    Settings: granularity ("weight" or "n:m"), criterion (a key of compression.masks.SCORES), samples; for "weight"
    sparsity (share of zeros) with schedule "uniform" (of each tensor) or "global" (of all), or threshold (on the score)
    in its place; for "n:m" pattern ("2:4"). Metadata: metric, loss, params, macs, zeros (share), layers [{name, before,
    after}] (weights that are not zero). Raises UsageError for a criterion that has no score for a single weight and for
    a tensor that would lose all of its weights.
    """
    from pipeline import models, tasks
    from pipeline.compression import masks, training
    from pipeline.compression.sight import of_job

    settings = job.settings
    name = settings["criterion"]
    if name not in masks.SCORES:
        raise UsageError(
            f"prune.criterion = '{name}' has no score for a single weight: take one of {', '.join(masks.SCORES)}, or "
            'granularity = "channel"'
        )
    with training.deterministic(job.seed):
        model = models.load(job.user, job.inputs["model"])
        before = {key: int(weight.count_nonzero()) for key, weight in masks.prunable(model).items()}
        scores = masks.SCORES[name](of_job(job, model, []))
        if bad := [key for key, values in scores.items() if not bool(values.isfinite().all())]:
            raise StageError(f"prune: criterion '{name}' is not finite for '{bad[0]}': look at the model's weights")
        if "n:m" in settings["granularity"]:
            keep, of = map(int, settings["pattern"].split(":"))
            gone = masks.pattern(scores, keep, of)
        elif settings.get("threshold") is not None:
            gone = masks.below(scores, settings["threshold"])
        else:
            gone = masks.lowest(scores, settings["sparsity"], settings.get("schedule") == "global")
        if empty := [key for key, where in gone.items() if bool(where.all())]:
            raise UsageError(f"prune: '{empty[0]}' would lose all of its weights: lower prune.sparsity or .threshold")
        masks.bake(model, gone)
        after = {key: int(weight.count_nonzero()) for key, weight in masks.prunable(model).items()}
        models.save(
            model, models.edits_of(job.inputs["model"]), job.out, sorted(after), models.factory_of(job.inputs["model"])
        )
        return {
            **training.facts(model, job.inputs["data"], task=tasks.of(job.settings, job.user, job.inputs["data"])),
            "zeros": round(
                1 - sum(after.values()) / sum(weight.numel() for weight in masks.prunable(model).values()), 6
            ),
            "layers": [{"name": key, "before": before[key], "after": count} for key, count in after.items()],
        }
