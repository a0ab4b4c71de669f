"""What ships is verified and timed on further devices too: under the Python where tflite-runtime is."""

import json
import os
import shutil
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.road.newcomer import Folder

pytestmark = pytest.mark.slow
PYTHON = Path(__file__).parents[2] / ".venv" / "tflite-runtime" / "bin" / "python"


@pytest.fixture
def python() -> Path:
    if not PYTHON.is_file() and not os.environ.get("TFLITE_RUNTIME_REQUIRED"):
        pytest.skip("no environment with tflite-runtime ('make .venv/.tflite-runtime' makes it)")
    return PYTHON


@pytest.fixture
def again(finished: Folder, tmp_path: Path) -> Folder:
    """A copy of the finished folder, so that only what is new is made."""
    return Folder(Path(shutil.copytree(finished.path, tmp_path / "bars")))


def test_tflite_runtime_is_another_entry_of_runs(again: Folder, python: Path) -> None:
    done = again.deploy("--target", "tflite", "--set", f'also.tflite=["local://{python}"]', "--json")
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)["targets"]["tflite"]
    assert {run["batch"]: run["n"] for run in row["runs"] if run["attached"]} == {1: 900, 32: 900}
    own, other = (next(run for run in row["runs"] if bool(run["attached"]) == also) for also in (False, True))
    assert own["runtime_version"].startswith("ai_edge_litert ")
    assert other["runtime_version"] == "tflite_runtime 2.14.0"
    assert other["device"]["python"] == own["device"]["python"]
    assert other["agreement"] >= 0.99
    assert other["latency_ms"]["n"] >= 1000
    assert other["speedup"]["low"] <= other["speedup"]["median"] <= other["speedup"]["high"]
    # judged like any other run, and in every form of the report
    assert [check["name"] for check in row["checks"]].count("accuracy") == 4
    out = again.path / "deploy-out"
    assert "tflite_runtime 2.14.0" in (out / "report.html").read_text()
    assert ElementTree.parse(out / "junit.xml").getroot().get("tests") == str(len(row["checks"]))
    with np.load(out / "samples" / "tflite-profile-1.npz") as raw:
        assert len(raw["shipped"]) == other["latency_ms"]["n"]
    # its evidence is its own: another metric is judged from it later, and not without it
    judged = again.deploy("gate", "deploy-out", "--set", "gate.metrics.macro_f1=5")
    assert judged.returncode == 0, judged.stdout
    shutil.rmtree(out / "tflite" / "evidence" / "1")
    missing = again.deploy("gate", "deploy-out", "--set", "gate.metrics.macro_f1=5")
    alike = own["samples_sha256"] == other["samples_sha256"]
    assert missing.returncode == (0 if alike else 1), missing.stdout


def test_every_device_named_is_a_run_of_its_own(again: Folder) -> None:
    second = f"local://{sys.executable}"
    done = again.deploy("--target", "onnxruntime", "--device", "local://", "--device", second, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["environment"]["attached"] == "local://"
    runs = report["targets"]["onnxruntime"]["runs"]
    assert {(run["attached"], run["batch"]) for run in runs} == {(uri, n) for uri in (None, second) for n in (1, 32)}
    assert all(run["latency_ms"]["n"] >= 1000 for run in runs if run["batch"] == 1)
    assert second in (again.path / "deploy-out" / "report.html").read_text()  # its layers are drawn beside
    told = again.deploy("profile", "deploy-out", "--target", "onnxruntime", "--layers").stdout
    assert told.count("CPUExecutionProvider") > 4


def test_the_original_is_timed_where_it_is_asked_for(again: Folder) -> None:
    done = again.deploy("--target", "tflite", "--set", "profile.original=true", "--json")
    assert done.returncode == 0, done.stderr
    run = json.loads(done.stdout)["targets"]["tflite"]["runs"][0]
    over = run["speedup_over_original"]
    assert 0 < over["low"] <= over["median"] <= over["high"]
    assert run["original_latency_ms"]["n"] == run["latency_ms"]["n"]
    assert "the original float" in (again.path / "deploy-out" / "report.html").read_text()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ('also.tflite=["local:///nowhere/python"]', "there is no program /nowhere/python: name a Python"),
        ('also.tflite=["usb://1"]', "no such channel"),
        ('also.tflit=["local://"]', "['tflit'] not among the targets"),
    ],
)
def test_a_device_that_is_none_is_refused_before_any_work(folder: Folder, value: str, says: str) -> None:
    done = folder.deploy("--target", "tflite", "--set", value)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
