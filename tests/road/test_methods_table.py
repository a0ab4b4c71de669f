"""README's table of methods: each named test is there, and each line that selects a method runs."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from pipeline import api, recipe
from pipeline.cli import app
from pipeline.store import Store

ROOT = Path(__file__).parents[2]
ROWS = re.findall(r"^\| ([PDQ]\d+) \| (.+?) \| (.+) \| (`\S+?::.+`) \|$", (ROOT / "README.md").read_text(), re.M)

NET = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.a, self.b = nn.Conv1d(width, width, 3, padding=1), nn.Conv1d(width, width, 1)

    def forward(self, x):
        return x + self.b(torch.relu(self.a(x)))

class Net(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv1d(2, width, 3, padding=1), nn.BatchNorm1d(width), nn.ReLU(),
            nn.Conv1d(width, width, 3, padding=1), nn.BatchNorm1d(width), nn.ReLU(), Block(width),
            nn.Conv1d(width, width, 1), nn.BatchNorm1d(width),
        )
        self.rnn, self.between = nn.GRU(width, 16, batch_first=True), nn.Linear(16, 16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.mid, self.head = nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x):
        x, _ = self.rnn(self.features(x).transpose(1, 2))
        x = torch.relu(self.between(x))
        x, _ = self.attention(x, x, x, need_weights=False)
        return self.head(torch.relu(self.mid(x.mean(1))))

class Plain(nn.Sequential):
    def __init__(self, width=16):
        super().__init__(nn.Conv1d(2, width, 3), nn.BatchNorm1d(width), nn.ReLU(), nn.Conv1d(width, width, 3),
            nn.BatchNorm1d(width), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, 3))

def build():
    return Net()

def plain():
    return Plain()

def small():
    return Net(8)
"""
DATA = """
import numpy as np

def part(seed, n):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    wave = np.sin(2 * np.pi * (labels[:, None] + 1) * np.arange(12) / 12 + rng.uniform(0, 6.28, (n, 1)))
    return np.stack([wave, np.roll(wave, 3, 1)], 1).astype(np.float32), labels

def splits():
    return {name: part(seed, 120) for seed, name in enumerate(("train", "calibration", "selection", "gate"))}
"""
RECIPE = """
model = "net:{net}"
data = "data:splits"
targets = ["onnxruntime"]
[train]
epochs = 1
[prune]
macs = 0.85
samples = 24
[distill]
epochs = 1
method = "distill"
"""


def lines(cell: str) -> list[str]:
    """The KEY = VALUE of a cell; a value alone goes with the key before it, "x or y" are two ways."""
    found, key = [], ""
    for span in re.findall(r"`([^`]+)`", cell):
        if re.match(r"[\w.]+ = ", span):
            key = span.partition(" = ")[0]
            found.append(span)
        elif key and re.match(r"\"|\[\"", span):
            found.append(f"{key} = {span}")
    return found


def cases() -> list[tuple[str, list[str]]]:
    """(row, overrides): lines that go together are one case; several values of one key are one each."""
    found = []
    for row, method, cell, _ in ROWS:
        given = lines(cell)
        if row.startswith("Q2") or not given or any(line.startswith("train.start") for line in given):
            continue  # calibration's; commands; another run's network
        keys = [line.partition(" = ")[0] for line in given]
        if len(set(keys)) < len(keys):
            found += [(f"{row} {method}: {line}", [line]) for line in given]
        else:
            found.append((f"{row} {method}", given))
    return found


def test_the_table_names_every_row_of_the_catalogue_and_tests_that_exist() -> None:
    assert {row for row, *_ in ROWS} >= {*(f"P{n}" for n in range(1, 14)), "D1", "D2", "D3", "Q3", "Q4"}
    for _, method, _, cell in ROWS:
        file, tests = "", 0
        for name in re.findall(r"`(\S+?)`", cell):  # file::test, or another test of the file before
            file, _, test = name.rpartition("::") if "::" in name else (file, "", name)
            paths = list((ROOT / "tests").rglob(file))
            assert any(f"def {test}(" in path.read_text() for path in paths), name
            tests += 1
        assert tests, method


COMMANDS = [
    command for _, _, cell, _ in ROWS for command in re.findall(r"`(deploy storage[^`]*|--levels [^`]*)`", cell)
]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_of_a_row_runs(command: str, tmp_path: Path) -> None:
    save_file({"a.weight": np.random.default_rng(0).normal(size=(40, 30)).astype("f4")}, tmp_path / "m.safetensors")
    words = ["storage", str(tmp_path / "m.safetensors"), *re.findall(r"--\S+ \S+", command)[:1]]
    done = CliRunner().invoke(app, " ".join(words).split())
    assert done.exit_code == 0, done.output
    assert "a.weight" in done.stdout


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("methods")
    (folder / "net.py").write_text(NET)
    (folder / "data.py").write_text(DATA)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("name", "overrides"), cases(), ids=[name for name, _ in cases()])
def test_the_line_that_selects_a_method_runs(work: Path, name: str, overrides: list[str]) -> None:
    whole = any(f'"{kind}"' in " ".join(overrides) for kind in ("hidden", "head", "layer")) or name.startswith("D2")
    (work / "deploy.toml").write_text(RECIPE.format(net="build" if whole or "student" in name else "plain"))
    if any(line.startswith("distill.student") for line in overrides):
        overrides = [*overrides, 'stages = ["distill"]']
    if name.startswith("D2"):
        overrides = [*overrides, 'distill.features = {"features.7" = "features.7"}']
    asked = recipe.load(work / "deploy.toml", overrides)
    done: list[Any] = []
    api.run(asked, only="distill", store=Store(work / ".deploy"), out=work / "out", emit=done.append)
    finished = [event["stage"] for event in done if event["event"] == "done"]
    assert finished[-1] == "distill"
    assert "prune" in finished or "distill.student" in " ".join(overrides)
