"""Muon against the singular values that it is about; the rate's course; what else the training loop can do."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from pipeline.compression import optimizers
from pipeline.compression.learner import Schedule
from pipeline.stages import distill, prune, soft_labels, train
from tests.unit.test_compression_stages import DISTILL, FLOAT, PRUNE, digest, do, place  # noqa: F401


@pytest.mark.parametrize("shape", [(8, 72), (64, 9), (24, 24)])
def test_a_matrix_becomes_orthogonal_along_its_own_directions(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    along = left.T @ optimizers.orthogonal(matrix) @ right.T
    torch.testing.assert_close(along, torch.diag(along.diagonal()), atol=1e-4, rtol=0)
    assert bool(((along.diagonal() > 0.65) & (along.diagonal() < 1.25))[values > 0.02 * values.max()].all())


def test_a_step_has_the_size_that_one_of_adamw_would_have():
    weight = nn.Parameter(torch.zeros(16, 8, 3, 3))
    weight.grad = 1e-6 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    optimizers.Muon([weight], lr=0.1, weight_decay=0.0).step()
    assert float(weight.detach().square().mean().sqrt()) == pytest.approx(0.1 * optimizers.RMS, rel=0.2)


def test_embeddings_the_last_layer_and_vectors_are_left_to_adamw():
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 5), nn.Linear(5, 3))
    adapter = nn.Linear(2, 2)
    inside, rest = optimizers.muon(model, list(adapter.parameters()), 1e-3, 0.0)
    assert [tuple(one.shape) for one in inside.param_groups[0]["params"]] == [(6, 4), (5, 6)]
    assert len(rest.param_groups[0]["params"]) == len([*model.parameters(), *adapter.parameters()]) - 2
    assert len(optimizers.muon(nn.Linear(3, 2), [], 1e-3, 0.0)) == 1


def test_the_rate_climbs_and_falls():
    plan = Schedule(epochs=1, lr=1.0, batch_size=1, weight_decay=0.0, warmup=0.25)
    rates = [plan.rate(step, 100) for step in range(101)]
    assert 0 < rates[0] < 0.05
    assert rates.index(max(rates)) == 25
    assert rates[25] == pytest.approx(1.0)
    assert rates[:26] == sorted(rates[:26])
    assert rates[25:] == sorted(rates[25:], reverse=True)
    assert rates[100] == pytest.approx(0.0)


@pytest.mark.parametrize("change", [{"optimizer": "muon", "warmup": 0.1, "lr": 1e-2, "epochs": 6}, {"amp": True}])
def test_it_learns_and_always_the_same(place, change):  # noqa: F811
    first = do(train, place, "first", FLOAT | change)
    assert first["metric"] > 0.8
    assert do(train, place, "again", FLOAT | change) == first
    assert digest(place / "first") == digest(place / "again")
    do(train, place, "plain", FLOAT)
    assert digest(place / "first") != digest(place / "plain")


def test_a_frozen_teacher_in_eval_mode_says_the_same_once_or_in_every_batch(place):  # noqa: F811
    taught = do(train, place, "float", FLOAT)
    do(prune, place, "small", PRUNE, {"model": "float", "float": "float"})
    asked = do(soft_labels, place, "soft-labels", {}, {"teacher": "float"})
    assert asked["metric"] == taught["metric"]
    inputs = {"model": "small", "teacher": "float"}
    settings = DISTILL | {"method": "distill"}
    told = do(distill, place, "anew", settings, inputs)
    assert do(distill, place, "done", settings, inputs | {"soft_labels": "soft-labels"}) == told
    assert digest(place / "anew") == digest(place / "done")
    # Asked for every batch while the student trains, it says the same: its dropout is off, its statistics stay.
    do(distill, place, "each", settings | {"augment": "net:same"}, inputs)
    once, each = (load_file(place / name / "weights.safetensors") for name in ("anew", "each"))
    for name, values in once.items():
        torch.testing.assert_close(each[name], values, atol=1e-4, rtol=1e-4)
    # Batches that are changed are new to the teacher; its answers to the others are of no use then.
    changed = do(distill, place, "changed", settings | {"augment": "net:flip"}, inputs)
    assert changed["metric"] > 0.7
    assert digest(place / "changed") != digest(place / "done")
