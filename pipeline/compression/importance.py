"""How much each channel of a group matters, from the weights alone."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.compression.structure import Group, layouts

Norm = Literal["l1", "l2"]
_ORDER = {"l1": 1, "l2": 2}


def magnitude(model: nn.Module, group: Group, norm: Norm = "l2") -> Tensor:
    """Magnitude of each channel over all layers that it runs through, float32 [width].

    L1: Li et al. 2017, "Pruning Filters for Efficient ConvNets"; over a whole dependency group and normalised in each
    layer by its mean: Fang et al. 2023, "DepGraph". Rows of producers, columns of consumers and scales of
    normalisations count equally, so that a layer with many or large weights does not decide alone.
    """
    total = torch.zeros(group.width)
    for member in group.members:
        module = model.get_submodule(member.module)
        tensors = layouts(module)[member.axis].tensors
        if not tensors:  # a number of heads is no weight
            continue
        name, dim = tensors[0]  # of a two-way recurrent layer, the forward weights
        weight: Tensor | None = getattr(module, name)
        if weight is None:  # a normalisation without learned scale says nothing
            continue
        roots, order = torch.tensor(member.roots), _ORDER[norm]
        rows = weight.detach().float().movedim(dim, 0)[list(member.channels)].reshape(len(roots), -1)
        # After flattening, one channel is several columns: together they are one long column.
        norms = torch.zeros(group.width).index_add_(0, roots, rows.abs().pow(order).sum(1)).pow(1 / order)
        mean = norms.sum() / len(set(member.roots))
        total += norms / mean if mean > 0 else norms
    return total
