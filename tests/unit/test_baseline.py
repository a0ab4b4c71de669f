"""A run against its baseline: every regression is named, nothing is compared that cannot be, evidence is checked."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import baseline
from pipeline.artifact import sha256_file
from pipeline.errors import EvidenceError, UsageError
from pipeline.release.compare import Comparison
from pipeline.release.report import Report
from pipeline.release.samples import Samples, from_logits
from tests.unit.test_cli import deploy

N = 1_000
DEVICE = {"cpu": "a", "cores": 2, "python": "3.11.7"}
LABELS = np.random.default_rng(0).integers(0, 3, N)


def evidence(wrong: range) -> Any:
    """A model that is right on every sample but these."""
    answers = LABELS.copy()
    answers[wrong.start : wrong.stop] = (answers[wrong.start : wrong.stop] + 1) % 3
    return Samples(N, from_logits(LABELS, np.eye(3)[LABELS], np.eye(3)[answers]))


def write_run(folder: Path, wrong: range = range(50), change: Callable[[Any], None] = lambda record: None) -> Path:
    """A finished run as `deploy` leaves it, of one target at one batch."""
    (folder / "tflite" / "evidence").mkdir(parents=True)
    file = folder / "tflite" / "evidence" / "samples-1.npz"
    evidence(wrong).save(file)
    interval = {"median": 1.0, "low": 0.99, "high": 1.01}
    run = {
        "device": dict(DEVICE), "runtime": "tflite", "runtime_version": "2", "precision": "int8", "batch": 1, "n": N,
        "finite": True, "metric": 0.95, "drop_points": 0.0, "margin_points": 1.0, "drop_upper_points": 0.2,
        "quant_drop_points": 0.0, "flips": {"lost": 0, "gained": 0}, "agreement": 1.0, "sqnr_db": 30.0,
        "samples_sha256": sha256_file(file), "latency_interval_ms": interval, "peak_memory_bytes": 1_000_000,
    }  # fmt: skip
    candidate = {
        "id": "ours", "artifact": None, "sha256": None, "size_bytes": 10_000, "weight_bytes": 5_000, "drop_points": 0.0,
        "quantizer": "ours", "scheme": None, "observer": None, "int8_mac_share": 1.0, "int8_op_share": 1.0,
        "float_ops": [], "metric": 0.95, "sqnr_db": 30.0, "speedup": None, "verdict": "pass",
    }  # fmt: skip
    record = {
        "verdict": "pass", "exit_code": 0, "recipe": {"seed": 0, "folder": "x", "set": []},
        "environment": {"versions": {"torch": "2"}}, "data": {"gate": N},
        "gate_split": {"n": N, "groups": None, "shared_samples": 0, "digest": "d"}, "gate_looks": 1,
        "float": {"metric": 0.95, "n": N, "params": 1, "macs": 1, "size_bytes": 4}, "stages": [],
        "targets": {"tflite": {
            "verdict": "pass", "reasons": ["ok"], "shipped": "ours", "artifact": "tflite", "sha256": "ab",
            "size_bytes": 10_000, "weight_bytes": 5_000, "batches": [1], "candidates": [candidate], "runs": [run],
        }},
    }  # fmt: skip
    change(record)
    (folder / "report.json").write_text(Report.model_validate(record).to_json())
    return folder


def target(**changes: Any) -> Callable[[Any], None]:
    return lambda record: record["targets"]["tflite"].update(changes)


def run_of(**changes: Any) -> Callable[[Any], None]:
    return lambda record: record["targets"]["tflite"]["runs"][0].update(changes)


def candidate(**changes: Any) -> Callable[[Any], None]:
    return lambda record: record["targets"]["tflite"]["candidates"][0].update(changes)


def interval(median: float) -> Callable[[Any], None]:
    return run_of(latency_interval_ms={"median": median, "low": median * 0.99, "high": median * 1.01})


def versions(record: Any) -> None:
    record["environment"]["versions"]["torch"] = "3"


def split(record: Any) -> None:
    record["gate_split"]["digest"] = "other"


def no_target(record: Any) -> None:
    record["targets"]["onnxruntime"] = copy.deepcopy(record["targets"].pop("tflite"))


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    baseline.keep(write_run(tmp_path / "first"), tmp_path / "baseline")
    return tmp_path / "baseline"


def compared(kept: Path, *changes: Callable[[Any], None], wrong: range = range(50)) -> Comparison:
    def all_of(record: Any) -> None:
        for change in changes:
            change(record)

    shutil.rmtree(kept.parent / "now", ignore_errors=True)
    return baseline.against(write_run(kept.parent / "now", wrong, all_of), kept)


def test_the_same_run_is_the_same(kept: Path) -> None:
    found = compared(kept)
    assert found.verdict == "pass"
    assert {row.change for row in found.rows} == {"same"}
    assert found.explained == []


WORSE = {
    "accuracy at batch 1": ([], range(80), "drop +3.00 points"),
    "latency p50": ([interval(1.2)], range(50), "1.0000 (0.9900-1.0100) -> 1.2000"),
    "peak memory": ([run_of(peak_memory_bytes=1_200_000)], range(50), "1,000,000 -> 1,200,000 B"),
    "file size": ([target(size_bytes=10_200)], range(50), "10,000 -> 10,200 B"),
    "weight bytes": ([target(weight_bytes=6_000)], range(50), "5,000 -> 6,000 B"),
    "int8 share of MACs": ([candidate(int8_mac_share=0.8)], range(50), "100.0% -> 80.0%"),
    "ops in float": ([candidate(float_ops=["Softmax soft (f32)"])], range(50), "new in float: Softmax"),
    "verdict": ([target(verdict="inconclusive", reasons=["too few"])], range(50), "pass before, inconclusive now"),
}


@pytest.mark.parametrize("name", WORSE)
def test_a_regression_fails_and_is_named(kept: Path, name: str) -> None:
    changes, wrong, text = WORSE[name]
    found = compared(kept, *changes, wrong=wrong)
    assert found.verdict == "fail"
    assert [(row.name, row.change) for row in found.rows if row.change != "same"] == [(name, "worse")]
    assert text in next(row.text for row in found.rows if row.name == name)


MISSING = {
    "target": no_target,
    "latency p50": run_of(latency_interval_ms=None),
    "peak memory": run_of(peak_memory_bytes=None),
    "file size": target(size_bytes=None),
    "accuracy at batch 1": run_of(samples_sha256="ab"),
}


@pytest.mark.parametrize("name", MISSING)
def test_a_figure_that_is_gone_fails(kept: Path, name: str) -> None:
    found = compared(kept, MISSING[name])
    assert found.verdict == "fail"
    assert [(row.name, row.change) for row in found.rows if row.change != "same"] == [(name, "missing")]


def test_noise_within_the_tolerance_is_no_change(kept: Path) -> None:
    assert compared(kept, interval(1.05), run_of(peak_memory_bytes=1_050_000)).verdict == "pass"
    assert compared(kept, wrong=range(3, 55)).verdict == "pass"  # 5 lost, 3 gained


def test_another_device_is_not_compared(kept: Path) -> None:
    found = compared(kept, interval(5.0), run_of(device={**DEVICE, "cpu": "b"}))
    assert found.verdict == "pass"
    rows = {row.name: row for row in found.rows}
    assert rows["latency p50"].change == rows["peak memory"].change == "not comparable"
    assert rows["latency p50"].text == "another device: cpu a -> b"
    assert compared(kept, interval(5.0), run_of(device={**DEVICE, "python": "3.12.1"})).verdict == "fail"


def test_what_another_cpu_fuses_is_no_change_of_the_model(kept: Path) -> None:
    softmax = candidate(float_ops=["Softmax soft (f32)"])
    rows = {row.name: row for row in compared(kept, softmax, run_of(device={**DEVICE, "cpu": "b"})).rows}
    assert rows["ops in float"].change == "not comparable"
    assert rows["ops in float"].text == "another device: cpu a -> b; new in float: Softmax"


def test_of_a_changed_table_the_keys_that_differ_are_named(kept: Path) -> None:
    def pruned(record: Any) -> None:
        record["recipe"]["prune"] = {"macs": 0.4, "steps": 3, "groups": {"a": 0.5}}

    kept_file = kept / "report.json"
    before = json.loads(kept_file.read_text())
    before["recipe"]["prune"] = {"macs": 0.5, "steps": 3, "groups": {"a": 0.25}}
    kept_file.write_text(json.dumps(before))
    assert compared(kept, pruned).explained == ["recipe prune.groups.a: 0.25 -> 0.5", "recipe prune.macs: 0.5 -> 0.4"]


def test_an_unknown_device_is_not_taken_for_the_same(kept: Path) -> None:
    rows = {row.name: row for row in compared(kept, run_of(device={})).rows}
    assert rows["latency p50"].change == "not comparable"


def test_another_gate_split_is_not_compared(kept: Path) -> None:
    found = compared(kept, split, wrong=range(300))
    assert {row.name: row.change for row in found.rows}["accuracy at batch 1"] == "not comparable"
    assert found.explained == ["data: another gate split"]


@pytest.mark.parametrize(("changes", "wrong"), [([interval(0.5)], range(50)), ([], range(10))])
def test_an_improvement_asks_for_a_new_baseline_unless_it_is_explained(
    kept: Path, changes: list[Any], wrong: range
) -> None:
    assert compared(kept, *changes, wrong=wrong).verdict == "inconclusive"
    explained = compared(kept, *changes, versions, wrong=wrong)
    assert explained.verdict == "pass"
    assert explained.explained == ["version torch: 2 -> 3"]


def test_only_a_run_that_passed_and_has_its_evidence_is_a_baseline(tmp_path: Path) -> None:
    failed = write_run(tmp_path / "failed", change=lambda record: record.update(verdict="fail"))
    with pytest.raises(EvidenceError, match="only a run that passed"):
        baseline.keep(failed, tmp_path / "baseline")
    bare = write_run(tmp_path / "bare")
    (bare / "tflite" / "evidence" / "samples-1.npz").unlink()
    with pytest.raises(EvidenceError, match="no per-sample evidence"):
        baseline.keep(bare, tmp_path / "baseline")
    other = write_run(tmp_path / "other")
    evidence(range(1)).save(other / "tflite" / "evidence" / "samples-1.npz")
    with pytest.raises(EvidenceError, match="not the evidence that the report speaks of"):
        baseline.keep(other, tmp_path / "baseline")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare", "failed", "other"]


def test_a_folder_that_is_no_baseline_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(UsageError, match="no baseline: name another"):
        baseline.keep(write_run(tmp_path / "run"), tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"


def test_two_finished_runs_are_compared_without_a_baseline(tmp_path: Path) -> None:
    first, second = write_run(tmp_path / "first"), write_run(tmp_path / "second", range(90))
    assert baseline.against(second, first).verdict == "fail"


def test_the_commands_and_their_exit_codes(tmp_path: Path) -> None:
    write_run(tmp_path / "first")
    write_run(tmp_path / "worse", range(90))
    write_run(tmp_path / "better", range(5))
    none = deploy("compare", "first", cwd=tmp_path)
    assert none.returncode == 2
    assert "no baseline at deploy-baseline: make one with 'deploy baseline set RUN'" in none.stderr
    assert deploy("baseline", "set", "first", cwd=tmp_path).returncode == 0
    assert deploy("compare", "first", cwd=tmp_path).returncode == 0
    worse = deploy("compare", "worse", "--json", cwd=tmp_path)
    assert worse.returncode == 1
    assert json.loads(worse.stdout)["verdict"] == "fail"
    better = deploy("compare", "better", cwd=tmp_path)
    assert better.returncode == 3
    assert "better, and nothing explains it" in better.stdout
    assert deploy("baseline", "set", "better", cwd=tmp_path).returncode == 0
    assert deploy("compare", "better", cwd=tmp_path).returncode == 0
