"""Per-sample evidence: what the float model and the deployed one answered to each sample of the gate split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Samples:
    """Per-sample evidence of one run, every array [n]. Ranks are those of the true label, 0 = top."""

    labels: Array
    float_class: Array
    deployed_class: Array
    float_rank: Array
    deployed_rank: Array
    classes: int
    groups: Array | None = None

    def save(self, file: Path) -> None:
        """Write an .npz; equal evidence gives equal bytes."""
        arrays = {name: value for name, value in vars(self).items() if value is not None}
        np.savez(file, **arrays)


def from_logits(labels: Array, original: Array, deployed: Array, groups: Array | None) -> Samples:
    """Evidence from integer labels [n] and two logits [n, classes]; ties go to the first class, as argmax does."""
    return Samples(
        labels=np.asarray(labels, np.int64),
        float_class=original.argmax(axis=1),
        deployed_class=deployed.argmax(axis=1),
        float_rank=_rank(labels, original),
        deployed_rank=_rank(labels, deployed),
        classes=int(original.shape[1]),
        groups=groups,
    )


def load(file: Path) -> Samples:
    """What `Samples.save` wrote. Raises OSError, ValueError or KeyError for anything else."""
    with np.load(file) as arrays:
        named = {name: arrays[name] for name in arrays.files}
    return Samples(**{**named, "classes": int(named["classes"])})


def file_name(batch: int) -> str:
    """The file of the run at that batch size."""
    return f"samples-{batch}.npz"


def slices(samples: Samples, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Counts of each slice: "class:NAME" (its number where classes have no names), "group:NAME" of data with groups."""
    before, after = samples.float_class == samples.labels, samples.deployed_class == samples.labels
    kinds = {"class": np.array([names[i] if names else str(i) for i in samples.labels])}
    if samples.groups is not None:
        kinds["group"] = samples.groups
    rows = {}
    for kind, values in kinds.items():
        for value in np.unique(values):
            at = values == value
            rows[f"{kind}:{value}"] = {
                "n": int(at.sum()),
                "lost": int((before & ~after & at).sum()),
                "gained": int((after & ~before & at).sum()),
                "float_right": int((before & at).sum()),
            }
    return rows


def _rank(labels: Array, logits: Array) -> Array:
    own = logits[np.arange(len(labels)), labels][:, None]
    before = np.arange(logits.shape[1]) < np.asarray(labels)[:, None]
    return np.asarray(((logits > own) | ((logits == own) & before)).sum(axis=1), np.int64)
