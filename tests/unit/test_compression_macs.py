"""MACs and parameters against counts by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.compression import products
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


class Own(nn.Module):
    """Multiplies by itself, beside its layers: what `how` does with x and the parameter."""

    def __init__(self, how, *shape):
        super().__init__()
        self.how, self.weight = how, nn.Parameter(torch.randn(shape))

    def forward(self, x):
        return self.how(x, self.weight)


class Heads(nn.Module):
    """Attention from a fused projection that is a parameter, and a layer."""

    def __init__(self, fused):
        super().__init__()
        self.fused, self.weight, self.out = fused, nn.Parameter(torch.randn(8, 24)), nn.Linear(8, 8)

    def forward(self, x):
        q, k, v = (one.unflatten(2, (2, 4)).transpose(1, 2) for one in (x @ self.weight).chunk(3, -1))
        told = F.scaled_dot_product_attention(q, k, v) if self.fused else (q @ k.mT).softmax(-1) @ v
        return self.out(told.transpose(1, 2).flatten(2))


CASES = [
    (Own(torch.matmul, 8, 24), (5, 8), 5 * 8 * 24),
    (Own(torch.matmul, 8), (5, 8), 5 * 8),  # a vector
    (Own(lambda x, w: torch.einsum("bnc,cd->bnd", x, w), 8, 24), (5, 8), 5 * 8 * 24),
    (Own(lambda x, w: torch.einsum("bic,bjc->bij", x, x) * w, 1), (5, 8), 5 * 5 * 8),
    (Own(lambda x, w: torch.bmm(x, x.mT) * w, 1), (5, 8), 5 * 5 * 8),
    (Own(lambda x, w: F.conv1d(x, w, groups=2, dilation=2), 6, 4, 3), (8, 12), 8 * 6 * 4 * 3),
    (Own(lambda x, w: F.conv_transpose2d(x, w, stride=2), 3, 5, 2, 2), (3, 4, 4), 16 * 3 * 5 * 4),
    (Own(F.linear, 9, 7), (7,), 63),
    (nn.Sequential(nn.Conv2d(4, 6, 3, dilation=2)), (4, 9, 9), 25 * 6 * 4 * 9),
    (Heads(True), (5, 8), 5 * 8 * 24 + 2 * 5 * 5 * 8 + 5 * 64),
    (Heads(False), (5, 8), 5 * 8 * 24 + 2 * 5 * 5 * 8 + 5 * 64),
    (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (5, 8), 4 * 5 * 64 + 2 * 5 * 5 * 8 + 2 * 5 * 8 * 16),
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


def test_own_work_names_its_module_and_what_of_it_grows_with_the_heads():
    model = Heads(True)
    model.num_heads = 2
    own, out = count(model, (torch.randn(3, 5, 8),)).layers
    assert (own.name, own.type, own.own, out.own) == ("", "Heads", 1360, 0)
    assert {axes: amount for amount, axes in own.parts} == {(): 5 * 8 * 24, ("heads",): 2 * 5 * 5 * 8}


@pytest.mark.filterwarnings("ignore:The tensor attributes self._flat_weights")  # torch.export's own
@pytest.mark.parametrize("layer", [nn.GRU(6, 10), nn.LSTM(6, 10), nn.LSTM(6, 10, 2, bidirectional=True)], ids=str)
def test_a_programs_recurrent_layers_are_counted_as_the_modules_are(layer):
    """The CPU library computes an LSTM in one piece, which no counter of operators sees into."""
    x = torch.randn(12, 1, 6)
    exported = torch.export.export(layer.eval(), (x,)).module()
    assert products.counted(exported, (x,))[0] == count(First(layer), (x,)).macs * 12
