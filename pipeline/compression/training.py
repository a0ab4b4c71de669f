"""One training loop for everything that trains: the float model, fine-tuning and distillation."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline import interface, lengths, tasks, user
from pipeline.compression import checkpoint, parallel
from pipeline.compression.optimizers import OPTIMIZERS
from pipeline.compression.penalties import PENALTIES, soft_threshold
from pipeline.data import Array, Split, load_split
from pipeline.errors import DeployError, StageError, UsageError
from pipeline.interface import Outputs
from pipeline.stages import Emit
from pipeline.tasks import CLASSIFICATION, Task

Loss = Callable[[Outputs, Tensor, Array, tuple[Tensor, ...]], Tensor]  # outputs, labels, sample indices, inputs
Augment = Callable[[dict[str, Array], np.random.Generator], Mapping[str, Array]]
EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Schedule:
    """The learning rate climbs to `lr`, then falls to 0 along a cosine (Smith, Topin 2018, "Super-Convergence").

    `warmup`: the share of all steps in which it climbs. `optimizer`: a key of `optimizers.OPTIMIZERS`. `patience`:
    stop after so many epochs without a better selection metric; 0 never stops. `penalty`: "none", "l1", "group_lasso"
    (strength x penalty joins the loss) or "soft_threshold" (after each step, by strength x learning rate). `ema`: decay
    of a moving average of the weights, which is then what is evaluated and kept; 0 averages not. `amp`: forward passes
    in bfloat16 where torch's autocast allows (Micikevicius et al. 2018; bfloat16 needs no scale of the loss).
    """

    epochs: int
    lr: float
    batch_size: int
    weight_decay: float
    patience: int = 0
    penalty: str = "none"
    strength: float = 0.0
    ema: float = 0.0
    warmup: float = 0.0
    optimizer: str = "adamw"
    amp: bool = False

    def rate(self, step: int, steps: int) -> float:
        """The learning rate of a step, as a share of `lr`."""
        climb = self.warmup * steps
        if step < climb:
            return (step + 1) / (climb + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - climb) / (steps - climb)))


def schedule(settings: Mapping[str, Any]) -> Schedule:
    """The schedule in a stage's settings."""
    return Schedule(**{field.name: settings[field.name] for field in fields(Schedule) if field.name in settings})


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


def evaluate(model: nn.Module, split: Split, task: Task = CLASSIFICATION) -> tuple[float, float]:
    """(score, loss) on a split: of a classification accuracy, a share, rounded to 6 digits, and cross-entropy.

    Higher is better: an error counts negative. Outputs that are not finite score -inf and NaN, 0 and NaN in
    a classification.
    """
    outputs, labels = predict(model, split), torch.from_numpy(split.labels)
    named = interface.by_name(outputs)
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


def check(model: nn.Module, data: Path, where: str, task: Task = CLASSIFICATION) -> None:
    """A forward of two samples must give finite scores; in a classification logits [2, classes] for the labels.

    Where a length varies, the lowest must go through too. Raises UsageError with the shapes.
    """
    split, varying = load_split(data, "train"), lengths.load(data)
    names = json.loads((data / "declared.json").read_text())["labels"]
    model.eval()
    if varying:
        _answers(model, tensors(varying.shortened(split, varying.lowest).inputs, slice(0, 2)), where)
    example = tensors(split.inputs, slice(0, 2))
    shapes, outputs = [list(tensor.shape) for tensor in example], _answers(model, example, where)
    logits = interface.first(outputs)
    if not task.classifies:
        _check_scores(outputs, split.labels[:2], task, where)
        return
    if split.labels.dtype.kind == "f":
        raise UsageError(
            f"{where}: the data's labels are {split.labels.dtype} {list(split.labels.shape)}, a classification needs "
            'class numbers [n]; for other targets set task.metric, "mae" for one'
        )
    highest = max(int(load_split(data, name).labels.max()) for name in ("train", "calibration", "selection", "gate"))
    classes = len(names) or highest + 1
    enough = logits.ndim == 2 and (logits.shape[1] == classes if names else logits.shape[1] >= classes)
    if not enough or len(logits) != len(example[0]):
        raise UsageError(
            f"{where}: inputs {shapes} give {list(logits.shape)}, expected logits [{len(example[0])}, {classes}] "
            f"for the data's {classes} classes"
        )


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
    Raises StageError when the loss is not finite; the best weights so far are then kept in `scratch`.
    """
    train, selection = load_split(data, "train"), load_split(data, "selection")
    labels, shuffle = torch.from_numpy(train.labels), np.random.default_rng(seed)
    starts = _starts(len(train), plan.batch_size)
    optimizers = OPTIMIZERS[plan.optimizer](model, beside, plan.lr, plan.weight_decay)
    step, steps = 0, plan.epochs * len(starts)
    kept = {model.get_parameter(name): model.get_parameter(name).detach() != 0 for name in zeros}
    averaged = copy.deepcopy(model) if plan.ema else model
    together, own = parallel.wrap(model), parallel.share()
    metric, crossed = evaluate(model, selection, task)
    best, epoch = Fit(metric, crossed, 0, 0), 0
    weights = copy.deepcopy(model.state_dict())
    began, begun = time.monotonic(), 0
    parts: dict[str, Any] = {"model": model, "averaged": averaged}
    parts |= {f"optimizer{index}": optimizer for index, optimizer in enumerate(optimizers)}
    file = scratch / f"training-{turn[0]}.pt" if scratch else None
    if file and (state := checkpoint.load(file)):
        for name, part in parts.items():
            part.load_state_dict(state[name])
        for parameter, values in zip(beside, state["beside"], strict=True):
            parameter.data.copy_(values)
        shuffle.bit_generator.state = state["shuffle"]
        best, weights, begun = Fit(**state["best"]), state["weights"], state["epoch"]
        epoch, step = begun, begun * len(starts)
    for epoch in () if _patient(plan, begun, best) else range(begun + 1, plan.epochs + 1):
        together.train()
        order, total = shuffle.permutation(len(train)), 0.0
        for batch, start in enumerate(starts):
            index = order[start : start + plan.batch_size]
            inputs = tuple(values[own] for values in _inputs(train, index, augment, shuffle, stage))
            with torch.autocast("cpu", torch.bfloat16, enabled=plan.amp):
                outputs = together(*inputs)
            value = loss(_float(outputs), labels[index[own]], index[own], inputs)
            if plan.penalty in PENALTIES:
                value = value + plan.strength * PENALTIES[plan.penalty](model)
            parallel.average([mean := value.detach().clone()])
            amount = mean.item()
            if not math.isfinite(amount):
                kept_in = f"; epoch {best.epoch} is kept in {checkpoint.keep(scratch, weights)}" if scratch else ""
                raise StageError(
                    f"{stage}: the loss is {amount} in epoch {epoch}, batch {batch + 1} of {len(starts)}: "
                    f"lower {stage}.lr (now {plan.lr:g}){kept_in}"
                )
            model.zero_grad(set_to_none=True)
            for parameter in beside:
                parameter.grad = None
            value.backward()  # type: ignore[no-untyped-call]
            parallel.average(parameter.grad for parameter in beside)
            lr = plan.lr * plan.rate(step, steps)
            for optimizer in optimizers:
                optimizer.param_groups[0]["lr"] = lr
                optimizer.step()
            step += 1
            if plan.penalty == "soft_threshold":
                soft_threshold(model, plan.strength * lr)
            for parameter, keep in kept.items():
                parameter.data.mul_(keep)
            if averaged is not model:
                _average(averaged, model, plan.ema)
            total += amount * len(index)
        parallel.average([*model.buffers(), *(averaged.buffers() if averaged is not model else ())])
        metric, crossed = evaluate(averaged, selection, task)
        if math.isfinite(crossed) and (not math.isfinite(best.loss) or (metric, -crossed) > (best.metric, -best.loss)):
            best, weights = Fit(metric, crossed, epoch, epoch), copy.deepcopy(averaged.state_dict())
        if file and parallel.first():
            state = {name: part.state_dict() for name, part in parts.items()}
            state |= {"best": asdict(best), "weights": weights, "epoch": epoch, "shuffle": shuffle.bit_generator.state}
            checkpoint.save(file, state | {"beside": [parameter.detach() for parameter in beside]})
        done, whole = (turn[0] - 1) * plan.epochs + epoch, turn[1] * plan.epochs
        left_s = (time.monotonic() - began) / (epoch - begun) * (whole - done)
        progress = {"done": done, "total": whole, "loss": total / len(train), "metric": metric, "left_s": left_s}
        emit({"event": "progress", **progress})
        if _patient(plan, epoch, best):
            break
    model.load_state_dict(weights)
    model.eval()
    if not math.isfinite(best.loss):
        raise StageError(f"{stage}: the model's outputs on the selection split are never finite: lower {stage}.lr")
    return Fit(best.metric, best.loss, best.epoch, epoch)


def _float(outputs: Outputs) -> Outputs:
    """As a loss wants them, whatever autocast made of them."""
    if isinstance(outputs, Tensor):
        return outputs.float() if outputs.is_floating_point() else outputs
    return {name: values.float() if values.is_floating_point() else values for name, values in outputs.items()}


def _patient(plan: Schedule, epoch: int, best: Fit) -> bool:
    """Whether enough epochs went by without a better score."""
    return bool(plan.patience) and epoch - best.epoch >= plan.patience


def _average(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the averaged weights by 1 - decay towards the model's; running statistics are the model's own."""
    with torch.no_grad():
        for mean, now in zip(averaged.parameters(), model.parameters(), strict=True):
            mean.lerp_(now, 1 - decay)
        for seen, own in zip(averaged.buffers(), model.buffers(), strict=True):
            seen.copy_(own)


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
        raise UsageError(f"{stage}.augment raised {type(error).__name__}: {' '.join(str(error).split())}") from error


def facts(model: nn.Module, data: Path, fit: Fit | None = None, task: Task = CLASSIFICATION) -> dict[str, Any]:
    """What a stage tells of its model: metric and loss on the selection split, params, macs, and how it was fitted."""
    from pipeline.compression.macs import count

    selection = load_split(data, "selection")
    metric, loss = (fit.metric, fit.loss) if fit else evaluate(model, selection, task)
    counted = count(model, tensors(selection.inputs, slice(0, 1)))
    told: dict[str, Any] = {
        "metric": metric if math.isfinite(metric) else None,
        "loss": round(loss, 6) if math.isfinite(loss) else None,
    }
    told |= {"params": counted.params, "macs": counted.macs}
    return told | ({"epoch": fit.epoch, "epochs_run": fit.epochs_run} if fit else {})
