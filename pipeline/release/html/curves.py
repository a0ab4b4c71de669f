"""A picture of its own for `deploy sensitivity`: a line for each layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from pipeline.release.html.svg import Scale, around, chart, element, line, path, text

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM, ROW = 760.0, 420.0, 60.0, 210.0, 34.0, 46.0, 15.0
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22")
DASHES = (None, "6 3", "2 3")
STYLE = '<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" font-size="12" '


def svg(found: Mapping[str, Any]) -> str:
    """The curves of `pipeline.sensitivity.measure`, each from the whole network's metric at ratio 0."""
    start = (0.0, found["metric"])
    curves = {row["name"]: [start, *((p["ratio"], p["metric"]) for p in row["points"])] for row in found["rows"]}
    height = max(HEIGHT, TOP + ROW * len(curves) + BOTTOM)
    across = Scale(0.0, 1.0, LEFT, WIDTH - RIGHT)
    up = around([metric for points in curves.values() for _, metric in points], height - BOTTOM, TOP)
    title = f"{found['name']}: {found['metric_name']} against the share of a layer that goes"
    below = f"share that goes ({', '.join(found['granularity'])}, by {found['criterion']})"
    lines = [_curve(index, name, points, across, up) for index, (name, points) in enumerate(curves.items())]
    parts = [
        element("rect", width=WIDTH, height=height, fill="white"),
        text(LEFT, 20, title, font_weight="bold"),
        *_grid(across, up, height),
        *(part for drawn in lines for part in drawn),
        text((LEFT + WIDTH - RIGHT) / 2, height - 8, below, text_anchor="middle"),
    ]
    return str(chart(WIDTH, height, title, parts)).replace("<svg ", STYLE, 1) + "\n"


def _grid(across: Scale, up: Scale, height: float) -> list[Markup]:
    parts = []
    for tick in across.ticks(4):
        parts.append(line(across(tick), TOP, across(tick), height - BOTTOM, stroke="#ddd"))
        parts.append(text(across(tick), height - BOTTOM + 16, f"{tick:g}", text_anchor="middle"))
    for tick in up.ticks(5):
        parts.append(line(LEFT, up(tick), WIDTH - RIGHT, up(tick), stroke="#ddd"))
        parts.append(text(LEFT - 6, up(tick) + 4, f"{tick:g}", text_anchor="end"))
    return parts


def _curve(index: int, name: str, points: list[tuple[float, float]], across: Scale, up: Scale) -> list[Markup]:
    """The line, and its row of the legend."""
    dash = DASHES[index // len(COLOURS) % len(DASHES)]
    drawn = {"stroke": COLOURS[index % len(COLOURS)], "stroke_dasharray": dash, "stroke_width": 1.8}
    at = TOP + ROW * index
    return [
        path([(across(x), up(y)) for x, y in points], fill="none", **drawn),
        line(WIDTH - RIGHT + 12, at, WIDTH - RIGHT + 36, at, **drawn),
        text(WIDTH - RIGHT + 42, at + 4, name),
    ]
