"""train: the float model, from the data, where the recipe names no checkpoint."""

from __future__ import annotations

from typing import Any

from pipeline.stages import Job


def run(job: Job) -> dict[str, Any]:
    """Inputs: data. Files: a model folder.

    Settings: epochs, lr, batch_size, weight_decay, label_smoothing; optional patience (0), penalty,
    strength, ema (compression.training.Schedule), augment ("module:function"
    of `(inputs, generator) -> inputs`, for a batch of the training split). Metadata: metric, loss (selection), epoch,
    epochs_run, params, macs. Raises UsageError when the model does not fit the data, StageError when training diverges.
    """
    from torch.nn import functional

    from pipeline import models, user
    from pipeline.compression import training

    settings = job.settings
    schedule = training.schedule(settings)
    augment = settings.get("augment")
    change = user.resolve(augment, job.user["folder"]) if augment else None
    with training.deterministic(job.seed):
        model = models.build(job.user)
        training.check(model, job.inputs["data"], f"model factory '{job.user['model']}'")
        fit = training.fit(
            model,
            job.inputs["data"],
            schedule,
            lambda logits, labels, index, inputs: functional.cross_entropy(
                logits, labels, label_smoothing=settings["label_smoothing"]
            ),
            job.seed,
            job.emit,
            "train",
            change,
        )
        models.save(model, [], job.out)
        return training.facts(model, job.inputs["data"], fit)
