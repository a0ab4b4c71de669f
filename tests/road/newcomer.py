"""A newcomer's folder: their own net, data and checkpoint, outside of the repository, and the command run in it."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NET = """
from torch import nn


def build():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4),
    )
"""

DATA = '''
import numpy as np


def images(seed, n):
    """Bars in four directions under noise."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    x = rng.normal(0, 0.6, (n, 1, 16, 16)).astype(np.float32)
    for i, label in enumerate(labels):
        k = rng.integers(2, 14)
        bar = np.zeros((16, 16), np.float32)
        if label == 0: bar[k, :] = 1
        elif label == 1: bar[:, k] = 1
        elif label == 2: bar += np.eye(16, k=k - 8, dtype=np.float32)
        else: bar += np.eye(16, k=k - 8, dtype=np.float32)[::-1]
        x[i, 0] += 1.5 * bar
    return x, labels


def splits():
    return {
        "train": images(1, 1200), "calibration": images(2, 120), "selection": images(3, 500), "gate": images(4, 900),
        "preprocessing": {"notes": {"range": "standardised"}}, "labels": ["horizontal", "vertical", "down", "up"],
    }
'''

RECIPE = """name = "bars"
model = "net:build"
data = "data:splits"
checkpoint = "float.safetensors"
stages = ["prune", "distill"]
targets = ["openvino", "tflite", "onnxruntime"]

[prune]
macs = 0.5

[distill]
epochs = 4

[gate]
margin_points = 3.0
"""

TRAIN = """
import torch, net, data
from safetensors.torch import save_file
torch.manual_seed(0); torch.set_num_threads(1)
model = net.build(); x, y = data.images(1, 1200); x, y = torch.tensor(x), torch.tensor(y)
optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
for epoch in range(8):
    for batch in torch.randperm(len(x)).split(50):
        optimizer.zero_grad(); torch.nn.functional.cross_entropy(model(x[batch]), y[batch]).backward(); optimizer.step()
save_file(model.state_dict(), "float.safetensors")
"""


@dataclass(frozen=True)
class Folder:
    """A user's folder; `deploy` runs the command in it with a store of its own."""

    path: Path

    def deploy(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        variables = {key: value for key, value in os.environ.items() if key != "DEPLOY_STORE"}
        return subprocess.run(
            [sys.executable, "-m", "pipeline.cli", *arguments],
            cwd=self.path,
            capture_output=True,
            text=True,
            check=False,
            env=variables | environment,
        )

    def report(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.path / "deploy-out" / "report.json").read_text())
        return loaded


def write_folder(path: Path) -> Folder:
    path.mkdir(parents=True, exist_ok=True)
    (path / "net.py").write_text(NET)
    (path / "data.py").write_text(DATA)
    (path / "deploy.toml").write_text(RECIPE)
    return Folder(path)
