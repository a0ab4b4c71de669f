"""Small pieces of inline SVG: escaped elements, a linear scale, round ticks. Sizes are in units of the viewBox."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup, escape


def element(name: str, *content: str, **attributes: object) -> Markup:
    """`<name ...>content</name>`, text and values escaped; `stroke_width` is spelt `stroke-width`, `class_` `class`."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_text(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{given}>{''.join(escape(part) for part in content)}</{name}>")


def chart(width: float, height: float, label: str, parts: Iterable[Markup]) -> Markup:
    """A whole picture; `label` is what a screen reader says."""
    return element("svg", *parts, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=label, class_="chart")


def text(x: float, y: float, words: object, **attributes: object) -> Markup:
    """Words with their baseline at y."""
    return element("text", str(words), x=x, y=y, **attributes)


def line(x1: float, y1: float, x2: float, y2: float, **attributes: object) -> Markup:
    """A straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, **attributes)


def path(points: Iterable[tuple[float, float]], **attributes: object) -> Markup:
    """An open path through the points."""
    d = "M" + "L".join(f"{_text(round(x, 1))} {_text(round(y, 1))}" for x, y in points)
    return element("path", d=d, **attributes)


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` onto positions from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """The position of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, count: int = 4) -> list[float]:
        """About `count` round values within the scale: steps of 1, 2 or 5 times a power of ten."""
        raw = (self.high - self.low) / count
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [round(i * step, 12) for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


class LogScale(Scale):
    """The same for positive values, equal ratios equally far apart."""

    def __call__(self, value: float) -> float:
        """The position of a value."""
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 4) -> list[float]:
        """1, 2 and 5 times powers of ten within the scale; evenly apart where it holds fewer than two of these."""
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        marks = [float(f"{m}e{power}") for power in range(first, last + 1) for m in (1, 2, 5)]
        inside = [mark for mark in marks if self.low <= mark <= self.high]
        return inside if len(inside) > 1 else super().ticks(count)


def around(values: Iterable[float], start: float, end: float, share: float = 0.08) -> Scale:
    """A scale that holds the values with some room on both sides."""
    known = list(values)
    low, high = min(known), max(known)
    room = share * (high - low) or abs(high) * 0.1 or 1.0
    return Scale(low - room, high + room, start, end)


def _text(value: object) -> str:
    return f"{round(value, 2):g}" if isinstance(value, float) else str(value)
