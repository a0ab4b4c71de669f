"""A detector: boxes, scores and a whole number as outputs, the user's own loss and metric, on every runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import api, recipe, user
from pipeline.explain import report as explanations
from pipeline.loader.loader import Loader
from pipeline.store import Store

pytestmark = pytest.mark.slow
TARGETS = ("onnxruntime", "openvino", "tflite")

NET = '''
import torch
from torch import nn

CELLS, CLASSES = 4, 2


class Detector(nn.Module):
    """A box (centre and size, shares of the image) and class scores for each of 16 cells."""

    def __init__(self):
        super().__init__()
        layers, width = [], 1
        for out in (16, 24, 32):
            layers += [nn.Conv2d(width, out, 3, 1 if width == 1 else 2, 1), nn.BatchNorm2d(out), nn.ReLU()]
            width = out
        self.body = nn.Sequential(*layers)
        self.boxes, self.scores = nn.Conv2d(width, 4, 3, padding=1), nn.Conv2d(width, CLASSES + 1, 3, padding=1)

    def forward(self, image):
        features = self.body(image)
        boxes = self.boxes(features).sigmoid().flatten(2).transpose(1, 2)
        scores = self.scores(features).flatten(2).transpose(1, 2)
        return {"boxes": boxes, "scores": scores, "best": scores[..., :CLASSES].amax(2).argmax(1)}


def build():
    torch.manual_seed(0)
    return Detector()


def loss(outputs, targets):
    """Cross-entropy of every cell, and the box where the object's centre lies."""
    wanted, cell = targets[:, 1:], (targets[:, 1:3] * CELLS).long().clamp(max=CELLS - 1)
    at, rows = cell[:, 1] * CELLS + cell[:, 0], torch.arange(len(targets))
    classes = torch.full(outputs["scores"].shape[:2], CLASSES)
    classes[rows, at] = targets[:, 0].long()
    scored = nn.functional.cross_entropy(outputs["scores"].flatten(0, 1), classes.flatten())
    return scored + 4 * nn.functional.l1_loss(outputs["boxes"][rows, at], wanted)
'''

DATA = '''
import numpy as np


def scenes(seed, n):
    """A filled (0) or hollow (1) square on noise; targets are its class and box, shares of the image."""
    rng = np.random.default_rng(seed)
    images, targets = rng.normal(0, 0.3, (n, 1, 16, 16)).astype(np.float32), np.zeros((n, 5), np.float32)
    for image, target in zip(images, targets):
        size, kind = rng.integers(4, 9), rng.integers(2)
        top, left = rng.integers(0, 17 - size, 2)
        image[0, top : top + size, left : left + size] += 2
        if kind:
            image[0, top + 1 : top + size - 1, left + 1 : left + size - 1] -= 2
        target[:] = kind, (left + size / 2) / 16, (top + size / 2) / 16, size / 16, size / 16
    return images, targets


def splits():
    sizes = {"train": 1500, "calibration": 60, "selection": 300, "gate": 500}
    return {name: scenes(seed, n) for seed, (name, n) in enumerate(sizes.items())}


def overlap(outputs, targets):
    """Intersection over union of the best-scored box with the object's, 0 for another class."""
    scores, rows = outputs["scores"][..., :2], np.arange(len(targets))
    best = scores.max(2).argmax(1)
    kind, box = scores[rows, best].argmax(1), outputs["boxes"][rows, best]
    ends = [(b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2) for b in (box, targets[:, 1:])]
    (low, high), (low2, high2) = ends
    inside = np.prod(np.clip(np.minimum(high, high2) - np.maximum(low, low2), 0, None), axis=1)
    union = np.prod(high - low, axis=1) + np.prod(high2 - low2, axis=1) - inside
    return inside / union * (kind == targets[:, 0])
'''


def test_boxes_and_scores_go_through_every_runtime(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "data.py").write_text(DATA)
    quick = {"budget_s": 0.3, "min_rounds": 5}
    table: dict[str, Any] = {
        "model": "net:build",
        "data": "data:splits",
        "stages": [],
        "targets": list(TARGETS),
        "large_batch": 4,
        "task": {"metric": "data:overlap", "loss": "net:loss"},
        "train": {"epochs": 12, "lr": 5e-3},
        "calibrate": {"observers": ["mse"]},
        "race": quick,
        "profile": quick,
        "gate": {"margin": 0.03},
    }
    store = Store(tmp_path / "store")
    report = api.run(recipe.from_table(table, tmp_path, "recipe"), out=tmp_path / "out", store=store)
    assert report is not None
    assert {name: row.verdict for name, row in report.targets.items()} == dict.fromkeys(TARGETS, "pass")
    assert report.float_.metric > 0.5  # it has learned to find squares
    for explained in explanations.explain(tmp_path / "out", store=store, tapped=16, leave_one_out=False):
        assert list(explained.outputs) == ["boxes", "scores", "best"]
        assert min(explained.outputs["boxes"], explained.outputs["scores"]) > 10
    scenes, overlap = (user.resolve(f"data:{name}", str(tmp_path)) for name in ("scenes", "overlap"))
    images, targets = scenes(9, 40)
    for name in TARGETS:
        loader = Loader(tmp_path / "out" / name)
        answers = [loader.answer(image)["outputs"] for image in images]
        outputs = {key: np.stack([one[key] for one in answers]) for key in answers[0]}
        assert overlap(outputs, targets).mean() > 0.5, name
