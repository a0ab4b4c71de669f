"""Outputs that are no answer of a last layer are right on every target, and none is judged by another's figure."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from calibration import fidelity
from calibration.metrics import sqnr_db
from targets.base import Batch, Target

from .case import OWNER, Case, Network, hand_over
from .networks import ends

FLOAT_DB, INT8_DB = 60.0, 25.0  # scores that share eight bits with pixels are all 0: 0 dB


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    def draw(rng: np.random.Generator, n: int) -> Batch:
        return {"input": rng.standard_normal((n, 3, 12, 10)).astype(np.float32)}

    owner = {key: value.format(ends.__name__) for key, value in OWNER.items()}
    return hand_over("ends", owner, draw, tmp_path_factory.mktemp("ends"))


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "tflite"])
def test_each_output_and_each_channel_of_it_is_near_float(
    network: Network, installed: Callable[[str], Target], name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    case = Case(installed(name), network, tmp_path_factory.mktemp(name))
    wanted = case.outputs(case.floating)
    np.testing.assert_array_equal(wanted["echo"], network.held_out["input"])
    np.testing.assert_array_equal(wanted["top"], wanted["logits"].argmax(1))
    assert sqnr_db(network.reference, wanted["rows"]) > FLOAT_DB
    ours = next(one for one in case.ours if one.observer == "minmax")
    found = case.outputs(ours)
    assert list(found) == list(wanted)
    np.testing.assert_array_equal(found["same"], found["logits"])
    for key in ("rows", "logits", "inside", "echo"):
        seen = fidelity.output(key, wanted[key], found[key])
        worst = min([one.sqnr_db for one in seen.worst], default=np.inf)
        assert min(worst, np.inf if seen.sqnr_db is None else seen.sqnr_db) > INT8_DB, seen
        assert not seen.dead
