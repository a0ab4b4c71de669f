"""What changed in the answers: the samples that suffer most, and the confusion of classes before and after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.release.samples import Answers

Array = npt.NDArray[Any]
MOST_CLASSES = 100  # a larger matrix says nothing to anyone


@dataclass(frozen=True)
class Sample:
    """One sample: `error_db` is its noise against the mean power of all answers; classes where there are any."""

    index: int
    error_db: float
    group: str | None = None
    label: str | None = None
    float_class: str | None = None
    deployed_class: str | None = None


@dataclass(frozen=True)
class Confusion:
    """Counts [true class][answer] before (float) and after, on the gate split."""

    classes: tuple[str, ...]
    before: tuple[tuple[int, ...], ...]
    after: tuple[tuple[int, ...], ...]


def worst(
    before: Array, after: Array, labels: Array, names: Sequence[str], groups: Array | None, most: int = 5
) -> list[Sample]:
    """The samples whose answers moved most; the worst first. Those that did not move are left out."""
    n = len(before)
    signal = float(np.mean(np.square(before, dtype=np.float64))) or 1.0
    noise = np.square(after.astype(np.float64) - before).reshape(n, -1).mean(axis=1)
    classes = before.ndim == 2 and labels.ndim == 1 and labels.dtype.kind in "iu"

    def called(i: int) -> str:
        return names[i] if i < len(names) else str(i)

    rows = []
    for i in (int(i) for i in np.argsort(-noise, kind="stable")[:most] if noise[i] > 0):
        told: dict[str, str] = {}
        if classes:
            answers = {"label": labels[i], "float_class": before[i].argmax(), "deployed_class": after[i].argmax()}
            told = {key: called(int(value)) for key, value in answers.items()}
        group = None if groups is None else str(groups[i])
        rows.append(Sample(i, round(10 * math.log10(noise[i] / signal), 2), group, **told))
    return rows


def confusion(answers: Answers | None) -> Confusion | None:
    """From a run's per-sample evidence; None where the task is no classification, or has too many classes."""
    if answers is None or answers.classes > MOST_CLASSES:
        return None
    matrices = []
    for found in (answers.float_class, answers.deployed_class):
        counts = np.zeros((answers.classes, answers.classes), int)
        np.add.at(counts, (answers.labels, found), 1)
        matrices.append(tuple(tuple(int(count) for count in row) for row in counts))
    return Confusion(tuple(map(str, answers.names)), *matrices)
