"""Single weights, n of m, sparse training and averaging: definitions, exact shares, zeros that stay."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from pipeline import data, models
from pipeline.compression import masks, penalties, training
from pipeline.errors import UsageError
from pipeline.stages import distill, prune, train
from tests.unit.test_compression_criteria import Net, Steps, seen
from tests.unit.test_compression_stages import DISTILL, FLOAT, PRUNE, do, owner, place  # noqa: F401


@pytest.mark.parametrize("kind", [Net, Steps])
@pytest.mark.parametrize("name", masks.SCORES)
def test_exactly_the_share_goes_and_always_the_lowest(name, kind):
    sight = seen(kind)
    scores = masks.SCORES[name](sight)
    assert set(scores) == {key for key, p in sight.model.named_parameters() if p.ndim > 1}
    each = masks.lowest(scores, 0.7, everywhere=False)
    for key, where in each.items():
        assert int(where.sum()) == round(0.7 * where.numel())
        assert scores[key][where].max() <= scores[key][~where].min()
    together = masks.lowest(scores, 0.7, everywhere=True)
    out = torch.cat([scores[key][where] for key, where in together.items()])
    stay = torch.cat([scores[key][~where] for key, where in together.items()])
    assert len(out) == round(0.7 * (len(out) + len(stay)))
    assert out.max() <= stay.min()


def test_single_weights_have_their_written_out_scores():
    sight = seen()
    weight = sight.model.inner.weight
    loss = nn.functional.cross_entropy(sight.model(sight.inputs[0]), sight.labels)
    slope = torch.autograd.grad(loss, weight)[0]
    torch.testing.assert_close(masks.SCORES["taylor"](sight)["inner.weight"], (slope * weight).abs().detach())
    flat = weight.detach().flatten() ** 2
    expected = torch.stack([value / flat[flat >= value].sum() for value in flat])
    torch.testing.assert_close(masks.SCORES["lamp"](sight)["inner.weight"].flatten(), expected)


def test_tied_weights_and_embeddings():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.a, self.b = nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight

    assert list(masks.prunable(Tied())) == ["a.weight"]


@pytest.mark.parametrize(("keep", "of"), [(2, 4), (1, 4), (1, 3)])
def test_n_of_every_m_inputs_stay_and_they_are_the_largest(keep, of):
    torch.manual_seed(0)
    scores = {"w": torch.rand(5, 10, 3)}  # 10 is no multiple of 4 or 3
    gone = masks.pattern(scores, keep, of)["w"]
    for row in range(5):
        for spot in range(3):
            for start in range(0, 10, of):
                part, out = scores["w"][row, start : start + of, spot], gone[row, start : start + of, spot]
                best = set(part.topk(min(keep, len(part))).indices.tolist())
                assert {i for i, away in enumerate(out.tolist()) if not away} == best


def zeros(folder, name):
    model = models.load(owner(folder), folder / name)
    return {key: (p == 0) for key, p in masks.prunable(model).items()}


WEIGHT = PRUNE | {"granularity": ["weight"], "sparsity": 0.8, "threshold": None}


def test_zeros_are_exact_and_recovery_keeps_them(place):  # noqa: F811
    do(train, place, "float", FLOAT)
    told = do(prune, place, "sparse", WEIGHT, {"model": "float", "float": "float"})
    assert told["zeros"] == pytest.approx(0.8, abs=0.002)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    before = zeros(place, "sparse")
    back = do(distill, place, "done", DISTILL | {"ema": 0.5}, {"model": "sparse", "teacher": "float"})
    assert back["metric"] >= told["metric"]
    assert back["epoch"] > 0
    after = zeros(place, "done")
    assert all(bool(after[key][where].all()) for key, where in before.items())
    first, second = (models.load(owner(place), place / name).b.weight for name in ("sparse", "done"))
    assert not torch.equal(first, second)
    # Pruned again: what was zero stays zero, and channels can still go.
    more = do(prune, place, "more", WEIGHT | {"sparsity": 0.9}, {"model": "done", "float": "float"})
    assert more["zeros"] == pytest.approx(0.9, abs=0.002)
    do(prune, place, "both", PRUNE, {"model": "more", "float": "float"})
    assert models.zeros_of(place / "both") == models.zeros_of(place / "more")


def test_two_of_four_and_thresholds_as_stages(place):  # noqa: F811
    do(train, place, "float", FLOAT | {"epochs": 1})
    inputs = {"model": "float", "float": "float"}
    told = do(prune, place, "nm", WEIGHT | {"granularity": ["n:m"], "pattern": "2:4"}, inputs)
    rows = zeros(place, "nm")["b.weight"]  # [48, 32, 3]
    assert (rows.unflatten(1, (8, 4)).sum(2) == 2).all()
    assert 0.45 <= told["zeros"] <= 0.5
    do(prune, place, "cut", WEIGHT | {"threshold": 0.02}, {"model": "float", "float": "float"})
    small = models.load(owner(place), place / "cut")
    live = torch.cat([p[p != 0].abs() for p in masks.prunable(small).values()])
    assert live.min() >= 0.02


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"criterion": "contribution"}, "'contribution' has no score for a single weight: take one of l1, l2"),
        ({"threshold": 1e9}, "'a.weight' would lose all of its weights"),
    ],
)
def test_bad_input_is_one_line(place, change, text):  # noqa: F811
    do(train, place, "float", FLOAT | {"epochs": 1})
    with pytest.raises(UsageError, match=text):
        do(prune, place, "out", WEIGHT | change, {"model": "float", "float": "float"})
    assert not (place / "out").exists()


def test_penalties_are_their_formulas():
    model = seen().model
    found = [p.detach().numpy().copy() for p in model.parameters() if p.ndim > 1]
    assert penalties.l1(model).item() == pytest.approx(sum(np.abs(w).sum() for w in found), rel=1e-5)
    rows = [w.reshape(len(w), -1) for w in found]
    expected = sum(np.sqrt(row.shape[1]) * np.sqrt((row**2).sum(1)).sum() for row in rows)
    assert penalties.group_lasso(model).item() == pytest.approx(expected, rel=1e-5)
    penalties.soft_threshold(model, 0.1)
    for before, after in zip(found, [p for p in model.parameters() if p.ndim > 1], strict=True):
        shrunk = np.sign(before) * np.maximum(0, np.abs(before) - 0.1)
        np.testing.assert_allclose(after.detach().numpy(), shrunk, atol=1e-7)


def test_group_lasso_is_finite_for_a_unit_that_is_zero():
    layer = nn.Linear(3, 2)
    nn.init.zeros_(layer.weight)
    penalties.group_lasso(layer).backward()
    assert torch.equal(layer.weight.grad, torch.zeros(2, 3))


def test_sparse_training_leaves_less(place):  # noqa: F811
    amounts = {}
    for penalty, strength in (("none", 0.0), ("l1", 3e-2), ("group_lasso", 1e-2), ("soft_threshold", 1.0)):
        do(train, place, penalty, FLOAT | {"penalty": penalty, "strength": strength})
        model = models.load(owner(place), place / penalty)
        amounts[penalty] = [p.detach() for p in masks.prunable(model).values()]
    size = {name: sum(float(w.abs().sum()) for w in found) for name, found in amounts.items()}
    assert max(size[name] for name in ("l1", "group_lasso", "soft_threshold")) < 0.9 * size["none"]
    exact = {name: sum(int((w == 0).sum()) for w in found) for name, found in amounts.items()}
    assert exact["soft_threshold"] > 100 > exact["none"]


def test_the_average_is_the_recursion_and_what_is_kept(place):  # noqa: F811
    """Written out over the six steps of one epoch, with the same loop run by hand."""
    with training.deterministic(0):
        model = models.build(owner(place))
        mean = {k: v.detach().clone() for k, v in model.named_parameters()}
        split, order = data.load_split(place / "data", "train"), np.random.default_rng(0).permutation(301)
        optimizer = torch.optim.AdamW(model.parameters(), lr=FLOAT["lr"], weight_decay=FLOAT["weight_decay"])
        for step in range(6):
            index = order[50 * step : 50 * step + 50]
            for group in optimizer.param_groups:
                group["lr"] = FLOAT["lr"] * 0.5 * (1 + np.cos(np.pi * step / 6))
            model.train()
            labels = torch.from_numpy(split.labels[index])
            loss = nn.functional.cross_entropy(
                model(*training.tensors(split.inputs, index)), labels, label_smoothing=FLOAT["label_smoothing"]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            mean = {k: 0.25 * mean[k] + 0.75 * v.detach() for k, v in model.named_parameters()}
    told = do(train, place, "float", FLOAT | {"epochs": 1, "ema": 0.25})
    assert told["epoch"] == 1
    kept = models.load(owner(place), place / "float")
    for name, parameter in kept.named_parameters():
        torch.testing.assert_close(parameter.detach(), mean[name], atol=1e-5, rtol=1e-4)
    assert torch.equal(kept.na.running_mean, model.na.running_mean)
