"""An axis of varying length, from ragged data to what ships: free, padded with a mask, or refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import api, recipe
from pipeline.errors import UsageError
from pipeline.explain import report as explanations
from pipeline.release.report import Report
from pipeline.store import Store

LOWEST, HIGHEST, TOKENS = 2, 16, 30

NET = f"""
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.mix, self.end = nn.Embedding({TOKENS}, 16), nn.Linear(16, 32), nn.Linear(32, 3)

    def forward(self, ids, mask):
        h = torch.relu(self.mix(self.table(ids))) * mask.unsqueeze(2)
        return self.end(h.sum(1) / mask.sum(1, keepdim=True).clamp(min=1.0))

def build():
    torch.manual_seed(0)
    return Net()

class Fixed(Net):
    def forward(self, ids, mask):
        return super().forward(ids, mask) * ids.reshape(-1, {HIGHEST}).shape[1]

def build_fixed():
    return Fixed()
"""
DATA = f"""
import numpy as np

def splits():
    rng = np.random.default_rng(0)
    found, seen = {{}}, set()
    for name, n in {{"train": 400, "calibration": 60, "selection": 150, "gate": 300}}.items():
        ids = []
        while len(ids) < n:
            one = rng.integers(0, {TOKENS}, rng.integers({LOWEST}, {HIGHEST} + 1))
            if one.tobytes() not in seen:
                ids.append(one)
            seen.add(one.tobytes())
        found[name] = ({{"ids": ids}}, np.array([np.bincount(one % 3, minlength=3).argmax() for one in ids]))
    lengths = {{"inputs": {{"ids": 1, "mask": 1}}, "min": {LOWEST}, "max": {HIGHEST}, "mask": "mask"}}
    rules = {{"ids": {{"tokenizer": "vocab.txt"}}}}
    return {{**found, "labels": ["a", "b", "c"], "lengths": lengths, "preprocessing": rules}}

def without_mask():
    found = splits()
    rng = np.random.default_rng(0)
    found["lengths"] = {{"inputs": ["ids"], "min": {LOWEST}, "max": {HIGHEST}}}
    return found
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lengths")
    (folder / "net.py").write_text(NET)
    (folder / "data.py").write_text(DATA)
    return folder


def run(place: Path, targets: tuple[str, ...], **changes: Any) -> Report:
    quick = {"budget_s": 0.2, "min_rounds": 5}
    table: dict[str, Any] = {
        "model": "net:build",
        "data": "data:splits",
        "stages": [],
        "targets": list(targets),
        "large_batch": 4,
        "train": {"epochs": 12, "lr": 1e-2},
        "calibrate": {"observers": ["mse"], "strategies": ["default"]},
        "quantize": {"candidates": ["ours-mse"]},
        "race": quick,
        "profile": quick,
        "gate": {"margin_points": 5.0},
    }
    made = recipe.from_table(table | changes, place, "recipe")
    report = api.run(made, out=place / "out", store=Store(place / "store"), emit=lambda event: None)
    assert report is not None
    return report


@pytest.mark.slow
def test_free_lengths_are_verified_at_several_and_fixed_shapes_get_padding(place: Path) -> None:
    report = run(place, ("onnxruntime", "openvino", "tflite"))
    assert {name: row.verdict for name, row in report.targets.items()} == dict.fromkeys(report.targets, "pass")
    for name in ("onnxruntime", "openvino"):
        row = report.targets[name]
        seen = {one.length: one for one in row.lengths}
        assert list(seen) == [LOWEST, 4, 8]  # and the greatest in `runs`
        assert all(one.n == 300 and one.finite and one.samples_sha256 for one in seen.values())
        checks = [check.name for check in row.checks]
        assert [f"accuracy, length {length}" in checks for length in seen] == [True] * 3
        model = json.loads((place / "out" / name / "model.json").read_text())
        assert [(spec["shape"], spec["varies"]) for spec in model["inputs"]] == [
            ([None, None], [1, LOWEST, HIGHEST]),
            ([None, None], [1, LOWEST, HIGHEST]),
        ]
    assert not report.targets["tflite"].lengths
    for one in explanations.explain(place / "out", store=Store(place / "store"), tapped=16):
        assert list(one.lengths) == ([] if one.target == "tflite" else [LOWEST, 4, 8, HIGHEST])
        assert one.target != "onnxruntime" or all(db > 30 for db in one.lengths.values()), one.lengths
        assert one.layers
        assert one.kept
    again = api.judge(place / "out", ["onnxruntime"])
    assert again.targets["onnxruntime"].verdict == "pass"
    sys.path.insert(0, str(place / "out" / "onnxruntime"))
    for name in ("onnxruntime", "tflite"):
        shipped(place / "out" / name)


def shipped(folder: Path) -> None:
    """The delivered loader takes raw token ids of any length; where the file's shape is fixed it pads them."""
    from pipeline.loader.loader import Loader, LoaderError

    loader = Loader(folder)
    assert loader.inputs[0]["tokenizer"] == "vocab.txt"
    for length in (LOWEST, 5, HIGHEST):
        ids = np.arange(length) * 3 + 1
        found = loader.answer({"ids": ids % TOKENS, "mask": np.ones(length, np.float32)})
        assert found["label"] == "b"  # all ids are 1 modulo 3
    with pytest.raises(LoaderError, match=f"input 'ids' has 17 steps, expected {LOWEST} to {HIGHEST}"):
        loader.answer({"ids": np.zeros(17, np.int64), "mask": np.ones(17, np.float32)})


def test_fixed_shapes_without_a_mask_are_refused_before_any_work(place: Path) -> None:
    with pytest.raises(UsageError, match=r"tflite: files have fixed shapes, but \['ids'\] vary from 2 to 16: give the"):
        run(place, ("tflite",), data="data:without_mask")


def test_a_model_of_one_length_is_refused_in_one_line(place: Path) -> None:
    says = r"the model fails on inputs \[\[2, 2\], \[2, 2\]\]: RuntimeError: .*\(net.py:20\)"
    with pytest.raises(UsageError, match=says) as caught:
        run(place, ("onnxruntime",), model="net:build_fixed", train={"epochs": 1})
    assert len(str(caught.value).splitlines()) == 1
