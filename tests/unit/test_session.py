"""Taps made one batch ahead come in order, and errors come where their batch would have."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from targets.base import Batch
from targets.session import tap_ahead


class Doubles:
    """A session whose only tensor is twice its input; it breaks on a negative one."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def run(self, batch: Batch) -> Batch:
        return {"y": batch["x"] * 2}

    def tap(self, batch: Batch, names: Sequence[str]) -> Batch:
        self.seen.append(float(batch["x"][0]))
        if batch["x"][0] < 0:
            raise ValueError("negative")
        return dict.fromkeys(names, batch["x"] * 2)


def batches(*values: float) -> list[Batch]:
    return [{"x": np.array([value])} for value in values]


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_every_batch_once_and_in_order(count: int) -> None:
    found = [float(one["y"][0]) for one in tap_ahead(Doubles(), batches(*range(count)), ["y"])]
    assert found == [2.0 * value for value in range(count)]


def test_an_error_comes_where_its_batch_would_have() -> None:
    session = Doubles()
    taps = tap_ahead(session, batches(1, 2, -1, 3), ["y"])
    assert [float(next(taps)["y"][0]) for _ in range(2)] == [2.0, 4.0]
    with pytest.raises(ValueError, match="negative"):
        list(taps)


def test_no_more_than_one_batch_is_made_ahead() -> None:
    session = Doubles()
    taps = tap_ahead(session, batches(1, 2, 3, 4), ["y"])
    next(taps)
    taps.close()
    assert len(session.seen) <= 2
