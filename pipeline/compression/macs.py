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

from pipeline.compression.attention import Attention

Part = tuple[int, tuple[str, ...]]


@dataclass(frozen=True)
class Layer:
    """One layer: MACs per sample over all its uses, and parameters.

    `parts`: the MACs by what they grow with, each (amount, the layer's axes); proportional to an axis once for each
    time that it is named.
    """

    name: str
    type: str
    macs: int
    parts: tuple[Part, ...]
    params: int


Counter = Callable[[Any, tuple[Any, ...], Any], list[Part]]  # (module, inputs, output) -> parts, of the whole batch


def _conv(module: Any, inputs: tuple[Any, ...], output: Any) -> list[Part]:
    # Every input value meets the whole kernel of a transposed convolution; every output value that of a plain one.
    values = inputs[0].numel() if module.transposed else output.numel()
    fan = module.out_channels if module.transposed else module.in_channels
    depthwise = 1 < module.groups == module.in_channels == module.out_channels
    axes = ("through",) if depthwise else ("in", "out")
    return [(values * (fan // module.groups) * math.prod(module.kernel_size), axes)]


def _linear(module: Any, inputs: tuple[Any, ...], output: Any) -> list[Part]:
    return [(output.numel() * module.in_features, ("in", "out"))]


def _recurrent(module: Any, inputs: tuple[Any, ...], output: Any) -> list[Part]:
    gates = {"GRU": 3, "LSTM": 4}.get(module.mode, 1)
    steps = inputs[0].numel() // module.input_size  # batch x time
    directions = 2 if module.bidirectional else 1
    hidden, emitted = module.hidden_size, module.proj_size or module.hidden_size
    first = steps * directions * gates * hidden * module.input_size
    deeper = steps * directions * gates * hidden * directions * emitted * (module.num_layers - 1)
    recurrent = steps * directions * module.num_layers * (gates * hidden * emitted + hidden * module.proj_size)
    return [(first, ("in", "state l0")), (deeper + recurrent, ("state l0", "state l0"))]


def _attention(module: Any, inputs: tuple[Any, ...], output: Any) -> list[Part]:
    if not module.batch_first:
        inputs = tuple(value.transpose(0, 1) for value in inputs[:3])
    (batch, queries, width), (keys, key_width) = inputs[0].shape, inputs[1].shape[1:]
    projections = width * width * 2 * queries + (key_width + inputs[2].shape[2]) * width * keys
    return [(batch * (projections + 2 * queries * keys * width), ())]


def _heads(module: Any, inputs: tuple[Any, ...], output: Any) -> list[Part]:
    steps = 1 if module.batch_first else 0
    queries, keys = inputs[0].shape[steps], inputs[1].shape[steps]
    batch = inputs[0].shape[1 - steps]
    return [(2 * batch * queries * keys * module.q.out_features, ("heads",))]


_COUNTERS: tuple[tuple[type[nn.Module], Counter], ...] = (
    (nn.modules.conv._ConvNd, _conv),
    (nn.Linear, _linear),
    (nn.RNNBase, _recurrent),
    (nn.MultiheadAttention, _attention),
    (Attention, _heads),  # beside its linear layers
)


@dataclass(frozen=True)
class Count:
    """MACs per sample and parameters of a whole model, and its counted layers in execution order."""

    macs: int
    params: int
    layers: tuple[Layer, ...]


def count(model: nn.Module, example: Sequence[Tensor]) -> Count:
    """Count on one forward pass in eval mode. `example`: the model's inputs in order, each [n, ...]."""
    totals: dict[str, dict[tuple[str, ...], int]] = {}
    hooks = []
    for name, module in model.named_modules():
        counter = next((counter for kind, counter in _COUNTERS if isinstance(module, kind)), None)
        if counter is None:
            continue

        def hook(module: Any, args: tuple[Any, ...], output: Any, name: str = name, counter: Counter = counter) -> None:
            parts = totals.setdefault(name, {})
            for amount, axes in counter(module, args, output):  # a layer that is used twice counts twice
                parts[axes] = parts.get(axes, 0) + amount

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
        Layer(
            name,
            type(found[name]).__name__,
            sum(parts.values()) // batch,
            tuple((amount // batch, axes) for axes, amount in parts.items()),
            _params(found[name]),
        )
        for name, parts in totals.items()
    )
    return Count(sum(layer.macs for layer in layers), _params(model), layers)


def _params(module: nn.Module) -> int:
    """Tied parameters count once."""
    return sum(parameter.numel() for parameter in module.parameters())
