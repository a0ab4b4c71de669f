"""One training loop for everything that trains: the float model, fine-tuning and distillation."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline import interface, lengths, tasks, user
from pipeline.compression import checkpoint, parallel
from pipeline.compression.learner import Learner, Schedule
from pipeline.data import Array, Split, load_split
from pipeline.errors import DeployError, StageError, UsageError
from pipeline.interface import Outputs
from pipeline.stages import Emit
from pipeline.tasks import CLASSIFICATION, Task

Loss = Callable[[Outputs, Tensor, Array, tuple[Tensor, ...]], Tensor]  # outputs, labels, sample indices, inputs
Augment = Callable[[dict[str, Array], np.random.Generator], Mapping[str, Array]]
EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Fit:
    """The outcome of `fit`. `metric`: the score on the selection split, accuracy for one; `epoch` 0 is the start."""

    metric: float
    loss: float
    epoch: int
    epochs_run: int


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """One thread, seeded, deterministic kernels only: the same bytes every time."""
    threads, before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)
            torch.set_num_threads(threads)


def tensors(inputs: Mapping[str, Array], index: Any) -> tuple[Tensor, ...]:
    """Some samples of every input, copied out of the mapped files."""
    return tuple(torch.from_numpy(np.array(array[index])) for array in inputs.values())


def drawn(split: Split, count: int, seed: int) -> tuple[tuple[Tensor, ...], Tensor]:
    """At most `count` samples of a split, drawn by the seed: their inputs and labels int64 [n]."""
    index = np.sort(np.random.default_rng(seed).choice(len(split), min(len(split), count), replace=False))
    return tensors(split.inputs, index), torch.from_numpy(split.labels[index])


def predict(model: nn.Module, split: Split) -> Outputs:
    """All outputs float32 [n, ...] in eval mode, one tensor or a dict; the model's mode is left as it was."""
    training = model.training
    model.eval()
    with torch.no_grad():
        starts = range(0, len(split), EVALUATION_BATCH)
        rows = [model(*tensors(split.inputs, slice(start, start + EVALUATION_BATCH))) for start in starts]
    model.train(training)
    if isinstance(rows[0], Tensor):
        return torch.cat(rows).float()
    return {name: torch.cat([row[name] for row in rows]).float() for name in rows[0]}


def evaluate(model: nn.Module, split: Split, task: Task = CLASSIFICATION, teaches: bool = False) -> tuple[float, float]:
    """(score, loss) on a split: of a classification accuracy, a share, rounded to 6 digits, and cross-entropy.

    Higher is better: an error counts negative. Outputs that are not finite score -inf and NaN, 0 and NaN in
    a classification. `teaches`: it is a teacher, which need not call its outputs as the task does.
    """
    outputs, labels = predict(model, split), torch.from_numpy(split.labels)
    named = interface.by_name(outputs)
    task = tasks.teachers(task, named) if teaches else task
    if not all(bool(torch.isfinite(values).all()) for values in named.values()):
        return 0.0 if task.classifies else -math.inf, math.nan
    found = tasks.value(task, {name: values.numpy() for name, values in named.items()}, split.labels)
    return round(tasks.merit(task, found), 6), float(tasks.loss(task, outputs, labels))


def _answers(model: nn.Module, example: tuple[Tensor, ...], where: str) -> Outputs:
    """What the model answers. Raises UsageError naming the shapes and the user's line."""
    try:
        with torch.no_grad():
            return model(*example)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    except Exception as error:
        shapes = [list(tensor.shape) for tensor in example]
        raise UsageError(f"{where}: the model fails on inputs {shapes}: {user.blame(error)}") from error


def answers(model: nn.Module, data: Path, where: str) -> dict[str, Tensor]:
    """What the model says of two training samples, by name. Raises UsageError naming the shapes and the user's line."""
    return interface.by_name(_answers(model.eval(), tensors(load_split(data, "train").inputs, slice(0, 2)), where))


def check(model: nn.Module, data: Path, where: str, task: Task = CLASSIFICATION) -> None:
    """A forward of two samples must give finite scores; in a classification logits [2, classes] for the labels.

    Where a length varies, the lowest must go through too. Raises UsageError with the shapes.
    """
    split, varying = load_split(data, "train"), lengths.load(data)
    model.eval()
    if varying:
        _answers(model, tensors(varying.shortened(split, varying.lowest).inputs, slice(0, 2)), where)
    example = tensors(split.inputs, slice(0, 2))
    shapes, outputs = [list(tensor.shape) for tensor in example], _answers(model, example, where)
    if not task.classifies:
        _check_scores(outputs, split.labels[:2], task, where)
        return
    tasks.check_classes(split.labels, where)
    named, task = interface.by_name(outputs), tasks.on(task, data)
    only = interface.first(outputs)
    if len(only) != len(example[0]) or (len(named) == 1 and not tasks.fits(task, only, split.labels)):
        raise UsageError(
            f"{where}: inputs {shapes} give {list(only.shape)}, expected logits [{len(example[0])}, {task.classes}] "
            f"for the data's {task.classes} classes"
        )
    try:
        tasks.judged(task, named, split.labels)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def _check_scores(outputs: Outputs, targets: Array, task: Task, where: str) -> None:
    named = {name: values.numpy() for name, values in interface.by_name(outputs).items()}
    shapes = {name: list(values.shape) for name, values in named.items()}
    try:
        found = tasks.value(task, named, targets)
        tasks.loss(task, outputs, torch.from_numpy(targets))
    except UsageError:
        raise
    except Exception as error:
        fault = " ".join(str(error).split())
        raise UsageError(f"{where}: outputs {shapes} do not fit targets {list(targets.shape)}: {fault}") from error
    if not math.isfinite(found) and task.metric != "auc":  # which needs both classes, and these are two samples
        raise UsageError(f"{where}: task.metric {task.metric} is not finite on outputs {shapes}")


def fit(
    model: nn.Module,
    data: Path,
    plan: Schedule,
    loss: Loss,
    seed: int,
    emit: Emit,
    stage: str,
    augment: Augment | None = None,
    turn: tuple[int, int] = (1, 1),
    zeros: Sequence[str] = (),
    beside: Sequence[nn.Parameter] = (),
    task: Task = CLASSIFICATION,
    scratch: Path | None = None,
) -> Fit:
    """Train in place; the model ends in eval mode with its best weights on the selection split.

    Best is the highest score, then the lowest loss; the start counts too, so that training never makes a
    model worse than it was. Emits progress once an epoch; `turn` (this, of how many) makes it count over several fits.
    `zeros` names parameters whose zeros stay zero; `beside` are trained along and not kept (a distillation's adapters).
    `scratch`: a folder where every epoch is kept, so that a killed training goes on to the same result. Under torchrun
    every process must call this alike (`parallel`).
    Raises StageError when the loss is not finite; the best weights so far are then kept in `scratch`. Raises UsageError
    when it has no gradient.
    """
    train, selection = load_split(data, "train"), load_split(data, "selection")
    labels, shuffle = torch.from_numpy(train.labels), np.random.default_rng(seed)
    starts = _starts(len(train), plan.batch_size)
    steps, own = plan.epochs * len(starts), parallel.share()
    learner = Learner(model, plan, beside, zeros)
    best, epoch = Fit(*evaluate(model, selection, task), 0, 0), 0
    weights = copy.deepcopy(model.state_dict())
    began, begun = time.monotonic(), 0
    file = scratch / f"training-{turn[0]}.pt" if scratch else None
    if file and (state := checkpoint.load(file)):
        learner.restore(state["learner"])
        shuffle.bit_generator.state = state["shuffle"]
        best, weights, begun = Fit(**state["best"]), state["weights"], state["epoch"]
        epoch = begun
    for epoch in () if _patient(plan, begun, best) else range(begun + 1, plan.epochs + 1):
        learner.train()
        order, total = shuffle.permutation(len(train)), 0.0
        for batch, start in enumerate(starts):
            index = order[start : start + plan.batch_size]
            inputs = tuple(values[own] for values in _inputs(train, index, augment, shuffle, stage))
            lost = loss(learner.forward(inputs), labels[index[own]], index[own], inputs)
            if not lost.requires_grad:
                raise UsageError(
                    f"{stage}: the loss has no gradient: the model detaches its outputs, runs under no_grad, or has "
                    f"nothing that requires one; change that, or leave {stage} out"
                )
            value = lost + learner.penalty()
            parallel.average([mean := value.detach().clone()])
            amount = mean.item()
            if not math.isfinite(amount):
                keeps = scratch if parallel.first() else None
                kept_in = f"; epoch {best.epoch} is kept in {checkpoint.keep(keeps, weights)}" if keeps else ""
                raise StageError(
                    f"{stage}: the loss is {amount} in epoch {epoch}, batch {batch + 1} of {len(starts)}: "
                    f"lower {stage}.lr (now {plan.lr:g}){kept_in}"
                )
            learner.step(value, plan.rate((epoch - 1) * len(starts) + batch, steps))
            total += amount * len(index)
        learner.settle()
        metric, crossed = evaluate(learner.averaged, selection, task)
        if math.isfinite(crossed) and (not math.isfinite(best.loss) or (metric, -crossed) > (best.metric, -best.loss)):
            best, weights = Fit(metric, crossed, epoch, epoch), copy.deepcopy(learner.averaged.state_dict())
        if file and parallel.first():
            state = {"learner": learner.state(), "shuffle": shuffle.bit_generator.state}
            checkpoint.save(file, state | {"best": asdict(best), "weights": weights, "epoch": epoch})
        done, whole = (turn[0] - 1) * plan.epochs + epoch, turn[1] * plan.epochs
        left_s = (time.monotonic() - began) / (epoch - begun) * (whole - done)
        progress = {"done": done, "total": whole, "loss": total / len(train), "left_s": left_s}
        emit({"event": "progress", **progress, "metric": tasks.figure(task, metric)})
        if _patient(plan, epoch, best):
            break
    model.load_state_dict(weights)
    model.eval()
    if not math.isfinite(best.loss):
        raise StageError(f"{stage}: the model's outputs on the selection split are never finite: lower {stage}.lr")
    return Fit(best.metric, best.loss, best.epoch, epoch)


def _patient(plan: Schedule, epoch: int, best: Fit) -> bool:
    """Whether enough epochs went by without a better score."""
    return bool(plan.patience) and epoch - best.epoch >= plan.patience


def _starts(count: int, batch_size: int) -> list[int]:
    """Where batches start; a last batch of one sample a process is left out: batch normalisation cannot train on it."""
    starts = list(range(0, count, batch_size))
    return starts[:-1] if len(starts) > 1 and count - starts[-1] < 2 * parallel.size() else starts


def _inputs(
    train: Split, index: Array, augment: Augment | None, rng: np.random.Generator, stage: str
) -> tuple[Tensor, ...]:
    if augment is None:
        return tensors(train.inputs, index)
    taken = {name: np.array(array[index]) for name, array in train.inputs.items()}
    try:
        changed = augment(taken, rng)
        return tuple(torch.from_numpy(np.ascontiguousarray(changed[name], dtype=taken[name].dtype)) for name in taken)
    except DeployError:
        raise
    except Exception as error:
        raise UsageError(f"{stage}.augment raised {user.blame(error)}") from error


def facts(model: nn.Module, data: Path, fit: Fit | None = None, task: Task = CLASSIFICATION) -> dict[str, Any]:
    """What a stage tells of its model: metric and loss on the selection split, params, macs, and how it was fitted."""
    from pipeline.compression.macs import count

    selection = load_split(data, "selection")
    metric, loss = (fit.metric, fit.loss) if fit else evaluate(model, selection, task)
    counted = count(model, tensors(selection.inputs, slice(0, 1)))
    told: dict[str, Any] = {
        "metric": tasks.figure(task, metric) if math.isfinite(metric) else None,
        "loss": round(loss, 6) if math.isfinite(loss) else None,
    }
    told |= {"params": counted.params, "macs": counted.macs}
    return told | ({"epoch": fit.epoch, "epochs_run": fit.epochs_run} if fit else {})
