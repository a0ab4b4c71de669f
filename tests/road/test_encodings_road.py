"""Ranges edited by hand on a real run: shown, applied, marked, refused where they are another model's."""

import json
from pathlib import Path

import pytest

from tests.road.newcomer import Folder

pytestmark = pytest.mark.slow
OURS = ("--target", "onnxruntime", "--candidate", "ours-minmax")


def test_edited_ranges_run_and_are_marked(finished: Folder, tmp_path: Path) -> None:
    file, out = tmp_path / "edited.json", tmp_path / "out"
    done = finished.deploy("encodings", "show", "deploy-out", *OURS, "--out", str(file))
    assert done.returncode == 0, done.stderr
    shown = json.loads(file.read_text())
    rows = {row["name"]: row for row in shown["activation_encodings"]}
    rows["input"]["scale"][0] *= 2  # a worse range than was found
    file.write_text(json.dumps(shown | {"activation_encodings": [rows["input"]]}))

    done = finished.deploy("encodings", "apply", str(file), "--target", "onnxruntime", "--out", str(out), "--json")
    assert done.returncode in (0, 1, 3), done.stderr
    candidates = {row["id"]: row for row in json.loads(done.stdout)["targets"]["onnxruntime"]["candidates"]}
    assert candidates["ours-encodings"]["edited"] == ["input"]
    before = {row["id"]: row for row in finished.report()["targets"]["onnxruntime"]["candidates"]}
    assert candidates["ours-encodings"]["sqnr_db"] < before["ours-minmax"]["sqnr_db"]

    old, new = (Path(row["artifact"]) / "model.onnx" for row in (before["ours-minmax"], candidates["ours-encodings"]))
    done = finished.deploy("encodings", "diff", str(old), str(new), "--json")
    assert done.returncode == 1, done.stderr
    # and with the input's scale that of the first layer's bias, which is the product of the input's and the weight's
    assert [row["name"] for row in json.loads(done.stdout)] == ["input", "0.weight_bias"]
    same = finished.deploy("encodings", "diff", str(old), str(old))
    assert (same.returncode, same.stdout.strip()) == (0, "no difference")


def test_encodings_of_another_model_are_bad_input(finished: Folder, tmp_path: Path) -> None:
    file = tmp_path / "foreign.json"
    row = {"name": "block9", "dtype": "INT", "bw": 8, "is_sym": False, "scale": [0.1], "offset": [0]}
    file.write_text(json.dumps({"activation_encodings": [row], "param_encodings": []}))
    out = tmp_path / "out"
    done = finished.deploy("encodings", "apply", str(file), "--target", "onnxruntime", "--out", str(out))
    assert done.returncode == 2
    assert "1 of 1 encodings are of another graph: it has no tensor 'block9'" in done.stderr
    assert not list(out.iterdir())


def test_what_is_not_there_is_named(finished: Folder) -> None:
    done = finished.deploy("encodings", "show", "deploy-out")
    assert (done.returncode, "name a target with --target: it has openvino" in done.stderr) == (2, True)
    done = finished.deploy("encodings", "show", "deploy-out", "--target", "tflite", "--candidate", "mine")
    assert (done.returncode, "'mine' is no int8 candidate" in done.stderr) == (2, True)
    done = finished.deploy("encodings", "show", "net.py")
    assert (done.returncode, "encodings are read from .json, .onnx, .tflite, .xml" in done.stderr) == (2, True)
