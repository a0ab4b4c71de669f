"""Students and teachers of their own, through the command."""

import json

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
    recipe = folder.path / "deploy.toml"
    text = recipe.read_text().replace('checkpoint = "float.safetensors"\n', "")
    recipe.write_text(text + f'\n[train]\nepochs = 1\nlr = 1e-4\nstart = "{delivered}"\nfresh = ["11"]\n')
    done = folder.deploy("--target", "onnxruntime", "--only", "train")
    assert done.returncode == 0, done.stderr
    weights = load_file(next((folder.path / ".deploy").rglob("weights.safetensors")))
    pruned = load_file(delivered / "weights.safetensors")
    assert {name: values.shape for name, values in weights.items()} == {n: v.shape for n, v in pruned.items()}
