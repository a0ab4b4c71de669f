"""Where the time of one inference goes, as bars: the layers that take most of it, slowest first."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from pipeline.release.html.svg import Scale, chart, element, text
from pipeline.release.report import LayerRow, RunRow, TargetRow

MOST = 12  # bars; the rest is one
WIDTH, ROW = 340.0, 17.0


@dataclass(frozen=True)
class Layers:
    """Of what ships on one device: a picture, or why there is none."""

    title: str
    picture: Markup | None
    unavailable: str | None


def layers(name: str, row: TargetRow) -> list[Layers]:
    """One for each device that timed the target's model; none where a report is older than its layers."""
    told = [run for run in row.runs if run.layers or run.layers_unavailable]
    return [_of(f"{name} {run.attached or ''}".strip(), run) for run in told]


def _of(title: str, run: RunRow) -> Layers:
    return Layers(title, bars(title, run.layers) if run.layers else None, run.layers_unavailable)


def bars(title: str, rows: list[LayerRow]) -> Markup:
    """A bar is as long as its share; beside it the kind of op, its precision, the milliseconds; its name as tooltip."""
    ordered = sorted(rows, key=lambda row: row.share, reverse=True)
    shown, rest = ordered[:MOST], ordered[MOST:]
    lines = [(f"{row.op} {row.precision or ''}".strip(), row.name, row.ms, row.share) for row in shown]
    if rest:
        words = f"{len(rest)} more"
        lines.append((words, words, sum(row.ms for row in rest), sum(row.share for row in rest)))
    x = Scale(0.0, max(share for *_, share in lines) or 1.0, 140.0, WIDTH - 84)
    parts: list[Markup] = []
    for index, (label, name, ms, share) in enumerate(lines):
        y = 4 + ROW * index
        length = max(x(share) - x.start, 0.5)
        bar = element("rect", element("title", name), x=x.start, y=y, width=length, height=ROW - 5, class_="layer")
        parts += [
            text(x.start - 6, y + 9.5, label, class_="name", text_anchor="end"),
            bar,
            text(x.start + length + 5, y + 9.5, f"{share:.0%}, {_ms(ms)}", class_="tick"),
        ]
    return chart(WIDTH, 8 + ROW * len(lines), f"{title}: share of the time by layer", parts)


def _ms(value: float) -> str:
    """OpenVINO counts whole microseconds: what takes less is no 0."""
    return f"{value:.3g} ms" if value else "under 0.001 ms"
