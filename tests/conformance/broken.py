"""Networks that run and look right, and each of which has one fault that nobody sees from outside."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

FEATURES, CLASSES = 24, 5


class Faulty(nn.Module):
    """Two layers with something between them."""

    def __init__(self, fault: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fault = fault
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.middle = nn.Linear(FEATURES, 64), nn.Linear(64, 64)
            self.last = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.middle(self.fault(self.first(x)))))


def sound() -> nn.Module:
    return Faulty(torch.relu).eval()


def masked() -> nn.Module:
    """A mask of the largest negative number, as of attention, in what the next layer reads."""
    lowest = torch.finfo(torch.float32).min
    mask = torch.where(torch.arange(64) % 8 == 0, lowest, 0.0)
    return Faulty(lambda h: torch.softmax(h + mask, -1)).eval()


def dead() -> nn.Module:
    """Half of it never says anything."""
    return Faulty(lambda h: torch.relu(h - 1e3)).eval()


def undefined() -> nn.Module:
    """Logarithms of negative numbers, replaced before anyone sees them."""
    return Faulty(lambda h: torch.where(h > 0, torch.log(h), torch.zeros(()))).eval()


class Rows(nn.Module):
    """Tells which of four rows of a square picture is the brightest."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x.mean((1, 3))


def rows() -> nn.Module:
    return Rows().eval()
