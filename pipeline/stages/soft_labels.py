"""soft-labels: what the frozen teachers say of every training sample, asked once for all recoveries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.stages import Job

if TYPE_CHECKING:
    from torch import nn

FILE = "soft_labels.npz"


def run(job: Job) -> dict[str, Any]:
    """Inputs: teacher, or teacher0, teacher1, ...; data. Files: `soft_labels.npz`, every output, float32 [n, ...].

    Settings: temperature (at which several teachers answer by their mean), task. Metadata: metric, loss (selection), of
    all teachers together.
    """
    from pipeline import interface, tasks
    from pipeline.compression import training
    from pipeline.data import load_split, save_named

    with training.deterministic(job.seed):
        model = teacher(job)
        said = interface.by_name(training.predict(model, load_split(job.inputs["data"], "train")))
        task = tasks.of(job.settings, job.user, job.inputs["data"])
        metric, loss = training.evaluate(model, load_split(job.inputs["data"], "selection"), task, teaches=True)
    job.out.mkdir(parents=True, exist_ok=True)
    save_named(job.out / FILE, {name: values.numpy() for name, values in said.items()})
    return {"metric": tasks.figure(task, metric), "loss": round(loss, 6)}


def teacher(job: Job) -> nn.Module:
    """All of a job's teachers as one, in eval mode."""
    from pipeline import models
    from pipeline.compression.distillation import Ensemble

    found = [models.load(job.user, job.inputs[role]) for role in sorted(job.inputs) if role.startswith("teacher")]
    return found[0] if len(found) == 1 else Ensemble(found, job.settings["temperature"]).eval()
