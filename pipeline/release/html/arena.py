"""The memory plan of a board's arena: time across, bytes down. For the report, and as a file of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from markupsafe import Markup

from pipeline.release.html.svg import Scale, chart, element, line, text

WIDTH, TOP, HEIGHT, LEFT = 360.0, 20.0, 240.0, 48.0
ALONE = """\
svg { font: 11px sans-serif; background: #fff; } text { fill: #16202b; } .axis, .tick { fill: #566372; }
.rule, .grid { stroke: #d9dee4; } .buffer { fill: #0072b2; fill-opacity: 0.35; stroke: #0072b2; }
.buffer.input { fill: #00664b; stroke: #00664b; } .buffer.output { fill: #d55e00; stroke: #d55e00; }
.buffer.scratch { fill: #16202b; fill-opacity: 0.2; stroke: #566372; }"""


def draw(name: str, rows: Iterable[Mapping[str, Any]], arena_bytes: int) -> Markup:
    """A rectangle for each buffer (rows of `Program.drawn`). Where two overlap, the later one consumes the earlier."""
    plan = list(rows)
    steps = max((row["last"] for row in plan), default=0) + 1
    x, y = Scale(0, steps, LEFT, WIDTH - 4), Scale(0, max(arena_bytes, 1), TOP, TOP + HEIGHT)
    parts = [text(0, TOP - 8, f"bytes of the arena, {arena_bytes:,} in all", class_="axis")]
    for tick in y.ticks(5):
        parts += [
            line(LEFT, y(tick), WIDTH - 4, y(tick), class_="grid"),
            text(LEFT - 5, y(tick) + 4, f"{tick:,.0f}", class_="tick", text_anchor="end"),
        ]
    for row in plan:
        box = {
            "x": x(row["first"]) + 0.5,
            "y": y(row["offset"]),
            "width": x(row["last"] + 1) - x(row["first"]) - 1,
            "height": y(row["offset"] + row["bytes"]) - y(row["offset"]),
        }
        words = f"{row['name']}: {row['kind']}, {row['bytes']:,} bytes from {row['offset']:,}"
        parts.append(element("rect", element("title", words), class_=f"buffer {row['kind']}", **box))
    bottom = TOP + HEIGHT
    parts += [
        line(LEFT, bottom, WIDTH - 4, bottom, class_="rule"),
        text(LEFT, bottom + 14, "inputs", class_="tick"),
        text(WIDTH - 4, bottom + 14, "outputs", class_="tick", text_anchor="end"),
        text((LEFT + WIDTH) / 2, bottom + 14, "ops, in order", class_="axis", text_anchor="middle"),
    ]
    return chart(WIDTH, bottom + 22, f"{name}: the memory plan of {len(plan)} buffers", parts)


def alone(name: str, rows: Iterable[Mapping[str, Any]], arena_bytes: int) -> str:
    """The same as the text of an .svg file."""
    picture = str(draw(name, rows, arena_bytes))
    return picture.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1).replace(
        ">", f"><style>{ALONE}</style>", 1
    )
