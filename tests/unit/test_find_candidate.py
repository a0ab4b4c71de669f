"""Candidates by name: what a target proposes, and our ranges by any observer."""

import pytest

from targets import base, registry
from targets.base import Model, TargetError


def test_an_observer_that_is_not_proposed_is_found_too(tmp_path) -> None:
    target, model = registry.load("tflite"), Model(tmp_path / "model.tflite", (), ())
    assert base.find(target, model, "ours-mse") in target.candidates(model)
    found = base.find(target, model, "ours-octav")
    assert (found.quantizer, found.observer, found.scheme, found.precision) == ("ours", "octav", "s8s8", "int8")
    with pytest.raises(TargetError, match="tflite has no candidate 'nncf', it has"):
        base.find(target, model, "nncf")


def test_a_strategy_is_found_where_the_target_takes_it(tmp_path) -> None:
    target, model = registry.load("tflite"), Model(tmp_path / "model.tflite", (), ())
    found = base.find(target, model, "ours-percentile_99.9-per_tensor")
    assert (found.observer, found.scheme) == ("percentile_99.9", "s8s8-per_tensor")
    with pytest.raises(TargetError, match=r"tflite has no scheme 's8s8-half_range' .*it takes s8s8, ") as refused:
        base.find(target, model, "ours-mse-half_range")
    assert refused.value.kind == "unsupported"
