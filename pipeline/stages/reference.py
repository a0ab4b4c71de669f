"""reference: what the original float model says, in PyTorch; everything deployed is compared with this."""

from __future__ import annotations

from typing import Any

import numpy as np

from calibration.metrics import top1
from pipeline.data import load_split, share_by_group
from pipeline.errors import UsageError
from pipeline.stages import Job

SPLITS = ("selection", "gate")


def run(job: Job) -> dict[str, Any]:
    """Inputs: model, data. Files: `selection.npy`, `gate.npy`: logits float32 [n, classes]."""
    from pipeline import models
    from pipeline.compression import macs, training

    metadata: dict[str, Any] = {}
    with training.deterministic(job.seed):
        module = models.load(job.user, job.inputs["model"])
        answers = {name: training.predict(module, load_split(job.inputs["data"], name)) for name in SPLITS}
        counted = macs.count(module, training.tensors(load_split(job.inputs["data"], "selection").inputs, slice(0, 1)))
    for name in SPLITS:
        split, logits = load_split(job.inputs["data"], name), answers[name].numpy()
        if not np.isfinite(logits).all():
            raise UsageError(
                f"the float model's outputs on the {name} split have NaN or infinity: train or fix it first"
            )
        np.save(job.out / f"{name}.npy", logits)
        metadata[name] = {
            "n": len(split),
            "metric": round(top1(split.labels, logits), 6),
            "groups": share_by_group(split, logits.argmax(axis=1) == split.labels),
        }
    return {**metadata, "params": counted.params, "macs": counted.macs, "size_bytes": counted.params * 4}
