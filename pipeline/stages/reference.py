"""reference: what the original float model says, in PyTorch; everything deployed is compared with this."""

from __future__ import annotations

from typing import Any

import numpy as np

from calibration.metrics import top1
from pipeline.data import load_split
from pipeline.errors import UsageError
from pipeline.stages import Job

BATCH = 256


def run(job: Job) -> dict[str, Any]:
    """Inputs: model, data. Files: `selection.npy`, `gate.npy`: logits float32 [n, classes]."""
    import torch

    from pipeline import models
    from pipeline.compression.macs import count

    torch.set_num_threads(1)
    module = models.load(job.user, job.inputs["model"]).eval()
    metadata: dict[str, Any] = {}
    for name in ("selection", "gate"):
        split = load_split(job.inputs["data"], name)
        rows = []
        with torch.no_grad():
            for start in range(0, len(split), BATCH):
                batch = [torch.from_numpy(np.array(array[start : start + BATCH])) for array in split.inputs.values()]
                rows.append(module(*batch).float().numpy())
        logits = np.concatenate(rows)
        if not np.isfinite(logits).all():
            raise UsageError(
                f"the float model's outputs on the {name} split have NaN or infinity: train or fix it first"
            )
        np.save(job.out / f"{name}.npy", logits)
        metadata[name] = {"n": len(split), "metric": round(top1(split.labels, logits), 6)}
        if split.groups is not None:
            right = logits.argmax(axis=1) == split.labels
            metadata[name]["groups"] = {
                str(group): round(float(right[split.groups == group].mean()), 6) for group in np.unique(split.groups)
            }
    example = [
        torch.from_numpy(np.array(array[:1])) for array in load_split(job.inputs["data"], "selection").inputs.values()
    ]
    counted = count(module, tuple(example))
    return {**metadata, "params": counted.params, "macs": counted.macs, "size_bytes": counted.params * 4}
