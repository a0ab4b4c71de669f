"""race: candidates timed interleaved with that runtime's own float, clear losers in a first heat only.

Only measures. Who is timed and which candidate ships follows from stored figures (pipeline/release/choose.py), so a
stored race makes everything after it deterministic.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.data import load_split
from pipeline.stages import Job, faults, measure
from targets import base, registry, timing

HEAT = 0.25  # share of the time and rounds that the first heat gets
FEW = 4  # with so many candidates there is no heat
LOST = 0.75  # share of the best one's speed that even the upper end of a loser's interval does not reach


def run(job: Job) -> dict[str, Any]:
    """Inputs: data, float, and `candidate:ID` for each. Files: `samples.npz` and, of a first heat, `heat.npz` (raw, ns,
    int64). Metadata `candidates`: a row each, with `left`, why it was not in the final, or None, but for those of
    `failed`: id -> why it cannot be timed."""
    target = registry.load(job.settings["target"])
    floating = base.read_manifest(job.inputs["float"])
    entrants = measure.entrants(job, target, floating)
    split = load_split(job.inputs["data"], "selection")
    rows: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    with measure.workspace(split, floating) as folder:
        if len(entrants) > FEW:
            heat, _, failed = _heat(target, entrants, folder, job, "heat.npz", HEAT)
            floats = {entrant.id for entrant in entrants if entrant.candidate.precision == "f32"}
            rows = {name: heat[name] | {"left": why} for name, why in losers(heat, floats).items()}
            entrants = [entrant for entrant in entrants if entrant.id not in rows and entrant.id not in failed]
        final, result, more = _heat(target, entrants, folder, job, "samples.npz", 1.0)
    rows, failed = final | rows, failed | more
    order = [name for name in job.settings["candidates"] if name not in failed]
    return {
        "candidates": [rows[name] for name in order],
        "failed": failed,
        "device": result["device"],
        "models": result["models"],
    }


def _heat(
    target: base.Target, entrants: Sequence[measure.Entrant], folder: Path, job: Job, name: str, share: float
) -> tuple[dict[str, dict[str, Any]], dict[str, Any], dict[str, str]]:
    timed, failed = faults.timed(target, entrants, folder, job, name, share)
    raw, counts = timed.ns, measure.counts(timed.result)
    reference = next(entrant.id for entrant in entrants if entrant.candidate.precision == "f32")
    rows = {
        entrant.id: {
            "id": entrant.id,
            "latency_ms": timing.latency(raw[entrant.id]) if entrant.id in raw else None,
            "speedup": timing.speedup(raw[entrant.id], raw[reference], timed.rounds) if entrant.id in raw else None,
            "board": counts.get(entrant.id),
            "left": None,
        }
        for entrant in entrants
        if entrant.id not in failed
    }
    return rows, timed.result, failed


def losers(rows: Mapping[str, Mapping[str, Any]], stay: Collection[str]) -> dict[str, str]:
    """Of a heat: candidate -> why it is not timed further. `stay`: float, which the others are compared with."""
    timed = {n: row["speedup"] for n, row in rows.items() if row["speedup"] and row["speedup"]["median"] is not None}
    best = max(timed, key=lambda name: float(timed[name]["low"]), default=None)
    if best is None:
        return {}
    return {
        name: f"left after the first heat: {found['median']:.2f}x, {best} {timed[best]['median']:.2f}x"
        for name, found in timed.items()
        if name not in stay and found["high"] < LOST * timed[best]["low"]
    }
