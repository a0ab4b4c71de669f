"""Size, accuracy and latency through the stages, as rows with bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.release.report import CandidateRow, Report, TargetRow

FIELDS = ("weight_bytes", "macs", "metric", "latency_ms")
FLOAT_BYTES = 4  # a weight before quantization


@dataclass(frozen=True)
class Step:
    """A model on its way. `metric`: the task's on the selection split. None = this step has no such figure."""

    name: str
    weight_bytes: int | None = None
    macs: int | None = None
    metric: float | None = None
    latency_ms: float | None = None
    shipped: bool = False


@dataclass(frozen=True)
class Bar:
    """A step's figure and its share of the longest bar, in percent."""

    value: float | None
    percent: float


def steps(report: Report) -> list[tuple[Step, dict[str, Bar]]]:
    """The original, each stage that changed the weights, then each target's float and what it ships."""
    original = report.float_
    first = next((row for row in report.stages if row.name in ("load", "train")), None)
    title = "float, trained" if first is not None and first.name == "train" else "float, as it came"
    rows = [Step(title, FLOAT_BYTES * original.params, original.macs, first.metric if first else None)]
    rows += [
        Step(row.name, FLOAT_BYTES * row.params, row.macs, row.metric)
        for row in report.stages
        if row.params is not None and row.name.split()[0] in ("rewrite", "prune", "prune-measured", "distill")
    ]
    for name, target in report.targets.items():
        for candidate in target.candidates:
            ships = candidate.id == target.shipped
            if ships or (candidate.precision == "f32" and candidate.id == "float"):
                latency = _latency(target, candidate)
                title = f"{name}: {candidate.id}"
                rows.append(Step(title, candidate.weight_bytes, None, candidate.metric, latency, ships))
    most = {
        field: _most([getattr(row, field) for row in rows])
        for field in ("weight_bytes", "macs", "metric", "latency_ms")
    }
    return [
        (row, {field: Bar(getattr(row, field), _share(getattr(row, field), top)) for field, top in most.items()})
        for row in rows
    ]


def _latency(target: TargetRow, candidate: CandidateRow) -> float | None:
    """The profile's median of what ships or of its float; the race's where there is no profile."""
    run = target.runs[0] if target.runs else None
    profiled = run and (run.latency_ms if candidate.id == target.shipped else run.float_latency_ms)
    found = profiled or candidate.latency_ms
    return found.p50 if found else None


def _most(values: Sequence[float | None]) -> float:
    return max((value for value in values if value is not None), default=0.0)


def _share(value: float | None, most: float) -> float:
    return round(100 * value / most, 1) if value and most else 0.0
