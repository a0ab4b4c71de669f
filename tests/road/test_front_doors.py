"""Models that come as programs and data that comes as files, through the road."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline import api, data_files, inspection, recipe
from pipeline.data import SPLITS, from_factory
from pipeline.errors import UsageError
from pipeline.release.report import Report
from pipeline.store import Store

CLASSES, N = 3, {"train": 4, "calibration": 24, "selection": 120, "gate": 200}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU())
        self.head = nn.Linear(8, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.body(image).mean((2, 3)))
        return logits


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same network as .pt2 and .onnx, and its own answers on noise as .npz."""
    folder = tmp_path_factory.mktemp("doors")
    torch.manual_seed(0)
    model, example = Net().eval(), (torch.zeros(2, 2, 9, 7),)
    shapes = ({0: torch.export.Dim("n", min=1, max=64)},)
    program = torch.export.export(model, example, dynamic_shapes=shapes)
    torch.export.save(program, folder / "net.pt2")
    torch.export.save(torch.export.export(model, example), folder / "fixed.pt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own
        exported = torch.onnx.export(program, (), dynamo=True, input_names=["pixels.0"], output_names=["scores"])
    assert exported is not None
    exported.save(folder / "net.onnx")
    rng, arrays = np.random.default_rng(0), {}
    for name, n in N.items():
        x = rng.normal(size=(n, 2, 9, 7)).astype(np.float32)
        with torch.no_grad():
            arrays |= {f"{name}_x": x, f"{name}_y": model(torch.from_numpy(x)).argmax(1).numpy()}
    np.savez(folder / "noise.npz", **arrays)
    return folder


def run(place: Path, model: str, target: str, events: list[Any] | None = None) -> Report:
    table: dict[str, Any] = {
        "model": model,
        "data": "noise.npz",
        "targets": [target],
        "large_batch": 4,
        "calibrate": {"observers": ["mse"]},
        "race": {"budget_s": 0.2, "min_rounds": 5},
        "profile": {"budget_s": 0.2, "min_rounds": 20},
        "gate": {"margin_points": 20.0, "allow_chance": True},  # fresh weights call all noise one class
    }
    made = recipe.from_table(table, place, "recipe")
    emit = (lambda event: None) if events is None else events.append
    report = api.run(made, out=place / f"out-{target}", store=Store(place / "store"), emit=emit)
    assert report is not None
    return report


@pytest.mark.parametrize(
    ("model", "target"), [("net.pt2", "tflite"), ("net.pt2", "onnxruntime"), ("net.onnx", "openvino")]
)
def test_a_program_is_deployed_without_training(place: Path, model: str, target: str) -> None:
    events: list[Any] = []
    report = run(place, model, target, events)
    assert report.verdict == "pass"
    assert report.float_.metric == 1.0
    assert report.at_chance.startswith("float at chance: accuracy 100.00% of 200 gate samples is not shown (95 %) to")
    (told,) = [check for check in report.targets[target].checks if check.name == "float at chance"]
    assert "gate.allow_chance says so" in told.reason
    assert report.float_.params == sum(p.numel() for p in Net().parameters())
    assert report.float_.macs == 9 * 7 * 8 * 2 * 9 + 4 * 3 * 8 * 8 * 9 + 8 * 3
    assert {row.name for row in report.stages}.isdisjoint({"train", "load", "prune", "distill"})
    notes = [event["message"] for event in events if event["event"] == "note"]
    assert notes == [f"{model} is a finished program: without train, prune, distill"]


def test_every_kind_of_file_is_inspected(place: Path) -> None:
    """The same network as it came and as it shipped: MACs, ops with their precision, who could run it."""
    for model, target in (("net.pt2", "openvino"), ("net.pt2", "tflite")):
        run(place, model, target)
    shipped = [next((place / "out-openvino" / "openvino").glob("*.xml")), *(place / "out-tflite").rglob("*.tflite")]
    macs = 9 * 7 * 8 * 2 * 9 + 4 * 3 * 8 * 8 * 9 + 8 * 3
    for file in (place / "net.pt2", place / "net.onnx", *shipped):
        found = inspection.examine(str(file), place)
        assert found["macs"] == macs, file
        assert len(found["inputs"]) == len(found["outputs"]) == 1
        assert found["weight_bytes"] >= sum(p.numel() for p in Net().parameters())  # a byte each at least
        assert set(found["targets"]) >= {"openvino", "tflite", "onnxruntime"}
        assert any("conv" in op.lower() for op in found["ops"])


def test_what_has_no_road_from_onnx_says_so(place: Path) -> None:
    with pytest.raises(UsageError, match=r"tflite: no road from ONNX: it lowers \.pt2 programs"):
        run(place, "net.onnx", "tflite")


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("fixed.pt2", "its batch is fixed at 2: export it with a torch.export.Dim for axis 0"),
        ("noise.onnx", "no file at"),
    ],
)
def test_other_programs_are_refused_in_one_line(place: Path, model: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        run(place, model, "onnxruntime")


def test_images_are_split_by_their_folders_or_by_what_is_in_them(tmp_path: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "all" / name).mkdir(parents=True)
        for index in range(60):
            Image.fromarray(rng.integers(0, 255, (6, 5, 3), np.uint8)).save(tmp_path / "all" / name / f"{index}.png")
    made = from_factory(data_files.read("all/", tmp_path), "all/")
    assert sum(len(split) for split in made.splits.values()) == 120
    assert made.labels == ("cat", "dog")
    train = made.splits["train"].inputs["input"]
    assert train.shape[1:] == (3, 6, 5)
    assert train.dtype == np.float32
    assert 0 <= train.min() < train.max() <= 1
    for split in SPLITS:
        (tmp_path / "named" / split / "a").mkdir(parents=True)
        Image.fromarray(rng.integers(0, 255, (6, 5), np.uint8)).save(tmp_path / "named" / split / "a" / "0.png")
    assert from_factory(data_files.read("named/", tmp_path), "named/").splits["gate"].inputs["input"].shape == (
        1,
        1,
        6,
        5,
    )
    Image.fromarray(rng.integers(0, 255, (7, 5), np.uint8)).save(tmp_path / "named" / "gate" / "a" / "1.png")
    with pytest.raises(UsageError, match="bring all images to one size"):
        data_files.read("named/", tmp_path)


def test_torch_datasets_are_stacked(tmp_path: Path) -> None:
    (tmp_path / "sets.py").write_text(
        "import torch\n"
        "from torch.utils.data import TensorDataset\n"
        "def splits():\n"
        "    torch.manual_seed(0)\n"
        "    one = lambda n: TensorDataset(torch.randn(n, 4), torch.arange(n) % 2)\n"
        "    return {'train': one(6), 'calibration': one(5), 'selection': one(4), 'gate': one(3)}\n"
    )
    made = from_factory(data_files.read("sets:splits", tmp_path), "sets:splits")
    assert made.splits["train"].inputs["input"].shape == (6, 4)
    assert made.splits["gate"].labels.tolist() == [0, 1, 0]


def test_an_npz_without_a_split_says_which(tmp_path: Path) -> None:
    np.savez(tmp_path / "some.npz", train_x=np.zeros((2, 3)), train_y=np.zeros(2, int))
    with pytest.raises(UsageError, match="lacks 'calibration_x' or 'calibration_y'"):
        data_files.read("some.npz", tmp_path)
    with pytest.raises(UsageError, match="nothing at"):
        data_files.read("none.npz", tmp_path)
