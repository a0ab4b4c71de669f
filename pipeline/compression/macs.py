"""Multiply-accumulates and parameters of each layer, counted by hooks on one real forward pass.

One MAC is one multiplication with its addition; biases, normalisation and activations are not counted (the usual
convention: a convolution's MACs are output positions x out channels x in channels / groups x kernel size).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Layer:
    """One layer: MACs per sample over all its uses, of which `fixed` do not depend on its input width; parameters."""

    name: str
    type: str
    macs: int
    fixed: int
    params: int


Counter = Callable[
    [Any, tuple[Any, ...], Any], tuple[int, int]
]  # (module, inputs, output) -> (macs, fixed), whole batch


def _conv(module: Any, inputs: tuple[Any, ...], output: Any) -> tuple[int, int]:
    # Every input value meets the whole kernel of a transposed convolution; every output value that of a plain one.
    values = inputs[0].numel() if module.transposed else output.numel()
    fan = module.out_channels if module.transposed else module.in_channels
    return int(values * (fan // module.groups) * math.prod(module.kernel_size)), 0


def _linear(module: Any, inputs: tuple[Any, ...], output: Any) -> tuple[int, int]:
    return int(output.numel() * module.in_features), 0


def _recurrent(module: Any, inputs: tuple[Any, ...], output: Any) -> tuple[int, int]:
    gates = {"GRU": 3, "LSTM": 4}.get(module.mode, 1)
    steps = inputs[0].numel() // module.input_size  # batch x time
    directions = 2 if module.bidirectional else 1
    hidden, emitted = module.hidden_size, module.proj_size or module.hidden_size
    first = steps * directions * gates * hidden * module.input_size
    deeper = steps * directions * gates * hidden * directions * emitted * (module.num_layers - 1)
    recurrent = steps * directions * module.num_layers * (gates * hidden * emitted + hidden * module.proj_size)
    return first + deeper + recurrent, deeper + recurrent


def _attention(module: Any, inputs: tuple[Any, ...], output: Any) -> tuple[int, int]:
    if not module.batch_first:
        inputs = tuple(value.transpose(0, 1) for value in inputs[:3])
    (batch, queries, width), (keys, key_width) = inputs[0].shape, inputs[1].shape[1:]
    projections = width * width * 2 * queries + (key_width + inputs[2].shape[2]) * width * keys
    macs = batch * (projections + 2 * queries * keys * width)
    return macs, macs


_COUNTERS: tuple[tuple[type[nn.Module], Counter], ...] = (
    (nn.modules.conv._ConvNd, _conv),
    (nn.Linear, _linear),
    (nn.RNNBase, _recurrent),
    (nn.MultiheadAttention, _attention),
)


@dataclass(frozen=True)
class Count:
    """MACs per sample and parameters of a whole model, and its counted layers in execution order."""

    macs: int
    params: int
    layers: tuple[Layer, ...]


def count(model: nn.Module, example: Sequence[Tensor]) -> Count:
    """Count on one forward pass in eval mode. `example`: the model's inputs in order, each [n, ...]."""
    totals: dict[str, tuple[int, int]] = {}
    hooks = []
    for name, module in model.named_modules():
        counter = next((counter for kind, counter in _COUNTERS if isinstance(module, kind)), None)
        if counter is None:
            continue

        def hook(module: Any, args: tuple[Any, ...], output: Any, name: str = name, counter: Counter = counter) -> None:
            # A layer that is used twice counts twice.
            before, now = totals.get(name, (0, 0)), counter(module, args, output)
            totals[name] = (before[0] + now[0], before[1] + now[1])

        hooks.append(module.register_forward_hook(hook))
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(*example)
    finally:
        model.train(training)
        for handle in hooks:
            handle.remove()
    batch, found = len(example[0]), dict(model.named_modules())
    layers = tuple(
        Layer(name, type(found[name]).__name__, macs // batch, fixed // batch, _params(found[name]))
        for name, (macs, fixed) in totals.items()
    )
    return Count(sum(layer.macs for layer in layers), _params(model), layers)


def _params(module: nn.Module) -> int:
    """Tied parameters count once."""
    return sum(parameter.numel() for parameter in module.parameters())
