"""A candidate's fault costs that candidate: where several models cannot be asked together, each is asked alone.

What breaks then (a file that does not load, a crash, no answer in time, outputs that are missing, of another shape or
not finite) is told apart, and the others go on. The runtime's own float must answer: every figure is against it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import StageError
from pipeline.stages import Job, measure
from targets import base, measurement
from targets.base import TargetError


@dataclass
class Answers:
    """`outputs`: id -> outputs by name. `failed`: id -> why it has none. `result`: the agent's."""

    outputs: dict[str, base.Batch] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)


def answers(
    target: base.Target, entrants: Sequence[measure.Entrant], folder: Path, batch: int, settings: Mapping[str, Any]
) -> Answers:
    """What `measure.outputs` gives, and who gives nothing. Raises StageError where that is the runtime's own float."""
    found = _asked(target, entrants, folder, batch, settings)
    _float_must(target, entrants, found.failed)
    return found


def not_finite(entrants: Sequence[measure.Entrant], outputs: Mapping[str, base.Batch]) -> dict[str, str]:
    """id -> which output of a quantized model has NaN or infinity."""
    return {
        one.id: f"output '{name}' has NaN or infinite values"
        for one in entrants
        if one.candidate.precision != "f32"
        for name, array in outputs.get(one.id, {}).items()
        if not np.isfinite(array).all()
    }


def timed(
    target: base.Target, entrants: Sequence[measure.Entrant], folder: Path, job: Job, name: str, share: float
) -> tuple[measurement.Timed, dict[str, str]]:
    """What `measure.time` gives of those that can be timed, and id -> why for the others.

    Raises StageError where the runtime's own float cannot, TargetError where each can alone, but not together.
    """
    try:
        return measure.time(target, entrants, folder, job, name, share), {}
    except TargetError:
        failed = {one.id: why for one in entrants if (why := _alone(target, one, folder, job))}
        _float_must(target, entrants, failed)
        if not failed:
            raise
    rest = [one for one in entrants if one.id not in failed]
    found, more = timed(target, rest, folder, job, name, share)
    return found, failed | more


def _asked(
    target: base.Target, entrants: Sequence[measure.Entrant], folder: Path, batch: int, settings: Mapping[str, Any]
) -> Answers:
    try:
        outputs, result = measure.outputs(target, entrants, folder, batch, settings)
        return Answers(outputs, {}, result)
    except TargetError as error:
        if len(entrants) == 1:
            return Answers(failed={entrants[0].id: str(error)})
    whole = Answers()
    for one in entrants:
        part = _asked(target, [one], folder, batch, settings)
        whole.outputs |= part.outputs
        whole.failed |= part.failed
        models = {**whole.result.get("models", {}), **part.result.get("models", {})}
        whole.result |= part.result
        whole.result["models"] = models
    return whole


def _alone(target: base.Target, one: measure.Entrant, folder: Path, job: Job) -> str:
    """Why a model cannot be timed, not even alone in one process; empty if it can."""
    try:
        measure.time(target, [one], folder, job, "alone.npz", share=0.0, processes=1)
    except TargetError as error:
        return str(error)
    finally:
        (job.out / "alone.npz").unlink(missing_ok=True)
    return ""


def _float_must(target: base.Target, entrants: Sequence[measure.Entrant], failed: Mapping[str, str]) -> None:
    for one in entrants:
        if one.id in failed and one.candidate.precision == "f32":
            raise StageError(f"{target.name}: its float model, which all others are compared with: {failed[one.id]}")
