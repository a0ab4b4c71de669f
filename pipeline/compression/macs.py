"""Multiply-accumulates and parameters of each layer, counted on one real forward pass.

The layers that are known tell what their MACs grow with; what a module's own code multiplies beside them (matmul,
einsum, attention, functional convolutions, on parameters or on activations) is counted as torch computes it. One MAC
is one multiplication with its addition; biases, normalisation and activations are not counted (the usual convention: a
convolution's MACs are output positions x out channels x in channels / groups x kernel size).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.compression.attention import Attention
from pipeline.compression.products import Products

Part = tuple[int, tuple[str, ...]]


@dataclass(frozen=True)
class Layer:
    """One layer: MACs per sample over all its uses, and parameters.

    `parts`: the MACs by what they grow with, each (amount, the layer's axes); proportional to an axis once for each
    time that it is named. `own`: those of the module's own code, of which it is known at most that a product of two
    activations in an attention grows with the heads.
    """

    name: str
    type: str
    macs: int
    parts: tuple[Part, ...]
    params: int
    own: int = 0


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
    from pipeline.compression.structure import head_attribute

    totals: dict[str, dict[tuple[str, ...], int]] = {}
    inside = [""]  # the modules that are being called, innermost last
    known = {
        name: counter
        for name, module in model.named_modules()
        if (counter := next((one for kind, one in _COUNTERS if isinstance(module, kind)), None))
    }

    def add(name: str, amount: int, axes: tuple[str, ...]) -> None:  # a layer that is used twice counts twice
        parts = totals.setdefault(name, {})
        parts[axes] = parts.get(axes, 0) + amount

    modules = dict(model.named_modules())
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    own: dict[str, int] = {}

    def beside(amount: int, arguments: Sequence[Any]) -> None:
        if (name := inside[-1]) in known or not amount:
            return
        tensors = (one for one in arguments if isinstance(one, Tensor))
        fixed = any(one.untyped_storage().data_ptr() in weights for one in tensors)
        add(name, amount, () if fixed or not head_attribute(modules[name]) else ("heads",))
        own[name] = own.get(name, 0) + amount

    def enter(module: Any, args: tuple[Any, ...], name: str) -> None:
        inside.append(name)
        if name in known:
            totals.setdefault(name, {})

    def leave(module: Any, args: tuple[Any, ...], output: Any, name: str) -> None:
        inside.pop()
        for amount, axes in known[name](module, args, output) if name in known else ():
            add(name, amount, axes)

    hooks = []
    for name, module in model.named_modules():
        hooks.append(module.register_forward_pre_hook(partial(enter, name=name)))
        hooks.append(module.register_forward_hook(partial(leave, name=name)))
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), Products(beside):
            model(*example)
    finally:
        model.train(training)
        for handle in hooks:
            handle.remove()
    batch = len(example[0])
    layers = tuple(
        Layer(
            name,
            type(modules[name]).__name__,
            sum(parts.values()) // batch,
            tuple((amount // batch, axes) for axes, amount in parts.items()),
            _params(modules[name]),
            own.get(name, 0) // batch,
        )
        for name, parts in totals.items()
    )
    return Count(sum(layer.macs for layer in layers), _params(model), layers)


def unattributed(counted: Count) -> int:
    """MACs of the modules' own code: a plan may count more of them than pruning leaves."""
    return sum(layer.own for layer in counted.layers)


def _params(module: nn.Module) -> int:
    """Tied parameters count once."""
    return sum(parameter.numel() for parameter in module.parameters())
