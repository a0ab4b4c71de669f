"""Multiply-accumulates of whatever torch really computes: products, convolutions and attention, as they are called."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_aten = torch.ops.aten

# What the registry of torch has no rule for: an operator -> MACs from its arguments.
_FURTHER: dict[Any, Callable[..., int]] = {
    _aten.mv: lambda matrix, vector, **_: matrix.numel(),
    _aten.addmv: lambda added, matrix, vector, **_: matrix.numel(),
    _aten.dot: lambda one, other, **_: one.numel(),
    _aten.vdot: lambda one, other, **_: one.numel(),
    _aten.addr: lambda added, one, other, **_: one.numel() * other.numel(),
    _aten.addbmm: lambda added, one, other, **_: one.numel() * other.shape[-1],
    _aten._scaled_dot_product_flash_attention_for_cpu: lambda query, key, value, *_, **__: (
        query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])
    ),
    _aten._trilinear: lambda a, b, c, *rest, **_: math.prod(map(max, zip(*_opened(a, b, c, *rest), strict=True))),
}


def _opened(a: Any, b: Any, c: Any, *rest: Any) -> list[list[int]]:
    """The shapes of a trilinear form's factors, with the axes of size 1 that it gives them."""
    shapes = []
    for tensor, axes in zip((a, b, c), rest[:3], strict=True):
        shape = list(tensor.shape)
        for axis in axes:
            shape.insert(axis, 1)
        shapes.append(shape)
    return shapes


class Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is on, `say(macs, arguments)` is told of every operator that multiplies tensors: of the whole batch.

    Rules are those of torch.utils.flop_counter, halved: it counts a multiplication and its addition as two. Layers
    that a CPU library would compute in one piece (LSTM) are taken apart for it.
    """

    def __init__(self, say: Callable[[int, Sequence[Any]], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._say = say
        self._before: list[bool] = []  # whether the library was on, for each time that this was entered: it nests

    def __enter__(self) -> Products:
        self._before.append(torch._C._get_mkldnn_enabled())
        torch._C._set_mkldnn_enabled(False)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        torch._C._set_mkldnn_enabled(self._before.pop())

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        rule, further = flop_registry.get(function._overloadpacket), _FURTHER.get(function._overloadpacket)
        if rule is None and further is None and function is not torch.ops.prim.device.default:
            with self:
                taken_apart = function.decompose(*args, **kwargs)
            if taken_apart is not NotImplemented:
                return taken_apart
        told = function(*args, **kwargs)
        if rule is not None:
            self._say(rule(*args, **kwargs, out_val=told) // 2, args)
        elif further is not None:
            self._say(further(*args, **kwargs), args)
        return told


def counted(model: Callable[..., Any], example: Sequence[torch.Tensor]) -> tuple[int, Any]:
    """MACs of one call, of the whole batch, and what it answers."""
    found: list[int] = []
    with torch.no_grad(), Products(lambda macs, _: found.append(macs)):
        told = model(*example)
    return sum(found), told
