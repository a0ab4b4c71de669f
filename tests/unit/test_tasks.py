"""Losses and scores by name, and the user's own."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline import tasks
from pipeline.data import Split
from pipeline.errors import UsageError
from pipeline.stages.reference import by_group
from pipeline.tasks import Task

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(6, 4)).astype(np.float32)
CLASSES = RNG.integers(0, 4, 6)
NUMBERS = RNG.normal(size=(6, 4)).astype(np.float32)


def test_values_are_their_definitions() -> None:
    assert tasks.value(Task("accuracy"), {"a": LOGITS}, CLASSES) == np.mean(LOGITS.argmax(axis=1) == CLASSES)
    assert tasks.value(Task("mae"), {"a": LOGITS}, NUMBERS) == pytest.approx(np.abs(LOGITS - NUMBERS).mean(), rel=1e-6)
    squared = float(F.mse_loss(torch.tensor(LOGITS), torch.tensor(NUMBERS)))
    assert tasks.value(Task("rmse"), {"a": LOGITS}, NUMBERS) == pytest.approx(squared**0.5, rel=1e-6)


def test_an_error_is_no_merit() -> None:
    assert tasks.merit(Task("mae"), 0.25) == -0.25
    assert tasks.merit(Task("cosine"), 0.25) == 0.25
    assert tasks.merit(Task("accuracy"), 0.25) == 0.25


def test_targets_of_numbers_may_lack_a_last_axis_of_one() -> None:
    assert tasks.value(Task("mae"), {"a": NUMBERS[:, :1]}, NUMBERS[:, 0] + 2) == pytest.approx(2.0, rel=1e-5)
    value = tasks.loss(Task("mae", "mae"), torch.tensor(NUMBERS[:, :1]), torch.tensor(NUMBERS[:, 0] + 2))
    assert float(value) == pytest.approx(2.0)


def test_what_a_metric_does_not_take_is_refused_with_what_it_takes() -> None:
    with pytest.raises(UsageError, match=r"mae takes numbers of the output's shape; these are targets int64 \[6\]"):
        tasks.value(Task("mae"), {"a": LOGITS}, CLASSES)


@pytest.mark.parametrize(
    ("name", "targets", "wanted"),
    [
        ("auto", torch.tensor(CLASSES), F.cross_entropy(torch.tensor(LOGITS), torch.tensor(CLASSES))),
        ("auto", torch.tensor(NUMBERS), F.mse_loss(torch.tensor(LOGITS), torch.tensor(NUMBERS))),
        ("mae", torch.tensor(NUMBERS), F.l1_loss(torch.tensor(LOGITS), torch.tensor(NUMBERS))),
    ],
)
def test_losses_look_at_the_judged_output(name: str, targets: torch.Tensor, wanted: torch.Tensor) -> None:
    outputs = {"embedding": torch.zeros(6, 9), "scores": torch.tensor(LOGITS)}
    metric = "mae" if targets.is_floating_point() else "accuracy"
    assert torch.equal(tasks.loss(Task(metric, name, classes=4), outputs, targets), wanted)
    assert torch.equal(tasks.loss(Task(metric, name, output="scores"), outputs, targets), wanted)


@pytest.mark.parametrize(
    ("task", "targets", "judged"),
    [
        (Task(classes=4), CLASSES, "scores"),
        (Task(classes=3), CLASSES, "several outputs could be judged, scores, wide: name one with [task] output"),
        (Task(classes=3, output="wide"), CLASSES, "wide"),
        (Task(classes=4, named=True), CLASSES, "scores"),
        (Task(classes=9, named=True), CLASSES, "wide"),
        (Task(classes=5, named=True), CLASSES, "no output fits the data: 'map' [n, 4, 2], 'scores' [n, 4], 'wide'"),
        (Task(classes=10), CLASSES, "'wide' [n, 9]; expected logits [n, 10] for the data's 10 classes"),
        (Task(classes=4, output="map"), CLASSES, "task.output: 'map' does not fit: 'map' [n, 4, 2], 'scores' [n, 4]"),
        (Task(classes=4, output="logits"), CLASSES, "no output 'logits', only 'map' [n, 4, 2], 'scores' [n, 4]"),
        (Task("mae"), NUMBERS, "scores"),
        (Task("mae"), NUMBERS[:, :3], "no output fits the data: 'map' [n, 4, 2], 'scores' [n, 4], 'wide' [n, 9]; mae"),
        (Task("mean_iou"), CLASSES[:, None].repeat(2, 1), "map"),
        (Task("own:score"), NUMBERS, "scores"),
        (Task("own:score"), NUMBERS[:, :3], "map"),  # a metric of one's own gets them all
    ],
)
def test_the_output_that_is_judged_fits_the_data(task: Task, targets: np.ndarray, judged: str) -> None:
    outputs = {"map": RNG.normal(size=(6, 4, 2)), "scores": LOGITS, "wide": RNG.normal(size=(6, 9))}
    if judged in outputs:
        assert tasks.judged(task, outputs, targets) == judged
        return
    with pytest.raises(UsageError) as raised:
        tasks.judged(task, outputs, targets)
    assert judged in str(raised.value)


def test_outputs_that_answer_alike_are_one() -> None:
    assert tasks.judged(Task(classes=4), {"scores": LOGITS, "same": LOGITS.copy()}, CLASSES) == "scores"
    with pytest.raises(UsageError, match="several outputs could be judged, scores, other"):
        tasks.judged(Task(classes=4), {"scores": LOGITS, "other": LOGITS + 1}, CLASSES)


def test_of_several_that_fit_the_one_called_logits_is_meant() -> None:
    features = RNG.normal(size=(6, 32))
    assert tasks.judged(Task(classes=3), {"features": features, "logits": LOGITS}, CLASSES) == "logits"
    assert tasks.judged(Task(classes=30), {"features": features, "logits": LOGITS}, CLASSES) == "features"


def test_the_judged_outputs_metrics_have_plain_names() -> None:
    outputs = {"pose": RNG.normal(size=(6, 2)).astype("f"), "depth": NUMBERS}
    found = tasks.kept(Task("mae", output="depth"), outputs, outputs, NUMBERS)
    assert found["mae"].before.tolist() == [[0, 1]] * 6
    assert "cosine_to_float@pose" in found
    assert "mae@pose" not in found


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
    worst = -abs(LOGITS - NUMBERS).max(axis=1)
    assert tasks.value(task, {"a": LOGITS}, NUMBERS) == pytest.approx(worst.mean(), rel=1e-6)
    with pytest.raises(UsageError, match="expected one score a sample"):
        tasks.value(Task("own_task:one", folder=str(tmp_path)), {"a": LOGITS}, NUMBERS)
    with pytest.raises(UsageError, match=r"own_task:breaks raised IndexError: .*\(own_task.py:4\)"):
        tasks.value(Task("own_task:breaks", folder=str(tmp_path)), {"a": LOGITS}, NUMBERS)


def test_a_group_without_a_figure_is_left_out() -> None:
    labels, groups = np.array([0, 1, 1, 1]), np.array(["a", "a", "b", "b"])
    split = Split({"x": np.zeros((4, 1), np.float32)}, labels, groups)
    scored = {"y": np.array([0.1, 0.9, 0.8, 0.7], np.float32)}
    assert by_group(tasks.Task("auc", output="y"), split, scored) == {"a": 1.0}
    infinite = {"y": np.array([0.1, 0.9, np.nan, np.inf], np.float32)}
    numbers = Split(split.inputs, labels.astype(np.float32), groups)
    assert list(by_group(tasks.Task("mae", output="y"), numbers, infinite)) == ["a"]
