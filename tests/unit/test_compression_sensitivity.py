"""Each layer's metric against the share of it that goes: what is drawn is what pruning it would give."""

import xml.etree.ElementTree as ET

import pytest
import torch

from pipeline import data, models
from pipeline.compression import criteria, masks, structure, training, units
from pipeline.compression.sight import of_job
from pipeline.errors import UsageError
from pipeline.release.html.curves import svg
from pipeline.stages import Job, sensitivity, train
from tests.unit.test_cli import deploy
from tests.unit.test_compression_stages import FLOAT, do, owner, place  # noqa: F401

ASKED = {"granularity": ["channel"], "criterion": "l2", "samples": 64, "ratios": [0.5, 0.9]}


def test_a_point_is_the_metric_of_the_network_without_these_units(place):  # noqa: F811
    whole = do(train, place, "float", FLOAT)
    told = do(sensitivity, place, "curves", ASKED, {"model": "float"})
    assert told["metric"] == whole["metric"]
    assert [(row["name"], row["width"]) for row in told["rows"]] == [("a", 32), ("b", 48)]
    assert [one["name"] for one in told["kept"]] == ["head"]
    model = models.load(owner(place), place / "float")
    groups, _ = units.groups(["channel"], model, (torch.randn(2, 2, 20),))
    job = Job("x", ASKED, {"data": place / "data"}, place / "x", 0, owner(place))
    order = criteria.score("l2", of_job(job, model, groups))[1].argsort(stable=True).tolist()
    structure.apply(model, structure.edits_for(model, [(groups[1], order[:24])]))
    metric, _ = training.evaluate(model, data.load_split(place / "data", "selection"))
    assert told["rows"][1]["points"][0] == {"ratio": 0.5, "kept": 24, "metric": metric}


def test_single_weights_and_whole_layers_have_curves_too(place):  # noqa: F811
    do(train, place, "float", FLOAT | {"epochs": 2}, model="net:deep")
    told = do(sensitivity, place, "w", ASKED | {"granularity": ["weight"]}, {"model": "float"}, model="net:deep")
    model = models.load(owner(place, "net:deep"), place / "float")
    assert [row["name"] for row in told["rows"]] == list(masks.prunable(model))
    assert all(
        point["kept"] == row["width"] - round(point["ratio"] * row["width"])
        for row in told["rows"]
        for point in row["points"]
    )
    layers = ASKED | {"granularity": ["layer"]}
    told = do(sensitivity, place, "l", layers, {"model": "float"}, model="net:deep")
    assert [row["name"] for row in told["rows"]] == ["blocks.0", "blocks.1", "blocks.2"]
    assert [point["ratio"] for row in told["rows"] for point in row["points"]] == [1.0] * 3
    with pytest.raises(UsageError, match="'fpgm' has no score for granularity 'layer': one of l1, l2"):
        do(
            sensitivity,
            place,
            "x",
            ASKED | {"granularity": ["layer"], "criterion": "fpgm"},
            {"model": "float"},
            model="net:deep",
        )
    with pytest.raises(UsageError, match="nothing of the network can be cut as head: it has no such layer"):
        do(sensitivity, place, "x", ASKED | {"granularity": ["head"]}, {"model": "float"}, model="net:deep")


def test_the_picture_holds_a_line_a_layer_and_hostile_names():
    points = [{"ratio": 0.5, "kept": 2, "metric": 0.6}, {"ratio": 0.9, "kept": 1, "metric": 0.2}]
    rows = [{"name": f"<layer {index}>", "width": 4, "points": points} for index in range(30)]
    asked = {"name": "a & b", "metric_name": "accuracy", "metric": 0.8, "granularity": ["channel"], "criterion": "l2"}
    picture = ET.fromstring(svg({**asked, "rows": rows}))
    assert len(picture.findall("{*}path")) == 30
    assert {row["name"] for row in rows} < {one.text for one in picture.findall("{*}text")}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--ratio", "1.5"), "--ratio 1.5: shares that go, above 0 and below 1"),
        (("--run", "nowhere"), "no finished run at nowhere"),
        ((), "no recipe at deploy.toml"),
    ],
)
def test_what_cannot_be_asked_is_one_line(tmp_path, arguments, words):
    if arguments:
        (tmp_path / "deploy.toml").write_text('model = "net:build"\ndata = "data:splits"\ntargets = ["onnxruntime"]\n')
    done = deploy("sensitivity", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "sensitivity.svg").exists()
