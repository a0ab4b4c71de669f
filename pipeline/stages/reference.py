"""reference: what the original float model says, in PyTorch; everything deployed is compared with this."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline import lengths, tasks
from pipeline.data import Array, Split, load_split, save_named
from pipeline.errors import UsageError
from pipeline.release import chance
from pipeline.stages import Job

SPLITS = ("selection", "gate")


def at_length(split: str, length: int) -> str:
    """What the answers for a split cut to a length are called."""
    return f"{split}-{length}"


def by_group(task: tasks.Task, split: Split, outputs: Mapping[str, Array]) -> dict[str, float]:
    """The metric in each group of the split that has one (AUC asks for both classes); empty without groups."""
    found: dict[str, float] = {}
    for name in () if split.groups is None else np.unique(split.groups):
        at = split.groups == name
        with contextlib.suppress(UsageError):  # the whole split was measured: what is lacking is lacking in the group
            value = tasks.value(task, {key: array[at] for key, array in outputs.items()}, split.labels[at])
            found |= {str(name): round(value, 6)} if math.isfinite(value) else {}
    return found


def told(task: tasks.Task, split: Split, outputs: Mapping[str, Array], judging: bool) -> dict[str, Any]:
    """What a split's metadata say of the float model; `judging`: beside chance too."""
    found: dict[str, Any] = {
        "n": len(split),
        "metric": round(tasks.value(task, outputs, split.labels), 6),
        "groups": by_group(task, split, outputs),
    }
    if not judging:
        return found
    groups = None if split.groups is None else np.unique(split.groups, return_inverse=True)[1].reshape(-1)
    targets = tasks.fitted(task, outputs, split.labels)
    return found | {"chance": chance.recorded(chance.beside(task.metric, targets, outputs[task.output], groups))}


def run(job: Job) -> dict[str, Any]:
    """Inputs: model, data. Files: `selection.npz`, `gate.npz`: every output by name, float32 [n, ...]; where a length
    varies, `gate-LENGTH.npz` too.

    Metadata of each split: n; metric (the task's; accuracy for a classification), that of each group, and `chance`
    (pipeline/release/chance.py). `outputs`: their names; `output`: the one that is judged.
    """
    from pipeline import interface, models
    from pipeline.compression import macs, training

    metadata: dict[str, Any] = {}
    splits = {name: load_split(job.inputs["data"], name) for name in SPLITS}
    varying = lengths.load(job.inputs["data"])
    if varying:
        gate = splits["gate"]
        splits |= {at_length("gate", length): varying.shortened(gate, length) for length in varying.compared}
    task = tasks.of(job.settings, job.user, job.inputs["data"])
    with training.deterministic(job.seed):
        module = models.load(job.user, job.inputs["model"])
        answers = {name: training.predict(module, split) for name, split in splits.items()}
        counted = macs.count(module, training.tensors(splits["selection"].inputs, slice(0, 1)))
    for name, split in splits.items():
        named = interface.by_name(answers[name])
        outputs = {key: named[key].numpy() for key in named}
        if len(outputs) == 1:
            outputs = dict(zip(interface.output_names(module), outputs.values(), strict=True))
        if not all(np.isfinite(values).all() for values in outputs.values()):
            raise UsageError(
                f"the float model's outputs on the {name} split have NaN or infinity: train or fix it first"
            )
        save_named(job.out / f"{name}.npz", outputs)
        task = tasks.settled(task, outputs, split.labels)
        metadata[name] = told(task, split, outputs, judging=name == "gate")
    metadata["outputs"], metadata["output"] = list(outputs), task.output
    return {**metadata, "params": counted.params, "macs": counted.macs, "size_bytes": counted.params * 4}
