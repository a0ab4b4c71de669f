"""`deploy init` and `deploy inspect`, as a newcomer types them."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pipeline import inspection
from pipeline.errors import UsageError
from tests.road.newcomer import Folder, write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = write_folder(tmp_path)
    (tmp_path / "deploy.toml").unlink()
    return made


def test_a_recipe_is_written_and_checked(folder: Folder) -> None:
    done = folder.deploy("init", "--model", "net:build", "--data", "data:splits", "--target", "onnxruntime")
    assert done.returncode == 0, done.stderr
    assert "no sample in two splits" in done.stdout
    assert "its outputs fit the data" in done.stdout
    table = tomllib.loads((folder.path / "deploy.toml").read_text())
    assert table["targets"] == ["onnxruntime"]
    again = folder.deploy("init", "--model", "net:build", "--data", "data:splits")
    assert again.returncode == 2
    assert "exists: --force writes a new one over it" in again.stderr


def test_numbers_for_targets_get_a_metric_of_their_own(tmp_path: Path) -> None:
    """Two inputs for a forward that takes a dict."""
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.end = nn.Linear(5, 1)\n\n    def forward(self, batch):\n"
        "        return {'price': self.end(batch['rooms']) + batch['age'].sum(1, keepdim=True)}\n"
    )
    (tmp_path / "data.py").write_text(
        "import numpy as np\n\n\ndef splits():\n    rng = np.random.default_rng(0)\n"
        "    x = lambda n: {'rooms': rng.normal(size=(n, 5)).astype('f'), 'age': rng.normal(size=(n, 2)).astype('f')}\n"
        "    return {name: (x(20), np.ones(20, 'f')) for name in ('train', 'calibration', 'selection', 'gate')}\n"
    )
    done = Folder(tmp_path).deploy("init", "--model", "net:Net", "--data", "data:splits", "--target", "onnxruntime")
    assert done.returncode == 0, done.stderr
    assert "its outputs fit the data" in done.stdout
    table = tomllib.loads((tmp_path / "deploy.toml").read_text())
    assert (table["task"], table["gate"]) == ({"metric": "mae"}, {"margin": "5%"})


@pytest.mark.parametrize(
    ("model", "data", "says"),
    [
        ("net:build", "data:nothing", "'data' has no function 'nothing'"),
        ("net:biuld", "data:splits", "'net' has no function 'biuld'"),
        ("net", "data:splits", "expected 'module:function'"),
        ("net:build", "none.npz", "nothing at"),
    ],
)
def test_the_first_error_is_told_in_words(folder: Folder, model: str, data: str, says: str) -> None:
    done = folder.deploy("init", "--model", model, "--data", data)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("typed", "code", "says"),
    [
        ("net:build\ndata:splits\n", 0, "its outputs fit the data"),
        ("net:build\n", 2, "init: nobody answers here: give --data"),
    ],
)
def test_what_is_not_given_is_asked_for(folder: Folder, typed: str, code: int, says: str) -> None:
    command = [sys.executable, "-m", "pipeline.cli", "init", "--target", "onnxruntime"]
    done = subprocess.run(command, cwd=folder.path, input=typed, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert says in done.stdout + done.stderr
    assert (folder.path / "deploy.toml").exists() == (code == 0)


def test_a_factory_is_inspected(folder: Folder) -> None:
    done = folder.deploy("inspect", "net:build", "--shape", "1x16x16", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    convolutions = 16 * 16 * 16 * 9 + 8 * 8 * 32 * 16 * 9 + 4 * 4 * 32 * 32 * 9
    assert found["macs"] == convolutions + 32 * 4
    assert found["params"] == sum((16 * 9, 32, 32 * 16 * 9, 64, 32 * 32 * 9, 64, 32 * 4 + 4))
    assert found["ops"]["aten.conv2d"] == 3
    assert found["inputs"] == {"input": "float32 [n, 1, 16, 16]"}
    assert set(found["targets"]) >= {"openvino", "tflite", "onnxruntime"}
    shown = folder.deploy("inspect", "net:build", "--shape", "1x16x16")
    assert f"{found['macs']:,} MACs a sample" in shown.stdout


def test_what_a_target_refuses_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "sorts.py").write_text(
        "import torch\nclass Net(torch.nn.Module):\n    def forward(self, x):\n        return x.topk(2)[0]\n"
        "def build(): return Net()\n"
    )
    found = inspection.examine("sorts:build", tmp_path, ["8"])
    row = found["targets"]["tflite"]
    assert row["level"] == "refused"
    assert row["reasons"] == ["aten.topk (sorts.py:4): LiteRT has no kernel for STABLEHLO_SORT"]


@pytest.mark.parametrize(
    ("reference", "shapes", "says"),
    [
        ("net:build", [], "give the shape of one sample of each input"),
        ("net:build", ["3xx"], "--shape 3xx: expected 3x224x224"),
        ("net:build", ["3x7"], "cannot be exported"),
        ("net.onnx", [], "no file at"),
        ("net.py", [], "known are .pt2"),
    ],
)
def test_other_questions_are_refused(folder: Folder, reference: str, shapes: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says.replace(".", r"\.")):
        inspection.examine(reference, folder.path, shapes)


def test_doctor_names_the_model_libraries(folder: Folder) -> None:
    found = json.loads(folder.deploy("doctor", "--json").stdout)["model_libraries"]
    assert found["transformers"][0].isdigit() or "pip install transformers" in found["transformers"]
    assert found["timm"] == "not installed" or found["timm"][0].isdigit() or "does not import" in found["timm"]
