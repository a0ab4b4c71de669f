"""Splits: what a data factory may return, and what is refused with words."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import data
from pipeline.errors import UsageError


def splits(**changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    returned: dict[str, Any] = {
        name: (rng.normal(size=(6, 3)).astype(np.float32), np.arange(6) % 2) for name in data.SPLITS
    }
    return returned | changes


def test_saved_and_loaded(tmp_path: Path) -> None:
    groups = np.array(["a", "b"] * 3)
    x = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)
    made = data.from_factory(splits(gate=(x, np.zeros(6, int), groups), labels=["no", "yes"]), "d:f")
    data.save(made, tmp_path)
    gate = data.load_split(tmp_path, "gate")
    np.testing.assert_array_equal(gate.inputs["input"], x)
    assert gate.groups is not None
    assert gate.groups.tolist() == groups.tolist()
    assert data.load_split(tmp_path, "train").groups is None


def test_tags_are_saved_and_loaded(tmp_path: Path) -> None:
    x = np.random.default_rng(1).normal(size=(6, 3)).astype(np.float32)
    tags = {"light": ["day", "night"] * 3, "year": np.arange(6)}
    data.save(data.from_factory(splits(gate=(x, np.zeros(6, int), None, tags)), "d:f"), tmp_path)
    gate = data.load_split(tmp_path, "gate")
    assert gate.groups is None
    assert {name: values.tolist() for name, values in gate.tags.items()} == {
        "light": ["day", "night"] * 3,
        "year": list("012345"),
    }
    assert not data.load_split(tmp_path, "train").tags


def test_doubles_become_floats() -> None:
    made = data.from_factory(splits(train=(np.random.default_rng(2).normal(size=(4, 3)), np.zeros(4, int))), "d:f")
    assert made.splits["train"].inputs["input"].dtype == np.float32


RNG = np.random.default_rng(3)
X = RNG.normal(size=(4, 3)).astype(np.float32)
Y = np.zeros(4, int)
BAD = X.copy()
BAD[1, 2] = np.nan


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"gate": (X[:0], Y[:0])}, "split 'gate' is empty"),
        ({"gate": (BAD, Y)}, "NaN or infinity in 1 of 4 samples"),
        ({"gate": (X, Y[:3])}, "lengths differ"),
        ({"gate": (X[:, :2], Y)}, "split 'gate' has inputs"),
        ({"gate": (X, Y.astype(float))}, "split 'gate' has labels"),
        ({"gate": (X, np.array(["a"] * 4))}, "expected class numbers"),
        ({"gate": ({"a b": X}, Y)}, "name inputs as parameters of forward"),
        ({"gate": (X, Y - 1)}, "labels -1..-1"),
        ({"gate": (X, Y + 2), "labels": ["a", "b"]}, "but 2 class names"),
        ({"gate": (X, Y, None, {"light": ["day"]})}, "lengths differ"),
        ({"gate": (X, Y, None, {"a b": ["day"] * 4})}, "name tags with letters"),
        ({"gate": X}, "expected (inputs, labels)"),
        ({"gate": (np.array(["a"] * 4), Y)}, "expected numbers"),
        ({"gate": ([[1.0], [1.0, 2.0]], Y[:2])}, "cannot be read as arrays"),
    ],
)
def test_bad_splits_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        data.from_factory(splits(**changes), "d:f")
    assert says in str(caught.value)
    assert "d:f" in str(caught.value)


def test_a_missing_split_is_named() -> None:
    returned = splits()
    del returned["gate"]
    with pytest.raises(UsageError, match=r"lacks the splits \['gate'\]"):
        data.from_factory(returned, "d:f")


def test_a_leak_is_counted_with_an_example() -> None:
    returned = splits()
    x = returned["gate"][0]
    x[4] = returned["train"][0][2]
    x[5] = returned["train"][0][3]
    with pytest.raises(UsageError) as caught:
        data.from_factory(returned, "d:f")
    assert "2 in 'train' and 'gate' (for example train[2] = gate[4])" in str(caught.value)


def test_equal_samples_within_a_split_are_no_leak() -> None:
    x = np.ones((4, 3), np.float32)
    data.from_factory(splits(train=(x, Y)), "d:f")
