"""Which candidate ships: a pure function of the race's figures.

Parity: the one-sided upper bound of what quantization cost on the selection split, against the runtime's own float,
is below the margin, and no channel of an output stands still that moves in float. Of those that hold it, what breaks a
budget of the gate that the file alone decides is left out, unless all of them do: then the gate says so. Among the rest
the fastest ships (or the smallest). Candidates are tied with it whose speed-up intervals meet its own, and those of its
precision that take at most 3 % longer: nobody gives 10 dB for that. Of the tied within 5 % of the smallest the one with
the highest SQNR ships.
A board counts what it cannot time: there the fewest instructions win, and float, which it cannot run, never ships.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from pipeline.release.checks import still
from pipeline.release.evidence import BUDGETS
from pipeline.release.statistics import noninferior, samples_to_decide

SIZE_TIE, SPEED_TIE = 1.05, 0.97


@dataclass(frozen=True)
class Choice:
    """`verdicts`: candidate -> (verdict, why). `says`: the race's outcome in words."""

    shipped: str
    verdicts: Mapping[str, tuple[str, str]]
    says: str


def choose(
    rows: Sequence[Mapping[str, Any]],
    prefer: Literal["latency", "size"],
    margin_points: float,
    confidence: float = 0.95,
    policy: Mapping[str, Any] = MappingProxyType({}),
) -> Choice:
    """`rows`: one a candidate, as the race measured it, with size_bytes and precision. A float row is among them.

    `policy`: the gate's, limit by name (`max_size_bytes`).
    """
    verdicts = {row["id"]: parity(row, margin_points, confidence) for row in rows}
    broken = {row["id"]: why for row in rows if (why := over_budget(row, policy))}
    counted = [row for row in rows if row.get("board")]
    eligible = [row for row in counted or rows if verdicts[row["id"]][0] == "pass"]
    if prefer == "latency" and not counted:
        eligible = [row for row in eligible if row["speedup"]]
    eligible = [row for row in eligible if row["id"] not in broken] or eligible
    left = {row["id"]: row["left"] for row in rows if row.get("left")}
    verdicts |= {name: _with(verdicts[name], why) for name, why in {**broken, **left}.items()}
    if not eligible:
        raise ValueError(_says({}, rows, verdicts, broken) + ", and no float model runs on a board")
    if prefer == "latency" and counted:
        tied = [row for row in eligible if row["board"]["count"] == min(r["board"]["count"] for r in eligible)]
    elif prefer == "latency":
        best = max(eligible, key=lambda row: float(row["speedup"]["median"]))
        tied = [row for row in eligible if _tied(row, best)]
    else:
        tied = eligible
    smallest = min(row["size_bytes"] for row in tied)
    close = [row for row in tied if row["size_bytes"] <= SIZE_TIE * smallest]
    shipped = max(close, key=lambda row: (_fidelity(row), row["speedup"]["median"] if row["speedup"] else 0, row["id"]))
    return Choice(shipped["id"], verdicts, _says(shipped, rows, verdicts, broken))


def untimed(
    rows: Sequence[Mapping[str, Any]],
    margin: float,
    confidence: float,
    most: int,
    keep_failed: bool = False,
    policy: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, str]:
    """Candidate -> why it is not timed: the cheap evidence, answers on the selection split, comes first.

    Those that are shown to lose parity, or that break a budget others keep, cannot ship (`keep_failed`: timed all the
    same). Of the others at most `most` are timed, float among them, those nearest to float first.
    """
    why: dict[str, str] = {}
    if not keep_failed:
        lost = [row["id"] for row in rows if parity(row, margin, confidence)[0] == "fail"]
        others = [row for row in rows if row["id"] not in lost]
        broken = {row["id"]: over_budget(row, policy) for row in others}
        if not all(broken.values()):  # float is what the others are compared with
            why = {row["id"]: f"not timed: {broken[row['id']]}" for row in others if row["precision"] != "f32"}
            why = {name: text for name, text in why.items() if broken[name]}
        why |= dict.fromkeys(lost, "not timed: it does not hold parity")
    nearest = sorted((row for row in rows if row["id"] not in why), key=lambda row: -_fidelity(row))
    return why | {
        row["id"]: f"not timed: {most} others are nearer to float (race.max_candidates)" for row in nearest[most:]
    }


def over_budget(row: Mapping[str, Any], policy: Mapping[str, Any]) -> str:
    """Which budget of the gate a candidate's file breaks, in words; empty if none."""
    for budget in BUDGETS:
        limit, value = policy.get(budget.limit), row.get(budget.field)
        if budget.scope != "file" or limit is None or value is None:
            continue
        if not budget.holds(value, limit):
            unit = "" if budget.unit == "share" else f" {budget.unit}"
            return f"{budget.name} {value:,}{unit} {budget.broken} {budget.limit} {limit:,}"
    return ""


def _tied(row: Mapping[str, Any], best: Mapping[str, Any]) -> bool:
    """Across precisions only what cannot be told apart: int8 that is slower than float must not ship as its equal."""
    alike = row["precision"] == best["precision"] and row["speedup"]["median"] >= SPEED_TIE * best["speedup"]["median"]
    return bool(alike or row["speedup"]["high"] >= best["speedup"]["low"])


def _with(verdict: tuple[str, str], left: str) -> tuple[str, str]:
    return verdict[0], f"{verdict[1]}; {left}"


def parity(row: Mapping[str, Any], margin: float, confidence: float) -> tuple[str, str]:
    """(verdict, why) of one candidate on the selection split; `margin` in points or in the metric's unit."""
    if row["precision"] == "f32":
        return "pass", "the runtime's own float"
    if not row["finite"]:
        return "fail", "its outputs have NaN or infinity, or another shape"
    if dead := still(row.get("outputs", ())):
        return "fail", dead
    if row["quant_flips"] is None:
        return _by_metric(row["quant_bound"], margin)
    lost, gained, n = row["quant_flips"]["lost"], row["quant_flips"]["gained"], row["n"]
    verdict = noninferior(lost, gained, n, margin / 100, confidence)
    why = f"quantization loses {lost}, gains {gained} of {n} against the runtime's float, margin {margin:g} points"
    if verdict == "inconclusive":
        needed = samples_to_decide(lost, gained, n, margin / 100)
        why += f"; about {needed} selection samples would decide" if needed else ""
    return verdict, why


def _by_metric(bound: Mapping[str, Any], margin: float) -> tuple[str, str]:
    """Of a task without classes: what quantization cost of its metric, and that bound."""
    if bound["high"] is None or bound["low"] is None:
        return "inconclusive", bound["reason"]
    verdict = "pass" if bound["high"] < margin else "fail" if bound["low"] > margin else "inconclusive"
    unit = f" {bound['unit']}".rstrip()
    why = f"quantization costs {bound['drop']:.4g}{unit}, at most {bound['high']:.4g}{unit}, margin {margin:g}{unit}"
    return verdict, why


def _fidelity(row: Mapping[str, Any]) -> float:
    return float("inf") if row["precision"] == "f32" or row["sqnr_db"] is None else float(row["sqnr_db"])


def _says(
    shipped: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    verdicts: Mapping[str, tuple[str, str]],
    broken: Mapping[str, str],
) -> str:
    """The outcome in words, also when int8 brings nothing."""
    integers = [row for row in rows if row["precision"] == "int8"]
    holding = [row for row in integers if verdicts[row["id"]][0] == "pass"]
    if not integers:
        return "no int8 candidate was raced"
    if not holding:
        return f"no int8 candidate holds parity: {verdicts[integers[0]['id']][1]}"
    holding = [row for row in holding if row["speedup"] or row.get("board")]
    if not holding:
        return "no int8 candidate that holds parity was timed (race.max_candidates)"
    if shipped.get("board"):
        return f"{shipped['board']['count']:,} {shipped['board']['unit']} on the board, where no float runs"
    row = shipped if shipped["precision"] == "int8" else max(holding, key=lambda r: float(r["speedup"]["median"]))
    speedup = row["speedup"]
    figure = f"{speedup['median']:.2f} ({speedup['low']:.2f}-{speedup['high']:.2f})"
    if speedup["low"] > 1:
        says = f"int8 is faster than float here: {figure} times"
    elif speedup["high"] < 1:
        says = f"int8 is slower than float here: {figure} times its speed"
    else:
        says = f"int8 is not faster here: {figure}"
    floats = [broken[other["id"]] for other in rows if other["precision"] == "f32" and other["id"] in broken]
    return f"{says}, but float cannot ship: {floats[0]}" if floats and shipped["id"] not in broken else says
