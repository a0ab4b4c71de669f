"""How much each unit of a group matters: one table, from a criterion's name to its function and to what it looks at.

A unit is one channel of a group, through all layers that it runs through. A criterion returns one score a unit, float32
[width], for each group; the lowest goes first. `comparable` scores mean the same in every group, so that one threshold
over the whole network makes sense; the others are divided by their group's mean before groups are compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.compression import ablation, activations, gradients, surgeon
from pipeline.compression.importance import Norm, magnitude
from pipeline.compression.sight import Sight, unit_sums
from pipeline.compression.structure import Group, layouts
from pipeline.errors import StageError, UsageError

Score = Callable[[Sight], list[Tensor]]
Update = Callable[[Sight, Sequence[Sequence[int]]], None]


@dataclass(frozen=True)
class Criterion:
    """`needs`: "weights" or "samples" (labelled ones). `update`: changes the weights that stay when units go."""

    score: Score
    needs: Literal["weights", "samples"]
    source: str
    comparable: bool = True
    update: Update | None = None


def l0(sight: Sight) -> list[Tensor]:
    """Weights of the unit that are not zero."""
    count = {parameter: (parameter.detach() != 0).float() for parameter in sight.model.parameters()}
    return [unit_sums(sight.model, group, count) for group in sight.groups]


def random(sight: Sight) -> list[Tensor]:
    """Uniform in [0, 1): what every other criterion has to beat. The same seed and group give the same scores."""
    return [torch.rand(group.width, generator=_generator(sight.seed, group.name)) for group in sight.groups]


def bn_scale(sight: Sight) -> list[Tensor]:
    """Mean |gamma| of the normalisations that the unit runs through.

    Raises UsageError when a group has no normalisation with a learned scale.
    """
    found = [_scales(sight.model, group) for group in sight.groups]
    if without := [group.name for group, scales in zip(sight.groups, found, strict=True) if not scales]:
        raise UsageError(
            f"prune.criterion = 'bn_scale' needs a normalisation with learned scales in every group, and there is none "
            f"behind {', '.join(map(repr, without))}: choose another criterion"
        )
    return [torch.stack(scales).mean(0) for scales in found]


def fpgm(sight: Sight) -> list[Tensor]:
    """Sum of the distances from a unit's filter to all others of its layer; the most replaceable is the median one."""
    return [sum(_distances(sight.model, group), torch.zeros(group.width)) for group in sight.groups]


def lamp(sight: Sight) -> list[Tensor]:
    """A unit's squared norm over that of all units of its group that are not smaller."""
    squares = {parameter: parameter.detach().float() ** 2 for parameter in sight.model.parameters()}
    return [lamp_of(unit_sums(sight.model, group, squares)) for group in sight.groups]


def lamp_of(squares: Tensor) -> Tensor:
    """LAMP of squared magnitudes [n]: x_i over the sum of all x_j >= x_i (ties in index order); 0 where x is 0."""
    order = squares.argsort(stable=True)
    ranked = squares[order].double()
    above = ranked.flip(0).cumsum(0).flip(0)
    scores = torch.zeros(len(squares), dtype=torch.float64)
    scores[order] = torch.where(ranked > 0, ranked / above.clamp_min(torch.finfo(torch.float64).tiny), 0.0)
    return scores.float()


def norm(order: Norm) -> Score:
    """Magnitude over all layers of the unit, each layer normalised by its mean."""
    return lambda sight: [magnitude(sight.model, group, order) for group in sight.groups]


CRITERIA: dict[str, Criterion] = {
    "l0": Criterion(l0, "weights", "count of nonzero weights", comparable=False),
    "l1": Criterion(norm("l1"), "weights", "Li et al. 2017, Pruning Filters for Efficient ConvNets", comparable=False),
    "l2": Criterion(norm("l2"), "weights", "Fang et al. 2023, DepGraph (group magnitude)", comparable=False),
    "random": Criterion(random, "weights", "baseline"),
    "bn_scale": Criterion(bn_scale, "weights", "Liu et al. 2017, Network Slimming"),
    "fpgm": Criterion(fpgm, "weights", "He et al. 2019, Filter Pruning via Geometric Median", comparable=False),
    "lamp": Criterion(lamp, "weights", "Lee et al. 2021, Layer-Adaptive Sparsity for Magnitude-based Pruning"),
    "weight_gradient": Criterion(gradients.weight_gradient, "samples", "R_w, sum of |dL/dw| over samples"),
    "activation_gradient": Criterion(activations.gradient, "samples", "R_a, sum of |dL/da| over samples"),
    "taylor": Criterion(gradients.taylor, "samples", "Molchanov et al. 2019, Importance Estimation, first order"),
    "activation_sparsity": Criterion(activations.sparsity, "samples", "Hu et al. 2016, Network Trimming (APoZ)"),
    "activation_entropy": Criterion(activations.entropy, "samples", "Luo, Wu 2017, An Entropy-based Pruning Method"),
    "contribution": Criterion(ablation.contribution, "samples", "C(v) = E(S - {v}) - E(S), by ablation"),
    "obd": Criterion(gradients.obd, "samples", "LeCun, Denker, Solla 1990, Optimal Brain Damage; diagonal Fisher"),
    "obs": Criterion(
        surgeon.score,
        "samples",
        "Hassibi, Stork 1993, Optimal Brain Surgeon; blocks as in Kurtic et al. 2022, oBERT",
        update=surgeon.update,
    ),
}


def score(name: str, sight: Sight) -> list[Tensor]:
    """Scores of every group, float32 [width] each, fit to be compared between groups.

    Raises StageError when one is not finite.
    """
    criterion = CRITERIA[name]
    scores = criterion.score(sight)
    for group, values in zip(sight.groups, scores, strict=True):
        if not bool(torch.isfinite(values).all()):
            raise StageError(
                f"prune: criterion '{name}' is not finite for {int((~torch.isfinite(values)).sum())} of {group.width} "
                f"units of '{group.name}': look at the model's weights and outputs, or choose another criterion"
            )
    if criterion.comparable:
        return scores
    return [values / values.mean() if values.mean() > 0 else values for values in scores]


def _scales(model: nn.Module, group: Group) -> list[Tensor]:
    found = []
    for member in group.members:
        module = model.get_submodule(member.module)
        weight = getattr(module, "weight", None)
        if hasattr(module, "num_features") and isinstance(weight, Tensor):
            gammas = weight.detach().float().abs()[list(member.channels)]
            total = torch.zeros(group.width).index_add_(0, torch.tensor(member.roots), gammas)
            found.append(total * len(set(member.roots)) / len(member.roots))
    return found


def _distances(model: nn.Module, group: Group) -> list[Tensor]:
    """For each layer that makes the group's units; normalised by its mean, so that large layers do not decide alone."""
    found = []
    for member in group.members:
        module = model.get_submodule(member.module)
        layout = layouts(module)[member.axis]
        if layout.role != "makes":
            continue
        name, dim = layout.tensors[0]
        order = torch.tensor(member.roots).argsort(stable=True)  # the rows of one unit (its gates) are one long row
        rows = getattr(module, name).detach().float().movedim(dim, 0)[torch.tensor(member.channels)[order]]
        rows, units = rows.reshape(len(set(member.roots)), -1), torch.tensor(sorted(set(member.roots)))
        sums = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
        total = torch.zeros(group.width).index_add_(0, units, sums.sum(1))
        found.append(total / total.mean() if total.mean() > 0 else total)
    return found


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
