"""Findings: what is suspicious about a model that runs and looks right. A table of named checks over stages' metadata.

They explain and warn; what must hold is the gate's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Facts = Mapping[str, Any]
SAME_DB = 40.0
FAR_DB = 10.0  # of an output of what ships against the runtime's own float: a tenth of it is noise
NAMED = 3  # tensors that a text names


@dataclass(frozen=True)
class Finding:
    """`check`: its name in FINDINGS. `text`: what, where, and what it means or what to do."""

    check: str
    text: str


def _absurd(found: Mapping[str, int]) -> str:
    values = f"{sum(found.values()):,} values beyond +-1e30 or infinite (a mask?)"
    return f"{values} were left out of the ranges of {_some(list(found))}, where they saturate"


def _constant(found: Sequence[str]) -> str:
    return f"{_some(found)} had one value for all calibration samples: part of the model may be dead"


def _half_range(found: Sequence[str]) -> str:
    return (
        f"weights of {_some(found)} use half of the int8 range: a bit of precision is given away, for kernels that add "
        "pairs of products in 16 bits (x86 without VNNI); elsewhere for nothing"
    )


def _far(found: Sequence[str]) -> str:
    return (
        f"{', '.join(found)} from float; a task's metric looks at one output alone: ask for all with gate.min_sqnr_db, "
        "or look for the cause with 'deploy explain'"
    )


def _islands(found: Sequence[str]) -> str:
    return ", ".join(found)


def _saturation(found: Mapping[str, float]) -> str:
    where = ", ".join(f"{name} ({db:.1f} dB from here)" for name, db in found.items())
    return (
        f"other answers on {where}: pairs of products overflow 16 bits there; measure on such a device (--device), or "
        "ship a candidate with half-range weights ([quantize] candidates)"
    )


# Name -> the key that it looks at in the metadata of observe and of what ships, and what it says of what is there.
FINDINGS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "constants out of range": ("absurd", _absurd),
    "zero-variance tensors": ("constant", _constant),
    "half-range weights": ("half_range", _half_range),
    "saturation": ("older_cpus", _saturation),
    "output far from float": ("far", _far),
    "in float": ("islands", _islands),
}


def differs(sqnr_db: float | None) -> bool:
    """Is an int8 model further from itself elsewhere than codes that round the other way explain? None: identical."""
    return sqnr_db is not None and sqnr_db < SAME_DB


def findings(facts: Facts) -> list[Finding]:
    """What the checks say, in the table's order; what is empty or missing says nothing."""
    return [Finding(name, says(facts[key])) for name, (key, says) in FINDINGS.items() if facts.get(key)]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more tensors" if len(names) > NAMED else ""
    return ", ".join(f"'{name}'" for name in names[:NAMED]) + more
