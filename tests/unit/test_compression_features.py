"""Feature distillation: the loss against its formula, adapters that learn, a teacher that stays as it is."""

import pytest
import torch
from torch import nn

from pipeline import models
from pipeline.compression.features import Match
from pipeline.errors import UsageError
from pipeline.stages import distill, load, prune, train
from tests.unit.test_compression_stages import DISTILL, FLOAT, PRUNE, digest, do, owner, place  # noqa: F401


class Conv(nn.Module):
    def __init__(self, width, stride=1):
        super().__init__()
        self.a, self.norm = nn.Conv1d(2, width, 3, stride=stride), nn.BatchNorm1d(width)
        self.head = nn.Linear(width, 3)
        self.idle = nn.Linear(2, 2)

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.a(x))).mean(2))


class Steps(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.gru, self.head = nn.GRU(2, width, batch_first=True), nn.Linear(width, 3)

    def forward(self, x):
        return self.head(self.gru(x.transpose(1, 2))[0][:, -1])


X = torch.randn(5, 2, 20, generator=torch.Generator().manual_seed(0))


def test_the_loss_is_the_relative_squared_distance():
    torch.manual_seed(0)
    student, teacher = Conv(6).eval(), Conv(6).eval()
    match = Match(student, teacher, {"norm": "norm", "head": "head"}, (X[:2],))
    assert all(isinstance(adapter, nn.Identity) for adapter in match.adapters)
    logits = student(X)
    found = match.loss((X,))
    with torch.no_grad():
        pairs = [(student.norm(student.a(X)), teacher.norm(teacher.a(X))), (logits, teacher(X))]
        expected = sum(((a - b) ** 2).mean() / (b**2).mean() for a, b in pairs) / 2
    torch.testing.assert_close(found.detach(), expected)
    found.backward()
    assert student.a.weight.grad is not None
    assert teacher.a.weight.grad is None
    match.close()
    assert not student.norm._forward_hooks


@pytest.mark.parametrize(("kind", "layer"), [(Conv, "norm"), (Steps, "gru")])
def test_an_adapter_maps_the_students_channels_to_the_teachers(kind, layer):
    torch.manual_seed(0)
    student, teacher = kind(4).eval(), kind(7).eval()
    match = Match(student, teacher, {layer: layer}, (X[:2],))
    (adapter,) = match.adapters
    assert (adapter.in_features, adapter.out_features) == (4, 7)
    # The best adapter of a fixed student is the least-squares solution: training must come down to it.
    optimizer = torch.optim.LBFGS(adapter.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        student(X)
        value = match.loss((X,))
        value.backward()
        return value

    optimizer.step(closure)
    with torch.no_grad():
        said, taught = match._said[layer].reshape(-1, 4), match._taught[layer].reshape(-1, 7)
        design = torch.cat([said, torch.ones(len(said), 1)], 1)
        residual = design @ torch.linalg.lstsq(design, taught).solution - taught
        assert closure_value(match, student) == pytest.approx(
            (residual.square().mean() / taught.square().mean()).item(), rel=1e-3
        )


def closure_value(match, student):
    student(X)
    return match.loss((X,)).item()


@pytest.mark.parametrize(
    ("pairs", "text"),
    [
        ({"nix": "norm"}, "the student has no layer 'nix': it has a, norm"),
        ({"norm": "nix"}, "the teacher has no layer 'nix'"),
        ({"idle": "norm"}, "the student's layer 'idle' is not run"),
        ({"norm": "head"}, r"'norm' of the student gives \[2, 18, 4\] .* only the channels may differ"),
    ],
)
def test_pairs_that_do_not_fit_are_one_line(pairs, text):
    student, teacher = Conv(4), Conv(6)
    with pytest.raises(UsageError, match=text):
        Match(student, teacher, pairs, (X[:2],))
    assert not any(module._forward_hooks for model in (student, teacher) for module in model.modules())


def test_a_pruned_student_learns_its_teachers_features_and_the_teacher_stays(place):  # noqa: F811
    do(train, place, "float", FLOAT)
    do(prune, place, "small", PRUNE, {"model": "float", "float": "float"})
    before = digest(place / "float")
    inputs = {"model": "small", "teacher": "float"}
    settings = DISTILL | {"method": "distill", "features": {"nb": "nb"}, "feature_weight": 5.0}
    told = do(distill, place, "done", settings, inputs)
    assert told["metric"] >= told["before_metric"]
    assert digest(place / "float") == before
    student = models.load(owner(place), place / "done")
    assert not any("adapter" in name for name in student.state_dict())
    do(distill, place, "plain", settings | {"features": {}}, inputs)
    assert digest(place / "plain") != digest(place / "done")
    do(distill, place, "again", settings, inputs)
    assert digest(place / "again") == digest(place / "done")


@pytest.mark.parametrize("features", [{}, {"nb": "nb"}])
def test_what_a_bad_teacher_teaches_is_not_kept(place, features):  # noqa: F811
    do(load, place, "untrained", {"checkpoint": "", "factory": "net:build"})
    do(load, place, "student", {"checkpoint": "", "factory": "net:small"}, seed=1)
    settings = DISTILL | {"features": features, "feature_weight": 1.0, "alpha": 0.0, "lr": 1e-2}
    told = do(distill, place, "done", settings, {"model": "student", "teacher": "untrained"})
    metrics = {row["method"]: row["metric"] for row in told["tried"]}
    assert metrics["finetune"] > metrics["distill"]
    assert (told["method"], told["metric"]) == ("finetune", metrics["finetune"])
