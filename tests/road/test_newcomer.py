"""A folder outside the repository with net.py, data.py, a checkpoint and 15 lines of recipe goes to all targets."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.road.newcomer import RECIPE, Folder

pytestmark = pytest.mark.slow
TARGETS = ("openvino", "tflite", "onnxruntime")


def test_the_recipe_is_short() -> None:
    assert len([line for line in RECIPE.splitlines() if line.strip()]) <= 15


def test_every_target_passes_with_int8_that_holds_parity(finished: Folder) -> None:
    report = finished.report()
    assert report["verdict"] == "pass"
    assert report["gate_looks"] == len(TARGETS)
    for name in TARGETS:
        row = report["targets"][name]
        assert row["verdict"] == "pass", row["reasons"]
        good = [
            c
            for c in row["candidates"]
            if c["verdict"] == "pass" and c["precision"] == "int8" and (c["int8_mac_share"] or 0) >= 0.9
        ]
        assert good, row["candidates"]
        assert {c["quantizer"] for c in row["candidates"]} >= {"none", "ours"}
        assert row["runs"][0]["latency_ms"]["n"] >= 1000
        assert row["runs"][0]["float_latency_ms"]["p99"] is not None


def test_the_delivered_file_runs_by_itself_as_the_report_says(finished: Folder) -> None:
    """ONNX Runtime alone, none of our code, on the delivered file: the same accuracy as reported."""
    script = """
import json, sys
sys.path.insert(0, ".")
import onnxruntime, data
folder = "deploy-out/onnxruntime/"
file = json.load(open(folder + "model.json"))["file"]
session = onnxruntime.InferenceSession(folder + file)
x, y = data.splits()["gate"]
print((session.run(None, {"input": x})[0].argmax(1) == y).mean())
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=finished.path, capture_output=True, text=True, check=True)
    run = finished.report()["targets"]["onnxruntime"]["runs"][-1]
    assert float(done.stdout) == pytest.approx(run["metric"], abs=2 / 900)


def test_preprocessing_and_labels_travel_with_the_artifact(finished: Folder) -> None:
    for name in TARGETS:
        declared = json.loads((finished.path / "deploy-out" / name / "declared.json").read_text())
        assert declared["labels"] == ["horizontal", "vertical", "down", "up"]
        (one,) = declared["inputs"]
        assert one["notes"] == {"range": "standardised"}
        assert one["name"] == "input"


def test_a_finished_run_repeated_comes_from_the_store_without_torch_or_user_code(finished: Folder) -> None:
    before = finished.report()
    script = """
import sys
sys.argv = ["deploy", "--target", "all", "--out", "again"]
from pipeline.cli import main
try:
    main()
except SystemExit as ended:
    code = ended.code
names = ("torch", "net", "data", "openvino", "onnxruntime")
print("LOADED", code or 0, [name for name in names if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=finished.path, capture_output=True, text=True, check=True)
    assert "LOADED 0 []" in done.stdout
    after = json.loads((finished.path / "again" / "report.json").read_text())
    assert all(row["cached"] for row in after["stages"])
    strip = {"stages": None}
    for report in (before, after):  # other tests of this folder verify it anew
        for row in report["targets"].values():
            assert all(run.pop("measured_at") > 0 for run in row["runs"])
    assert before | strip == after | strip


def test_the_gate_judges_a_finished_run_by_another_policy(finished: Folder) -> None:
    assert finished.deploy("gate").returncode == 0
    strict = finished.deploy("gate", "--set", "gate.max_size_bytes=10")
    assert strict.returncode == 1
    assert "> budget 10 bytes" in strict.stdout


def test_changed_artifacts_are_refused(finished: Folder, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(finished.path / "deploy-out", copy)
    model = next((copy / "tflite").glob("*.tflite"))
    model.write_bytes(model.read_bytes()[:-1] + b"\x07")
    judged = finished.deploy("gate", str(copy), "--target", "tflite")
    assert judged.returncode == 1
    assert "ships: verify again" in judged.stdout
    verified = finished.deploy("verify", str(copy), "--target", "tflite")
    assert verified.returncode == 1
    assert "is not the artifact that the report speaks of" in verified.stderr


@pytest.mark.parametrize("command", ["verify", "profile"])
def test_a_finished_run_is_measured_again(finished: Folder, tmp_path: Path, command: str) -> None:
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(finished.path / "deploy-out", copy)
    done = finished.deploy(command, str(copy), "--target", "onnxruntime", "--json")
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout)
    rows = {row["name"]: row["cached"] for row in again["stages"]}
    assert rows.pop(f"{command} onnxruntime") is False
    assert all(rows.values())
    assert np.isclose(
        again["targets"]["onnxruntime"]["runs"][0]["metric"],
        finished.report()["targets"]["onnxruntime"]["runs"][0]["metric"],
    )
    with np.load(copy / "samples" / "onnxruntime-profile.npz") as delivered:  # the raw ones are this measurement's
        p50 = float(np.median(delivered["shipped"])) / 1e6
    assert p50 == again["targets"]["onnxruntime"]["runs"][0]["latency_ms"]["p50"]


def test_the_python_api_does_what_the_command_does(finished: Folder) -> None:
    script = """
import pipeline
from pathlib import Path
report = pipeline.run("deploy.toml", targets=["tflite"], out=Path("by-api"))
print(report.verdict, list(report.targets))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=finished.path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "pass ['tflite']"
