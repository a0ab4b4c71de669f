"""Axes of varying length: what a data factory may declare, and what becomes of ragged samples."""

from typing import Any

import numpy as np
import pytest

from pipeline import lengths
from pipeline.errors import UsageError
from pipeline.lengths import Lengths

GOOD: dict[str, Any] = {"inputs": {"ids": 1}, "min": 1, "max": 4, "mask": "mask"}


def test_ragged_samples_are_padded_and_the_mask_says_where() -> None:
    varying = lengths.of({"lengths": GOOD | {"inputs": {"ids": 1, "mask": 1}}}, "d:f")
    assert varying is not None
    found = lengths.padded({"ids": [[5], [1, 2, 3, 4], [7, 8]]}, varying, "d:f")
    assert found["ids"].tolist() == [[5, 0, 0, 0], [1, 2, 3, 4], [7, 8, 0, 0]]
    assert found["mask"].tolist() == [[1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 0]]
    assert varying.cut(found, 2)["mask"].tolist() == [[1, 0], [1, 1], [1, 1]]


def test_the_axis_may_be_any_of_a_sample() -> None:
    varying = Lengths({"input": 2}, 2, 5)
    found = lengths.padded([np.ones((3, 2)), np.ones((3, 5))], varying, "d:f")
    assert found["input"].shape == (2, 3, 5)
    assert found["input"].sum() == 3 * 2 + 3 * 5
    assert varying.cut(found, 3)["input"].shape == (2, 3, 3)


def test_both_bounds_are_compared() -> None:
    assert Lengths({"x": 1}, 1, 128).compared == (1, 5, 25, 128)
    assert Lengths({"x": 1}, 1, 2).compared == (1, 2)


def test_what_is_declared_comes_back_as_it_was() -> None:
    varying = lengths.of({"lengths": GOOD}, "d:f")
    assert varying is not None
    assert lengths.of({"lengths": varying.record()}, "d:f") == varying


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        ({"inputs": ["ids"], "min": 1}, "expected for example"),
        (GOOD | {"most": 3}, "expected for example"),
        (GOOD | {"min": 4}, "min below max"),
        (GOOD | {"min": 0}, "whole numbers from 1"),
        (GOOD | {"inputs": {}}, "whole numbers from 1"),
    ],
)
def test_bad_declarations_are_refused(declared: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        lengths.of({"lengths": declared}, "d:f")


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"ids": [[1, 2, 3, 4, 5]]}, "'ids'\\[0\\] has 5 steps, lengths declares 1 to 4"),
        ({"other": [[1]]}, "names the input 'ids', the data have \\['other'\\]"),
        ({"ids": [1, 2]}, "samples of 'ids' have no axis 1"),
        ({"ids": [np.ones((2, 3)), np.ones((2, 4))]}, "differ in more than the axis that varies"),
    ],
)
def test_samples_that_do_not_fit_are_named(inputs: Any, says: str) -> None:
    varying = lengths.of({"lengths": GOOD}, "d:f")
    assert varying is not None
    with pytest.raises(UsageError, match=says):
        lengths.padded(inputs, varying, "d:f")
