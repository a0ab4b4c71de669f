"""What usually goes wrong, as rules: each looks at the facts and names its cause, or says nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.metrics import sqnr_db
from pipeline.explain.layers import LayerRow, first_break

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Facts:
    """All that rules look at. `floating`, `quantized`: the judged output [n, ...] for the same samples; `alone_db`:
    SQNR of the quantized model's answers to samples one by one against all together, None where they are the same or
    its batch is fixed; `mixes_at`: the first tensor where they differ.
    """

    rows: Sequence[LayerRow]
    floating: Array
    quantized: Array
    claims_int8: bool
    int8_mac_share: float | None
    alone_db: float | None = None
    mixes_at: str | None = None
    classes: Sequence[str] = field(default_factory=tuple)


@dataclass(frozen=True)
class Cause:
    """`layer`: where, None for the whole model. `text`: what was seen, and what to look at."""

    name: str
    layer: str | None
    text: str


NOT_QUANTIZED_DB = 70.0  # no 8-bit model is nearer to float
BATCH_DB = 40.0  # the same int8 model, together or alone: a code may round the other way
WRONG_RANGE = 0.05  # share of an input's values that no calibration on such data would clip
UNUSED_RANGE = 0.25  # share of the input's codes that calibration on such data would use at least
SHIFT_STEPS = 2.0
CLEARER_DB = 6.0


def not_quantized(facts: Facts) -> Iterator[Cause]:
    """Float posing as int8."""
    if not facts.claims_int8:
        return
    near = _db(facts.floating, facts.quantized)
    if facts.int8_mac_share == 0:
        text = "it says int8, and the runtime's compiled graph computes nothing in int8: the file is a float model"
        yield Cause("nothing is quantized", None, text)
    elif near >= NOT_QUANTIZED_DB:
        text = f"its answers are float's ({near:.0f} dB): no 8-bit model is that near"
        yield Cause("nothing is quantized", None, text)


def other_data(facts: Facts) -> Iterator[Cause]:
    """Calibrated on something else than what comes in now."""
    first = facts.rows[0] if facts.rows else None
    if first is None or first.clipped is None or first.range_used is None:
        return
    if first.clipped > WRONG_RANGE:
        text = f"{first.clipped:.0%} of the input's values lie beyond the range that it was calibrated to"
    elif first.range_used < UNUSED_RANGE:
        text = f"the input uses {first.range_used:.0%} of the range that it was calibrated to"
    else:
        return
    yield Cause("calibrated on other data", first.name, f"{text}: look at the calibration split and its preprocessing")


def shifted(facts: Facts) -> Iterator[Cause]:
    """A wrong zero point: everything is off by the same number of codes."""
    for row in _until_broken(facts.rows):
        if row.shift_steps is None or row.sqnr_db is None or abs(row.shift_steps) < SHIFT_STEPS:
            continue
        if row.level_db is None or row.level_db - row.sqnr_db > CLEARER_DB:
            text = f"every value is off by {row.shift_steps:+.0f} codes: look at its zero point, and its bias"
            yield Cause("a wrong zero point", row.name, text)
            return


def dead_channels(facts: Facts) -> Iterator[Cause]:
    """Channels that move in float and stand still in int8: the first tensor that has any."""
    row = next((row for row in _until_broken(facts.rows) if row.dead), None)
    if row is None:
        return
    which = ", ".join(map(str, row.dead[:5])) + (", ..." if len(row.dead) > 5 else "")
    text = f"stand still in int8 and move in float: channels {which} of axis {row.dead_axis}"
    yield Cause("dead channels", row.name, f"{text}: look at their weights and scales")


def swapped(facts: Facts) -> Iterator[Cause]:
    """Right answers in the wrong places of the output."""
    before, after = facts.floating, facts.quantized
    if before.ndim != 2 or before.shape != after.shape or not 1 < before.shape[1] <= 1_000:
        return
    from scipy.optimize import linear_sum_assignment

    apart = np.square(before[:, :, None] - after[:, None, :]).sum(axis=0, dtype=np.float64)
    _, place = linear_sum_assignment(apart)
    moved = [int(i) for i in np.flatnonzero(place != np.arange(len(place)))]
    if moved and _db(before, after[:, place]) - _db(before, after) > 10:
        pairs = ", ".join(f"{_called(i, facts)} is at {_called(int(place[i]), facts)}" for i in moved[:4])
        yield Cause("outputs are swapped", None, f"{pairs}: look at the order of the last layer's channels")


def mixes_samples(facts: Facts) -> Iterator[Cause]:
    """A sample's answer depends on its neighbours in the batch."""
    if facts.alone_db is not None and facts.alone_db < BATCH_DB:
        text = f"samples together and one by one differ ({facts.alone_db:.1f} dB)"
        yield Cause(
            "the answer depends on the batch", facts.mixes_at, f"{text}: look at this layer, or deploy at batch 1"
        )


def breaks(facts: Facts) -> Iterator[Cause]:
    """No rule of the others need apply for a layer to be where it goes wrong."""
    name = first_break(facts.rows)
    if name is not None:
        row = next(row for row in facts.rows if row.name == name)
        before = "" if row is facts.rows[0] else ", and better before it"
        yield Cause("it breaks here", name, f"{row.sqnr_db:.1f} dB{before}: look at this layer's weights and range")


RULES: tuple[Callable[[Facts], Iterator[Cause]], ...] = (
    not_quantized,
    mixes_samples,
    other_data,
    shifted,
    dead_channels,
    swapped,
    breaks,
)


def found(facts: Facts) -> list[Cause]:
    """Every cause that the facts speak for, in the order of RULES."""
    return [cause for rule in RULES for cause in rule(facts)]


def _until_broken(rows: Sequence[LayerRow]) -> Sequence[LayerRow]:
    """Up to the first tensor that breaks: what is seen behind it follows from it."""
    name = first_break(rows)
    names = [row.name for row in rows]
    return rows if name is None else rows[: names.index(name) + 1]


def _called(index: int, facts: Facts) -> str:
    return f"'{facts.classes[index]}'" if index < len(facts.classes) else f"class {index}"


def _db(reference: Array, test: Array) -> float:
    return sqnr_db(reference, test) if np.isfinite(test).all() else float("-inf")
