"""Optimal brain surgeon: what a unit costs when the weights that stay make up for it, and that correction.

Hassibi, Stork 1993, "Second order derivatives for network pruning", for groups of weights as in Kurtic et al. 2022,
"The Optimal BERT Surgeon": with F the Fisher matrix of a block of weights w and S those that go,

    loss = w_S' ((F^-1)_SS)^-1 w_S / 2        w <- w - (F^-1)_:S ((F^-1)_SS)^-1 w_S

A unit goes when nothing reads it, so the weights that count are its readers' columns. A block is one output row of one
reader, at most `BLOCK` weights of it: the Fisher matrix of a whole layer would not fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.compression.sight import Sight, gradients, trainable, values
from pipeline.compression.structure import Group, Member, reads
from pipeline.errors import UsageError

BLOCK = 512  # weights
ROWS = 16  # of a layer at a time: bounds the memory of the inverses
DAMPING = 0.01  # of the mean diagonal: fewer samples than weights leave the Fisher matrix singular
LIMIT_BYTES = 4 << 30


@dataclass(frozen=True)
class Block:
    """Some units (`units`, of one group) in the columns of one reader, with the per-sample gradients of the layer.

    `place`: int64 [rows, units, weights each], where those weights lie in the flattened parameter.
    """

    group: int
    units: tuple[int, ...]
    parameter: nn.Parameter
    place: Tensor
    gradients: Tensor  # [samples, weights of the parameter]


def score(sight: Sight) -> list[Tensor]:
    """The rise of the loss, to second order, when a unit goes and the weights beside it are corrected."""
    totals = [torch.zeros(group.width) for group in sight.groups]
    for block in _blocks(sight):
        each = block.place.shape[2]
        for piece in torch.split(block.place, ROWS):
            weights, inverse = _weights(block, piece), inverse_fisher(_rows(block, piece))
            for slot, unit in enumerate(block.units):
                own = slice(slot * each, (slot + 1) * each)
                gone = weights[:, own]
                force = torch.linalg.solve(inverse[:, own, own], gone)
                totals[block.group][unit] += float((gone * force).sum() / 2)
    return totals


def update(sight: Sight, removed: Sequence[Sequence[int]]) -> None:
    """Correct the weights that stay, in place, for the units of each group that go; theirs become zero."""
    for block in _blocks(sight):
        gone = [slot for slot, unit in enumerate(block.units) if unit in set(removed[block.group])]
        if not gone:
            continue
        each = block.place.shape[2]
        columns = torch.tensor([slot * each + i for slot in gone for i in range(each)])
        for piece in torch.split(block.place, ROWS):
            weights, inverse = _weights(block, piece), inverse_fisher(_rows(block, piece))
            force = torch.linalg.solve(inverse[:, columns][:, :, columns], weights[:, columns])
            weights -= (inverse[:, :, columns] @ force[..., None])[..., 0]
            weights[:, columns] = 0.0
            place = torch.unravel_index(piece.flatten(), block.parameter.shape)  # the layout in memory may be any
            block.parameter.data[place] = weights.flatten().to(block.parameter.dtype)


def inverse_fisher(rows: Tensor) -> Tensor:
    """(F + damping I)^-1, float64 [rows, d, d], F the mean of g g' over samples; `rows`: float64 [rows, samples, d].

    By Woodbury where there are fewer samples than weights.
    """
    samples, size = rows.shape[1:]
    damping = (DAMPING * rows.square().sum((1, 2)) / (samples * size)).clamp_min(1e-12)[:, None, None]
    eye = torch.eye(size, dtype=rows.dtype)
    inverse: Tensor
    if size <= samples:
        inverse = torch.linalg.inv(rows.mT @ rows / samples + damping * eye)
    else:
        inner = rows @ rows.mT + samples * damping * torch.eye(samples, dtype=rows.dtype)
        inverse = (eye - rows.mT @ torch.linalg.solve(inner, rows)) / damping
    return inverse


def _blocks(sight: Sight) -> Iterator[Block]:
    readers = [
        (index, group, member, parameter, dim)
        for index, group in enumerate(sight.groups)
        for member in group.members
        if reads(sight.model, member)
        for parameter, dim in values(sight.model, member)
    ]
    collected = _per_sample(sight, list(dict.fromkeys(parameter for _, _, _, parameter, _ in readers)))
    for index, group, member, parameter, dim in readers:
        place = _place(group, member, parameter, dim)
        units = sorted(set(member.roots))
        step = max(1, BLOCK // place.shape[2])
        for start in range(0, len(units), step):
            piece = slice(start, start + step)
            yield Block(index, tuple(units[piece]), parameter, place[:, piece], collected[parameter])


def _place(group: Group, member: Member, parameter: nn.Parameter, dim: int) -> Tensor:
    """Index of each weight in the flattened parameter, [rows, units, weights each]; the other of dims 0, 1 is rows."""
    index = torch.arange(parameter.numel()).view(parameter.shape).movedim(dim, 1)
    order = torch.tensor(member.roots).argsort(stable=True)
    columns = torch.tensor(member.channels)[order]
    return index[:, columns].reshape(len(index), len(set(member.roots)), -1)  # kernels with their channel


def _per_sample(sight: Sight, parameters: list[nn.Parameter]) -> dict[nn.Parameter, Tensor]:
    size = sum(parameter.numel() for parameter in parameters)
    if len(sight.labels) * size * 4 > LIMIT_BYTES:
        raise UsageError(
            f"prune.criterion = 'obs' keeps the gradients of {len(sight.labels)} samples by {size:,} weights, "
            f"{len(sight.labels) * size * 4 / 2**30:.1f} GB: lower prune.samples to {LIMIT_BYTES // (4 * size)}, "
            "or choose 'obd'"
        )
    found = {parameter: torch.empty(len(sight.labels), parameter.numel()) for parameter in parameters}
    with trainable(sight.model):
        for sample, batch in enumerate(sight.batches(1)):
            for parameter, gradient in zip(parameters, gradients(sight.loss(*batch), parameters), strict=True):
                found[parameter][sample] = gradient.flatten()
    return found


def _weights(block: Block, place: Tensor) -> Tensor:
    return block.parameter.detach().flatten()[place].double().flatten(1)


def _rows(block: Block, place: Tensor) -> Tensor:
    return block.gradients[:, place.flatten(1)].double().movedim(0, 1)
