"""Messages that misled newcomers: what each says now, and that every remedy works as printed."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from torch import nn

import pipeline
from pipeline import beginning, console, data, inspection, keys, models, pickled
from pipeline.cli import front
from pipeline.errors import UsageError
from pipeline.recipe import known_keys
from pipeline.release.compare import _changed
from pipeline.stages import Job, bring, load
from targets import registry
from targets.base import Program, TargetError, TensorSpec
from targets.channels import local

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("race.seconds", ": did you mean 'race.budget_s'? [race] has budget_s, min_rounds, "),
        ("race.min_round", ": did you mean 'race.min_rounds'? [race] has "),
        ("train.learning_rate", ": did you mean 'train.lr'? [train] has epochs, lr, "),
        ("profile.zzz", "; [profile] has budget_s, min_rounds, processes, original, threads"),
        ("chekpoint", ": did you mean 'checkpoint'? a recipe has name, model, data, "),
    ],
)
def test_an_unknown_key_gets_the_one_that_was_meant_and_its_neighbours(key: str, says: str) -> None:
    assert keys._nearest(key, known_keys()).startswith(says)


def test_what_is_pickled_in_a_checkpoint_is_named_by_its_key(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Runs:
        def __reduce__(self) -> Any:
            return Path.touch, (ran,)

    weights = nn.Linear(2, 2).state_dict()
    for name, value in {
        "args.pt": {"state_dict": weights, "args": argparse.Namespace(lr=1)},
        "deep.pt": {"model": weights, "meta": {"runs": Runs()}},
        "whole.pt": argparse.Namespace(a=1),
    }.items():
        torch.save(value, tmp_path / name)
    torch.save({"w": weights, "args": argparse.Namespace()}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert pickled.objects(tmp_path / "args.pt") == {"args": "argparse.Namespace"}
    assert pickled.objects(tmp_path / "old.pt") == {"args": "argparse.Namespace"}
    assert [*pickled.objects(tmp_path / "deep.pt")] == ["meta.runs"]
    with pytest.raises(
        UsageError, match=r"it holds pickled objects in 'args' \(argparse.Namespace\), which could run code"
    ):
        load.read(tmp_path / "args.pt")
    with pytest.raises(
        UsageError, match=r"it is a whole pickled argparse.Namespace, which could run code: save the wei"
    ):
        load.read(tmp_path / "whole.pt")
    assert not ran.exists()


def test_a_checkpoint_of_data_parallel_fits() -> None:
    torch.manual_seed(0)
    source, model = nn.Sequential(nn.Linear(2, 3)), nn.Sequential(nn.Linear(2, 3))
    models.load_state(model, nn.DataParallel(source).state_dict(), "x.pt")
    assert torch.equal(model[0].weight, source[0].weight)
    own = nn.ModuleDict({"module": nn.Linear(2, 3)})  # a model that has such a name itself
    models.load_state(own, nn.ModuleDict({"module": source[0]}).state_dict(), "x.pt")


def test_a_python_that_is_not_there_is_said_to_be_missing() -> None:
    with pytest.raises(TargetError, match="device 'local:///nope/python': there is no program /nope/python: name a"):
        local.open_uri("local:///nope/python")
    with pytest.raises(TargetError, match="expected local:// or local:///path/to/python"):
        local.open_uri("local://host/python")


def test_what_a_python_lacks_is_brought_by_the_whole_command() -> None:
    request = {"models": [{"runtime": "tflite"}, {"runtime": "onnxruntime"}]}
    assert local._bring("/a b/python", request) == "'/a b/python' -m pip install numpy ai-edge-litert onnxruntime"


def test_the_command_for_missing_packages_names_them_with_their_versions_and_works() -> None:
    command = registry.remedy(["ai-edge-litert", "unheard-of"])
    assert re.search(r"-m pip install 'ai-edge-litert>=[\d.]+' unheard-of$", command)
    done = subprocess.run([*shlex.split(registry.remedy(["numpy"])), "--dry-run", "-q", "--no-index"],
                          check=False, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_doctor_prints_a_command_as_it_is_to_be_typed(capsys: pytest.CaptureFixture[str]) -> None:
    command = registry.remedy([f"package-{n}[extra]" for n in range(9)])
    row = {"ready": False, "packages": {"a": "missing"}, "remedy": command}
    found = {"python": "3.11", "platform": "x", "device": {"cpu": "y"}, "cores": 2, "model_libraries": {}}
    console.doctor({**found, "targets": {"tflite": row}})
    assert command in capsys.readouterr().out.splitlines()


def test_nobody_is_told_to_install_our_name_from_an_index() -> None:
    files = [
        file for name in ("pipeline", "targets", "calibration") for file in (ROOT / name).rglob("*") if file.is_file()
    ]
    for file in [*files, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
        if file.suffix in (".py", ".md", ".toml", ".j2"):
            assert not re.search(r"pip install[^\n]*\bedge-deploy\b", file.read_text()), file


def test_targets_that_are_a_dict_are_said_to_be_one() -> None:
    split = (np.zeros((4, 2), np.float32), {"boxes": np.zeros(4), "classes": np.zeros(4)})
    with pytest.raises(UsageError, match=r"targets are a dict with \['boxes', 'classes'\]: return one array"):
        data.from_factory(dict.fromkeys(data.SPLITS, split), "data:splits")


def test_a_target_is_named_once_before_its_message(capsys: pytest.CaptureFixture[str]) -> None:
    with console.listener(False, False) as emit:
        emit({"event": "failed", "target": "tflite", "message": "tflite: no road from ONNX"})
    assert "tflite: no road from ONNX" in capsys.readouterr().err.replace("\n", "")


def test_channels_last_for_a_file_of_channels_first_says_how_to_turn_them() -> None:
    program = Program(Path("x.onnx"), "onnx", (TensorSpec("x", "float32", (None, 3, 8, 6)),), ())
    says = "'x' takes channels first, [3, 8, 6]: give the data as x.transpose(0, 3, 1, 2)"
    assert bring._transposed(program, {"x": np.zeros((2, 8, 6, 3))}) == says
    assert bring._transposed(program, {"x": np.zeros((2, 3, 8, 6))}) == ""


def test_init_writes_no_target_that_the_next_command_refuses() -> None:
    assert "all" not in beginning._targets(["all"])
    assert beginning._targets(["tflite", "tflite"]) == ["tflite"]
    with pytest.raises(UsageError, match="unknown target 'tflit': did you mean 'tflite'"):
        beginning._targets(["tflit"])


@pytest.mark.parametrize("before", [None, "name = 'mine'\n"])
def test_init_leaves_nothing_behind_when_its_check_fails(
    before: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arrays = {}
    for number, name in enumerate(data.SPLITS):
        arrays |= {f"{name}_x": np.full((4, 2), number) + np.arange(8).reshape(4, 2) / 9, f"{name}_y": np.arange(4) % 2}
    np.savez(tmp_path / "all.npz", **arrays)
    if before:
        Path("deploy.toml").write_text(before)
    with pytest.raises(typer.Exit):
        front.init("net.onnx", "all.npz", ["onnxruntime"], force=True)
    assert (Path("deploy.toml").read_text() if Path("deploy.toml").exists() else None) == before


def test_numbers_that_are_only_0_and_1_are_mentioned() -> None:
    def made(kind: type) -> data.Data:
        rng = np.random.default_rng(0)
        split = {name: (rng.normal(size=(4, 2)), (np.arange(4) % 2).astype(kind)) for name in data.SPLITS}
        return data.from_factory(split, "data:splits")

    assert "mean_iou" in beginning.binary(made(float))[0]
    assert beginning.binary(made(int)) == []


def test_compare_names_the_key_that_differs_not_its_table() -> None:
    before = {"race": {"budget_s": 2, "processes": 6}, "seed": 0}
    after = {"race": {"budget_s": 3, "processes": 6}, "seed": 1}
    assert list(_changed("recipe", before, after)) == ["recipe race.budget_s: 2 -> 3", "recipe seed: 0 -> 1"]


def test_what_the_package_offers_can_be_found() -> None:
    assert {"run", "Recipe", "Report", "Split", "__version__"} <= {*dir(pipeline)}
    assert re.match(r"\d+\.\d+", pipeline.__version__)


def test_python_of_the_remedy_is_this_one() -> None:
    assert shlex.split(registry.remedy(["x"]))[0] == sys.executable


def test_what_a_stage_did_is_told_of_both_kinds_of_calls() -> None:
    assert console._did({"stage": "rewrite", "metadata": {"calls": {"gelu": 2}}}) == "gelu in 2 calls"
    assert console._did({"stage": "export-pt2", "metadata": {"calls": [{"op": "gelu"}]}}) == ""


@pytest.mark.parametrize("name", ["a.xml", "a.tflite"])
def test_a_damaged_model_is_the_users_to_mend(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\xff\xfe" + bytes(99))
    asked = Job("inspect", {"file": str(tmp_path / name), "shapes": []}, {}, tmp_path, 0)
    with pytest.raises(UsageError, match=rf"{name} cannot be read as a \.{name[2:]} model: ") as refused:
        inspection.of_file(asked)
    assert "\n" not in str(refused.value)


def test_a_pickle_that_numbers_its_objects_high_is_read_in_little_memory(tmp_path):
    """The unpickler in C would make a table of 34 GB for it."""
    high = b"r" + (2**31 - 1).to_bytes(4, "little")
    (tmp_path / "x.pt").write_bytes(b"\x80\x02cevil\nThing\n)R" + high + b".")
    assert pickled.objects(tmp_path / "x.pt") == {"": "evil.Thing"}
