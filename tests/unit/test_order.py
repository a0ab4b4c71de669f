"""--only X runs X and nothing after it; a stage that the recipe has not is refused, by --from too."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import api, order, recipe, road
from pipeline.artifact import Artifact
from pipeline.errors import UsageError
from pipeline.runner import Runner
from pipeline.store import Store

FACTORY = {"name": "n", "model": "net:build", "data": "data:splits", "targets": ["tflite", "onnxruntime"]}
STUDENT = {"checkpoint": "a.pt", "stages": ["distill", "prune"], "distill": {"student": "net:small"}}
RECIPES: dict[str, dict[str, Any]] = {
    "plain": {"stages": []},
    "trained": {},
    "brought": {"pretrained": True, "rewrite": ["gelu"], "weights": {"method": "none"}},
    "iterative": {"prune": {"schedule": "iterative"}, "distill": {"method": "finetune"}},
    "measured": {"prune": {"align": "measured", "macs": 0.5}},
    "timed": {"prune": {"latency": 0.5}},
    "a student": STUDENT,
    "a teacher": {"distill": {"teachers": [{"model": "net:build", "checkpoint": "a.pt"}]}},
    "onnx": {"model": "a.onnx", "targets": ["onnxruntime"], "stages": []},
    "pt2": {"model": "a.pt2", "stages": []},
}
METADATA = {
    "data": {"lengths": None, "inputs": {"input": {"dtype": "float32", "shape": [3]}}},
    "shapes": {"shapes": [], "groups": {}},
    "export-pt2": {"ops": {}, "kind": "pt2"},
    "weights": {"ops": {}, "kind": "pt2"},
    "export-onnx": {"ops": {}, "kind": "onnx"},
}


class Recorder(Runner):
    """Makes nothing, remembers what it was asked to make."""

    def do(self, stage: str, inputs: Any, settings: Any, **_: Any) -> Artifact:
        self.rows.append({"name": stage})
        kind = Path(self.factories["model"]).suffix[1:]
        return Artifact(stage, "k", self.folder, "d", {"ops": {}, "kind": kind} | METADATA.get(stage, {}), 0.0)


def recorded(folder: Path, table: dict[str, Any], only: str | None) -> list[str]:
    asked = recipe.from_table(FACTORY | table, folder, "test")
    runner = Recorder(Store(folder), folder, {"model": asked.model, "data": asked.data}, "", 0)
    travelled = road.travel(asked, asked.targets, runner, only)
    assert not [branch.error for branch in travelled.branches.values() if branch.error]
    return [row["name"] for row in runner.rows]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "declared.json").write_text(json.dumps({"inputs": ["input"]}))
    for name in ("a.onnx", "a.pt2", "a.pt"):
        (tmp_path / name).write_text("")
    return tmp_path


@pytest.mark.parametrize("table", RECIPES.values(), ids=RECIPES)
def test_a_run_ends_with_the_stage_that_it_is_told(folder: Path, table: dict[str, Any]) -> None:
    asked = recipe.from_table(FACTORY | table, folder, "test")
    stages = order.of(asked, asked.targets).stages
    for stage in stages[: stages.index("observe")]:
        ran = recorded(folder, table, stage)
        assert ran[-1] == stage
        assert set(ran) <= set(stages[: stages.index(stage) + 1])
        assert not set(ran[: ran.index(stage)]) & set(stages[stages.index(stage) + 1 :])


def test_the_order_is_the_recipes_own(folder: Path) -> None:
    def first(table: dict[str, Any]) -> list[str]:
        asked = recipe.from_table(FACTORY | table, folder, "test")
        return list(order.of(asked, asked.targets).stages)

    end = ["lower", "observe", "quantize", "screen", "race", "verify", "profile"]
    assert first(RECIPES["plain"]) == ["data", "train", "reference", "export-pt2", "weights", "export-onnx", *end]
    student = ["data", "load", "reference", "soft-labels", "distill", "prune", "export-pt2", "weights", "export-onnx"]
    assert first(STUDENT) == [*student, *end]
    measured = ["shapes", "device-profile", "prune-measured"]
    assert first(RECIPES["measured"])[3:6] == measured
    assert first(RECIPES["timed"])[3] == "prune-measured"
    assert first(RECIPES["onnx"]) == ["data", "bring", *end]
    kept = first(RECIPES["plain"] | {"targets": ["openvino"], "quantize": {"keep_db": 40.0}})
    assert kept[-6:] == ["keep", "screen", "race", "verify", "older-cpus", "profile"]
    assert "export-onnx" in kept
    assert "export-onnx" not in first(RECIPES["plain"] | {"targets": ["tflite"]})


@pytest.mark.parametrize(
    ("table", "stage"),
    [
        *(("plain", stage) for stage in ("prune", "bring", "sensitivity", "load", "keep")),
        ("onnx", "train"),
        ("onnx", "weights"),
        ("iterative", "soft-labels"),
        ("measured", "prune"),
        ("trained", "shape"),
    ],
)
def test_what_the_recipe_has_not_is_refused_with_what_it_has(folder: Path, table: str, stage: str) -> None:
    asked = recipe.from_table(FACTORY | RECIPES[table], folder, "test")
    for named in ({"only": stage}, {"refresh_from": stage}):
        with pytest.raises(UsageError, match=f"no stage '{stage}' in this recipe: its stages are data, ") as refused:
            api.run(asked, out=folder / "out", store=Store(folder / "store"), **named)
        assert refused.value.exit_code == 2
    assert not (folder / "store").exists()


def test_from_makes_the_stage_and_what_comes_after_it_again(folder: Path) -> None:
    asked = recipe.from_table(FACTORY | STUDENT, folder, "test")
    again = order.of(asked, asked.targets).since("prune")
    assert "distill" not in again  # which comes first here
    assert {"prune", "export-pt2", "profile"} <= again


def test_a_run_that_delivers_nothing_asks_nothing_of_the_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = recipe.from_table(FACTORY | {"stages": []}, folder, "test")
    (folder / "out" / "pytorch").mkdir(parents=True)
    (folder / "out" / "pytorch" / "mine.txt").write_text("mine")
    runner = Recorder(Store(folder / "store"), folder, {"model": asked.model, "data": asked.data}, "", 0)
    monkeypatch.setattr(api, "runner_of", lambda *_: runner)
    assert api.run(asked, out=folder / "out", only="data") is None
    assert api.run(asked, out=folder / "new", only="data") is None
    assert not (folder / "new").exists()
