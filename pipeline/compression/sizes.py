"""Parameters of each layer, and the bytes that they take as int8, by what they grow with: for exact budgets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from pipeline.compression.macs import Part, count
from pipeline.compression.structure import layouts

INT8, INT32 = 1, 4  # bytes


@dataclass(frozen=True)
class Amount:
    """What one layer takes; `parts` as in macs.Layer."""

    name: str
    parts: tuple[Part, ...]


def parameters(model: nn.Module) -> list[Amount]:
    """Numbers that are learned, each layer's own; tied ones count once."""
    return _amounts(model, lambda module, name, parameter: parameter.numel())


def int8_bytes(model: nn.Module) -> list[Amount]:
    """What a runtime stores of the layers in int8: a byte a weight, and four for each output's bias.

    BatchNorm takes nothing, since it is folded into the layer before it; what else has one dim stays in four bytes.
    """

    def size(module: nn.Module, name: str, parameter: nn.Parameter) -> int:
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            return 0
        folded = name == "bias" and isinstance(module, (nn.Linear, nn.modules.conv._ConvNd))
        return parameter.numel() * (INT8 if parameter.ndim > 1 else 0 if folded else INT32)

    biases = []
    for name, module in model.named_modules():
        axis = "through" if "through" in layouts(module) else "out"
        if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
            count = module.out_features if isinstance(module, nn.Linear) else module.out_channels
            biases.append(Amount(name, ((INT32 * count, (axis,)),)))
    return _amounts(model, size) + biases


def total(amounts: list[Amount]) -> int:
    """Of the whole network."""
    return sum(amount for one in amounts for amount, _ in one.parts)


def _amounts(model: nn.Module, size: Callable[[nn.Module, str, nn.Parameter], int]) -> list[Amount]:
    found, seen = [], set()
    for name, module in model.named_modules():
        axes: dict[str, list[str]] = {}
        for axis, layout in layouts(module).items():
            for tensor, _ in layout.tensors:
                axes.setdefault(tensor, []).append(axis)
        parts = []
        for own, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                parts.append((size(module, own, parameter), tuple(axes.get(own, ()))))
        if parts:
            found.append(Amount(name, tuple(parts)))
    return found


def of(name: str, example: Sequence[Tensor]) -> Callable[[nn.Module], float]:
    """What a whole model takes: "macs", "parameters" or "bytes". `example`: its inputs, [n, ...] each."""
    if name == "macs":
        return lambda model: count(model, example).macs
    return lambda model: total(SIZES[name](model))


SIZES: dict[str, Callable[[nn.Module], list[Amount]]] = {"parameters": parameters, "bytes": int8_bytes}  # a stop's name
