"""Figures as text, with their units: what is None is "unavailable", never 0."""

from __future__ import annotations

from pipeline.release.checks import apart
from pipeline.release.report import Check, Interval, RunRow, TargetRow

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


# What a check of a margin compares: which bound of the loss, and how it lies to the margin.
BOUNDS = {"pass": ("upper", "<"), "fail": ("lower", ">"), "inconclusive": ("upper", "\N{GREATER-THAN OR EQUAL TO}")}


def bound(row: TargetRow, run: RunRow, metric: str) -> str:
    """The bound that decided a run's parity beside its margin: "upper 0.3 < 3"; the loss must have its upper one below.

    From the gate's own check of the task's `metric` where the report has it, else from the run's figures.
    """
    check = _deciding(row, run, metric)
    if check is not None and check.value is not None and check.limit is not None:
        side, relation = BOUNDS[check.verdict]
        return f"{side} {_beside(check.value, relation, check.limit, check.unit)}"
    if run.drop_upper_points is None:
        return MISSING
    side, relation = BOUNDS["pass" if run.drop_upper_points < run.margin_points else "inconclusive"]
    return f"{side} {_beside(run.drop_upper_points, relation, run.margin_points, 'points')}"


def _beside(value: float, relation: str, limit: float, unit: str) -> str:
    shown, most = apart(value, limit)
    return f"{shown} {relation} {most}".replace("-", MINUS) + ("" if unit in ("", "points") else SPACE + unit)


def _deciding(row: TargetRow, run: RunRow, metric: str) -> Check | None:
    """The parity check of a run: of several at one batch (devices) that of the same place in the order."""
    name = metric if run.length is None else f"{metric}, length {run.length}"
    runs = [one for one in row.runs if one.batch == run.batch] if run.length is None else [run]
    found = [check for check in row.checks if check.batch == run.batch and check.name == name]
    place = next((index for index, one in enumerate(runs) if one is run), 0)
    return found[place] if len(found) == len(runs) else None


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
