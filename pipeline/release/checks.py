"""One check in words: its verdict, the figures it rests on, and what would decide where they do not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from pipeline.release.evidence import Check, Policy
from pipeline.release.statistics import Decision, noninferior, samples_to_decide, tango_lower, tango_upper

POWER = 0.8  # of the sample size that an inconclusive verdict asks for


def check(
    name: str,
    verdict: Decision,
    text: str,
    batch: int | None = None,
    value: float | None = None,
    limit: float | None = None,
    unit: str = "",
) -> Check:
    """A check whose reason begins with what and where."""
    where = "" if batch is None else f" at batch {batch}"
    return Check(name, verdict, f"{name}{where}: {text}", batch, value, limit, unit)


def parity(
    name: str, policy: Policy, lost: int, gained: int, n: int, margin_points: float, batch: int, condition: str
) -> Check:
    """Paired non-inferiority by the score bound; counts must be sound. `condition` ends the sentence."""
    margin = margin_points / 100
    decision = noninferior(lost, gained, n, margin, policy.confidence)
    bound, side = (tango_lower, "lower") if decision == "fail" else (tango_upper, "upper")
    bound_points = 100 * bound(lost, gained, n, policy.confidence)
    relation = {"pass": "<", "fail": ">", "inconclusive": ">="}[decision]
    shown, limit = apart(bound_points, margin_points)
    text = (
        f"drop {number(100 * (lost - gained) / n)} points (lost {lost:,}, gained {gained:,} of {n:,}), "
        f"{100 * policy.confidence:g} % {side} bound {shown} points {relation} margin {limit} points"
    )
    if decision == "inconclusive":
        needed = samples_to_decide(lost, gained, n, margin, POWER, policy.confidence)
        if needed is None:
            text += "; the drop seen is not below the margin, so more samples like these would not show parity"
        else:
            text += f"; at the rates seen, n = {needed:,} samples would decide with {100 * POWER:g} % power"
    return check(name, decision, text + condition, batch, bound_points, margin_points, "points")


def still(outputs: Sequence[Mapping[str, Any]]) -> str:
    """Which channels move in float and have one value in the deployed model, in words; empty where none does.

    `outputs`: rows as measured (calibration/fidelity.py).
    """
    found = [(row["name"], channel) for row in outputs for channel in row["still"]]
    if not found:
        return ""
    name, channel = found[0]
    more = sum(row["dead"] for row in outputs) - 1
    others = f", as {more} other{'s' if more > 1 else ''}" if more else ""
    moves = "moves" if channel["moved"] is None else f"moves by {channel['moved']:g}"
    return f"output '{name}', channel {channel['at']}: {moves} in float and stands still{others}"


def is_number(value: object) -> bool:
    """A real number, NumPy's too, but no bool."""
    return not isinstance(value, bool) and isinstance(value, Real)


def is_count(value: object, least: int = 0) -> bool:
    """A whole number of at least `least`."""
    return isinstance(value, Integral) and is_number(value) and int(value) >= least


def number(value: float, digits: int = 3) -> str:
    """At least `digits` significant digits, no exponent, thousands separated: 0.0142, 1.35, 15,432."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def apart(value: float, limit: float) -> tuple[str, str]:
    """Both as text with enough digits to be told apart, so that no reason reads "3 points < 3 points"."""
    for digits in range(3, 18):
        texts = number(value, digits), number(limit, digits)
        if texts[0] != texts[1] or value == limit:
            break
    return texts
