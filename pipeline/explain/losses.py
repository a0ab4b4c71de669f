"""Which part of a loss is whose: what compression cost, and what int8 cost after it, on the same samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from calibration.metrics import flips, sqnr_db
from pipeline import tasks
from pipeline.data import Array
from pipeline.release.evidence import shown

Outputs = Mapping[str, Array]


@dataclass(frozen=True)
class Loss:
    """What `by` cost. `before`, `after`: the task's metric, a share for accuracy; `sqnr_db` of the worst output, None
    where nothing changed; `lost`, `gained`: samples right only before or only after, of a classification.
    """

    by: str
    metric: str
    before: float
    after: float
    sqnr_db: float | None
    lost: int | None = None
    gained: int | None = None


def losses(task: tasks.Task, labels: Array, answers: Mapping[str, Outputs]) -> list[Loss]:
    """A row for each step from one model to the next. `answers`: what made a model -> its outputs by name, all on the
    same samples, the float model as it came first. Where a model's outputs are not finite, the rows end.
    """
    rows = []
    for (_, before), (by, after) in zip(list(answers.items())[:-1], list(answers.items())[1:], strict=True):
        if not all(np.isfinite(after[name]).all() for name in before):
            break
        one, other = (tasks.answer(task, outputs, labels) for outputs in (before, after))
        lost, gained = flips(labels, one, other) if task.classifies else (None, None)
        apart = min(sqnr_db(before[name], after[name]) for name in before)
        first, then = (tasks.value(task, outputs, labels) for outputs in (before, after))
        rows.append(Loss(by, shown(task.metric), first, then, apart if np.isfinite(apart) else None, lost, gained))
    return rows
