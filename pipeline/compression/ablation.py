"""The contribution of a unit, by taking it away: C(v) = E(S - {v}) - E(S), E the mean loss on the samples."""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.compression.sight import Sight, values
from pipeline.compression.structure import Group, reads

BATCH = 256


def contribution(sight: Sight) -> list[Tensor]:
    """How much the mean loss rises without each unit; negative where the network is better off without it.

    Every unit is silenced where it is read, which is equal to removing it, and all samples are run again: the cost is
    one pass over the samples for each unit.
    """
    with torch.no_grad():
        base = _loss(sight)
        return [
            torch.tensor([_without(sight, group, unit) - base for unit in range(group.width)]) for group in sight.groups
        ]


def _without(sight: Sight, group: Group, unit: int) -> float:
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
        return _loss(sight)
    finally:
        for parameter, dim, index, before in silenced:
            parameter.data.index_copy_(dim, index, before)


def _loss(sight: Sight) -> float:
    return sum(float(sight.loss(*batch)) for batch in sight.batches(BATCH)) / len(sight.labels)
