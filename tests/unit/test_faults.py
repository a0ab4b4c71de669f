"""A candidate's fault costs that candidate: the others are asked, timed and verified."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline import api, outcome, road
from pipeline.artifact import Artifact
from pipeline.branch import FIXED, Branch, Exported, Network
from pipeline.errors import DeviceError, EvidenceError, StageError, UsageError
from pipeline.recipe import Recipe
from pipeline.release import choose, report
from pipeline.stages import Job, faults, measure
from targets.base import Candidate, Model, TensorSpec

TARGET: Any = SimpleNamespace(
    name="faulty", runtime=str(Path(__file__).with_name("faulty_runtime.py")), options=lambda candidate: {}
)
SETTINGS = {"threads": 1, "batch": 2, "processes": 6, "budget_s": 0.0, "min_rounds": 6, "max_rounds": 6, "warmup_s": 0}


def entrant(name: str, folder: Path, says: str = "", precision: Any = "int8") -> measure.Entrant:
    (folder / name).mkdir()
    (folder / name / "model").write_text(says)
    ends = (TensorSpec("x", "float32", (None, 3)),), (TensorSpec("y", "float32", (None, 3)),)
    return measure.Entrant(name, Model(folder / name / "model", *ends), Candidate(name, "q", precision))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "inputs").mkdir()
    np.save(tmp_path / "inputs" / "x.npy", np.ones((5, 3), np.float32))
    return tmp_path


WRONG = {
    "does not load": "this is no model",
    "crashes": "ended with code 139",
    "rotates": r"output 'y' is \[1, 3\] a sample, promised \[3\]",
    "forgets": "has no output 'y', it gives .'z'.",
    "loses rows": "output 'y' has 1 rows for a batch of 2",
    "is not finite": "output 'y' has NaN or infinite values",
}


def test_each_that_answers_wrongly_is_told_apart_and_the_others_answer(folder: Path) -> None:
    sound = [entrant("float", folder, precision="f32"), entrant("sound", folder)]
    everyone = [*sound, *(entrant(f"m{i}", folder, says) for i, says in enumerate(WRONG))]
    found = faults.answers(TARGET, everyone, folder, 2, SETTINGS)
    failed = found.failed | faults.not_finite(everyone, found.outputs)
    assert list(failed) == [f"m{i}" for i in range(len(WRONG))]
    for why, says in zip(failed.values(), WRONG.values(), strict=True):
        assert re.search(says, why), why
    assert all(np.array_equal(found.outputs[one.id]["y"], np.full((5, 3), 2)) for one in sound)
    assert set(found.result["models"]) >= {"float", "sound"}


def test_without_the_runtimes_own_float_nothing_is_compared(folder: Path) -> None:
    pair = [entrant("float", folder, "crashes", "f32"), entrant("sound", folder)]
    with pytest.raises(StageError, match=r"faulty: its float model, which all others are compared with: .*code 139"):
        faults.answers(TARGET, pair, folder, 2, SETTINGS)


def test_one_that_cannot_be_timed_leaves_the_race(folder: Path) -> None:
    everyone = [entrant("float", folder, precision="f32"), entrant("bad", folder, "crashes when timed")]
    job = Job("race", {**SETTINGS, "batch": 1}, {}, folder, 0)
    timed, failed = faults.timed(TARGET, everyone, folder, job, "samples.npz", 1.0)
    assert list(failed) == ["bad"]
    assert "code 139" in failed["bad"]
    assert {name: len(ns) for name, ns in timed.ns.items()} == {"float": 6}
    assert not (folder / "alone.npz").exists()


CANDIDATES = {
    "float": {"precision": "f32", "quantizer": "none", "sqnr_db": None},
    "nncf": {"precision": "int8", "quantizer": "nncf", "sqnr_db": 50.0},
    "nncf-mixed": {"precision": "int8", "quantizer": "nncf", "sqnr_db": 45.0},
    "ours-minmax": {"precision": "int8", "quantizer": "ours", "sqnr_db": 30.0},
    "ours-mse": {"precision": "int8", "quantizer": "ours", "sqnr_db": 40.0},
}
ROW = {"finite": True, "n": 1000, "quant_flips": {"lost": 0, "gained": 0}}


def speed(name: str) -> dict[str, float]:
    times = 1.0 if name == "float" else 2.0
    return {"median": times, "low": times - 0.1, "high": times + 0.1}


class Stages:
    """A runner whose stages say what a table says; `broken`: (stage, candidate) -> what it raises or reports."""

    stored_only = False

    def __init__(self, broken: dict[tuple[str, str], Any]) -> None:
        self.broken, self.events = broken, []

    def emit(self, event: Any) -> None:
        self.events.append(event)

    def do(self, stage: str, inputs: Any, settings: Any, **named: Any) -> Artifact:
        name = settings.get("candidate", "")
        here = {one: why for (at, one), why in self.broken.items() if at == stage}
        if stage in ("screen", "race"):
            rows = [
                {"id": one, **ROW, "speedup": speed(one), "sqnr_db": CANDIDATES[one]["sqnr_db"]}
                for one in settings["candidates"]
                if one not in here
            ]
            return self.made(stage, {"candidates": rows, "failed": here})
        if stage == "verify":
            return self.made(stage, {"failed": here.get(name)})
        if name in here:
            raise here[name]
        proposed = [
            {"id": one, **{k: v for k, v in row.items() if k != "sqnr_db"}, "scheme": "u8s8", "observer": "mse"}
            for one, row in CANDIDATES.items()
        ]
        told = {"candidates": proposed, "free_batch": True} if stage == "lower" else CANDIDATES.get(name, {})
        return self.made(stage, {"size_bytes": 10, **told})

    def made(self, stage: str, metadata: Any) -> Artifact:
        return Artifact(stage, stage, Path(), stage, metadata, 0.0)


def travelled(broken: dict[tuple[str, str], Any]) -> tuple[Branch, Stages]:
    runner: Any = Stages(broken)
    recipe = Recipe.model_validate(
        {"name": "n", "model": "net:build", "data": "data:splits", "quantize": {"candidates": list(CANDIDATES)}}
        | {"targets": ["openvino"], "folder": Path()}
    )
    data = runner.made("data", {"lengths": {}})
    program = runner.made("export-pt2", {"kind": "onnx", "ops": {}})
    branch = Branch("openvino", Network(program, {FIXED: Exported(program, {})}))
    way = road.Road(recipe, None, data, program, runner.made("reference", {}), branch.network)
    road._branch(way, branch, ("openvino",), runner, lambda stage: stage not in ("older-cpus", "keep"))
    return branch, runner


def test_in_every_stage_the_others_go_on() -> None:
    branch, runner = travelled(
        {
            ("quantize", "nncf"): UsageError("an op that it lacks"),
            ("screen", "nncf-mixed"): "its axes are rotated",
            ("race", "ours-minmax"): "killed by signal 9",
            ("verify", "ours-mse"): "at batch 128: out of range",
        }
    )
    assert branch.failed == {
        "nncf": "an op that it lacks",
        "nncf-mixed": "its axes are rotated",
        "ours-minmax": "killed by signal 9",
        "ours-mse": "at batch 128: out of range",
    }
    assert [event["target"] for event in runner.events] == [f"openvino/{name}" for name in branch.failed]
    assert list(branch.candidates) == ["float"]
    assert branch.choice is not None
    assert branch.choice.shipped == "float"
    assert branch.profile is not None
    told = {row.id: (row.verdict, row.why) for row in outcome._candidates(branch)}
    assert {name: told[name] for name in branch.failed} == {n: ("error", why) for n, why in branch.failed.items()}


def test_a_target_without_any_int8_is_no_target_of_this_model() -> None:
    broken = {("quantize", name): StageError("kaboom") for name in CANDIDATES if name != "float"}
    with pytest.raises(StageError, match="openvino: every int8 candidate failed: kaboom"):
        travelled(broken)


def test_a_device_that_fails_is_no_candidates_fault() -> None:
    with pytest.raises(DeviceError, match="unplugged"):
        travelled({("quantize", "nncf"): DeviceError("unplugged")})


def test_float_that_cannot_be_looked_into_ends_the_target() -> None:
    with pytest.raises(StageError, match="no float"):
        travelled({("quantize", "float"): StageError("no float")})


def test_what_is_measured_again_is_what_lies_in_the_run(tmp_path: Path) -> None:
    """Where what was delivered does not run any more the road chooses another, whose verdict is not the folder's."""
    empty = dict.fromkeys(report.CandidateRow.model_fields) | {"outputs": [], "float_ops": [], "edited": [], "kept": []}
    rows = [report.CandidateRow.model_validate(empty | one) for one in TOLD]
    row = report.TargetRow(verdict="pass", reasons=[], shipped="ours", sha256="ab", candidates=rows)
    found = Branch("tflite", failed={"nncf": "not in the store"})
    found.choice = choose.Choice("ours", {}, "")
    found.verify = Artifact("verify", "k", tmp_path, "d", {"sha256": "ab"}, 0.0)
    api._check_same(row, found, tmp_path)
    assert found.failed == {"nncf": "it crashed"}
    found.failed["ours"] = "at batch 1: no answer"
    found.choice = choose.Choice("float", {}, "")
    found.verify = Artifact("verify", "k", tmp_path, "d", {"sha256": "cd"}, 0.0)
    with pytest.raises(EvidenceError, match=r"holds 'ours', and 'float' would ship now \(at batch 1: no answer\): run"):
        api._check_same(row, found, tmp_path)


TOLD = [
    {"id": "ours", "quantizer": "ours", "verdict": "pass", "why": "ships"},
    {"id": "nncf", "quantizer": "nncf", "verdict": "error", "why": "it crashed"},
]
