"""The contribution of a unit, by taking it away: C(v) = E(S - {v}) - E(S), E the mean loss on the samples."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.compression.sight import Sight, values
from pipeline.compression.structure import Group, layouts, reads

BATCH = 256
LIMIT_BYTES = 1 << 30  # of layers' outputs that are kept

Outputs = dict[str, list[Tensor]]  # layer -> what it said, batch by batch


def contribution(sight: Sight) -> list[Tensor]:
    """How much the mean loss rises without each unit; negative where the network is better off without it.

    Every unit is silenced where it is read, which is equal to removing it, and all samples are run again: the cost is
    one pass over the samples for each unit, less the layers before the first that reads it, which say what they said.
    """
    with torch.no_grad():
        said = _said(sight)
        base = _loss(sight)
        found = []
        for group in sight.groups:
            with _as_before(sight, said, _before(sight, group, said)) as start:
                found.append(torch.tensor([_without(sight, group, unit, start) - base for unit in range(group.width)]))
        return found


def _without(sight: Sight, group: Group, unit: int, start: Callable[[int], None]) -> float:
    silenced = []
    try:
        for member in group.members:
            if not reads(sight.model, member):
                continue
            channels = [c for c, root in zip(member.channels, member.roots, strict=True) if root == unit]
            for parameter, dim in values(sight.model, member):
                index = torch.tensor(channels, dtype=torch.int64)
                silenced.append((parameter, dim, index, parameter.data.index_select(dim, index)))
                parameter.data.index_fill_(dim, index, 0.0)
        return _loss(sight, start)
    finally:
        for parameter, dim, index, before in silenced:
            parameter.data.index_copy_(dim, index, before)


def _loss(sight: Sight, start: Callable[[int], None] = lambda number: None) -> float:
    total = 0.0
    for number, batch in enumerate(sight.batches(BATCH)):
        start(number)
        total += float(sight.loss(*batch))
    return total / len(sight.labels)


def _said(sight: Sight) -> Outputs:
    """What the layers say, in the order in which they run; without those that run twice or say no single tensor, and
    only as many as the memory may hold.
    """
    said: Outputs = {}
    batches, room = len(list(sight.batches(BATCH))), LIMIT_BYTES

    def hook(name: str) -> Callable[..., None]:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            nonlocal room
            kept = output.clone() if isinstance(output, Tensor) and room > 0 else torch.empty(0)
            room -= kept.numel() * kept.element_size()
            said.setdefault(name, []).append(kept)

        return keep

    layers = [(name, module) for name, module in sight.model.named_modules() if layouts(module)]
    handles = [module.register_forward_hook(hook(name)) for name, module in layers]
    try:
        _loss(sight)
    finally:
        for handle in handles:
            handle.remove()
    return {name: rows if len(rows) == batches else [] for name, rows in said.items()}


def _before(sight: Sight, group: Group, said: Outputs) -> list[str]:
    """The layers that ran before the first reader of a group, and whose outputs are kept."""
    readers = {member.module for member in group.members if reads(sight.model, member)}
    order = list(said)
    first = min((order.index(name) for name in readers if name in said), default=0)
    return [name for name in order[:first] if said[name] and all(one.numel() for one in said[name])]


@contextmanager
def _as_before(sight: Sight, said: Outputs, names: Collection[str]) -> Iterator[Callable[[int], None]]:
    """These layers say again what they said, of the batch that the function is told. Copies: in-place operations."""
    now = 0

    def start(number: int) -> None:
        nonlocal now
        now = number

    def again(name: str) -> Callable[..., Tensor]:
        return lambda *args, **kwargs: said[name][now].clone()

    modules = {name: sight.model.get_submodule(name) for name in names}
    before: dict[str, Any] = {name: vars(module).get("forward") for name, module in modules.items()}
    try:
        for name, module in modules.items():
            module.forward = again(name)
        yield start
    finally:
        for name, module in modules.items():
            del module.forward
            if before[name] is not None:
                module.forward = before[name]
