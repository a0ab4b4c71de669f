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
    from pipeline import models, tasks, user
    from pipeline.compression import training

    settings, task = job.settings, tasks.of(job.settings, job.user)
    schedule = training.schedule(settings)
    augment = settings.get("augment")
    change = user.resolve(augment, job.user["folder"]) if augment else None
    with training.deterministic(job.seed):
        model = models.build(job.user)
        training.check(model, job.inputs["data"], f"model factory '{job.user['model']}'", task)
        fit = training.fit(
            model,
            job.inputs["data"],
            schedule,
            lambda outputs, labels, index, inputs: tasks.loss(
                task, outputs, labels, label_smoothing=settings["label_smoothing"]
            ),
            job.seed,
            job.emit,
            "train",
            change,
            task=task,
        )
        models.save(model, [], job.out)
        return training.facts(model, job.inputs["data"], fit, task)
