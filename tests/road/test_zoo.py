"""A convolution on images, a GRU and a transformer on sound, an LSTM on text: pruned, distilled, exported, verified and
gated on every target.
"""

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
        self.a, self.na = nn.Conv2d(1, 24, 3, padding=1), nn.BatchNorm2d(24)
        self.b, self.nb = nn.Conv2d(24, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32)
        self.head = nn.Linear(32, 3)

    def forward(self, x):
        x = torch.relu(self.na(self.a(x)))
        return self.head(torch.relu(self.nb(self.b(x))).mean((2, 3)))


class Heard(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.GRU(4, 24, num_layers=2, batch_first=True), nn.Linear(24, 3)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


class Read(nn.Module):
    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(20, 12)
        self.rnn, self.head = nn.LSTM(12, 24, batch_first=True), nn.Linear(24, 3)

    def forward(self, ids):
        return self.head(self.rnn(self.words(ids))[0].mean(1))


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
    return Heard()


def lstm():
    return Read()


def transformer():
    return Former()
"""

DATA = """
import numpy as np


def bars(rng, labels):
    x = rng.normal(0, 0.4, (len(labels), 1, 12, 12))
    for one, label, at in zip(x, labels, rng.integers(1, 11, len(labels))):
        one[0] += {0: np.eye(12, k=at - 6), 1: np.arange(12)[:, None] == at, 2: np.arange(12) == at}[label]
    return x.astype(np.float32)


def tones(rng, labels):
    phase = rng.uniform(0, 6.28, (len(labels), 1))
    wave = np.sin(2 * np.pi * (labels[:, None] + 1) * np.arange(16) / 16 + phase)
    x = np.stack([wave, np.roll(wave, 3, 1), np.roll(wave, 5, 1), wave**2], 2)
    return (x + rng.normal(0, 0.3, x.shape)).astype(np.float32)


def words(rng, labels):
    ids = rng.integers(3, 20, (len(labels), 12))
    for row, label in zip(ids, labels):  # what the text is about is said four times
        row[rng.permutation(12)[:4]] = label
    return ids


def made(kind):
    sizes = {"train": 900, "calibration": 100, "selection": 300, "gate": 600}
    drawn = {name: np.random.default_rng(seed) for seed, name in enumerate(sizes)}
    labels = {name: rng.integers(0, 3, sizes[name]) for name, rng in drawn.items()}
    return {name: (kind(rng, labels[name]), labels[name]) for name, rng in drawn.items()}


def images():
    return made(bars)


def sound():
    return made(tones)


def text():
    return made(words)
"""

RECIPE = """name = "zoo"
model = "net:{net}"
data = "data:{data}"
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
lr = 5e-3

[quantize]
candidates = ["ours-mse"]

[weights]
method = "none"

[race]
budget_s = 0.5
min_rounds = 20
processes = 6

[profile]
budget_s = 0.5
min_rounds = 50
processes = 6

[gate]
margin_points = 5.0
"""


@pytest.mark.parametrize(
    ("net", "data", "kinds"),
    [
        ("cnn", "images", ["channel"]),
        ("gru", "sound", ["hidden"]),
        ("lstm", "text", ["hidden"]),
        ("transformer", "sound", ["head", "channel"]),
    ],
)
def test_pruned_and_distilled_it_is_gated_on_every_target(
    tmp_path: Path, net: str, data: str, kinds: list[str]
) -> None:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "data.py").write_text(DATA)
    (tmp_path / "deploy.toml").write_text(RECIPE.format(net=net, data=data, kinds=kinds))
    folder = Folder(tmp_path)
    done = folder.deploy("--target", "all", "--json")
    assert done.returncode == 0, done.stderr
    report = folder.report()
    macs = {row["name"]: row["macs"] for row in report["stages"]}
    assert macs["distill"] == macs["prune"] <= 0.5 * macs["train"]
    assert [target["verdict"] for target in report["targets"].values()] == ["pass"] * 3
    assert report["float"]["metric"] > 0.8  # something was learned that could have been lost
    for target in report["targets"].values():
        assert {check["name"]: check["verdict"] for check in target["checks"]}["accuracy"] == "pass"
        assert {one["precision"] for one in target["candidates"]} == {"f32", "int8"}  # both were exported and raced
        assert all(run["n"] == 600 for run in target["runs"])  # and verified on the gate split
