"""Sparse training: what pulls weights to zero while a model learns, so that pruning has less to break."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def weights(model: nn.Module) -> list[nn.Parameter]:
    """What is pulled: weights of two and more dims; biases and normalisations are left alone."""
    return [parameter for parameter in model.parameters() if parameter.ndim > 1]


def l1(model: nn.Module) -> Tensor:
    """Sum of |w| (Tibshirani 1996, lasso)."""
    return torch.stack([weight.abs().sum() for weight in weights(model)]).sum()


def group_lasso(model: nn.Module) -> Tensor:
    """Sum over the output units of a layer of sqrt(size) x their weights' L2 norm.

    Yuan, Lin 2006; for filters Wen et al. 2016, "Learning Structured Sparsity". A unit that is all zero has slope 0.
    """
    rows = [weight.flatten(1) for weight in weights(model)]
    return torch.stack([row.shape[1] ** 0.5 * torch.linalg.vector_norm(row, dim=1).sum() for row in rows]).sum()


def soft_threshold(model: nn.Module, delta: float) -> None:
    """w <- sign(w) max(0, |w| - delta), in place: the proximal step of L1 (Daubechies et al. 2004, ISTA)."""
    with torch.no_grad():
        for weight in weights(model):
            weight.copy_(torch.nn.functional.softshrink(weight, delta))


PENALTIES = {"l1": l1, "group_lasso": group_lasso}  # added to the loss; the soft threshold follows the step instead
