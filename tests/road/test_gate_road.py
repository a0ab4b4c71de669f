"""The gate's further claims on a real run: from the delivered evidence, closed when it is missing or not its own."""

import json
import shutil
from pathlib import Path

import pytest

from tests.road.newcomer import Folder

pytestmark = pytest.mark.slow
ASK = ("--target", "tflite", "--set", "gate.metrics.macro_f1=4", "--set", "gate.slices.class:up=9", "--json")


def test_metrics_and_slices_are_judged_without_measuring_again(finished: Folder) -> None:
    done = finished.deploy("gate", *ASK)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)["targets"]["tflite"]
    names = [check["name"] for check in row["checks"]]
    assert {"macro_f1", "slice class:up", "slices"} <= set(names)
    for run in row["runs"]:
        assert run["metrics"]["macro_f1"]["drop"] <= run["metrics"]["macro_f1"]["high"]
        for field in ("lost", "gained"):
            assert sum(part[field] for part in run["slices"].values()) == run["flips"][field]


@pytest.mark.parametrize("spoil", ["missing", "changed"])
def test_evidence_that_is_not_the_runs_fails(finished: Folder, tmp_path: Path, spoil: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished.path / "deploy-out", run)
    file = run / "tflite" / "evidence" / "samples-1.npz"
    if spoil == "missing":
        file.unlink()
    else:
        shutil.copy(run / "onnxruntime" / "evidence" / "samples-32.npz", file)
        file.write_bytes(file.read_bytes() + b" ")
    done = finished.deploy("gate", str(run), *ASK)
    assert done.returncode == 1
    reasons = json.loads(done.stdout)["targets"]["tflite"]["reasons"]
    assert any("macro_f1 at batch 1: unavailable" in reason and "run 'deploy verify'" in reason for reason in reasons)
    mended = finished.deploy("verify", str(run), "--target", "tflite")
    assert mended.returncode == 0, mended.stderr
    assert finished.deploy("gate", str(run), *ASK).returncode == 0


def test_a_slice_that_the_data_has_not_fails(finished: Folder) -> None:
    done = finished.deploy("gate", "--set", "gate.slices.group:ann=5")
    assert done.returncode == 1
    assert "slice group:ann at batch 1: unavailable, but the policy requires it; there are: class:down" in done.stdout


def test_a_policy_from_a_file_of_its_own(finished: Folder, tmp_path: Path) -> None:
    policy = tmp_path / "release.toml"
    policy.write_text("margin_points = 6.0\nmin_samples = 100000\n")
    done = finished.deploy("gate", "--policy", str(policy), "--target", "tflite", "--json")
    assert done.returncode == 1
    reasons = " ".join(json.loads(done.stdout)["targets"]["tflite"]["reasons"])
    assert "100,000" in reasons or "100000" in reasons
    loose = finished.deploy("gate", "--policy", str(policy), "--set", "gate.min_samples=10", "--target", "tflite")
    assert loose.returncode == 0, loose.stdout


def test_a_metric_that_nobody_knows_is_bad_usage(finished: Folder) -> None:
    done = finished.deploy("gate", "--set", "gate.metrics.acuracy=5")
    assert done.returncode == 2
    assert "no metric 'acuracy'" in done.stderr


def test_a_run_is_explained_on_every_target(finished: Folder) -> None:
    """From the store and the delivered files: whose part of the loss is what, layers beside the float tensors that they
    stand for (this network is equalized), what leaving one in float brings, targets side by side.
    """
    done = finished.deploy("explain", "--samples", "16", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert json.loads((finished.path / "deploy-out" / "explain.json").read_text()) == found
    page = (finished.path / "deploy-out" / "report.html").read_text()
    assert all(f"<h3>{row['target']}: {row['candidate']}</h3>" in page for row in found)
    assert [one["target"] for one in found] == ["openvino", "tflite", "onnxruntime"]
    for one in found:
        assert one["split"] == "selection"
        assert len(one["layers"]) >= 4
        assert one["causes"] == []
        assert [loss["by"] for loss in one["losses"]] == ["prune, distill", "int8"]
        assert len(one["kept"]) == 4
        report = finished.report()["targets"][one["target"]]
        assert one["shipped"] == (report["shipped"] == one["candidate"])
    shown = finished.deploy("explain", "--samples", "16", "--quick")
    assert shown.returncode == 0
    assert "side by side" in shown.stdout
    wrong = finished.deploy("explain", "--candidate", "nobody")
    assert (wrong.returncode, "has no candidate 'nobody'" in wrong.stderr) == (2, True)
