"""train: the float model, from the data, where the recipe names no checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import UsageError
from pipeline.stages import Job

if TYPE_CHECKING:
    from torch import nn


def run(job: Job) -> dict[str, Any]:
    """Inputs: data. Files: a model folder.

    Settings: epochs, lr, batch_size, weight_decay, label_smoothing; optional patience (0), penalty,
    strength, ema (compression.learner.Schedule), augment ("module:function"
    of `(inputs, generator) -> inputs`, for a batch of the training split), start (a checkpoint or a model folder, from
    the recipe's folder) and fresh (layers that do not start from there). Metadata: metric, loss (selection), epoch,
    epochs_run, params, macs. Raises UsageError when the model does not fit the data, StageError when training diverges.
    """
    from pipeline import interface, models, tasks, user
    from pipeline.compression import learner, training

    settings, task = job.settings, tasks.of(job.settings, job.user, job.inputs["data"])
    schedule = learner.schedule(settings)
    augment = settings.get("augment")
    change = user.resolve(augment, job.user["folder"]) if augment else None
    with training.deterministic(job.seed):
        model = models.build(job.user)
        if note := interface.came_as(model):
            job.emit({"event": "note", "message": note})
        edits, zeros = _start(model, job) if settings.get("start") else ([], [])
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
            zeros=zeros,
            task=task,
            scratch=job.scratch,
        )
        models.save(model, edits, job.out, zeros)
        return training.facts(model, job.inputs["data"], fit, task)


def _start(model: nn.Module, job: Job) -> tuple[Any, list[str]]:
    """Put what training starts from into the model, pruned as it was; the record of that, and what stays zero."""
    from pipeline import models
    from pipeline.compression import structure
    from pipeline.stages import load

    path = Path(job.user["folder"]) / job.settings["start"]
    edits, zeros = (models.edits_of(path), models.zeros_of(path)) if path.is_dir() else ([], [])
    structure.replay(model, edits, f"model factory '{job.user['model']}'")
    fresh = tuple(job.settings.get("fresh", ()))
    own = model.state_dict()
    if unknown := [name for name in fresh if not any(_below(key, name) for key in own)]:
        raise UsageError(f"train.fresh: the model has no layer '{unknown[0]}' with weights")
    state = load.read(path / models.WEIGHTS if path.is_dir() else path)
    state = {key: values for key, values in state.items() if not any(_below(key, name) for name in fresh)}
    state |= {key: values for key, values in own.items() if any(_below(key, name) for name in fresh)}
    models.load_state(model, state, str(path))
    return edits, zeros


def _below(key: str, layer: str) -> bool:
    return key == layer or key.startswith(f"{layer}.")
