"""data: the user's splits, checked and written as arrays, so that no later stage runs the user's data code."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import data, data_files, scales
from pipeline.stages import Job


def run(job: Job) -> dict[str, Any]:
    """Files: `SPLIT/inputs/NAME.npy`, `SPLIT/labels.npy`, `SPLIT/groups.npy`, `declared.json`."""
    reference = job.user["data"]
    splits = data.from_factory(data_files.read(reference, Path(job.user["folder"])), reference)
    scales.check(splits, reference)
    data.save(splits, job.out)
    gate = splits.splits["gate"]
    return {
        "splits": {name: len(split) for name, split in splits.splits.items()},
        "inputs": {k: {"shape": list(v.shape[1:]), "dtype": str(v.dtype)} for k, v in gate.inputs.items()},
        "labels": list(splits.labels),
        "classes": None
        if gate.labels.dtype.kind == "f"
        else int(max(int(split.labels.max()) for split in splits.splits.values())) + 1,
        "targets": {"shape": list(gate.labels.shape[1:]), "dtype": str(gate.labels.dtype)},
        "groups": {
            name: sorted(np.unique(split.groups).tolist())
            for name, split in splits.splits.items()
            if split.groups is not None
        },
        "preprocessing": dict(splits.preprocessing),
        "raw_checked": splits.raw_checked,
        "lengths": splits.lengths and splits.lengths.record(),
        "shared_samples": 0,  # from_factory refuses splits that share any
        "digests": {name: _digest(split) for name, split in splits.splits.items()},
    }


def _digest(split: data.Split) -> str:
    """Identity of a split's contents, whatever the other splits are."""
    return hashlib.sha256(b"".join(data.sample_hashes(split)) + split.labels.tobytes()).hexdigest()
