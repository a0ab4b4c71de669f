"""What a data factory may declare beside its splits, and that it is checked against them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pipeline import declared
from pipeline.errors import UsageError
from pipeline.loader import loader

RNG = np.random.default_rng(0)
RAW = RNG.integers(0, 255, (3, 12, 9, 3), np.uint8)
GOOD: dict[str, Any] = {"layout": "HWC -> CHW", "divide_by": 255, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
MADE = ((RAW / 255 - np.array(GOOD["mean"])) / np.array(GOOD["std"])).transpose(0, 3, 1, 2).astype(np.float32)
INPUTS = {"input": MADE}


def test_raw_samples_become_the_split_bit_for_bit() -> None:
    rules = declared.of({"preprocessing": GOOD}, INPUTS, "d:f")
    assert declared.check_raw(RAW, rules, INPUTS, "d:f") == 3
    np.testing.assert_array_equal(loader.prepare(RAW[1], rules["input"]), MADE[1])


@pytest.mark.parametrize("size", [(7, 5), (24, 31), (12, 9)])
def test_resizing_is_torchs_bilinear_without_antialiasing(size: tuple[int, int]) -> None:
    made = loader.prepare(RAW[0], {"layout": "HWC -> CHW", "resize": list(size)})
    image = torch.from_numpy(RAW[:1].astype(np.float64)).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(image, size, mode="bilinear", align_corners=False)[0]
    np.testing.assert_allclose(made, expected.numpy(), rtol=1e-6)


def test_a_shorter_side_and_the_middle() -> None:
    made = loader.prepare(RAW[0], {"layout": "HWC -> CHW", "resize": 18, "crop": [16, 10]})
    whole = loader.prepare(RAW[0], {"layout": "HWC -> CHW", "resize": [24, 18]})
    np.testing.assert_array_equal(made, whole[:, 4:20, 4:14])


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"devide_by": 255}, "unknown key 'devide_by': did you mean 'divide_by'?"),
        ({"layout": "HWC"}, "layout: String should match pattern"),
        ({"layout": "HWC -> CH"}, "name each axis once, and every raw axis on the right too"),
        ({"resize": [3, 3]}, "resize and crop need a layout with the axes H and W"),
        ({"layout": "HWC -> CHW", "crop": [3, 3]}, r"preprocessing makes \[3, 3\] pixels"),
        ({"layout": "HW -> HW"}, "makes 2 axes"),
        ({"mean": [0.1, 0.2]}, r"mean has 2 numbers, input 'input' of shape \[3, 12, 9\] has 3 channels"),
        ({"std": 0}, "std"),
    ],
)
def test_bad_declarations_are_named(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        declared.of({"preprocessing": keys}, INPUTS, "d:f")


@pytest.mark.parametrize(
    ("raw", "change", "says"),
    [
        (RAW, {"mean": 0.4}, r"makes other numbers of raw sample 0 of 'input' than calibration\[0\] holds"),
        (RAW[:, 1:], {}, r"makes \[3, 11, 9\] of raw sample 0 of 'input', the split has \[3, 12, 9\]"),
        (RAW[..., 0], {}, "expected the axes HWC"),
        (np.concatenate([RAW, RAW]), {}, "raw has more samples than 'calibration'"),
        ({"pixels": RAW}, {}, r"raw names \['pixels'\], the inputs are \['input'\]"),
    ],
)
def test_raw_samples_that_become_something_else_are_refused(raw: Any, change: dict[str, Any], says: str) -> None:
    rules = declared.of({"preprocessing": GOOD | change}, INPUTS, "d:f")
    with pytest.raises(UsageError, match=says):
        declared.check_raw(raw, rules, INPUTS, "d:f")


def test_an_unknown_activation_is_refused() -> None:
    assert declared.activation({"postprocessing": "sigmoid"}, "d:f") == "sigmoid"
    with pytest.raises(UsageError, match="expected 'softmax', 'sigmoid' or 'none'"):
        declared.activation({"postprocessing": "argmax"}, "d:f")
