"""Every criterion against brute force or its definition written out, on nets small enough for it."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipeline.compression import ablation, channels, criteria, gradients, structure, surgeon
from pipeline.compression.criteria import CRITERIA
from pipeline.compression.sight import Sight
from pipeline.errors import StageError, UsageError


class Net(nn.Module):
    """A residual stream, a normalisation, flattened maps: every kind of member."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv1d(2, 6, 3, padding=1), nn.BatchNorm1d(6)
        self.inner, self.outer = nn.Conv1d(6, 5, 3, padding=1), nn.Conv1d(5, 6, 1)
        self.head = nn.Linear(6 * 8, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        return self.head((x + self.outer(torch.relu(self.inner(x)))).flatten(1))


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))


class Steps(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.gru, self.head = nn.Linear(2, 6), nn.GRU(6, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.gru(torch.relu(self.a(x.transpose(1, 2))))[0][:, -1])


class Parts(nn.Module):
    """A convolution in two groups: what it reads goes in pairs, and so does what it makes."""

    def __init__(self):
        super().__init__()
        self.stem, self.mid, self.head = nn.Conv1d(2, 6, 1), nn.Conv1d(6, 8, 3, padding=1, groups=2), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(torch.relu(self.mid(torch.relu(self.stem(x)))).mean(2))


def seen(kind=Net, n=40, seed=0):
    torch.manual_seed(seed)
    model = kind()
    x = torch.randn(n, 4) if kind is Plain else torch.randn(n, 2, 8)
    model.train()(x)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    model.eval()
    groups, _ = channels.groups(model, (x[:2],))
    return Sight(model, groups, (x,), torch.randint(0, 3, (n,)))


def group_of(sight, name):
    """The group that a layer's outputs belong to."""
    return next(
        i
        for i, group in enumerate(sight.groups)
        if any(member.module == name and member.axis in ("out", "through") for member in group.members)
    )


def unit_weights(sight, group, unit):
    """(layer, parameter, index of the unit's weights in it), written out from the layers' own shapes."""
    for member in group.members:
        module = sight.model.get_submodule(member.module)
        mine = [c for c, root in zip(member.channels, member.roots, strict=True) if root == unit]
        if member.axis == "in":
            names = [n for n in ("weight", "weight_ih_l0") if hasattr(module, n)]
            yield member.module, getattr(module, names[0]), (slice(None), mine)
        else:
            for name in ("weight", "bias"):
                if getattr(module, name, None) is not None:
                    yield member.module, getattr(module, name), (mine,)


def mean_loss(sight, model=None):
    return F.cross_entropy((model or sight.model)(*sight.inputs), sight.labels)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in (Net, Steps, Parts) for name in CRITERIA if kind is Net or name != "bn_scale"],
)
def test_every_criterion_scores_every_unit_and_leaves_the_model_as_it_was(name, kind):
    sight = seen(kind)
    if name == "bn_scale" and kind is Net:
        sight = Sight(sight.model, [sight.groups[group_of(sight, "norm")]], sight.inputs, sight.labels)
    sight.model.requires_grad_(False)
    before = {key: value.clone() for key, value in sight.model.state_dict().items()}
    scores = criteria.score(name, sight)
    assert [len(values) for values in scores] == [group.width for group in sight.groups]
    assert all(len(values.unique()) > 1 for values in scores) or name == "l0"
    assert all(torch.equal(value, before[key]) for key, value in sight.model.state_dict().items())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in sight.model.parameters())
    assert not sight.model.training
    again = criteria.score(name, sight)
    assert all(torch.equal(a, b) for a, b in zip(scores, again, strict=True))


@pytest.mark.parametrize("kind", [Net, Plain, Steps, Parts])
def test_contribution_is_the_loss_after_real_removal(kind):
    sight = seen(kind)
    scores = ablation.contribution(sight)
    for group, values in zip(sight.groups, scores, strict=True):
        for unit in range(group.width):
            cut = copy.deepcopy(sight.model)
            structure.apply(cut, structure.edits_for(cut, [(group, [unit])]))
            expected = mean_loss(sight, cut) - mean_loss(sight)
            assert values[unit].item() == pytest.approx(expected.item(), abs=2e-6)


@pytest.mark.parametrize("kind", [Net, Parts])
@pytest.mark.parametrize("name", ["weight_gradient", "obd"])
def test_sums_over_samples_are_those_of_autograd_one_sample_at_a_time(name, kind):
    sight = seen(kind)
    totals = {p: torch.zeros_like(p) for p in sight.model.parameters()}
    for i in range(len(sight.labels)):
        sight.model.zero_grad()
        F.cross_entropy(sight.model(sight.inputs[0][i : i + 1]), sight.labels[i : i + 1]).backward()
        for parameter, total in totals.items():
            total += parameter.grad.abs() if name == "weight_gradient" else parameter.grad**2
    if name == "obd":
        totals = {p: 0.5 * p.detach() ** 2 * total / len(sight.labels) for p, total in totals.items()}
    for group, values in zip(sight.groups, CRITERIA[name].score(sight), strict=True):
        for unit in range(group.width):
            expected = sum(totals[p][index].sum() for _, p, index in unit_weights(sight, group, unit))
            assert values[unit].item() == pytest.approx(expected.item(), rel=1e-4)


def test_obd_is_the_diagonal_of_an_explicit_fisher_matrix():
    # The last layer of a softmax classifier has a known Fisher: F_(j,i)(j,i) = mean of (p_j - y_j)^2 h_i^2.
    sight = seen(Plain)
    damage = gradients.damage(sight)[sight.model.c.weight]
    x = sight.inputs[0]
    with torch.no_grad():
        hidden = torch.tanh(sight.model.b(torch.tanh(sight.model.a(x))))
        error = sight.model.c(hidden).softmax(1) - F.one_hot(sight.labels, 3)
        fisher = torch.einsum("nj,ni->ji", error**2, hidden**2) / len(x)
        torch.testing.assert_close(damage, 0.5 * fisher * sight.model.c.weight**2)


def test_taylor_is_the_slope_of_the_loss_when_a_unit_shrinks():
    sight = seen()
    sight.model.double()
    sight = Sight(sight.model, sight.groups, (sight.inputs[0].double(),), sight.labels)
    step = 1e-5
    for group, values in zip(sight.groups, CRITERIA["taylor"].score(sight), strict=True):
        for unit in range(group.width):
            slopes: dict[str, float] = {}
            parts = list(unit_weights(sight, group, unit))
            for layer in dict.fromkeys(layer for layer, _, _ in parts):
                losses = []
                for scale in (1 + step, 1 - step):
                    before = {p: p.detach().clone() for _, p, _ in parts}
                    with torch.no_grad():
                        for owner, parameter, index in parts:
                            if owner == layer:
                                parameter[index] = parameter[index] * scale
                        losses.append(mean_loss(sight).item())
                        for parameter, value in before.items():
                            parameter.copy_(value)
                slopes[layer] = (losses[0] - losses[1]) / (2 * step)
            assert values[unit].item() == pytest.approx(sum(abs(s) for s in slopes.values()), rel=1e-3, abs=1e-7)


def test_taylor_counts_the_scales_and_shifts_of_normalisations():
    sight = seen()
    only_norm = [
        structure.Group(g.name, g.width, tuple(m for m in g.members if m.module == "norm"))
        for g in sight.groups
        if any(m.module == "norm" for m in g.members)
    ]
    values = CRITERIA["taylor"].score(Sight(sight.model, only_norm, sight.inputs, sight.labels))[0]
    mean_loss(sight).backward()
    norm = sight.model.norm
    torch.testing.assert_close(values, (norm.weight * norm.weight.grad + norm.bias * norm.bias.grad).abs().detach())


def captured(sight):
    """What the head and `outer` read, by running the network by hand."""
    model, x = sight.model, sight.inputs[0]
    first = torch.relu(model.norm(model.stem(x)))
    second = torch.relu(model.inner(first))
    last = first + model.outer(second)
    return first, second, last, model.head(last.flatten(1))


def test_activation_gradient_is_the_sum_over_samples_of_autograd():
    sight = seen()
    expected = torch.zeros(5)
    stream = torch.zeros(6)
    for i in range(len(sight.labels)):
        one = Sight(sight.model, sight.groups, (sight.inputs[0][i : i + 1],), sight.labels[i : i + 1])
        first, second, last, logits = captured(one)
        slopes = torch.autograd.grad(F.cross_entropy(logits, one.labels), [first, second, last])
        expected += slopes[1].abs().sum((0, 2))
        stream += slopes[0].abs().sum((0, 2)) + slopes[2].abs().sum((0, 2))
    scores = CRITERIA["activation_gradient"].score(sight)
    torch.testing.assert_close(scores[group_of(sight, "inner")], expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(scores[group_of(sight, "norm")], stream, rtol=1e-4, atol=1e-6)


def test_activation_sparsity_and_entropy_are_their_definitions():
    sight = seen(n=150)  # more than one pass
    with torch.no_grad():
        second = captured(sight)[1].movedim(1, 0).flatten(1)
    index = group_of(sight, "inner")
    torch.testing.assert_close(CRITERIA["activation_sparsity"].score(sight)[index], (second > 0).float().mean(1))
    for unit, bits in enumerate(CRITERIA["activation_entropy"].score(sight)[index]):
        counts = torch.histc(second[unit], 32, second[unit].min().item(), second[unit].max().item())
        shares = [c / counts.sum().item() for c in counts.tolist() if c]
        assert bits.item() == pytest.approx(-sum(s * math.log2(s) for s in shares), abs=0.02)


def test_activations_of_one_unit_are_a_channel_of_each_convolution_group():
    sight = seen(Parts)
    with torch.no_grad():
        read = torch.relu(sight.model.stem(sight.inputs[0])) > 0  # [n, 6, 8], read three by three
    expected = torch.stack([read[:, [unit, unit + 3]].float().mean() for unit in range(3)])
    torch.testing.assert_close(CRITERIA["activation_sparsity"].score(sight)[group_of(sight, "stem")], expected)


def test_a_dead_unit_goes_first_by_every_criterion_of_activations():
    sight = seen()
    with torch.no_grad():
        sight.model.inner.weight[2] = 0
        sight.model.inner.bias[2] = -1
    for name in ("activation_sparsity", "activation_entropy", "activation_gradient", "contribution", "taylor", "obs"):
        if name not in ("activation_gradient",):  # a dead unit's slope says how much it would help alive
            values = CRITERIA[name].score(sight)[group_of(sight, "inner")]
            assert values[2].item() == pytest.approx(0 if name != "obs" else values.min().item(), abs=1e-6), name


def explicit_fisher(sight, parameter):
    """F of all weights of a parameter, and its damping, from per-sample gradients: float64 [d, d]."""
    rows = []
    for i in range(len(sight.labels)):
        loss = F.cross_entropy(sight.model(sight.inputs[0][i : i + 1]), sight.labels[i : i + 1])
        rows.append(torch.autograd.grad(loss, parameter)[0].double())
    return torch.stack(rows)


@pytest.mark.parametrize("n", [3, 40])  # fewer and more samples than weights in a block
def test_obs_is_the_closed_form_of_the_constrained_minimum(n):
    sight = seen(Plain, n)
    index = group_of(sight, "b")  # six... its reader is `c`, a row of which has five weights
    scores = surgeon.score(sight)[index]
    rows = explicit_fisher(sight, sight.model.c.weight)  # [n, 3, 5]
    removed = [1, 3]
    expected_weight = sight.model.c.weight.detach().double().clone()
    expected = torch.zeros(5, dtype=torch.float64)
    for row in range(3):
        g, w = rows[:, row], sight.model.c.weight.detach()[row].double()
        hessian = g.T @ g / n + surgeon.DAMPING * (g**2).mean() * torch.eye(5, dtype=torch.float64)
        for gone in [[unit] for unit in range(5)] + [removed]:
            # min 1/2 d'Hd subject to d_S = -w_S, by its Karush-Kuhn-Tucker system.
            select = torch.eye(5, dtype=torch.float64)[gone]
            system = torch.cat(
                [
                    torch.cat([hessian, select.T], 1),
                    torch.cat([select, torch.zeros(len(gone), len(gone), dtype=torch.float64)], 1),
                ]
            )
            right = torch.cat([torch.zeros(5, dtype=torch.float64), -w[gone]])
            step = torch.linalg.solve(system, right)[:5]
            if len(gone) == 1:
                expected[gone[0]] += 0.5 * step @ hessian @ step
            else:
                expected_weight[row] = w + step
    torch.testing.assert_close(scores.double(), expected, rtol=1e-4, atol=1e-9)
    surgeon.update(sight, [removed if i == index else [] for i in range(len(sight.groups))])
    torch.testing.assert_close(sight.model.c.weight.detach().double(), expected_weight, rtol=1e-4, atol=1e-6)
    assert torch.equal(sight.model.c.weight[:, removed], torch.zeros(3, 2))


def test_obs_reaches_convolutions_and_flattened_maps_and_its_update_lowers_the_loss():
    sight = seen(n=200)
    model = sight.model
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        mean_loss(sight).backward()
        optimizer.step()
    model.zero_grad()
    index = group_of(sight, "inner")
    order = surgeon.score(sight)[index].argsort().tolist()
    removed = [order[:2] if i == index else [] for i in range(len(sight.groups))]
    plain, corrected = copy.deepcopy(model), copy.deepcopy(model)
    surgeon.update(Sight(corrected, sight.groups, sight.inputs, sight.labels), removed)
    edits = structure.edits_for(model, list(zip(sight.groups, removed, strict=True)))
    structure.apply(plain, edits)
    structure.apply(corrected, edits)
    assert not torch.equal(plain.outer.weight, corrected.outer.weight)
    assert mean_loss(sight, corrected) < mean_loss(sight, plain)
    stream = group_of(sight, "norm")  # read by a convolution and by the flattened head
    sizes = {tuple(block.place.shape) for block in surgeon._blocks(sight) if block.group == stream}
    assert sizes == {(5, 6, 3), (3, 6, 8)}


def test_the_update_of_obs_does_not_depend_on_the_layout_in_memory():
    sight = seen(n=40)
    removed = [[0] for _ in sight.groups]
    plain, turned = copy.deepcopy(sight.model), copy.deepcopy(sight.model)
    for parameter in turned.parameters():
        if parameter.ndim > 1:
            parameter.data = parameter.data.transpose(0, 1).contiguous().transpose(0, 1)
    assert not turned.outer.weight.is_contiguous()
    for model in (plain, turned):
        surgeon.update(Sight(model, sight.groups, sight.inputs, sight.labels), removed)
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(turned.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)
    assert not torch.equal(plain.outer.weight, sight.model.outer.weight)


def test_blocks_split_wide_rows(monkeypatch):
    monkeypatch.setattr(surgeon, "BLOCK", 16)
    sight = seen()
    stream = group_of(sight, "norm")
    assert [len(b.units) for b in surgeon._blocks(sight) if b.group == stream] == [2, 2, 2, 5, 1]


def test_lamp_is_its_definition():
    squares = torch.tensor([4.0, 1.0, 0.0, 9.0, 1.0])
    # 4 / (4 + 9); ties take index order: the second 1 no longer counts the first
    expected = torch.tensor([4 / 13, 1 / 15, 0.0, 1.0, 1 / 14])
    torch.testing.assert_close(criteria.lamp_of(squares), expected)
    assert torch.equal(criteria.lamp_of(torch.zeros(3)), torch.zeros(3))


def test_fpgm_is_the_sum_of_distances_of_filters():
    sight = seen()
    weight = sight.model.inner.weight.detach().flatten(1)
    expected = torch.stack([torch.stack([(a - b).norm() for b in weight]).sum() for a in weight])
    torch.testing.assert_close(
        CRITERIA["fpgm"].score(sight)[group_of(sight, "inner")], expected / expected.mean(), rtol=1e-5, atol=1e-6
    )


def test_bn_scale_is_gamma_and_names_the_groups_without_one():
    sight = seen()
    stream = [sight.groups[group_of(sight, "norm")]]
    scores = CRITERIA["bn_scale"].score(Sight(sight.model, stream, sight.inputs, sight.labels))
    torch.testing.assert_close(scores[0], sight.model.norm.weight.detach().abs())
    with pytest.raises(UsageError, match="there is none behind 'inner'"):
        criteria.score("bn_scale", sight)


def test_l0_counts_weights():
    sight = seen()
    with torch.no_grad():
        sight.model.inner.weight[1, :4] = 0
    counts = CRITERIA["l0"].score(sight)[group_of(sight, "inner")]
    full = 6 * 3 + 1 + 6  # a filter, its bias, the column that reads it
    assert counts.tolist() == [full, full - 12, full, full, full]


def test_random_depends_on_the_seed_and_nothing_else():
    one, other = seen(), seen(seed=1)  # other weights, samples and labels
    shared = Sight(other.model, one.groups, other.inputs, other.labels)
    first = CRITERIA["random"].score(one)
    assert all(map(torch.equal, first, CRITERIA["random"].score(shared)))
    drawn = [
        torch.cat(CRITERIA["random"].score(Sight(one.model, one.groups, one.inputs, one.labels, seed)))
        for seed in range(500)
    ]
    means = torch.stack(drawn).mean(0)  # uniform: 0.5 for every unit, with a spread of 0.013
    assert bool(((means > 0.43) & (means < 0.57)).all())
    assert bool(((torch.stack(drawn) >= 0) & (torch.stack(drawn) < 1)).all())


def test_what_cannot_be_scored_is_said_in_one_line():
    sight = seen()
    with torch.no_grad():
        sight.model.inner.weight[1] = math.nan
    with pytest.raises(StageError, match=r"criterion 'l2' is not finite for \d of 5 units of 'inner'"):
        criteria.score("l2", sight)

    class Detached(Net):
        def forward(self, x):
            with torch.no_grad():
                return super().forward(x)

    plain = seen()
    shut = Detached()
    shut.load_state_dict(plain.model.state_dict())
    blind = Sight(shut.eval(), plain.groups, plain.inputs, plain.labels)
    for name in ("taylor", "weight_gradient", "activation_gradient", "obd", "obs"):
        with pytest.raises(UsageError, match="needs gradients and the model's outputs carry none"):
            criteria.score(name, blind)


def test_obs_says_when_it_would_not_fit(monkeypatch):
    monkeypatch.setattr(surgeon, "LIMIT_BYTES", 10_000)
    with pytest.raises(UsageError, match=r"keeps the gradients of 40 samples by .* lower prune.samples to \d+"):
        criteria.score("obs", seen())


@pytest.mark.parametrize("limit", [0, 1 << 30])
def test_contribution_is_the_same_whether_layers_are_run_again_or_not(monkeypatch, limit):
    """Batches of several sizes, a layer that runs twice, in-place operations: what was said is said again."""

    class Twice(Net):
        def forward(self, x):
            x = torch.relu_(self.norm(self.stem(x)))
            for _ in range(2):
                x = x + self.outer(torch.relu_(self.inner(x)))
            return self.head(x.flatten(1))

    sight = seen(Twice)
    assert {"inner", "outer"} <= {group.name for group in sight.groups}
    monkeypatch.setattr(ablation, "BATCH", 16)  # 40 samples: 16, 16, 8
    monkeypatch.setattr(ablation, "LIMIT_BYTES", limit)
    state = copy.deepcopy(sight.model.state_dict())
    found = ablation.contribution(sight)
    for group, values in zip(sight.groups, found, strict=True):
        for unit in range(group.width):
            cut = copy.deepcopy(sight.model)
            structure.apply(cut, structure.edits_for(cut, [(group, [unit])]))
            with torch.no_grad():
                rise = F.cross_entropy(cut(*sight.inputs), sight.labels) - F.cross_entropy(
                    sight.model(*sight.inputs), sight.labels
                )
            assert float(values[unit]) == pytest.approx(float(rise), abs=1e-5)
    assert all(torch.equal(state[name], tensor) for name, tensor in sight.model.state_dict().items())
    assert not any("forward" in vars(module) for module in sight.model.modules() if list(module.children()) == [])


@pytest.mark.parametrize("name", CRITERIA)
def test_scores_are_of_one_scale_in_all_groups_unless_they_mean_the_same_there(name):
    sight = seen()
    sight = Sight(sight.model, [sight.groups[group_of(sight, "norm")]], sight.inputs, sight.labels)
    own, told = CRITERIA[name].score(sight), criteria.score(name, sight)
    for before, after in zip(own, told, strict=True):
        torch.testing.assert_close(after, before if CRITERIA[name].comparable else before / before.mean())
    assert {name for name, one in CRITERIA.items() if not one.comparable} == {"l0", "l1", "l2", "fpgm"}


def test_a_group_of_small_weights_does_not_go_before_the_others():
    """One threshold over the network: without a scale of its own, a layer of many or large weights would never go."""
    sight = seen(Plain)
    with torch.no_grad():
        sight.model.a.weight *= 1000
    for name in ("l1", "l2", "fpgm", "l0"):
        for values in criteria.score(name, sight):
            assert float(values.mean()) == pytest.approx(1.0, rel=1e-5)
