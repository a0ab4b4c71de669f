"""Symmetric or not, per tensor or per channel: each strategy that a target declares really is what the file holds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from calibration.encodings import Encoding, encoding
from calibration.metrics import sqnr_db
from calibration.qparams import QParams
from calibration.schemes import SCHEMES, STRATEGIES
from calibration.weights import HALF_RANGE_CODE
from targets import agent, base, codes, encodings, registry

from .case import Case
from .checks import FLOOR_DB, QUANTIZED_DB

BUILT_IN = ("onnxruntime", "openvino", "tflite")
RANGED = [name for name in STRATEGIES if name not in ("default", "dynamic")]


def encodings_of(asked: QParams) -> Encoding:
    return encoding(asked.scale, asked.zero_point, asked.scheme.bits, asked.scheme.signed)


@pytest.mark.parametrize("strategy", RANGED)
@pytest.mark.parametrize("target", BUILT_IN)
def test_the_file_holds_what_the_strategy_says(case_of: Callable[[str, str], Case], target: str, strategy: str) -> None:
    case = case_of(target, "conv_bn_relu")
    name = f"ours-minmax-{strategy}"
    plain = next(c for c in case.candidates if (c.quantizer, c.observer) == ("ours", "minmax"))
    if f"{plain.scheme}-{strategy}" not in registry.load(target).capabilities.schemes:
        with pytest.raises(base.TargetError, match="has no scheme"):
            base.find(case.target, case.model, name)
        return
    candidate = base.find(case.target, case.model, name)
    model = case.artifact(candidate)
    scheme = SCHEMES[candidate.scheme or ""]
    found = encodings.read(model.path).activations
    asked = case.ranges(candidate) or {}
    for key in found.keys() & asked.keys():
        want = encodings_of(asked[key])
        assert (found[key].offset, found[key].symmetric or not scheme.activation.symmetric) == (want.offset, True)
        assert found[key].scale == pytest.approx(want.scale, rel=1e-6)
    stored, before = codes.read(model.path), codes.read(case.artifact(plain).path)
    largest = {key: np.abs(array.astype(int)).max(axis=1) for key, array in stored.items()}
    assert len(stored) == len(before) >= 2
    if strategy == "per_tensor":  # one scale: only the largest channel reaches the end
        assert all(ends.max() == 127 for ends in largest.values())
        assert any((ends < 127).any() for ends in largest.values())
    elif strategy == "half_range":
        assert codes.half_range(stored) == sorted(stored)
        assert all((ends == HALF_RANGE_CODE).all() for ends in largest.values())
    else:
        assert all((ends == 127).all() for ends in largest.values())
    suited = case.target.capabilities.saturating
    if agent.saturates() and "default" not in suited and strategy not in suited:
        return  # its kernels overflow here with weights of the full range: what they answer says nothing about the file
    db = sqnr_db(case.network.reference, case.logits(candidate))
    assert FLOOR_DB["ours"] - 12 < db < QUANTIZED_DB  # two bits at most are given away
