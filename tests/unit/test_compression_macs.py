"""MACs and parameters against counts by hand."""

import pytest
import torch
from torch import nn

from pipeline.compression.macs import count


class First(nn.Module):
    """A recurrent layer's outputs without its state."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


class Attend(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.layer(x, x, x, need_weights=False)[0]


CASES = [
    (nn.Conv1d(3, 8, 5), (3, 20), 16 * 8 * 3 * 5),
    (nn.Conv2d(4, 6, (3, 5), stride=2, padding=1), (4, 9, 11), 5 * 5 * 6 * 4 * 15),
    (nn.Conv2d(8, 8, 3, groups=8), (8, 6, 6), 16 * 8 * 9),
    (nn.Conv1d(8, 12, 3, groups=4), (8, 10), 8 * 12 * 2 * 3),
    (nn.ConvTranspose1d(4, 6, 4, stride=2), (4, 10), 10 * 4 * 6 * 4),
    (nn.ConvTranspose2d(6, 6, 2, stride=2, groups=3), (6, 5, 5), 25 * 6 * 2 * 4),
    (nn.Linear(7, 9), (7,), 63),
    (nn.Linear(7, 9), (5, 7), 5 * 63),
    (First(nn.GRU(6, 10, batch_first=True)), (12, 6), 12 * 3 * 10 * (6 + 10)),
    (First(nn.LSTM(6, 10, batch_first=True, bidirectional=True)), (12, 6), 12 * 2 * 4 * 10 * (6 + 10)),
    (
        First(nn.GRU(6, 10, num_layers=2, bidirectional=True, batch_first=True)),
        (12, 6),
        12 * 2 * 3 * 10 * ((6 + 10) + (20 + 10)),
    ),
    (First(nn.LSTM(6, 10, proj_size=4, batch_first=True)), (12, 6), 12 * (4 * 10 * (6 + 4) + 10 * 4)),
    (First(nn.RNN(6, 10, batch_first=True)), (12, 6), 12 * 10 * (6 + 10)),
    # Query, key, value and output projections, then scores and the weighted sum over both heads.
    (Attend(), (5, 8), 4 * 5 * 64 + 2 * 5 * 5 * 8),
    (nn.Sequential(nn.BatchNorm1d(3), nn.ReLU()), (3, 4), 0),
]


@pytest.mark.parametrize(("module", "shape", "expected"), CASES, ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")  # only slower, says torch
def test_macs_per_sample_by_hand(module, shape, expected, batch):
    assert count(module, (torch.randn(batch, *shape),)).macs == expected


def test_layers_params_and_mode():
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(4, 2, bias=False)).train()
    counted = count(model, (torch.randn(2, 4),))
    assert [(layer.name, layer.type, layer.macs, layer.params) for layer in counted.layers] == [
        ("0", "Linear", 32, 20),  # used twice: its MACs count twice, its parameters once
        ("3", "Linear", 8, 8),
    ]
    assert (counted.macs, counted.params) == (40, 28)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
