"""Figures as text, with their units: what is None is "unavailable", never 0."""

from __future__ import annotations

from pipeline.release.report import Interval

MISSING = "unavailable"
MINUS = "\N{MINUS SIGN}"
SPACE = "\N{NO-BREAK SPACE}"


def number(value: float | None, spec: str = ",", unit: str = "") -> str:
    """Any figure by its format, a true minus sign, and a unit that does not break away."""
    if value is None:
        return MISSING
    return format(value, spec).replace("-", MINUS) + (SPACE + unit if unit else "")


def size(value: float | None) -> str:
    """Bytes in the decimal unit that leaves three digits: 16.8 kB."""
    if value is None:
        return MISSING
    for limit, unit in ((1e3, "B"), (1e6, "kB"), (1e9, "MB")):
        if value < limit:
            return f"{value / limit * 1e3:.{0 if unit == 'B' else 1}f}{SPACE}{unit}"
    return f"{value / 1e9:.1f}{SPACE}GB"


def count(value: float | None) -> str:
    """Parameters, MACs: 1.51 M."""
    if value is None:
        return MISSING
    for limit, unit in ((1e3, ""), (1e6, "k"), (1e9, "M")):
        if value < limit:
            return f"{value:,.0f}" if not unit else f"{value / limit * 1e3:.3g}{SPACE}{unit}"
    return f"{value / 1e9:.3g}{SPACE}G"


def percent(value: float | None, digits: int = 2) -> str:
    """A share as percent."""
    return MISSING if value is None else f"{100 * value:.{digits}f}{SPACE}%"


def score(value: float | None, metric: str) -> str:
    """The task's own figure: accuracy as percent, others as they are."""
    return percent(value) if metric == "accuracy" else number(value, ".4g")


def points(value: float | None) -> str:
    """Percentage points, signed."""
    return number(value, "+.2f")


def milliseconds(value: float | None) -> str:
    """Three significant digits."""
    if value is None:
        return MISSING
    return f"{value:.{max(0, 2 - _magnitude(value))}f}{SPACE}ms"


def ratio(value: Interval | None) -> str:
    """A speed-up with its 95 % interval."""
    if value is None:
        return MISSING
    return f"{value.median:.2f}\N{MULTIPLICATION SIGN} ({value.low:.2f}\N{EN DASH}{value.high:.2f})"


def _magnitude(value: float) -> int:
    from math import floor, log10

    return floor(log10(abs(value))) if value else 0
