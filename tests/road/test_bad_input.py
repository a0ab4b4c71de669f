"""Bad input, each kind by a real run: one line on stderr, exit 2, no traceback, nothing half-written."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.road.newcomer import Folder

pytestmark = pytest.mark.slow


def edit(file: str, old: str, new: str) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        text = (path / file).read_text()
        assert old in text
        (path / file).write_text(text.replace(old, new, 1))

    return apply


def pickled(path: Path) -> None:
    import torch

    torch.save(torch.nn.Linear(2, 2), path / "float.pt")
    edit("deploy.toml", "float.safetensors", "float.pt")(path)


def foreign(path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"encoder.weight": torch.zeros(3)}, path / "float.safetensors")


def not_a_checkpoint(path: Path) -> None:
    (path / "float.safetensors").write_text("hello")


def operation(call: str) -> Callable[[Path], None]:
    """The net's forward ends in `call`."""

    def apply(path: Path) -> None:
        text = (path / "net.py").read_text().replace("def build():\n    return", "def inner():\n    return")
        text = text.replace("from torch import nn", "import torch\nfrom torch import nn")
        text += f"""

class Net(nn.Sequential):
    def forward(self, x):
        x = super().forward(x)
        return {call}


def build():
    return Net(*inner())
"""
        (path / "net.py").write_text(text)

    return apply


CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "unknown key": (edit("deploy.toml", "macs =", "mac ="), r"unknown key 'prune\.mac': did you mean 'prune\.macs'\?"),
    "strategy that a target lacks": (
        edit("deploy.toml", "[prune]", '[calibrate]\nstrategies = ["half_range"]\n\n[prune]'),
        r"calibrate\.strategies: tflite has no 'half_range': its schemes are s8s8, ",
    ),
    "strategy that no CPU here runs": (
        edit("deploy.toml", "[prune]", '[quantize]\ncandidates = ["ours-mse-bf16"]\n\n[prune]'),
        r"no target here has 'bf16' for 'ours-mse-bf16' \(onnxruntime: its CPU provider has no bf16",
    ),
    "unknown variant": (
        edit("deploy.toml", "[prune]", '[quantize]\ncandidates = ["ours-mse@fast"]\n\n[prune]'),
        r"no target here has 'fast' for 'ours-mse@fast': there are .*no-xnnpack",
    ),
    "misspelt observer": (
        edit("deploy.toml", "[prune]", '[calibrate]\nobservers = ["minmx"]\n\n[prune]'),
        r"calibrate\.observers: unknown observer 'minmx': did you mean 'minmax'\?",
    ),
    "misspelt observer of a candidate": (
        edit("deploy.toml", "[prune]", '[quantize]\ncandidates = ["ours-msse"]\n\n[prune]'),
        r"quantize\.candidates: unknown observer 'msse': did you mean 'mse'\?",
    ),
    "unknown strategy": (
        edit("deploy.toml", "[prune]", '[calibrate]\nstrategies = ["log"]\n\n[prune]'),
        r"calibrate\.strategies\.0: .*'per_tensor'",
    ),
    "wrong type": (edit("deploy.toml", "macs = 0.5", "macs = 'half'"), r"prune\.macs: .*'half'"),
    "no checkpoint": (edit("deploy.toml", "float.safe", "flaot.safe"), r"checkpoint: no file at .*flaot\.safetensors"),
    "foreign checkpoint": (foreign, r"encoder\.weight"),
    "pickled checkpoint": (pickled, r"float\.pt"),
    "not a checkpoint": (not_a_checkpoint, r"float\.safetensors"),
    "model raises": (edit("net.py", "return nn", "return 1 / 0, nn"), r"net:build raised ZeroDivisionError.*net\.py:6"),
    "model is none": (edit("net.py", "return nn.Sequential", "nn.Sequential"), r"net:build.*NoneType"),
    "no such model": (edit("deploy.toml", "net:build", "nett:build"), r"cannot import 'nett'"),
    "no such function": (edit("deploy.toml", "net:build", "net:bild"), r"'net' has no function 'bild'"),
    "syntax error": (edit("net.py", "def build():", "def build(:"), r"SyntaxError.*net\.py:5"),
    "data raises": (edit("data.py", "rng = ", "rng = {}['x'] or "), r"data:splits raised KeyError.*data\.py:7"),
    "missing split": (edit("data.py", '"gate": images(4, 900),', ""), r"lacks the splits \['gate'\]"),
    "empty split": (edit("data.py", "images(4, 900)", "images(4, 0)"), r"'gate' is empty"),
    "leaking split": (edit("data.py", "images(4, 900)", "images(3, 500)"), r"500 in 'selection' and 'gate'"),
    "NaN": (edit("data.py", "return x, labels", "x[0] = np.nan; return x, labels"), r"NaN or infinity in 1 of 1200"),
    "infinity": (
        edit("data.py", "return x, labels", "x[0] = np.inf; return x, labels"),
        r"NaN or infinity in 1 of 1200",
    ),
    "constant": (
        edit("data.py", "images(2, 120)", "(0 * images(2, 120)[0], images(2, 120)[1])"),
        r"'input' has another scale in split 'calibration' \(mean 0, standard deviation 0\) than in 'train'",
    ),
    "NaN inside the model": (
        operation("torch.where(x > 0, torch.log(x), x)"),
        r"observe: tensor '\S+': \d+ of 4 values are NaN: look at the calibration data and the model",
    ),
    "wrong shape": (edit("data.py", "(n, 1, 16, 16)", "(n, 3, 16, 16)"), r"(3|channels)"),
    "no road for the kind": (edit("data.py", "return x, labels", "return x.astype('float16'), labels"), r"of float16"),
    "cannot be exported": (operation("x * 2 if bool((x.sum() > 0).item()) else x"), r"cannot be exported.*net\.py:\d+"),
    "op the target lacks": (operation("torch.lgamma(x)"), r"lgamma.*net\.py:\d+"),
}


@pytest.mark.parametrize("name", CASES)
def test_one_line_and_exit_2(folder: Folder, name: str) -> None:
    spoil, says = CASES[name]
    spoil(folder.path)
    done = folder.deploy("--target", "onnxruntime", "--target", "tflite", "--set", "distill.epochs=1")
    assert done.returncode == 2, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    # One line for what concerns the run, or one a target for what each target refuses.
    blame = [line for line in done.stderr.splitlines() if line.startswith(("deploy: ", "  onnxruntime:", "  tflite:"))]
    assert len(blame) == (2 if name in ("op the target lacks", "NaN inside the model") else 1), done.stderr
    assert re.search(says, blame[0]), blame[0]
    assert not (folder.path / "deploy-out" / "onnxruntime").exists()
    assert list((folder.path / ".deploy").glob("building/*")) == []


def test_one_calibration_sample_is_enough(folder: Folder) -> None:
    edit("data.py", "images(2, 120)", "images(2, 1)")(folder.path)
    asked = ("--target", "onnxruntime", "--target", "tflite", "--only", "quantize", "--set", "distill.epochs=1")
    done = folder.deploy(*asked)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr


def test_verbose_shows_the_traceback(folder: Folder) -> None:
    CASES["model raises"][0](folder.path)
    done = folder.deploy("--target", "onnxruntime", "-v")
    assert "ZeroDivisionError" in done.stderr
    assert "Traceback" in done.stderr


def test_all_errors_of_a_recipe_at_once(folder: Folder) -> None:
    edit("deploy.toml", "macs = 0.5", "macs = 5")(folder.path)
    edit("deploy.toml", "epochs = 4", "epohcs = 4")(folder.path)
    done = folder.deploy("--target", "onnxruntime")
    assert done.returncode == 2
    assert len([line for line in done.stderr.splitlines() if line.startswith("deploy: ")]) == 2


def test_a_tiny_gate_is_inconclusive_and_says_how_many_would_decide(folder: Folder) -> None:
    edit("data.py", "images(4, 900)", "images(4, 20)")(folder.path)
    edit("deploy.toml", "margin_points = 3.0", "margin_points = 1.0")(folder.path)
    done = folder.deploy("--target", "onnxruntime")
    assert done.returncode in (1, 3), done.stderr
    assert "verdict: inconclusive" in done.stdout or "verdict: fail" in done.stdout
    if done.returncode == 3:
        assert "would decide" in done.stdout


def outside_target(folder: Path, body: str) -> str:
    """A distribution with the target `elsewhere`, made of the built-in onnxruntime one and `body`; its PYTHONPATH."""
    record = folder / "elsewhere-1.0.dist-info"
    record.mkdir(parents=True)
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
    (record / "entry_points.txt").write_text("[edge_deploy.targets]\nelsewhere = elsewhere_target:TARGET\n")
    head = "from targets.onnxruntime import TARGET as real\n\nclass Elsewhere(type(real)):\n    name = 'elsewhere'\n"
    (folder / "elsewhere_target.py").write_text(head + body + "\n\nTARGET = Elsewhere()\n")
    return str(folder)


def test_a_target_whose_packages_are_missing_names_the_command(folder: Folder, tmp_path: Path) -> None:
    path = outside_target(tmp_path / "site", "    packages = ('no-such-runtime',)\n    extra = 'elsewhere'\n")
    done = folder.deploy("--target", "elsewhere", PYTHONPATH=path)
    assert done.returncode == 2
    assert "no-such-runtime" in done.stderr
    assert "-m pip install no-such-runtime" in done.stderr
    assert not (folder.path / ".deploy" / "entries").exists()
    doctor = folder.deploy("doctor", PYTHONPATH=path)
    assert doctor.returncode == 0
    assert "elsewhere" in doctor.stdout


def test_a_float_graph_that_says_something_else_is_refused(folder: Folder, tmp_path: Path) -> None:
    body = """
    def lower(self, program, out):
        import onnx
        from onnx import numpy_helper
        model = super().lower(program, out)
        graph = onnx.load(model.path)
        weight = next(w for w in graph.graph.initializer if len(w.dims) == 4)
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 1.2, weight.name))
        onnx.save(graph, model.path)
        return model
"""
    path = outside_target(tmp_path / "site", body)
    done = folder.deploy("--target", "elsewhere", "--set", "distill.epochs=1", PYTHONPATH=path)
    assert done.returncode == 5, done.stderr
    assert "its float graph differs from PyTorch" in done.stderr


def test_a_target_whose_quantizer_breaks_fails_the_run_and_the_others_go_on(folder: Folder, tmp_path: Path) -> None:
    body = """
    def quantize(self, model, candidate, ranges, batches, out):
        raise RuntimeError("kaboom")
"""
    path = outside_target(tmp_path / "site", body)
    arguments = ("--target", "elsewhere", "--target", "onnxruntime", "--set", "distill.epochs=1")
    done = folder.deploy(*arguments, PYTHONPATH=path)
    assert done.returncode == 5, done.stderr
    report = folder.report()
    assert report["targets"]["elsewhere"]["verdict"] == "error"
    assert "kaboom" in report["targets"]["elsewhere"]["reasons"][0]
    assert report["targets"]["onnxruntime"]["verdict"] == "pass"
    assert not (folder.path / "deploy-out" / "elsewhere").exists()
