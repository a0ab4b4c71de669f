"""The charts of the report, as inline SVG 360 wide: drops beside their margins, candidates, latency distributions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from pipeline.release.html.svg import LogScale, Scale, around, chart, element, line, path, text
from pipeline.release.report import CandidateRow, Report, TargetRow

WIDTH = 360.0
BINS = 72
MINUS = "\N{MINUS SIGN}"


def drops(report: Report) -> Markup | None:
    """Accuracy lost by each run on the gate split: estimate, upper bound, and the margin that must not be reached."""
    rows = [
        (f"{name}, {'' if run.runtime == name else run.runtime + ', '}batch {run.batch}", run)
        for name, target in report.targets.items()
        for run in target.runs
        if run.drop_points is not None and run.drop_upper_points is not None
    ]
    if not rows:
        return None
    bottom = 14 + 34 * len(rows)
    x = around(
        [0.0, *(v for _, r in rows for v in (r.drop_points, r.drop_upper_points, r.margin_points) if v is not None)],
        12,
        WIDTH - 12,
    )
    parts = _x_axis(x, bottom, "points of accuracy lost, against the original float model")
    parts.append(line(x(0), 6, x(0), bottom, class_="zero"))
    for index, (label, run) in enumerate(rows):
        y = 28 + 34 * index
        assert run.drop_points is not None
        assert run.drop_upper_points is not None
        held = run.drop_upper_points < run.margin_points
        parts += [
            text(12, y - 8, label, class_="name"),
            line(x(run.margin_points), y - 6, x(run.margin_points), y + 8, class_="limit"),
            line(x(run.drop_points), y + 1, x(run.drop_upper_points), y + 1, class_="bar good" if held else "bar bad"),
            line(x(run.drop_upper_points), y - 3, x(run.drop_upper_points), y + 5, class_="good" if held else "bad"),
            element("circle", cx=x(run.drop_points), cy=y + 1, r=4, class_="dot good" if held else "dot bad"),
        ]
    return chart(WIDTH, bottom + 34, "Accuracy lost by each run, its upper bound, and the margin", parts)


# what the vertical axis shows -> its label with the name of the task's metric, its value
Y: dict[str, tuple[str, Callable[[CandidateRow], float | None]]] = {
    "fidelity": ("SQNR against the runtime's float, dB", lambda row: row.sqnr_db),
    "metric": ("{} on the selection split", lambda row: row.metric),
}


def candidates(name: str, row: TargetRow, kind: str, metric: str) -> Markup | None:
    """The race as a Pareto plot: latency to the right, fidelity or accuracy upwards, the front through what nothing
    beats in both. Left and up of others is better. Bars: the speed-up's 95 % interval, as latency. `metric`: the
    task's.
    """
    label, of = Y[kind]
    percent = kind == "metric" and metric == "accuracy"
    label = label.format(metric) + (", %" if percent else "")
    raced = [c for c in row.candidates if c.latency_ms is not None and c.latency_ms.p50 is not None]
    exact = [c for c in raced if of(c) is None and c.precision == "f32"]  # nothing to differ from: drawn on top
    known = [(c, value) for c in raced if (value := of(c)) is not None]
    if not known:
        return None
    low_y, high_y, right = 238.0, 26.0, 226.0
    base = next((c for c in raced if c.precision == "f32"), None)
    spans = {c.id: _latency_interval(c, base) for c in raced}
    x = around((v for low, _, high in spans.values() for v in (low, high)), 46, right)
    y = around((value for _, value in known), low_y, high_y + (18 if exact else 0), 0.12)
    at = {c.id: (x(spans[c.id][1]), y(value)) for c, value in known} | {
        c.id: (x(spans[c.id][1]), high_y) for c in exact
    }
    parts = _x_axis(x, low_y, "latency p50 in the race, ms", right)
    for tick in y.ticks():
        if percent and tick > 1:
            continue
        parts += [
            line(46, y(tick), right, y(tick), class_="grid"),
            text(
                41,
                y(tick) + 3.5,
                f"{tick * (100 if percent else 1):g}".replace("-", MINUS),
                class_="tick",
                text_anchor="end",
            ),
        ]
    if exact:
        parts += [
            line(46, high_y, right, high_y, class_="grid"),
            text(41, high_y + 3.5, "exact", class_="tick", text_anchor="end"),
        ]
    parts.append(text(6, 10, label, class_="axis"))
    parts.append(_front([at[c.id] for c in raced if c.id in at and c.verdict == "pass"]))
    drawn = sorted((c for c in raced if c.id in at), key=lambda c: at[c.id][1])
    for c, place in zip(drawn, _spread([at[c.id][1] for c in drawn], 14, high_y, low_y), strict=True):
        px, py = at[c.id]
        low, _, high = spans[c.id]
        shipped = c.id == row.shipped
        parts += [
            line(x(low), py, x(high), py, class_="whisker"),
            path([(px + 6, py), (right + 4, place), (right + 10, place)], class_="leader"),
            _marker(c, px, py, shipped),
            text(
                right + 13,
                place + 3.5,
                _short(c.id) + (" \N{BLACK STAR}" if shipped else ""),
                class_="name shipped" if shipped else "name",
            ),
        ]
    return chart(WIDTH, low_y + 34, f"{name}: candidates by latency and {label}", parts)


def latencies(name: str, samples_ns: Mapping[str, npt.NDArray[Any]]) -> Markup:
    """Each model's raw latencies as a histogram on one axis, with p50, p90 and p99. The axis (logarithmic, since
    latencies have long tails) ends behind the largest p99; how many lie beyond is said.
    """
    ms = {key: values / 1e6 for key, values in samples_ns.items()}
    end = 1.02 * max(float(np.percentile(values, 99)) for values in ms.values())
    start = min(float(values.min()) for values in ms.values())
    x = LogScale(start, end if end > start else start * 1.1, 12, WIDTH - 12)
    edges = np.geomspace(x.low, x.high, BINS + 1)
    counts = {key: np.histogram(values, edges)[0] / len(values) for key, values in ms.items()}
    tallest = max(float(count.max()) for count in counts.values()) or 1.0
    height, parts = 84.0, []
    for index, (key, values) in enumerate(ms.items()):
        base = 14 + height * (index + 1)
        tops = [base - float(share) / tallest * (height - 34) for share in counts[key]]
        outline = [(x(float(edges[0])), base)]
        for left, after, top in zip(edges[:-1], edges[1:], tops, strict=True):
            outline += [(x(float(left)), top), (x(float(after)), top)]
        outline.append((x(float(edges[-1])), base))
        beyond = int((values > x.high).sum())
        words = f"{key}, {len(values):,} samples" + (f", {beyond:,} beyond the axis" if beyond else "")
        parts += [
            path(outline, class_=f"hist series{index}"),
            line(12, base, WIDTH - 12, base, class_="rule"),
            text(12, base - height + 14, words, class_="name"),
        ]
        for percent in (50, 90, 99):
            if percent == 99 and len(values) < 1000:
                continue  # fewer hold under ten of the slowest percent
            place = float(np.percentile(values, percent))
            parts += [
                line(x(place), base - height + 20, x(place), base, class_=f"quantile series{index}"),
            ]
            if percent != 90:
                near_end = x(place) > WIDTH - 66
                parts.append(
                    text(
                        x(place) + (-3 if near_end else 3),
                        base - height + (28 if percent == 50 else 40),
                        f"p{percent} {place:#.3g}",
                        class_="tick",
                        text_anchor="end" if near_end else "start",
                    )
                )
    bottom = 14 + height * len(ms)
    return chart(
        WIDTH,
        bottom + 34,
        f"{name}: latency distributions",
        [*_x_axis(x, bottom, "ms, one batch, logarithmic"), *parts],
    )


def _latency_interval(row: CandidateRow, base: CandidateRow | None) -> tuple[float, float, float]:
    """Low, middle, high in ms: float's p50 by the paired speed-up, from which drift has cancelled; else its own p50."""
    assert row.latency_ms is not None
    own = float(row.latency_ms.p50 or 0.0)
    if row.speedup is None or base is None or base.latency_ms is None or not base.latency_ms.p50:
        return own, own, own
    return tuple(base.latency_ms.p50 / by for by in (row.speedup.high, row.speedup.median, row.speedup.low))  # type: ignore[return-value]


def _front(points: Sequence[tuple[float, float]]) -> Markup:
    """A staircase through the points that none beats to the left and above."""
    stairs: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not stairs or y < stairs[-1][1]:
            stairs += [(x, stairs[-1][1]), (x, y)] if stairs else [(x, y)]
    return path(stairs, class_="front") if len(stairs) > 1 else Markup("")


def _marker(row: CandidateRow, x: float, y: float, shipped: bool) -> Markup:
    """Circle for int8, square for float; open unless it ships; a cross where parity does not hold."""
    kind = "mark shipped" if shipped else "mark"
    title = element("title", row.id)
    if row.verdict != "pass":
        return element(
            "path", title, d=f"M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8", class_="mark failed"
        )  # two strokes, so that it reads without colour
    if row.precision == "int8":
        return element("circle", title, cx=x, cy=y, r=5, class_=kind)
    return element("rect", title, x=x - 4.5, y=y - 4.5, width=9, height=9, class_=kind)


def _spread(wanted: Sequence[float], apart: float, top: float, bottom: float) -> list[float]:
    """Ascending places for labels, near where they are wanted and at least `apart`, above `bottom`."""
    places: list[float] = []
    for want in wanted:
        places.append(max(want, places[-1] + apart if places else top))
    limit = bottom
    for index in reversed(range(len(places))):
        places[index] = min(places[index], limit)
        limit = places[index] - apart
    return places


def _short(name: str, most: int = 19) -> str:
    return name if len(name) <= most else f"{name[: most - 8]}\N{HORIZONTAL ELLIPSIS}{name[-7:]}"


def _x_axis(x: Scale, y: float, label: str, right: float = WIDTH - 12) -> list[Markup]:
    parts = [line(x.start, y, right, y, class_="rule")]
    for tick in x.ticks():
        parts += [
            line(x(tick), y, x(tick), y + 4, class_="rule"),
            text(x(tick), y + 15, f"{tick:g}".replace("-", MINUS), class_="tick", text_anchor="middle"),
        ]
    return [*parts, text(x.start, y + 29, label, class_="axis")]
