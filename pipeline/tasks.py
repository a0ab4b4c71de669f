"""What a model is for: the loss that it learns by and the score that counts, ours by name or the user's own function.

Targets may have any shape: class numbers [n] or, a pixel, [n, h, w]; numbers [n, ...] for a regression.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline import user
from pipeline.errors import DeployError, UsageError
from pipeline.release import scores

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Task:
    """`metric`, `loss`: a name of the tables below or "module:function"; `folder`: where such a module is looked for.

    The user's loss takes (outputs, targets), a tensor or a dict of them, and returns a scalar; the user's metric takes
    (outputs, targets) as arrays and returns one score a sample, float [n], higher is better.
    """

    metric: str = "accuracy"
    loss: str = "auto"
    folder: str = ""

    @property
    def classifies(self) -> bool:
        """One class a sample, from logits [n, classes] in the first output."""
        return self.metric == "accuracy"


CLASSIFICATION = Task()


def of(settings: Mapping[str, Any], owner: Mapping[str, str]) -> Task:
    """The task among a stage's settings; classification where they name none."""
    return Task(**settings.get("task", {}), folder=owner.get("folder", ""))


def _accuracy(answer: Array, targets: Array) -> Array:
    right = answer.argmax(axis=1) == targets
    return _rows(right.astype(np.float64))


def _error(power: int) -> Callable[[Array, Array], Array]:
    def score(answer: Array, targets: Array) -> Array:
        return -_rows(np.abs(answer.astype(np.float64) - targets.reshape(answer.shape)) ** power)

    return score


def _rows(values: Array) -> Array:
    return np.asarray(values.reshape(len(values), -1).mean(axis=1))


# Each from the first output [n, ...] and the targets; one number a sample, higher is better: errors count negative.
SCORES: dict[str, Callable[[Array, Array], Array]] = {"accuracy": _accuracy, "mae": _error(1), "mse": _error(2)}
LOSSES = ("auto", "cross_entropy", "mae", "mse")


def score(task: Task, outputs: Mapping[str, Array], targets: Array) -> Array:
    """One score a sample, float64 [n], higher is better. Raises UsageError for what the user's function returns."""
    if task.metric in SCORES:
        return SCORES[task.metric](next(iter(outputs.values())), targets)
    if task.metric in scores.SCORES:
        try:
            return np.nan_to_num(scores.each(task.metric, targets, next(iter(outputs.values()))))
        except ValueError as error:
            raise UsageError(f"task.metric: {error}") from error
    function = user.resolve(task.metric, task.folder)
    try:
        found = np.asarray(function(next(iter(outputs.values())) if len(outputs) == 1 else dict(outputs), targets))
    except DeployError:
        raise
    except Exception as error:
        raise UsageError(f"task.metric {task.metric} raised {user.blame(error)}") from error
    if found.shape != (len(targets),) or found.dtype.kind not in "fiub":
        raise UsageError(
            f"task.metric {task.metric} returned {found.dtype} {list(found.shape)} for {len(targets)} samples: "
            "return one number a sample"
        )
    return found.astype(np.float64)


def own(metric: str, folder: str) -> tuple[scores.Own, ...]:
    """A score of the user's, "module:function", as evidence is kept of it; none where the name is one of ours."""
    return (scores.Own(metric, user.resolve(metric, folder)),) if ":" in metric else ()


def loss(task: Task, outputs: Any, targets: Tensor, reduction: str = "mean", label_smoothing: float = 0.0) -> Tensor:
    """The training loss. `outputs`: a tensor or a dict of them; `reduction`: "mean" or "sum", over samples.

    "auto": cross-entropy for targets that are whole numbers, squared error for others.
    """
    import torch.nn.functional as F

    from pipeline.interface import first

    name = task.loss
    if ":" in name:
        value: Any = user.resolve(name, task.folder)(outputs, targets)
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
