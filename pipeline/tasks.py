"""What a model is for: the loss that it learns by and the score that counts, ours by name or the user's own function.

Targets may have any shape: class numbers [n] or, a pixel, [n, h, w]; numbers [n, ...] for a regression.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    for either; `folder`: where such a module is looked for. `output`: which of several outputs is judged; empty: the
    one that fits the data. `classes`: how many the data has (0: unknown); `named`: each has a name, so that scores must
    be just as many, else at least.

    The user's loss takes (outputs, targets), a tensor or a dict of them, and returns a scalar; the user's metric takes
    (outputs, targets) as arrays and returns one score a sample, float [n], higher is better.
    """

    metric: str = "accuracy"
    loss: str = "auto"
    folder: str = ""
    output: str = ""
    classes: int = 0
    named: bool = False

    @property
    def classifies(self) -> bool:
        """One class a sample, from logits [n, classes] in the judged output."""
        return CLASS_METRICS.fullmatch(self.metric) is not None


CLASSIFICATION = Task()


def of(settings: Mapping[str, Any], owner: Mapping[str, str], data: Path | None = None) -> Task:
    """The task among a stage's settings; classification where they name none. `data`: the data stage's folder."""
    task = Task(**settings.get("task", {}), folder=owner.get("folder", ""))
    return task if data is None else on(task, data)


def on(task: Task, data: Path) -> Task:
    """The task with what the stored splits in `data` say of its classes."""
    from pipeline.data import classes

    count, named = classes(data)
    return replace(task, classes=count, named=named)


LOGITS = "logits"  # what the scores of classes are called by convention
LOSSES = ("auto", "cross_entropy", "mae", "mse")


def judged(task: Task, outputs: Mapping[str, Any], targets: Any) -> str:
    """Which output the metric and the loss look at, of outputs [n, ...] by name, arrays or tensors.

    The one that the task names; else the only one, or the only one that fits the targets: several that answer alike are
    one, and of others the one called "logits" is meant. Of a metric of the user's own, which gets them all, the loss
    looks at the first where none stands out. Raises UsageError, naming all with their shapes, where the named one is
    not there or does not fit, and where none or several fit.
    """
    names = list(outputs)
    fitting = [name for name in names if fits(task, outputs[name], targets)]
    if task.output:
        if task.output not in outputs:
            raise UsageError(f"task.output: the model has no output '{task.output}', only {_shapes(outputs)}")
        if task.output not in fitting and not _is_own(task):
            raise UsageError(f"task.output: '{task.output}' does not fit: {_expected(task, outputs, targets)}")
        return task.output
    if _is_own(task):
        return fitting[0] if len(fitting) == 1 else names[0]
    if len(names) == 1 and not task.classifies:
        return names[0]  # the metric itself says what it takes
    if task.classifies and len(exact := [n for n in fitting if outputs[n].shape[1] == task.classes]) > 0:
        fitting = exact
    if not fitting:
        raise UsageError(f"{'no' if names[1:] else 'the'} output fits the data: {_expected(task, outputs, targets)}")
    if LOGITS in fitting:
        return LOGITS
    if any(not _alike(outputs[fitting[0]], outputs[name]) for name in fitting[1:]):
        raise UsageError(
            f"several outputs could be judged, {', '.join(fitting)}: name one with [task] output; the model has "
            + _shapes(outputs)
        )
    return fitting[0]


def settled(task: Task, outputs: Mapping[str, Any], targets: Any) -> Task:
    """The task with its output named."""
    return replace(task, output=judged(task, outputs, targets))


def answer(task: Task, outputs: Any, targets: Any) -> Any:
    """The judged output itself, of a tensor or a dict of them."""
    return outputs[judged(task, outputs, targets)] if isinstance(outputs, Mapping) else outputs


def teachers(task: Task, outputs: Mapping[str, Any]) -> Task:
    """The task for a teacher, which need not call its outputs as the student does."""
    return task if task.output in outputs else replace(task, output="")


def check_classes(targets: Array, where: str) -> None:
    """Raise UsageError where a classification's targets are not class numbers [n]."""
    if targets.dtype.kind == "f" or targets.ndim != 1:
        raise UsageError(
            f"{where}: the data's labels are {targets.dtype} {list(targets.shape)}, a classification needs "
            'class numbers [n]; for other targets set task.metric, "mae" for one'
        )


def _is_own(task: Task) -> bool:
    return ":" in task.metric


def fits(task: Task, output: Any, targets: Any) -> bool:
    """May an output [n, ...] be what the metric looks at, by its shape alone? Arrays or tensors."""
    sizes, wanted = tuple(output.shape[1:]), tuple(targets.shape[1:])
    if task.classifies:
        return len(sizes) == 1 and (sizes[0] == task.classes if task.named else sizes[0] >= task.classes)
    if not _is_own(task):
        return scores.row_of(task.metric).fits(wanted, sizes)
    numbers = "float" in str(targets.dtype)
    return math.prod(sizes) == math.prod(wanted) if numbers else sizes[1:] == wanted and len(sizes) > len(wanted)


def _alike(one: Any, other: Any) -> bool:
    return one.shape == other.shape and bool((one == other).all())


def _shapes(outputs: Mapping[str, Any]) -> str:
    return ", ".join(f"'{name}' {['n', *output.shape[1:]]}".replace("['n'", "[n") for name, output in outputs.items())


def _expected(task: Task, outputs: Mapping[str, Any], targets: Any) -> str:
    if not task.classifies:
        return f"{_shapes(outputs)}; {task.metric} takes {scores.row_of(task.metric).takes}"
    return f"{_shapes(outputs)}; expected logits [n, {task.classes}] for the data's {task.classes} classes"


def fitted(task: Task, outputs: Mapping[str, Array], targets: Array) -> Array:
    """The targets in the judged output's shape, where they are as many real numbers: [n] beside [n, 1]."""
    shape = outputs[judged(task, outputs, targets)].shape
    return targets.reshape(shape) if targets.dtype.kind == "f" and targets.size == math.prod(shape) else targets


def kept(
    task: Task, outputs: Mapping[str, Array], deployed: Mapping[str, Array], targets: Array, *more: scores.Own
) -> dict[str, scores.Pair]:
    """What every metric of the gate can be had from (scores.keep), of float's and the deployed model's outputs."""
    name = judged(task, outputs, targets)
    return scores.keep(fitted(task, outputs, targets), outputs, deployed, (*own(task), *more), name)


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
    first = outputs[judged(task, outputs, targets)]
    if task.classifies:
        return float((first.argmax(axis=1) == targets).mean())
    row, found = scores.row_of(task.metric), None
    try:
        found = kept(task, outputs, outputs, targets).get(task.metric)
    except ValueError as error:
        raise UsageError(f"task.metric {error}") from error
    if found is None:
        shapes = f"targets {targets.dtype} {list(targets.shape)}, output {first.dtype} {list(first.shape)}"
        raise UsageError(f"task.metric {task.metric} takes {row.takes}; these are {shapes}")
    return scores.value(task.metric, found.before)


def merit(task: Task, figure: float) -> float:
    """The figure as something to be made large: errors count negative."""
    return figure if higher(task) else -figure


def figure(task: Task, merit: float) -> float:
    """The metric itself, for people and files, of what `merit` made of it to choose by."""
    return merit if higher(task) else -merit


def higher(task: Task) -> bool:
    """Is more of the metric better?"""
    return task.classifies or scores.row_of(task.metric).higher


def loss(task: Task, outputs: Any, targets: Tensor, reduction: str = "mean", label_smoothing: float = 0.0) -> Tensor:
    """The training loss. `outputs`: a tensor or a dict of them; `reduction`: "mean" or "sum", over samples.

    "auto": cross-entropy for targets that are whole numbers, squared error for others.
    """
    import torch.nn.functional as F

    name = task.loss
    if ":" in name:
        function = user.resolve(name, task.folder)
        with user.blamed(f"task.loss {name} raised", task.folder):
            value: Any = function(outputs, targets)
        return value * len(targets) if reduction == "sum" else value  # type: ignore[no-any-return]
    said = answer(task, outputs, targets).float()
    if name == "auto":
        name = "mse" if targets.is_floating_point() else "cross_entropy"
    if name == "cross_entropy":
        value = F.cross_entropy(said, targets, reduction=reduction, label_smoothing=label_smoothing)
    else:
        function = F.mse_loss if name == "mse" else F.l1_loss
        value = function(said, targets.float().reshape(said.shape), reduction=reduction)
    return value  # type: ignore[no-any-return]
