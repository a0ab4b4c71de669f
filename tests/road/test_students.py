"""Students and teachers of their own, through the command."""

import json

import pytest
from safetensors.numpy import load_file

from tests.road.newcomer import Folder

SMALL = """

def small():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4)
    )
"""


def test_a_student_learns_from_two_teachers_and_a_changed_student_learns_anew(folder: Folder) -> None:
    net = folder.path / "net.py"
    net.write_text(net.read_text() + SMALL)
    recipe = folder.path / "deploy.toml"
    text = recipe.read_text().replace('stages = ["prune", "distill"]', 'stages = ["distill"]')
    text = text.replace("[distill]", '[distill]\nstudent = "net:small"')
    for more in ("", 'checkpoint = "float.safetensors"'):
        text += f'\n[[distill.teachers]]\nmodel = "net:build"\n{more}\n'
    recipe.write_text(text)
    done = folder.deploy("--target", "onnxruntime", "--only", "distill")
    assert done.returncode == 0, done.stderr
    assert "load teacher0" in done.stderr
    assert "load student" in done.stderr
    again = folder.deploy("--target", "onnxruntime", "--only", "distill")
    assert all("stored" in line for line in again.stderr.splitlines() if line.strip().startswith(("load", "distill")))
    net.write_text(net.read_text().replace("nn.ReLU(), nn.AdaptiveAvgPool2d(2)", "nn.GELU(), nn.AdaptiveAvgPool2d(2)"))
    changed = folder.deploy("--target", "onnxruntime", "--only", "distill")
    assert "distill" in changed.stderr
    assert not any("stored" in line for line in changed.stderr.splitlines() if line.strip().startswith("distill"))


def test_what_was_delivered_starts_another_training(finished: Folder, folder: Folder) -> None:
    delivered = finished.path / "deploy-out" / "pytorch"
    assert json.loads((delivered / "edits.json").read_text())["steps"]
    stored = json.loads(finished.deploy("storage", "deploy-out", "--json", DEPLOY_STORE="nowhere").stdout)
    assert {row["name"] for row in stored["tensors"]} == set(load_file(delivered / "weights.safetensors"))
    recipe = folder.path / "deploy.toml"
    text = recipe.read_text().replace('checkpoint = "float.safetensors"\n', "")
    recipe.write_text(text + f'\n[train]\nepochs = 1\nlr = 1e-4\nstart = "{delivered}"\nfresh = ["11"]\n')
    done = folder.deploy("--target", "onnxruntime", "--only", "train")
    assert done.returncode == 0, done.stderr
    weights = load_file(next((folder.path / ".deploy").rglob("weights.safetensors")))
    pruned = load_file(delivered / "weights.safetensors")
    assert {name: values.shape for name, values in weights.items()} == {n: v.shape for n, v in pruned.items()}


@pytest.mark.slow
def test_a_changed_augmentation_trains_anew_and_teachers_answer_once(folder: Folder) -> None:
    def stages(*settings: str) -> dict[str, bool]:
        """Stage -> whether it came from the store."""
        sets = [part for setting in settings for part in ("--set", setting)]
        done = folder.deploy("--target", "onnxruntime", "--only", "distill", *sets)
        assert done.returncode == 0, done.stderr
        lines = [line for line in done.stderr.splitlines() if line.startswith("  ")]
        return {line.split()[0]: "stored" in line for line in lines}

    short = ("distill.epochs=1", "distill.method=distill")
    assert not stages(*short)["soft-labels"]
    again = stages(*short, "distill.alpha=0.9")
    assert again["soft-labels"]
    assert not again["distill"]
    (folder.path / "change.py").write_text("def flip(inputs, rng):\n    return {k: -x for k, x in inputs.items()}\n")
    changed = stages(*short, "distill.augment=change:flip")
    assert "soft-labels" not in changed  # the teacher is asked for every batch
    assert stages(*short, "distill.augment=change:flip")["distill"]
    (folder.path / "change.py").write_text("def flip(inputs, rng):\n    return {k: 2 * x for k, x in inputs.items()}\n")
    assert not stages(*short, "distill.augment=change:flip")["distill"]
