"""Candidates and variants beyond what a target proposes: each runs, and is what its name says."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from calibration.metrics import sqnr_db
from pipeline.stages.quantize import shares
from targets import base, registry

from .case import Case
from .checks import FLOOR_DB, QUANTIZED_DB

BUILT_IN = ("onnxruntime", "openvino", "tflite")
FURTHER = [(name, candidate.id) for name in BUILT_IN for candidate in registry.load(name).capabilities.further]
VARIANTS = [(name, variant) for name in BUILT_IN for variant in registry.load(name).capabilities.variants]
NETWORK = "linear"
STORED = {"f16": 0.55, "w8": 0.35, "int8": 0.35}  # bytes of weights and biases, of float's


@pytest.mark.parametrize(("target", "name"), FURTHER)
def test_it_is_what_its_name_says(case_of: Callable[[str, str], Case], target: str, name: str) -> None:
    case = case_of(target, NETWORK)
    candidate = base.find(case.target, case.model, name)
    model = case.artifact(candidate)
    assert case.target.weight_bytes(model) <= STORED[candidate.precision] * case.target.weight_bytes(case.model)
    floor, most = (50.0, 100.0) if candidate.precision == "f16" else (FLOOR_DB["vendor"], QUANTIZED_DB)
    assert floor < sqnr_db(case.logits(case.floating), case.logits(candidate)) < most
    share = shares(case.target.inspect(model, candidate))["int8_mac_share"]
    assert share == (1 if candidate.precision == "int8" else 0)


@pytest.mark.parametrize(("target", "variant"), VARIANTS)
def test_a_variant_is_the_same_file_run_otherwise(
    case_of: Callable[[str, str], Case], target: str, variant: str
) -> None:
    case = case_of(target, "conv_bn_relu")
    plain = next(c for c in case.ours if c.observer == "minmax")
    candidate = base.find(case.target, case.model, f"{plain.id}@{variant}")
    assert case.target.options(candidate).items() > case.target.options(plain).items() or target == "tflite"
    model = case.artifact(plain)
    logits = case.run(model, candidate, case.network.held_out)[case.program.outputs[0].name]
    assert FLOOR_DB["ours"] - 4 < sqnr_db(case.network.reference, logits) < QUANTIZED_DB
    assert case.target.inspect(model, candidate)


@pytest.mark.parametrize(
    ("target", "name", "why"),
    [
        ("onnxruntime", "ours-mse-int16", "no integer kernels for activations of 16 bits"),
        ("openvino", "ours-mse-int16", "no integer kernels of 16 bits"),
        ("tflite", "ours-mse-half_range", "no weights of half the range"),
        ("tflite", "ours-mse@bf16", "no bf16 arithmetic"),
        ("openvino", "ours-mse@no-xnnpack", r"it has \['no-lp', 'bf16'\]"),
    ],
)
def test_what_a_target_lacks_is_refused_with_the_reason(
    case_of: Callable[[str, str], Case], target: str, name: str, why: str
) -> None:
    case = case_of(target, NETWORK)
    with pytest.raises(base.TargetError, match=why) as refused:
        base.find(case.target, case.model, name)
    assert refused.value.kind == "unsupported"
