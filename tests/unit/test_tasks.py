"""Losses and scores by name, and the user's own."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline import tasks
from pipeline.errors import UsageError
from pipeline.tasks import Task

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(6, 4)).astype(np.float32)
CLASSES = RNG.integers(0, 4, 6)
NUMBERS = RNG.normal(size=(6, 4)).astype(np.float32)


def test_scores_are_their_definitions() -> None:
    right = tasks.score(Task("accuracy"), {"a": LOGITS}, CLASSES)
    assert right.tolist() == [float(row.argmax() == label) for row, label in zip(LOGITS, CLASSES, strict=True)]
    absolute = tasks.score(Task("mae"), {"a": LOGITS}, NUMBERS)
    np.testing.assert_allclose(absolute, [-np.mean(abs(a - b)) for a, b in zip(LOGITS, NUMBERS, strict=True)], 1e-6)
    squared = tasks.score(Task("mse"), {"a": LOGITS}, NUMBERS)
    np.testing.assert_allclose(squared.mean(), -F.mse_loss(torch.tensor(LOGITS), torch.tensor(NUMBERS)), 1e-6)


def test_pixels_are_averaged_within_a_sample() -> None:
    logits = RNG.normal(size=(3, 4, 5, 6)).astype(np.float32)
    targets = RNG.integers(0, 4, (3, 5, 6))
    targets[0] = logits[0].argmax(axis=0)
    found = tasks.score(Task("accuracy"), {"a": logits}, targets)
    assert found[0] == 1
    assert found[1] == np.mean(logits[1].argmax(axis=0) == targets[1])


def test_targets_of_numbers_may_lack_a_last_axis_of_one() -> None:
    found = tasks.score(Task("mae"), {"a": NUMBERS[:, :1]}, NUMBERS[:, 0] + 2)
    np.testing.assert_allclose(found, -2.0, rtol=1e-6)
    value = tasks.loss(Task("mae", "mae"), torch.tensor(NUMBERS[:, :1]), torch.tensor(NUMBERS[:, 0] + 2))
    assert float(value) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("name", "targets", "wanted"),
    [
        ("auto", torch.tensor(CLASSES), F.cross_entropy(torch.tensor(LOGITS), torch.tensor(CLASSES))),
        ("auto", torch.tensor(NUMBERS), F.mse_loss(torch.tensor(LOGITS), torch.tensor(NUMBERS))),
        ("mae", torch.tensor(NUMBERS), F.l1_loss(torch.tensor(LOGITS), torch.tensor(NUMBERS))),
    ],
)
def test_losses_look_at_the_first_output(name: str, targets: torch.Tensor, wanted: torch.Tensor) -> None:
    outputs = {"first": torch.tensor(LOGITS), "second": torch.zeros(6, 9)}
    assert torch.equal(tasks.loss(Task("mae", name), outputs, targets), wanted)


def test_the_users_own(tmp_path: Path) -> None:
    (tmp_path / "own_task.py").write_text(
        "def loss(outputs, targets): return (outputs['a'].sum() - targets.sum())\n"
        "def score(outputs, targets): return -abs(outputs - targets).max(axis=1)\n"
        "def one(outputs, targets): return 0.5\n"
        "def breaks(outputs, targets): return outputs['b']\n"
    )
    task = Task("own_task:score", "own_task:loss", str(tmp_path))
    outputs = {"a": torch.tensor(LOGITS), "b": torch.zeros(6)}
    expected = float(LOGITS.sum() - NUMBERS.sum())
    assert float(tasks.loss(task, outputs, torch.tensor(NUMBERS))) == pytest.approx(expected, rel=1e-4)
    np.testing.assert_allclose(tasks.score(task, {"a": LOGITS}, NUMBERS), -abs(LOGITS - NUMBERS).max(axis=1), rtol=1e-6)
    with pytest.raises(UsageError, match="return one number a sample"):
        tasks.score(Task("own_task:one", folder=str(tmp_path)), {"a": LOGITS}, NUMBERS)
    with pytest.raises(UsageError, match=r"own_task:breaks raised IndexError: .*\(own_task.py:4\)"):
        tasks.score(Task("own_task:breaks", folder=str(tmp_path)), {"a": LOGITS}, NUMBERS)
