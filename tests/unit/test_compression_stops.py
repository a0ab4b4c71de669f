"""What pruning stops at: exact sizes, the search for a share, and what is measured on a target."""

import copy

import pytest
import torch
from torch import nn

from pipeline import models, recipe
from pipeline.compression import channels, heads, hidden, macs, shapes, sizes, stops, structure
from pipeline.compression.shapes import Kernels, Shape
from pipeline.errors import UsageError
from pipeline.stages import Job, device_profile, prune, train
from pipeline.stages import shapes as shapes_stage
from tests.unit.test_compression_criteria import Net, Steps, seen
from tests.unit.test_compression_heads import HEADS, WIDTH, Fused
from tests.unit.test_compression_stages import FLOAT, do, owner, place  # noqa: F401

INPUTS = {"model": "float", "float": "float"}
SIZED = {"criterion": "l2", "align": 1}
TIMED = {"target": "onnxruntime", "threads": 1, "batch": 1, "precision": "float"}
TIMED |= {"warmup_s": 0.05, "budget_s": 0.3, "min_rounds": 20, "max_rounds": 2000}


def on_target(place, out, settings, inputs=INPUTS):  # noqa: F811
    """The prune stage where something is measured: the data's names are known there."""
    folders = {"data": place / "data"} | {role: place / name for role, name in inputs.items()}
    return prune.run(Job("prune-measured", settings, folders, place / out, 0, owner(place) | {"inputs": "input"}))


def widths(model, groups, keep=0.5):
    return [max(1, int(keep * group.width)) for group in groups]


@pytest.mark.parametrize(("kind", "find"), [(Net, channels.groups), (Steps, channels.groups), (Steps, hidden.groups)])
@pytest.mark.parametrize("size", [sizes.parameters, sizes.int8_bytes])
def test_what_a_budget_says_of_widths_is_what_the_cut_network_has(kind, find, size):
    sight = seen(kind)
    groups, _ = find(sight.model, tuple(values[:2] for values in sight.inputs))
    left = widths(sight.model, groups)
    cost = structure.cost(sight.model, groups, size(sight.model))
    assert cost([group.width for group in groups]) == sizes.total(size(sight.model))
    cut = copy.deepcopy(sight.model)
    gone = [range(group.width - count) for group, count in zip(groups, left, strict=True)]
    structure.apply(cut, structure.edits_for(cut, list(zip(groups, gone, strict=True))))
    assert sizes.total(size(cut)) == cost(left) < sizes.total(size(sight.model))


def test_parameters_are_counted_once_and_bytes_by_what_is_stored():
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 6))
    net[3].weight = net[2].weight
    assert sizes.total(sizes.parameters(net)) == 24 + 6 + 36 + 6 + 6
    conv = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    assert sizes.total(sizes.int8_bytes(conv)) == 216 + 4 * 8 + 16 + 4 * 2


def test_the_largest_share_that_a_rising_value_allows():
    best, tries = stops.search(lambda share: 0.2 + share, limit=0.7, first=0.5, rising=True)
    assert best is not None
    assert best.share == pytest.approx(0.5)
    assert len(tries) == 1
    best, tries = stops.search(lambda share: 0.1 + 0.9 * share**2, limit=0.4, first=0.4, rising=True)
    assert best is not None
    assert 0.97 * 0.4 <= best.value <= 0.4
    assert len(tries) <= stops.TRIES
    best, tries = stops.search(lambda share: 1.0 + share, limit=0.5, first=0.5, rising=True)
    assert best is None
    assert len(tries) == stops.TRIES


def test_the_smallest_share_at_which_a_falling_value_holds():
    best, tries = stops.search(lambda share: 40 * (1 - share), limit=8.0, first=0.5, rising=False)
    assert best is not None
    assert 0.8 <= best.share < 0.83
    assert all(one.value > 8 for one in tries if one.share < 0.8)
    best, _ = stops.search(lambda share: 0.0, limit=1.0, first=0.5, rising=False)
    assert best is not None
    assert best.share < 0.01


@pytest.mark.parametrize(
    ("stop", "whole", "limit"),
    [
        (stops.Stop("macs", 0.25), 1000, 250),
        (stops.Stop("macs", 0.25, 0.5), 1000, 500),  # the first of two
        (stops.Stop("bytes", 250), 1000, 250),
        (stops.Stop("bytes", 250, 0.5), 1000, 500),
        (stops.Stop("bytes", 2000), 1000, 1000),
        (stops.Stop("latency_ms", 0.5), 2.0, 0.5),
        (stops.Stop("drop", 4.0, 0.5), 1.0, 2.0),
    ],
)
def test_limits_and_their_parts(stop, whole, limit):
    assert stop.limit(whole) == pytest.approx(limit)


def test_a_recipe_names_one_stop_and_set_replaces_it(tmp_path):
    table = {"model": "net:build", "data": "data:splits", "targets": ["onnxruntime"]}
    assert recipe.from_table(dict(table), tmp_path, "x").prune.macs == 0.5
    asked = recipe.from_table({**table, "prune": {"macs": 0.3}}, tmp_path, "x", ["prune.latency=0.4"]).prune
    assert (asked.macs, asked.latency, asked.measured) == (None, 0.4, True)
    for prune_table, message in (
        ({"macs": 0.5, "drop": 2.0}, "macs and drop are both given: pruning stops at one of macs, parameters, bytes"),
        ({"granularity": "weight", "latency": 0.5}, "'weight' stops at sparsity or threshold and knows no latency"),
        (
            {"schedule": "groups", "groups": {"a": 0.5}, "drop": 1.0},
            "keeps the shares that are given and knows no drop",
        ),
        ({"parameters": 1.0}, "prune.parameters: Input should be less than 1"),
        ({"bytes": 0}, "prune.bytes: Input should be greater than or equal to 1"),
    ):
        with pytest.raises(UsageError, match=message):
            recipe.from_table({**table, "prune": prune_table}, tmp_path, "x")


def test_pruning_stops_at_parameters_and_at_bytes(place):  # noqa: F811
    do(train, place, "float", FLOAT | {"epochs": 1})
    whole = models.load(owner(place), place / "float")
    count = sum(parameter.numel() for parameter in whole.parameters())
    told = do(prune, place, "fewer", SIZED | {"parameters": 0.4}, INPUTS)
    assert 0.95 * 0.4 <= told["params"] / count <= 0.4
    assert told["stop"] == {"name": "parameters", "limit": int(0.4 * count), "reached": told["params"]}
    told = do(prune, place, "lighter", SIZED | {"bytes": 3000}, INPUTS)
    cut = models.load(owner(place), place / "lighter")
    assert 0.95 * 3000 <= sizes.total(sizes.int8_bytes(cut)) == told["stop"]["reached"] <= 3000
    with pytest.raises(UsageError, match=r"prune\.bytes = 20 cannot be met: one channel in each of 2 groups"):
        do(prune, place, "none", SIZED | {"bytes": 20}, INPUTS)
    assert not (place / "none").exists()


@pytest.mark.parametrize(("granularity", "build", "drop"), [("channel", "net:build", 25), ("layer", "net:deep", 64)])
def test_pruning_stops_at_a_drop_of_the_metric(place, granularity, build, drop):  # noqa: F811
    whole = do(train, place, "float", FLOAT | {"epochs": 6}, model=build)
    settings = SIZED | {"drop": float(drop), "granularity": [granularity], "criterion": "taylor"}
    told = do(prune, place, "small", settings, INPUTS, model=build)
    lost = max(0.0, 100 * (whole["metric"] - told["metric"]))
    assert told["stop"]["reached"] == pytest.approx(lost, abs=1e-3)
    assert lost <= drop
    assert told["macs"] < told["float_macs"]
    if granularity == "layer":
        with pytest.raises(UsageError, match=r"prune\.drop = 1e-09 cannot be met by whole layers"):
            do(prune, place, "none", settings | {"drop": 1e-9}, INPUTS, model=build)
        assert not (place / "none").exists()


@pytest.mark.parametrize(
    ("target", "precision"),
    [
        ("onnxruntime", "float"),
        pytest.param("onnxruntime", "int8", marks=pytest.mark.slow),
        pytest.param("openvino", "int8", marks=pytest.mark.slow),
        pytest.param("tflite", "int8", marks=pytest.mark.slow),
    ],
)
def test_pruning_stops_at_a_latency_measured_on_the_runtime(place, target, precision):  # noqa: F811
    do(train, place, "float", FLOAT | {"epochs": 1})
    there = TIMED | {"target": target, "precision": precision}
    told = on_target(place, "small", SIZED | there | {"latency_ms": 1e6})  # any network is faster
    assert 0 < told["stop"]["reached"] <= 1e6
    assert told["stop"]["whole"] > 0
    assert all(one["value"] > 0 for one in told["stop"]["tries"])
    assert told["macs"] < told["float_macs"]


def test_a_latency_that_cannot_be_met_leaves_nothing(place):  # noqa: F811
    do(train, place, "float", FLOAT | {"epochs": 1})
    with pytest.raises(UsageError, match=r"prune\.latency_ms = 1e-06 cannot be met: the nearest of 7 tries came to"):
        on_target(place, "none", SIZED | TIMED | {"latency_ms": 1e-6})
    assert not (place / "none").exists()


SLOW_ODD = {1: 2.0, 4: 1.3, 8: 1.0, 16: 1.0, 32: 1.0}  # how much dearer a MAC is at an alignment


def kernels(width, dear=SLOW_ODD, floor=0.0):
    listed = Shape("conv2d", (3, 3), (8, 8), width).widths()
    times = {w: max(floor, 1e-4 * w * w * dear[shapes.own_alignment(w)]) for w in listed}
    return Kernels(width, (times,))


def test_the_alignment_is_the_smallest_that_kernels_like():
    assert kernels(96).alignment() == 8
    assert kernels(96, dict.fromkeys(SLOW_ODD, 1.0)).alignment() == 1
    both = Kernels(96, (*kernels(96).times, *kernels(96, SLOW_ODD | {8: 1.2}).times))
    assert both.alignment() == 16  # one that both precisions like


def test_cutting_pays_where_fewer_units_are_faster_and_nowhere_else():
    assert kernels(96).pays(0.75, 72)
    assert not kernels(96).pays(91 / 96, 91)  # odd: 2 x (91/96)^2 > 1
    assert not kernels(96, SLOW_ODD | {32: 0.5}).pays(72 / 96, 72)  # the full width is a multiple of 32


def test_widths_to_time_have_every_alignment_once():
    listed = Shape("conv2d", (3, 3), (8, 8), 96).widths()
    assert listed[-1] == 96
    assert {shapes.own_alignment(width) for width in listed[:-1]} == {1, 4, 8, 16, 32}
    assert Shape("linear", (), (), 6).widths() == [4, 5, 6]


def test_a_heads_channels_count_for_its_alignment():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, WIDTH), Fused(), nn.Flatten(), nn.Linear(WIDTH * 5, 3)).eval()
    groups, _ = heads.groups(model, (torch.randn(2, 5, 6),))
    each = WIDTH // HEADS  # channels of a head
    assert structure.alignments(model, groups, 2 * each) == [2]
    assert structure.alignments(model, groups, each) == [1]
    sight = seen(Steps)
    found, _ = hidden.groups(sight.model, (sight.inputs[0][:2],))
    assert structure.alignments(sight.model, found, 8) == [8]


@pytest.mark.slow
@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "tflite"])
def test_widths_come_from_a_profile_of_the_device(place, target):  # noqa: F811
    """Without a stub: shapes are found, timed on the runtime, and the network is cut to what its kernels like."""
    do(train, place, "float", FLOAT | {"epochs": 1})
    there = TIMED | {"target": target}
    listed = do(shapes_stage, place, "shapes", {"granularity": ["channel"]}, {"model": "float"})
    assert [row["width"] for row in listed["shapes"]] == [48, 32]
    assert listed["groups"] == {"a": 1, "b": 0}
    profile = Job("device-profile", there | {"shapes": listed["shapes"]}, {}, place / "profile", 0)
    profile.out.mkdir()
    rows = device_profile.run(profile)["rows"]
    assert [sorted(row) for row in rows] == [["float", "int8"]] * 2
    assert all(ms > 0 for row in rows for table in row.values() for ms in table.values())
    settings = SIZED | there | {"align": "measured", "macs": 0.5, "shapes": listed}
    told = on_target(place, "small", settings, INPUTS | {"profile": "profile"})
    assert told["macs_share"] <= 0.5
    assert sorted(told["faster"]) == ["float", "int8"]
    whole = {row["name"] for row in told["layers"] if row["after"] == row["before"]}
    assert whole <= {row["name"] for row in told["kept"]}
    assert macs.count(models.load(owner(place), place / "small"), (torch.randn(1, 2, 20),)).macs == told["macs"]


def test_what_stays_whole_is_paid_for_by_the_others_and_the_budget_holds(place):  # noqa: F811
    do(train, place, "float", FLOAT | {"epochs": 1})
    model = models.load(owner(place), place / "float")
    example = (torch.randn(2, 2, 20),)
    groups, kept = channels.groups(model, example)
    cost = structure.cost(model, groups, macs.count(model, example).layers)
    idle = kernels(32, dict.fromkeys(SLOW_ODD, 1.0), floor=1.0)  # any width takes as long as the whole
    rows = {"data": place / "data", "model": place / "float"}
    job = Job("prune", SIZED, rows, place / "out", 0, owner(place))
    work = prune.Work(job, model, groups, kept, [4, 4], [idle, kernels(48)])
    budget = cost([group.width for group in groups]) // 2
    _, leave = prune.meet(work, cost, budget, "prune.macs = 0.5")
    assert leave[0] == 32
    assert cost(leave) <= budget
    _, tight = prune.meet(work, cost, cost([32, 1]) - 1, "prune.macs = 0.01")  # not even one unit of the other
    assert tight[0] < 32
