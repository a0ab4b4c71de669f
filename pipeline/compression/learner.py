"""What a training changes at every step, and what has to be kept of it between two epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.compression import parallel
from pipeline.compression.copies import copied
from pipeline.compression.optimizers import OPTIMIZERS
from pipeline.compression.penalties import PENALTIES, soft_threshold
from pipeline.interface import Outputs


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


class Learner:
    """A model in training. `averaged`: what is to be looked at, the model itself where nothing is averaged.

    `beside`: parameters that are trained along; `zeros`: names of parameters whose zeros stay zero.
    """

    def __init__(self, model: nn.Module, plan: Schedule, beside: Sequence[nn.Parameter], zeros: Sequence[str]) -> None:
        self.averaged = copied(model) if plan.ema else model
        self._model, self._plan, self._beside = model, plan, beside
        self._optimizers = OPTIMIZERS[plan.optimizer](model, beside, plan.lr, plan.weight_decay)
        self._kept = {model.get_parameter(name): model.get_parameter(name).detach() != 0 for name in zeros}
        self._together = parallel.wrap(model)

    def train(self) -> None:
        """Into training mode."""
        self._together.train()

    def forward(self, inputs: tuple[Tensor, ...]) -> Outputs:
        """The model's outputs for this process's part of a batch, as float32 where they are real numbers."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self._plan.amp):
            outputs: Outputs = self._together(*inputs)
        if isinstance(outputs, Tensor):
            return _float(outputs)
        return {name: _float(values) for name, values in outputs.items()}

    def penalty(self) -> Tensor | float:
        """What sparse training adds to the loss."""
        if self._plan.penalty not in PENALTIES:
            return 0.0
        return self._plan.strength * PENALTIES[self._plan.penalty](self._model)

    def step(self, loss: Tensor, share: float) -> None:
        """Down the loss, by `share` of the highest learning rate."""
        for parameter in (*self._model.parameters(), *self._beside):
            parameter.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        parallel.average(parameter.grad for parameter in self._beside)
        lr = self._plan.lr * share
        for optimizer in self._optimizers:
            optimizer.param_groups[0]["lr"] = lr
            optimizer.step()
        if self._plan.penalty == "soft_threshold":
            soft_threshold(self._model, self._plan.strength * lr)
        for parameter, keep in self._kept.items():
            parameter.data.mul_(keep)
        if self.averaged is not self._model:
            _average(self.averaged, self._model, self._plan.ema)

    def settle(self) -> None:
        """The end of an epoch: processes that train together agree on running statistics too."""
        parallel.average(self._model.buffers())
        if self.averaged is not self._model:
            parallel.average(self.averaged.buffers())

    def state(self) -> dict[str, Any]:
        """All that a training goes on from; tensors and plain values."""
        return {
            "model": self._model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "beside": [parameter.detach() for parameter in self._beside],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        self._model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        for optimizer, kept in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        for parameter, values in zip(self._beside, state["beside"], strict=True):
            parameter.data.copy_(values)


def _float(values: Tensor) -> Tensor:
    return values.float() if values.is_floating_point() else values


def _average(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the averaged weights by 1 - decay towards the model's; running statistics are the model's own."""
    with torch.no_grad():
        for mean, now in zip(averaged.parameters(), model.parameters(), strict=True):
            mean.lerp_(now, 1 - decay)
        for seen, own in zip(averaged.buffers(), model.buffers(), strict=True):
            seen.copy_(own)
