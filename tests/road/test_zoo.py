"""A convolution, a GRU, an LSTM and a transformer: pruned, distilled, exported, verified and gated on every target."""

from pathlib import Path

import pytest

from tests.road.newcomer import Folder

pytestmark = pytest.mark.slow

NET = """
import torch
from torch import nn


class Convolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.na = nn.Conv1d(4, 24, 3, padding=1), nn.BatchNorm1d(24)
        self.b, self.nb = nn.Conv1d(24, 32, 3, padding=1), nn.BatchNorm1d(32)
        self.head = nn.Linear(32, 3)

    def forward(self, x):
        x = torch.relu(self.na(self.a(x.transpose(1, 2))))
        return self.head(torch.relu(self.nb(self.b(x))).mean(2))


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.rnn = kind(4, 24, num_layers=2, batch_first=True)
        self.head = nn.Linear(24, 3)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


class Former(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(4, 32)
        self.layers = nn.ModuleList(
            [nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=True) for _ in range(2)]
        )
        self.head = nn.Linear(32, 3)

    def forward(self, x):
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


def cnn():
    return Convolution()


def gru():
    return Recurrent(nn.GRU)


def lstm():
    return Recurrent(nn.LSTM)


def transformer():
    return Former()
"""

DATA = """
import numpy as np


def waves(seed, n):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    time = np.arange(16) / 16
    wave = np.sin(2 * np.pi * (labels[:, None] + 1) * time + rng.uniform(0, 6.28, (n, 1)))
    x = np.stack([wave, np.roll(wave, 3, 1), np.roll(wave, 5, 1), wave**2], 2) + rng.normal(0, 0.3, (n, 16, 4))
    return x.astype(np.float32), labels


def splits():
    sizes = {"train": 900, "calibration": 100, "selection": 300, "gate": 600}
    return {name: waves(seed, n) for seed, (name, n) in enumerate(sizes.items())}
"""

RECIPE = """name = "zoo"
model = "net:{net}"
data = "data:splits"
targets = ["openvino", "tflite", "onnxruntime"]

[train]
epochs = 12
lr = 5e-3

[prune]
granularity = {kinds}
macs = 0.5
criterion = "taylor"

[distill]
method = "distill"
epochs = 6

[quantize]
candidates = ["ours-mse"]

[race]
budget_s = 0.5
min_rounds = 20

[profile]
budget_s = 0.5
min_rounds = 50

[gate]
margin_points = 5.0
"""


@pytest.mark.parametrize(
    ("net", "kinds"),
    [("cnn", ["channel"]), ("gru", ["hidden"]), ("lstm", ["hidden"]), ("transformer", ["head", "channel"])],
)
def test_pruned_and_distilled_it_is_gated_on_every_target(tmp_path: Path, net: str, kinds: list[str]) -> None:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "data.py").write_text(DATA)
    (tmp_path / "deploy.toml").write_text(RECIPE.format(net=net, kinds=kinds))
    folder = Folder(tmp_path)
    done = folder.deploy("--target", "all", "--json")
    assert done.returncode == 0, done.stderr
    report = folder.report()
    macs = {row["name"]: row["macs"] for row in report["stages"]}
    assert macs["distill"] == macs["prune"] <= 0.5 * macs["train"]
    assert [target["verdict"] for target in report["targets"].values()] == ["pass"] * 3
