"""Schedules against brute force: real cuts, scored again by a fresh trace of the cut model."""

import copy

import pytest
import torch

from pipeline.compression import channels, criteria, macs, schedules, structure, widths
from pipeline.compression.sight import Sight
from tests.unit.test_compression_criteria import Net, seen


def planned(sight, share=0.4):
    counted = macs.count(sight.model, sight.inputs)
    cost = structure.cost(sight.model, sight.groups, counted.layers)
    return cost, int(share * counted.macs)


def scorer(sight, name):
    return lambda model, left: criteria.score(name, Sight(model, left, sight.inputs, sight.labels))


def test_remaining_groups_are_those_of_the_cut_model():
    sight = seen(Net)
    gone = [[4, 1], [0]] if sight.groups[0].width == 6 else [[0], [4, 1]]
    cut = copy.deepcopy(sight.model)
    structure.apply(cut, structure.edits_for(cut, list(zip(sight.groups, gone, strict=True))))
    traced, _ = channels.groups(cut, (sight.inputs[0][:2],))

    def plain(groups):
        return [(g.name, g.width, sorted((m.module, m.axis, m.channels, m.roots) for m in g.members)) for g in groups]

    assert plain(structure.remaining(sight.groups, gone)) == plain(traced)


@pytest.mark.parametrize("name", ["l2", "contribution", "weight_gradient"])
def test_greedy_takes_the_lowest_of_what_is_really_left(name):
    sight = seen(Net)
    cost, budget = planned(sight)
    before = {key: value.clone() for key, value in sight.model.state_dict().items()}
    found = schedules.plan(sight.model, sight.groups, cost, budget, scorer(sight, name), "greedy")
    assert all(torch.equal(value, before[key]) for key, value in sight.model.state_dict().items())

    model, alive, gone = copy.deepcopy(sight.model), [list(range(g.width)) for g in sight.groups], [[], []]
    while cost([len(units) for units in alive]) > budget:
        groups, _ = channels.groups(model, (sight.inputs[0][:2],))  # traced anew each time
        scores = scorer(sight, name)(model, groups)
        place = {group.name: i for i, group in enumerate(sight.groups)}  # a group of one is no group any more
        _, index, slot, group = min(
            (value, place[group.name], slot, group)
            for group, values in zip(groups, scores, strict=True)
            for slot, value in enumerate(values.tolist())
        )
        structure.apply(model, structure.edits_for(model, [(group, [slot])]))
        gone[index].append(alive[index].pop(slot))
    assert [order[: len(out)] for order, out in zip(found.orders, gone, strict=True)] == gone
    assert found.wanted == [len(units) for units in alive]
    assert found.rounds == sum(map(len, gone))
    assert all(sorted(order) == list(range(g.width)) for order, g in zip(found.orders, sight.groups, strict=True))


def test_global_removes_everything_below_one_threshold():
    sight = seen(Net)
    cost, budget = planned(sight)
    found = schedules.plan(sight.model, sight.groups, cost, budget, scorer(sight, "taylor"), "global")
    scores = criteria.score("taylor", sight)
    counts = [int(g.width - w) for g, w in zip(sight.groups, found.wanted, strict=True)]
    out = [scores[i][unit].item() for i, n in enumerate(counts) for unit in found.orders[i][:n]]
    stay = [scores[i][unit].item() for i, n in enumerate(counts) for unit in found.orders[i][n:] if found.wanted[i] > 1]
    assert max(out) <= min(stay)
    assert cost([int(w) for w in found.wanted]) <= budget
    assert found.rounds == 1


def test_global_never_empties_a_group():
    sight = seen(Net)
    cost, _ = planned(sight)
    low = [0.0 if g.width == 5 else 1.0 for g in sight.groups]
    found = schedules.plan(
        sight.model,
        sight.groups,
        cost,
        cost([1] * len(low)),
        lambda model, left: [torch.full((g.width,), value) for g, value in zip(left, low, strict=True)],
        "global",
    )
    assert found.wanted == [1.0, 1.0]


@pytest.mark.parametrize("rescore", [0, 2])
def test_uniform_keeps_the_same_share_and_rounds_follow_rescore(rescore):
    sight = seen(Net)
    cost, budget = planned(sight)
    sizes = [g.width for g in sight.groups]
    told = []
    found = schedules.plan(
        sight.model,
        sight.groups,
        cost,
        budget,
        scorer(sight, "l1"),
        "uniform",
        rescore,
        lambda done, total: told.append((done, total)),
    )
    assert found.wanted == widths.uniform(sizes, cost, budget)
    assert (found.rounds == 1) == (rescore == 0)
    assert told[-1][0] == told[-1][1]
    if not rescore:
        expected = [values.argsort(stable=True).tolist() for values in criteria.score("l1", sight)]
        assert found.orders == expected


def test_given_shares_are_kept_to_the_alignment():
    sight = seen(Net)
    names = {g.width: g.name for g in sight.groups}
    assert schedules.given(sight.groups, {names[6]: 0.5}, 1) == [3 if g.width == 6 else 5 for g in sight.groups]
    assert schedules.given(sight.groups, {names[6]: 0.9}, 4)[[g.width for g in sight.groups].index(6)] == 4
    with pytest.raises(KeyError, match="nowhere"):
        schedules.given(sight.groups, {"nowhere": 0.5}, 1)


def test_wanted_widths_steer_the_solution():
    cost = lambda kept: 10 * kept[0] + 10 * kept[1]  # noqa: E731
    assert widths.solve([64, 64], cost, 640, 8, wanted=[48.0, 16.0]) == [48, 16]
    assert widths.solve([64, 64], cost, 640, 8) == [32, 32]
