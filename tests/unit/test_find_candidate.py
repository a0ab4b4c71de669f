"""Candidates by name: what a target proposes, and our ranges by any observer."""

import pytest

from targets import base, registry
from targets.base import Model, TargetError


def test_an_observer_that_is_not_proposed_is_found_too(tmp_path) -> None:
    target, model = registry.load("onnxruntime"), Model(tmp_path / "model.onnx", (), ())
    assert base.find(target, model, "ours-mse") in target.candidates(model)
    found = base.find(target, model, "ours-octav")
    assert (found.quantizer, found.observer, found.scheme, found.precision) == ("ours", "octav", "u8s8", "int8")
    with pytest.raises(TargetError, match="onnxruntime has no candidate 'nncf', it has"):
        base.find(target, model, "nncf")
