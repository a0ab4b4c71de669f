"""What a model is for: the loss that it learns by and the score that counts, ours by name or the user's own function.

Targets may have any shape: class numbers [n] or, a pixel, [n, h, w]; numbers [n, ...] for a regression.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline import user
from pipeline.errors import UsageError
from pipeline.release import scores
from pipeline.release.evidence import CLASS_METRICS

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Task:
    """`metric`: a name that the gate knows (pipeline/release/evidence.py), `loss`: one of LOSSES, or "module:function"
    for either; `folder`: where such a module is looked for.

    The user's loss takes (outputs, targets), a tensor or a dict of them, and returns a scalar; the user's metric takes
    (outputs, targets) as arrays and returns one score a sample, float [n], higher is better.
    """

    metric: str = "accuracy"
    loss: str = "auto"
    folder: str = ""

    @property
    def classifies(self) -> bool:
        """One class a sample, from logits [n, classes] in the first output."""
        return CLASS_METRICS.fullmatch(self.metric) is not None


CLASSIFICATION = Task()


def of(settings: Mapping[str, Any], owner: Mapping[str, str]) -> Task:
    """The task among a stage's settings; classification where they name none."""
    return Task(**settings.get("task", {}), folder=owner.get("folder", ""))


LOSSES = ("auto", "cross_entropy", "mae", "mse")


def fitted(outputs: Mapping[str, Array], targets: Array) -> Array:
    """The targets in the first output's shape, where they are as many real numbers: [n] beside [n, 1]."""
    first = next(iter(outputs.values()))
    return targets.reshape(first.shape) if targets.dtype.kind == "f" and targets.size == first.size else targets


def own(task: Task) -> tuple[scores.Own, ...]:
    """The user's own metric, its errors in one line; empty where it is one of ours."""
    if ":" not in task.metric:
        return ()
    function = user.resolve(task.metric, task.folder)

    def score(outputs: Any, targets: Any) -> Any:
        with user.blamed(f"task.metric {task.metric} raised", task.folder):
            return function(outputs, targets)

    return (scores.Own(task.metric, score),)


def value(task: Task, outputs: Mapping[str, Array], targets: Array) -> float:
    """The metric over all samples; accuracy for every metric of classes, since that is what they share.

    Raises UsageError where targets and outputs are not what the metric takes.
    """
    first = next(iter(outputs.values()))
    if task.classifies:
        return float((first.argmax(axis=1) == targets).mean())
    row, kept = scores.row_of(task.metric), None
    try:
        kept = scores.keep(fitted(outputs, targets), outputs, outputs, own(task)).get(task.metric)
    except ValueError as error:
        raise UsageError(f"task.metric {error}") from error
    if kept is None:
        shapes = f"targets {targets.dtype} {list(targets.shape)}, first output {first.dtype} {list(first.shape)}"
        raise UsageError(f"task.metric {task.metric} takes {row.takes}; these are {shapes}")
    return scores.value(task.metric, kept.before)


def chance(task: Task, targets: Array) -> float | None:
    """The metric of who always says the most frequent class; None where targets are no classes, one a sample."""
    if not task.classifies or targets.ndim != 1 or targets.dtype.kind not in "iu":
        return None
    return round(float(np.unique(targets, return_counts=True)[1].max() / len(targets)), 6)


def merit(task: Task, figure: float) -> float:
    """The figure as something to be made large: errors count negative."""
    return figure if task.classifies or scores.row_of(task.metric).higher else -figure


def loss(task: Task, outputs: Any, targets: Tensor, reduction: str = "mean", label_smoothing: float = 0.0) -> Tensor:
    """The training loss. `outputs`: a tensor or a dict of them; `reduction`: "mean" or "sum", over samples.

    "auto": cross-entropy for targets that are whole numbers, squared error for others.
    """
    import torch.nn.functional as F

    from pipeline.interface import first

    name = task.loss
    if ":" in name:
        function = user.resolve(name, task.folder)
        with user.blamed(f"task.loss {name} raised", task.folder):
            value: Any = function(outputs, targets)
        return value * len(targets) if reduction == "sum" else value  # type: ignore[no-any-return]
    answer = first(outputs).float()
    if name == "auto":
        name = "mse" if targets.is_floating_point() else "cross_entropy"
    if name == "cross_entropy":
        value = F.cross_entropy(answer, targets, reduction=reduction, label_smoothing=label_smoothing)
    else:
        function = F.mse_loss if name == "mse" else F.l1_loss
        value = function(answer, targets.float().reshape(answer.shape), reduction=reduction)
    return value  # type: ignore[no-any-return]
