"""A task without classes on the road: its own metric decides the race, the gate, its slices and the baseline."""

import json
import re
from pathlib import Path

import pytest

from tests.road.newcomer import Folder

pytestmark = pytest.mark.slow

NET = """
from torch import nn


def build():
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
"""

DATA = '''
import numpy as np


def points(seed, n):
    """A smooth function of eight numbers under a little noise; tagged by the light that it was seen in."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 8)).astype(np.float32)
    y = np.sin(x[:, 0]) + 0.5 * x[:, 1] * x[:, 2] + 0.1 * rng.normal(size=n)
    return x, y.astype(np.float32), None, {"light": np.where(x[:, 3] > 0, "day", "night")}


def splits():
    sizes = {"train": 2000, "calibration": 100, "selection": 600, "gate": 1500}
    return {name: points(seed, n) for seed, (name, n) in enumerate(sizes.items())}


def near(outputs, targets):
    return (np.abs(outputs.reshape(-1) - targets.reshape(-1)) < 0.5).astype(float)
'''

RECIPE = """name = "points"
model = "net:build"
data = "data:splits"
stages = []
targets = ["onnxruntime"]

[task]
metric = "mae"
loss = "mse"

[train]
epochs = 12
lr = 3e-3

[gate]
margin = "10%"
max_age_days = 1

[gate.metrics]
rmse = "10%"
"data:near" = 0.05

[gate.slices]
"tag:light=night" = "15%"
"""


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    folder = Folder(tmp_path_factory.mktemp("points"))
    for name, text in {"net.py": NET, "data.py": DATA, "deploy.toml": RECIPE}.items():
        (folder.path / name).write_text(text)
    done = folder.deploy("--target", "onnxruntime", "--json", "--set", "race.budget_s=1", "--set", "profile.budget_s=1")
    assert done.returncode == 0, done.stderr + done.stdout
    return folder


def test_the_tasks_own_metric_decides(points: Folder) -> None:
    row = points.report()["targets"]["onnxruntime"]
    raced = {one["id"]: one for one in row["candidates"]}
    assert raced[row["shipped"]]["verdict"] == "pass"
    assert all("% of float" in one["why"] for one in raced.values() if one["precision"] == "int8"), raced
    for run in row["runs"]:
        assert run["flips"] == {"lost": None, "gained": None}
        mae = run["metrics"]["mae"]
        assert mae["unit"] == "% of float"
        assert mae["low"] <= mae["drop"] <= mae["high"]
        assert mae["drop"] == pytest.approx(100 * (mae["value"] / mae["float_value"] - 1), abs=1e-6)
        assert {"rmse", "data:near", "mae on tag:light=night"} <= set(run["metrics"])
    names = {check["name"] for check in row["checks"]}
    assert {"mae", "rmse", "data:near", "mae on tag:light=night", "age"} <= names
    assert "accuracy" not in names


def test_the_page_speaks_of_the_metric_and_of_no_points(points: Folder) -> None:
    page = (points.path / "deploy-out" / "report.html").read_text()
    assert re.search(r"<dd>upper [^<]+ &lt; 10\s% of float</dd>", page)  # the bound, beside the margin
    assert "unavailable points" not in page
    assert "by int8" not in page


@pytest.mark.parametrize(
    ("policy", "code", "words"),
    [
        ("gate.margin=0.5", 0, "< margin 0.5 (paired BCa bootstrap over 1,500 samples)"),
        ("gate.metrics.auc=1", 1, "auc at batch 1: unavailable: the gate split"),
        ("gate.slices.tag:light=dusk=5%", 1, "the gate split has no tag:light=dusk"),
        ("gate.max_age_days=1e-9", 1, "age at batch 1: measured"),
    ],
)
def test_another_policy_needs_no_measurement(points: Folder, policy: str, code: int, words: str) -> None:
    done = points.deploy("gate", "--set", policy, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    reasons = json.loads(done.stdout)["targets"]["onnxruntime"]["reasons"]
    assert any(words in reason for reason in reasons), reasons


def test_a_run_is_compared_by_its_own_metric(points: Folder) -> None:
    assert points.deploy("baseline", "set").returncode == 0
    done = points.deploy("compare", "--json")
    found = json.loads(done.stdout)
    assert found["verdict"] == "pass", found
    rows = {row["name"]: row for row in found["rows"]}
    assert rows["mae at batch 1"]["change"] == "same"
    assert Path(points.path / "deploy-baseline" / "report.json").is_file()
