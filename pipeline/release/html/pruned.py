"""What prunings took out of which layer, and what `deploy sensitivity` found, for the page."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from pipeline.release.html import words
from pipeline.release.html.svg import Scale, chart, path
from pipeline.release.report import SENSITIVITY, Pruning, Report, Stop

LATENCY = ("latency", "latency_ms")
UNITS: dict[str, Callable[[float], str]] = {  # of what a stop limits
    "macs": lambda value: f"{words.count(value)} MACs",
    "parameters": lambda value: f"{words.count(value)} parameters",
    "bytes": words.size,
    **dict.fromkeys(LATENCY, words.milliseconds),
    "drop": lambda value: f"{words.number(value, '.3g')} lost",
}
LINE = (120.0, 22.0)  # a curve in a table: width, height


def prunings(report: Report) -> list[dict[str, Any]]:
    """Each pruning of the run: its rows with the share that stays, and in words where it stopped and what it left."""
    cuts = [(row.name, row.pruning) for row in report.stages if row.pruning is not None]
    return [{"name": name, "layers": _layers(cut), "says": _says(cut), "kept": cut.kept} for name, cut in cuts]


def _layers(cut: Pruning) -> list[dict[str, Any]]:
    return [{**row.model_dump(), "percent": round(100 * row.after / max(1, row.before), 1)} for row in cut.layers]


def _says(cut: Pruning) -> list[str]:
    told = [_stopped(cut.stop)] if cut.stop else []
    if cut.stop and cut.stop.tries:
        tries = (f"{words.percent(one.share, 0)}: {UNITS[cut.stop.name](one.value)}" for one in cut.stop.tries)
        told.append(f"tried, share of the MACs and what was measured: {', '.join(tries)}")
    if cut.faster:
        times = (f"{precision} {speed:.2f}" for precision, speed in cut.faster.items())
        told.append(f"measured widths: times the unpruned network's speed in {', '.join(times)}")
    return told


def _stopped(stop: Stop) -> str:
    show = UNITS[stop.name]
    whole = f"; unpruned it takes {show(stop.whole)}" if stop.name in LATENCY and stop.whole is not None else ""
    return f"stopped at {show(stop.reached)}, where {show(stop.limit)} were allowed{whole}"


def sensitivity(folder: Path) -> dict[str, Any] | None:
    """The curves that lie beside the report, those that can spare least first; None where there are none to read."""
    try:
        found = json.loads((folder / SENSITIVITY).read_text(encoding="utf-8"))
        errors = not found.get("higher", True)  # the largest is the worst
        rows = sorted(found["rows"], key=lambda row: row["points"][-1]["metric"], reverse=errors)
        values = [found["metric"], *(point["metric"] for row in rows for point in row["points"])]
        low, high = min(values), max(values)
        up = Scale(low, high if high > low else low + 1, LINE[1] - 2, 2)
        across = Scale(0.0, 1.0, 2, LINE[0] - 2)
        ratios = sorted({point["ratio"] for row in rows for point in row["points"]})
        return {
            **{key: found[key] for key in ("metric", "metric_name", "criterion")},
            "kinds": ", ".join(found["granularity"]),
            "ratios": ratios,
            "rows": [_curve(row, found["metric"], ratios, across, up) for row in rows],
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None


def _curve(row: Mapping[str, Any], whole: float, ratios: list[float], across: Scale, up: Scale) -> dict[str, Any]:
    at = {point["ratio"]: point["metric"] for point in row["points"]}
    drawn = path([(across(x), up(y)) for x, y in sorted({0.0: whole, **at}.items())], class_="curve")
    picture: Markup = chart(*LINE, f"{row['name']}: the metric against the share that goes", [drawn])
    return {"name": row["name"], "width": row["width"], "at": [at.get(ratio) for ratio in ratios], "picture": picture}
