"""Heads of attention, in nn.MultiheadAttention and in modules that keep their number of heads in an attribute.

Which rows of which projection serve a head is read off gradients, not guessed from a layout: the last linear layer of
such a module reads the heads side by side, and a row belongs to the head whose columns it moves. So one fused
projection or three, in any order of query, key, value and heads, are the same to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.compression import attention, structure
from pipeline.compression.copies import copied
from pipeline.compression.structure import ATTENTION, Edit, Group, Kept, Member, head_attribute
from pipeline.interface import Outputs

HEADS = "heads"


class _RefusedError(Exception):
    """Why a module's heads stay."""


def prepare(model: nn.Module, example: Sequence[Tensor]) -> list[Edit]:
    """Every nn.MultiheadAttention that can be plain linear layers, and nothing else changes: the edits, not applied."""
    edits: list[Edit] = []
    names = [name for name, module in model.named_modules() if isinstance(module, nn.MultiheadAttention)]
    with structure.judging(model), torch.no_grad():
        reference = model(*example)
        for name in names:
            module = model.get_submodule(name)
            assert isinstance(module, nn.MultiheadAttention)
            edit = {"module": name, "axis": ATTENTION, "width": module.num_heads, "removed": []}
            if not attention.refusal(module) and _same(model, edit, example, reference):
                edits.append(edit)
    return edits


def _same(model: nn.Module, edit: Edit, example: Sequence[Tensor], reference: Outputs) -> bool:
    tried = copied(model)
    try:
        structure.apply(tried, [edit])
        return structure.difference(tried(*example), reference) <= structure.TOLERANCE
    except Exception:
        return False


def groups(model: nn.Module, example: Sequence[Tensor]) -> tuple[list[Group], list[Kept]]:
    """The attentions whose heads can be cut, and those that stay whole with the reason.

    `example`: real inputs, each [n, ...]. Leaves the model as it was.
    """
    found, kept = [], []
    shared = structure.shared(model)
    with structure.judging(model):
        with torch.no_grad():
            reference = model(*example)
        for name, module in model.named_modules():
            if isinstance(module, nn.MultiheadAttention):
                why = attention.refusal(module) or "the model looks at its weights, or has a mask for each head"
                kept.append(Kept(name, module.num_heads, why))
                continue
            if not _attends(module):
                continue
            heads = int(getattr(module, head_attribute(module)))
            try:
                group = _group(model, name, heads, example, shared)
                if reason := structure.problem(model, group, example, reference):
                    raise _RefusedError(reason)
                found.append(group)
            except _RefusedError as refused:
                kept.append(Kept(name, heads, str(refused)))
    return found, kept


def _attends(module: nn.Module) -> bool:
    """The innermost module with a number of heads and linear layers."""
    if not head_attribute(module) or not any(isinstance(one, nn.Linear) for one in module.modules()):
        return False
    inside = (one for one in module.modules() if one is not module)
    return not any(isinstance(one, nn.MultiheadAttention) or head_attribute(one) for one in inside)


def _group(model: nn.Module, name: str, heads: int, example: Sequence[Tensor], shared: set[int]) -> Group:
    if heads < 2:
        raise _RefusedError("it has one head")
    linear = {
        f"{name}.{own}".lstrip("."): layer
        for own, layer in model.get_submodule(name).named_modules()
        if isinstance(layer, nn.Linear)
    }
    if any(id(parameter) in shared for layer in linear.values() for parameter in layer.parameters()):
        raise _RefusedError("it shares a parameter with another layer")
    reader, read, made = _watch(model, linear, example)
    if read.shape[-1] % heads:
        raise _RefusedError(f"'{reader}' reads {read.shape[-1]} columns, which are not {heads} heads")
    each = read.shape[-1] // heads
    owners = {maker: torch.zeros(heads, output.shape[-1], dtype=torch.bool) for maker, output in made.items()}
    for head in range(heads):
        own = read[..., head * each : (head + 1) * each]
        weights = torch.randn(own.shape, generator=torch.Generator().manual_seed(head))
        slopes = torch.autograd.grad((own * weights).sum(), list(made.values()), retain_graph=True, allow_unused=True)
        for maker, slope in zip(made, slopes, strict=True):
            if slope is not None:
                owners[maker][head] = (slope != 0).flatten(0, -2).any(0)
    members = [Member(name, HEADS, tuple(range(heads)), tuple(range(heads)))]
    for maker, of in owners.items():
        if not bool(of.any()):
            continue
        if not bool((of.sum(0) == 1).all()):
            raise _RefusedError(f"rows of '{maker}' serve several heads, or none")
        members.append(Member(maker, "out", tuple(range(of.shape[1])), tuple(of.int().argmax(0).tolist())))
    if len(members) == 1:
        raise _RefusedError(f"nothing that '{reader}' reads comes from its linear layers")
    roots = tuple(column // each for column in range(read.shape[-1]))
    members.append(Member(reader, "in", tuple(range(read.shape[-1])), roots))
    return Group(name, heads, tuple(members))


def _watch(
    model: nn.Module, linear: dict[str, nn.Linear], example: Sequence[Tensor]
) -> tuple[str, Tensor, dict[str, Tensor]]:
    """(the layer that is run last, what it reads, what the others say), from noise in place of what they said.

    Noise: a slope that is zero then says that there is no way, not that a weight happened to be zero.
    """
    read: dict[str, Tensor] = {}
    made: dict[str, Tensor] = {}
    noise = torch.Generator().manual_seed(0)

    def hook(name: str) -> Any:
        def record(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if name in read:
                raise _RefusedError(f"it runs '{name}' twice")
            read[name] = args[0]
            made[name] = torch.randn(output.shape, generator=noise).requires_grad_()
            return made[name]

        return record

    handles = [layer.register_forward_hook(hook(name)) for name, layer in linear.items()]
    try:
        with torch.enable_grad():
            model(*example)
    finally:
        for handle in handles:
            handle.remove()
    if len(made) < 2:
        raise _RefusedError("its linear layers are not run")
    last = list(read)[-1]
    return last, read[last], {name: output for name, output in made.items() if name != last}
