"""Single weights taken out: unstructured, or n of every m kept. Zeros in the tensors, no masks beside them.

A zero saves storage (compression.storage) and, on today's targets, no time. Recovery keeps the zeros where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from pipeline.compression import criteria, gradients
from pipeline.compression.sight import Sight

Scores = dict[str, Tensor]  # parameter's name -> a score for each of its weights


def prunable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Weights of two and more dims, except tables of embeddings; what several layers share comes once."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    named = model.named_parameters()
    return {name: parameter for name, parameter in named if parameter.ndim > 1 and id(parameter) not in tables}


def _magnitude(sight: Sight) -> Scores:
    return {name: parameter.detach().abs() for name, parameter in prunable(sight.model).items()}


def _lamp(sight: Sight) -> Scores:
    squares = {name: parameter.detach().float() ** 2 for name, parameter in prunable(sight.model).items()}
    return {name: criteria.lamp_of(values.flatten()).view_as(values) for name, values in squares.items()}


def _random(sight: Sight) -> Scores:
    generator = torch.Generator().manual_seed(sight.seed)
    return {name: torch.rand(weight.shape, generator=generator) for name, weight in prunable(sight.model).items()}


def _of(amounts: Callable[[Sight], gradients.Amounts]) -> Callable[[Sight], Scores]:
    def scores(sight: Sight) -> Scores:
        found = amounts(sight)
        return {name: found[parameter] for name, parameter in prunable(sight.model).items()}

    return scores


def _taylor(sight: Sight) -> gradients.Amounts:
    slopes = gradients.mean_gradient(sight)
    return {parameter: (slope * parameter.detach()).abs() for parameter, slope in slopes.items()}


# The criteria that say something of a single weight. Without a unit to add them up over, l1 and l2 are the same.
SCORES: dict[str, Callable[[Sight], Scores]] = {
    "l1": _magnitude,
    "l2": _magnitude,
    "random": _random,
    "lamp": _lamp,
    "weight_gradient": _of(gradients.absolute),
    "taylor": _of(_taylor),
    "obd": _of(gradients.damage),
}


def lowest(scores: Scores, share: float, everywhere: bool) -> Scores:
    """True where a weight goes: the lowest `share` of each tensor, or of all together (`everywhere`).

    Ties go in order, so that exactly round(share x weights) go.
    """
    if not everywhere:
        return {name: _lowest(values.flatten(), share).view(values.shape) for name, values in scores.items()}
    gone = _lowest(torch.cat([values.flatten() for values in scores.values()]), share)
    pieces = gone.split([values.numel() for values in scores.values()])  # type: ignore[no-untyped-call]
    return {name: piece.view(scores[name].shape) for name, piece in zip(scores, pieces, strict=True)}


def below(scores: Scores, threshold: float) -> Scores:
    """True where a weight's score is below a threshold."""
    return {name: values < threshold for name, values in scores.items()}


def pattern(scores: Scores, keep: int, of: int) -> Scores:
    """True where a weight goes: in every `of` consecutive inputs of an output, all but the `keep` highest.

    Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks" (2:4). Inputs lie along dim 1, for each place of a
    kernel by itself; a last group of fewer than `of` inputs keeps `keep` too.
    """
    found = {}
    for name, values in scores.items():
        rows = values.movedim(1, -1)
        short = -rows.shape[-1] % of
        padded = torch.nn.functional.pad(rows.float(), (0, short), value=-torch.inf)
        padded = padded.reshape(*rows.shape[:-1], -1, of)
        order = padded.argsort(dim=-1, descending=True, stable=True)
        gone = torch.ones_like(padded, dtype=torch.bool).scatter_(-1, order[..., :keep], False)
        found[name] = gone.flatten(-2)[..., : rows.shape[-1]].movedim(-1, 1)
    return found


def bake(model: nn.Module, gone: Mapping[str, Tensor]) -> None:
    """Zeros where weights go, in place."""
    with torch.no_grad():
        for name, where in gone.items():
            model.get_parameter(name).masked_fill_(where, 0.0)


def _lowest(scores: Tensor, share: float) -> Tensor:
    gone = torch.zeros(len(scores), dtype=torch.bool)
    gone[scores.argsort(stable=True)[: round(share * len(scores))]] = True
    return gone
