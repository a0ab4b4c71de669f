"""What pruning and distillation refuse, by the command: one line, the right exit code, nothing half-written."""

import re
from pathlib import Path

import pytest

from tests.road.newcomer import DATA, NET, Folder

pytestmark = pytest.mark.slow

NETS = """

import torch


def head(width, classes=4):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.na, self.b = nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3, padding=1)
        self.c, self.relu, self.head = nn.Conv2d(16, 24, 3, 2), nn.ReLU(inplace=True), head(24)

    def forward(self, x):
        x = self.relu(self.na(self.a(x)))
        y = self.b(x)
        y += x
        return self.head(self.relu(self.c(y))).mul_(0.5)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(256, 256), nn.Linear(256, 256), nn.Linear(256, 4)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.head(torch.relu(self.b(torch.relu(self.a(x.flatten(1))))))


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.rare, self.head = nn.Linear(256, 24), nn.Linear(24, 24), nn.Linear(24, 4)

    def forward(self, x):
        x = torch.relu(self.a(x.flatten(1)))
        return self.head(self.rare(x) if len(x) > 2 else x)  # the two samples of a trace go another way


class Silent(nn.Module):
    def __init__(self):
        super().__init__()
        self.inside = build()

    def forward(self, x):
        return self.inside(x).detach()


def in_place():
    return InPlace()


def compiled():
    net = build()
    net[3] = torch.compile(net[3])
    return torch.compile(net)


def tied():
    return Tied()


def branches():
    return Branches()


def silent():
    return Silent()


def five():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), head(8, 5))
"""
RECIPE = """name = "bad"
model = "net:{net}"
data = "data:splits"
targets = ["onnxruntime"]
seed = 0

[train]
epochs = 1

[distill]
epochs = 1
"""

CASES: dict[str, tuple[str, list[str], int, str]] = {  # network, settings, exit code, what the line says
    "a ratio of 0": ("build", ["prune.macs=0"], 2, r"prune\.macs: Input should be greater than 0"),
    "a ratio of 1": ("build", ["prune.macs=1"], 2, r"prune\.macs: Input should be less than 1"),
    "all weights zero": (
        "build",
        ["prune.granularity=weight", "prune.sparsity=1"],
        2,
        r"prune\.sparsity: Input should be less than 1",
    ),
    "no weight above the threshold": (
        "build",
        ["prune.granularity=weight", "prune.threshold=1e9"],
        2,
        r"'0\.weight' would lose all of its weights: lower",
    ),
    "a group to nothing": (
        "build",
        ["prune.schedule=groups", 'prune.groups={"0"=0}'],
        2,
        r"prune\.groups\.0: Input should be greater than 0",
    ),
    "less than one unit a group": ("build", ["prune.macs=0.0001"], 2, r"prune\.macs = 0\.0001 cannot be met: one ch"),
    "tied weights": ("tied", [], 2, r"prune\.macs = 0\.5 cannot be met: .*'a': it reaches '[ab]', which shares a para"),
    "control flow that depends on the data": ("branches", [], 2, r"What it runs depends on the data .*'rare'"),
    "no gradient": ("silent", [], 2, r"train: the loss has no gradient: the model detaches its outputs"),
    "a teacher for other classes": (
        "build",
        ['distill.teachers=[{model="net:five"}]'],
        2,
        r"'net:five': inputs .* give \[2, 5\], expected logits \[2, 4\] for the data's 4 classes",
    ),
    "a loss that is not finite": (
        "build",
        ["train.lr=1e30", "train.epochs=3"],
        5,
        r"train: the loss is (nan|inf) in epoch \d, batch \d+ of 19: lower train\.lr",
    ),
    "a recovery whose loss is not finite": (
        "build",
        ["distill.lr=1e30", "distill.epochs=3"],
        5,
        r"distill: the loss is (nan|inf) in epoch \d, batch \d+ of 19: .*; epoch \d is kept in",
    ),
}


def made(path: Path, net: str) -> Folder:
    (path / "net.py").write_text(NET + NETS)
    (path / "data.py").write_text(DATA)
    (path / "deploy.toml").write_text(RECIPE.format(net=net))
    return Folder(path)


def run(folder: Folder, settings: list[str]) -> tuple[int, str]:
    given = [word for one in settings for word in ("--set", one)]
    done = folder.deploy("--target", "onnxruntime", "--only", "distill", *given)
    return done.returncode, done.stderr


@pytest.mark.parametrize("name", CASES)
def test_one_line_its_exit_code_and_nothing_half_written(tmp_path: Path, name: str) -> None:
    net, settings, code, says = CASES[name]
    folder = made(tmp_path, net)
    exit_code, errors = run(folder, settings)
    assert exit_code == code, errors
    assert "Traceback" not in errors
    blame = [line for line in errors.splitlines() if line.startswith("deploy: ")]
    assert len(blame) == 1, errors
    assert re.search(says, blame[0]), blame[0]
    assert list((tmp_path / "deploy-out").rglob("*")) == []
    assert list((tmp_path / ".deploy").glob("building/*")) == []


def test_a_target_whose_pruning_fails_gets_no_network(tmp_path: Path) -> None:
    folder = made(tmp_path, "build")
    done = folder.deploy("--target", "onnxruntime", "--set", "prune.latency_ms=1e-6", "--set", "prune.precision=float")
    assert done.returncode == 2, done.stderr
    assert "prune.latency_ms = 1e-06 cannot be met: the nearest of" in done.stderr
    assert not (tmp_path / "deploy-out" / "pytorch").exists()
    assert not (tmp_path / "deploy-out" / "onnxruntime").exists()


@pytest.mark.parametrize("net", ["in_place", "compiled"])
def test_operations_in_place_and_compiled_modules_are_cut_like_others(tmp_path: Path, net: str) -> None:
    exit_code, errors = run(made(tmp_path, net), [])
    assert exit_code == 0, errors
    assert re.search(r"^  distill .*selection", errors, re.M)
