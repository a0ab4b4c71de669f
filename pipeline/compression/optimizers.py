"""What takes the steps of a training: AdamW for everything, or Muon for the matrices inside of the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

MOMENTUM = 0.95
ITERATIONS = 5  # of Newton and Schulz, with coefficients that bring singular values of 1e-3 and more near 1
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
RMS = 0.2  # of a step of AdamW, which a step of Muon is scaled to, so that both take the same learning rates


class Muon(Optimizer):
    """Steps of momentum, made orthogonal: all directions of a matrix learn alike, however small their gradients.

    Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks", scaled as in Liu et al. 2025, "Muon
    is Scalable for LLM Training". A parameter [out, ...] is taken as a matrix of `out` rows.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # nothing here evaluates a loss again
        """One step for every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                momentum = state.setdefault("momentum", torch.zeros_like(parameter))
                momentum.lerp_(parameter.grad, 1 - MOMENTUM)
                rows = parameter.grad.lerp(momentum, MOMENTUM).flatten(1)  # as Nesterov, a step ahead
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                size = RMS * max(rows.shape) ** 0.5
                parameter.add_(orthogonal(rows).view(parameter.shape), alpha=-group["lr"] * size)


def orthogonal(matrix: Tensor) -> Tensor:
    """About U V' of a matrix U S V' [n, m]: its singular values become 0.7 to 1.2, those below 1e-3 of it less."""
    tall = matrix.shape[0] > matrix.shape[1]
    x: Tensor = (matrix.T if tall else matrix) / matrix.norm().clamp_min(1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if tall else x


def adamw(model: nn.Module, beside: Sequence[nn.Parameter], lr: float, weight_decay: float) -> list[Optimizer]:
    """Loshchilov, Hutter 2019, "Decoupled Weight Decay Regularization", for all parameters."""
    return [AdamW([*model.parameters(), *beside], lr=lr, weight_decay=weight_decay)]


def muon(model: nn.Module, beside: Sequence[nn.Parameter], lr: float, weight_decay: float) -> list[Optimizer]:
    """Muon for weights of two and more dims, AdamW for the rest: tables of embeddings, the last layer, vectors."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    hidden = [one for one in model.parameters() if one.ndim > 1 and id(one) not in tables][:-1]
    if not hidden:
        return adamw(model, beside, lr, weight_decay)
    inside = set(map(id, hidden))
    rest = [one for one in model.parameters() if id(one) not in inside]
    return [Muon(hidden, lr, weight_decay), AdamW([*rest, *beside], lr=lr, weight_decay=weight_decay)]


Make = Callable[[nn.Module, Sequence[nn.Parameter], float, float], list[Optimizer]]
OPTIMIZERS: dict[str, Make] = {"adamw": adamw, "muon": muon}
