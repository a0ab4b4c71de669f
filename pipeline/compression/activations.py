"""Criteria from what a unit says: its activations where other layers read them, and the loss's slope there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.compression.sight import Sight, gradients, trainable
from pipeline.compression.structure import Group, Member, grouped

BINS = 32

Reads = dict[str, list[Tensor]]  # layer -> the tensors that it read in one pass


def gradient(sight: Sight) -> list[Tensor]:
    """R_a = sum over samples and positions of |dL/da|. A tensor that several layers read counts once."""
    totals = [torch.zeros(group.width) for group in sight.groups]
    with trainable(sight.model), _reading(sight) as reads:
        for inputs, labels in sight.batches():
            reads.clear()
            loss = sight.loss(inputs, labels)
            tensors = list({id(tensor): tensor for read in reads.values() for tensor in read}.values())
            slopes = gradients(loss, tensors)
            found = {id(tensor): slope for tensor, slope in zip(tensors, slopes, strict=True)}
            for group, total in zip(sight.groups, totals, strict=True):
                for member, tensor in _sites(group, reads):
                    total += _per_unit(sight.model, group, member, found[id(tensor)]).abs().sum(1)
    return totals


def sparsity(sight: Sight) -> list[Tensor]:
    """Share of the unit's activations that are not zero: nonzeros / total."""
    nonzero = [torch.zeros(group.width) for group in sight.groups]
    total = [0] * len(sight.groups)
    for index, seen in _activations(sight):
        nonzero[index] += (seen != 0).sum(1)
        total[index] += seen.shape[1]
    return [count / size for count, size in zip(nonzero, total, strict=True)]


def entropy(sight: Sight) -> list[Tensor]:
    """Entropy in bits of the unit's activations over all samples and positions, in 32 bins over its own range.

    A unit that always says the same has 0 and goes first.
    """
    low = [torch.full((group.width,), torch.inf) for group in sight.groups]
    high = [torch.full((group.width,), -torch.inf) for group in sight.groups]
    for index, seen in _activations(sight):
        low[index] = torch.minimum(low[index], seen.amin(1))
        high[index] = torch.maximum(high[index], seen.amax(1))
    counts = [torch.zeros(group.width, BINS) for group in sight.groups]
    for index, seen in _activations(sight):
        span = (high[index] - low[index]).clamp_min(torch.finfo(torch.float32).tiny)
        bins = ((seen - low[index][:, None]) / span[:, None] * BINS).long().clamp_(0, BINS - 1)
        counts[index].scatter_add_(1, bins, torch.ones_like(seen))
    shares = [count / count.sum(1, keepdim=True) for count in counts]
    return [-torch.xlogy(share, share).sum(1) / torch.log(torch.tensor(2.0)) for share in shares]


def _activations(sight: Sight) -> Iterator[tuple[int, Tensor]]:
    """(group, values [width, anything]) for every tensor that is read, pass by pass."""
    with torch.no_grad(), _reading(sight) as reads:
        for inputs, _ in sight.batches():
            reads.clear()
            sight.model(*inputs)
            for index, group in enumerate(sight.groups):
                for member, tensor in _sites(group, reads):
                    yield index, _per_unit(sight.model, group, member, tensor).float()


@contextmanager
def _reading(sight: Sight) -> Iterator[Reads]:
    """Fills what each reader of a group gets, while the model runs."""
    reads: Reads = {}
    names = {member.module for group in sight.groups for member in group.members if member.axis == "in"}

    def hook(name: str) -> Callable[[nn.Module, Any], None]:
        return lambda module, args: reads.setdefault(name, []).append(args[0])

    handles = [sight.model.get_submodule(name).register_forward_pre_hook(hook(name)) for name in names]
    try:
        yield reads
    finally:
        for handle in handles:
            handle.remove()


def _sites(group: Group, reads: Reads) -> Iterator[tuple[Member, Tensor]]:
    """Where a group's units are read in this pass, each tensor once."""
    seen: set[int] = set()
    for member in group.members:
        if member.axis == "in":
            for tensor in reads.get(member.module, ()):
                if id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield member, tensor


def _per_unit(model: nn.Module, group: Group, member: Member, tensor: Tensor) -> Tensor:
    """The tensor that a layer reads as [width, positions]: every value of each unit of the group."""
    module = model.get_submodule(member.module)
    last = isinstance(module, (nn.Linear, nn.RNNBase))
    if grouped(module):  # a unit is one channel of each convolution group
        tensor = tensor.reshape(len(tensor), module.groups, -1, *tensor.shape[2:]).transpose(1, 2)
    rows = tensor.movedim(-1 if last else 1, 0)[list(member.channels)].reshape(len(member.channels), -1)
    # Several channels of one unit (flattened maps) stand one after another once they are sorted by unit.
    order = torch.tensor(member.roots).argsort(stable=True)
    units = len(set(member.roots))
    if units != group.width:  # a layer that reads some of the units only
        whole = rows.new_zeros(group.width, len(rows) // units * rows.shape[1])
        whole[sorted(set(member.roots))] = rows[order].reshape(units, -1)
        return whole
    return rows[order].reshape(group.width, -1)
