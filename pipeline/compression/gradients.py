"""Criteria from gradients of the loss by the weights, sample by sample where the definition says so."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline.compression.sight import Sight, gradients, member_sums, trainable, unit_sums

Amounts = dict[nn.Parameter, Tensor]  # one number for each weight


def weight_gradient(sight: Sight) -> list[Tensor]:
    """R_w = sum over samples of |dL/dw|, summed over the unit's weights."""
    amounts = absolute(sight)
    return [unit_sums(sight.model, group, amounts) for group in sight.groups]


def obd(sight: Sight) -> list[Tensor]:
    """Half the sum of F_ii w_i^2 over the unit's weights, F the diagonal of the empirical Fisher over all samples.

    LeCun, Denker, Solla 1990 with the Fisher in place of the Hessian: equal in expectation at a maximum-likelihood fit.
    """
    amounts = damage(sight)
    return [unit_sums(sight.model, group, amounts) for group in sight.groups]


def taylor(sight: Sight) -> list[Tensor]:
    """|sum of g w| over the unit's weights in a layer, summed over its layers; g: gradient of the mean loss.

    Molchanov et al. 2019, eq. 8 without the square. In each layer that is how fast the loss moves when the unit's
    weights there shrink together. Scales and shifts of normalisations count like any other weight.
    """
    signed = {parameter: slope * parameter.detach() for parameter, slope in mean_gradient(sight).items()}
    return [
        torch.stack([member_sums(sight.model, group, member, signed).abs() for member in group.members]).sum(0)
        for group in sight.groups
    ]


def absolute(sight: Sight) -> Amounts:
    """Sum over samples of |dL_i/dw| for every weight."""
    return _accumulate(sight, lambda gradient: gradient.abs())


def damage(sight: Sight) -> Amounts:
    """F_ii w_i^2 / 2 for every weight; F_ii: mean over samples of (dL_i/dw)^2."""
    squares = _accumulate(sight, lambda gradient: gradient.square())
    return {parameter: total / len(sight.labels) * parameter.detach() ** 2 / 2 for parameter, total in squares.items()}


def mean_gradient(sight: Sight) -> Amounts:
    """Gradient of the mean loss for every weight."""
    with trainable(sight.model) as total:
        for inputs, labels in sight.batches():
            for into, gradient in zip(total.values(), gradients(sight.loss(inputs, labels), list(total)), strict=True):
                into += gradient / len(sight.labels)
    return total


def _accumulate(sight: Sight, of: Callable[[Tensor], Tensor]) -> Amounts:
    with trainable(sight.model) as total:
        for inputs, labels in sight.batches(1):
            for into, gradient in zip(total.values(), gradients(sight.loss(inputs, labels), list(total)), strict=True):
                into += of(gradient)
    return total
