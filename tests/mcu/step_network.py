"""One step of a GRU as a network of its own: the state comes in and goes out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDTH, HIDDEN = 6, 8


class Step(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.end = nn.GRUCell(WIDTH, HIDDEN), nn.Linear(HIDDEN, 3)

    def forward(self, x: Tensor, h: Tensor) -> dict[str, Tensor]:
        h = self.cell(x, h)
        return {"y": self.end(h), "h_next": h}


def build() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Step()
