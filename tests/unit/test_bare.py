"""One model file, profiled without a recipe: what comes back, what is refused, and what is named as disturbed."""

import numpy as np
import pytest
from onnx import TensorProto, checker, helper, save

from pipeline import bare
from pipeline.errors import DeployError, StageError, UsageError
from pipeline.stages import silent
from targets import timing

WIDTH = 1 << 17  # what OpenVINO counts in whole microseconds takes some of them


@pytest.fixture
def model(tmp_path):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", WIDTH])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(made)
    path = tmp_path / "model.onnx"
    save(made, path)
    return path


def test_a_file_is_profiled_with_its_evidence(model, tmp_path, monkeypatch):
    monkeypatch.setattr(bare, "RULES", {**bare.RULES, "warmup_s": 0.01, "budget_s": 0.01})
    found = bare.profile(model, "onnxruntime", None, 1, None, tmp_path / "samples.npz", silent)
    with np.load(tmp_path / "samples.npz") as arrays:
        assert found["latency_ms"] == timing.latency(arrays["model"])
    assert found["latency_ms"]["n"] >= 1000
    assert found["latency_ms"]["p99"] > 0
    assert found["device"]["uri"] == "local://"
    assert found["conditions"][0]["rounds"] == 0
    assert found["conditions"][-1]["rounds"] == found["latency_ms"]["n"]
    assert not found["interrupted"]


@pytest.mark.parametrize(("target", "op"), [("onnxruntime", "Relu"), ("openvino", "Subgraph")])
def test_the_layers_of_a_file_are_one_table_for_every_runtime(model, tmp_path, monkeypatch, target, op):
    monkeypatch.setattr(bare, "RULES", {**bare.RULES, "warmup_s": 0.01, "budget_s": 0.01, "min_rounds": 10})
    found = bare.profile(model, target, None, 1, None, tmp_path / "samples.npz", silent, layers=True)
    (row,) = found["layers"]
    assert row["op"] == op
    assert set(row) == {"op", "name", "type", "precision", "ms", "share"}
    assert row["precision"] == "f32"
    assert sum(row["share"] for row in found["layers"]) == pytest.approx(1)
    assert found["layers_unavailable"] is None


def test_a_runtime_that_tells_no_layers_says_so(tmp_path):
    from targets.channels import LOCAL, open_device
    from tests.devices import toy

    task = {"do": "layers", "model": "m", "inputs": "inputs", "runs": 3, "seed": 0}
    result = open_device(LOCAL).run(toy.request(tmp_path, task), tmp_path)["tasks"][0]
    assert result["layers"] is None
    assert result["unavailable"] == "its runtime tells no times of single ops"


def test_a_file_that_is_no_model_is_the_runtimes_own_words(tmp_path):
    (tmp_path / "model.tflite").write_bytes(b"no model")
    with pytest.raises(StageError, match="does not load"):
        bare.profile(tmp_path / "model.tflite", "tflite", None, 1, None, tmp_path / "s.npz", silent)
    assert not (tmp_path / "s.npz").exists()


@pytest.mark.parametrize(("device", "target"), [("shh://board", "onnxruntime"), (None, "onnxrumtime")])
def test_a_wrong_name_is_the_users(model, tmp_path, device, target):
    with pytest.raises(UsageError, match="did you mean"):
        bare.profile(model, target, device, 1, None, tmp_path / "s.npz", silent)


def test_durations():
    assert [bare.seconds(text) for text in ("90", "90s", "10m", "1h")] == [90, 90, 600, 3600]
    for text in ("", "m", "-1s", "0", "nan", "10 minutes"):
        with pytest.raises(DeployError, match="--soak"):
            bare.seconds(text)


QUIET = {"frequencies_khz": [2000000], "load_1m": 0.5, "affinity": [0, 1], "preempted": 0}


@pytest.mark.parametrize(
    ("change", "scale", "words"),
    [
        ({}, 1.0, None),
        ({"frequencies_khz": None, "load_1m": None, "preempted": None, "affinity": None}, 1.0, None),
        ({"frequencies_khz": [1500000]}, 1.0, "throttled: the cores fell from 2000 to 1500 MHz"),
        ({"frequencies_khz": [1901000]}, 1.0, None),  # 5 % are nothing
        ({"frequencies_khz": [1899000]}, 1.0, "throttled: the cores fell from 2000 to 1899 MHz"),
        ({"frequencies_khz": [2500000]}, 1.0, None),  # they rose
        ({"frequencies_khz": [2400000, 1000000]}, 1.0, "throttled: the cores fell from 2000 to 1700 MHz"),  # the mean
        ({"load_1m": 2.0}, 1.0, None),  # as many as there are cores
        ({"load_1m": 3.0}, 1.0, "load 3.0 on 2 cores"),
        ({"preempted": 9}, 1.0, None),
        ({"preempted": 10}, 1.0, "took the core 10 times"),
        ({"preempted": 40}, 1.0, "took the core 40 times"),
        ({}, 1.2, "the last third is 20% slower"),
        ({}, 0.8, "the last third is 20% faster"),
        ({}, 1.03, None),
    ],
)
def test_what_disturbed_is_named_and_nothing_else(change, scale, words):
    samples = np.full(999, 1_000_000, np.int64)
    samples[-333:] = int(scale * 1_000_000)
    said = timing.disturbances(samples, [QUIET, {**QUIET, **change}], steady=True)
    assert len(said) == (words is not None)
    assert words is None or words in said[0]


def test_cores_that_fell_from_their_height_and_rose_again_are_not_named_and_those_that_stayed_low_are():
    def said(*clocks):
        looks = [{**QUIET, "frequencies_khz": [clock]} for clock in clocks]
        return timing.disturbances(np.full(9, 5, np.int64), looks, steady=True)

    assert said(1500000, 2000000, 1990000) == []
    assert said(1500000, 2000000, 1500000) == ["throttled: the cores fell from 2000 to 1500 MHz"]


def test_a_warm_up_that_did_not_settle_is_named():
    assert timing.disturbances(np.full(9, 5, np.int64), [QUIET, QUIET], steady=False) == ["the warm-up did not settle"]
