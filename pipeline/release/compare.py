"""A run beside the baseline: what got worse, what got better, what cannot be compared. Pure, and it fails closed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.release.evidence import Metric
from pipeline.release.report import Interval, Report, RunRow, TargetRow
from pipeline.release.statistics import tango_lower, tango_upper

Change = Literal["same", "worse", "better", "not comparable", "missing"]
# Of the same samples: lost, gained, n; of another metric than accuracy what was lost; or why there is neither.
Paired = tuple[int, int, int] | Metric | str
Flips = Mapping[tuple[str, int], Paired]  # (target, batch) -> paired outcomes
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Row:
    """One figure of one target, baseline and now, and what became of it."""

    target: str
    name: str
    change: Change
    text: str


@dataclass(frozen=True)
class Comparison:
    """`explained`: what differs in recipe, data and versions, which an improvement may come from."""

    rows: list[Row]
    explained: list[str]

    @property
    def verdict(self) -> Literal["pass", "fail", "inconclusive"]:
        """A regression fails; an improvement that nothing explains asks for a new baseline and decides nothing."""
        changes = {row.change for row in self.rows}
        if changes & {"worse", "missing"}:
            return "fail"
        return "inconclusive" if "better" in changes and not self.explained else "pass"


# Field of a target (or of its deployment run), words, unit, tolerance as a share: larger is worse.
SIZES = (("size_bytes", "file size", "B", 0.01), ("weight_bytes", "weight bytes", "B", 0.01))


def compare(
    baseline: Report, now: Report, flips: Flips, tolerance: float = 0.10, confidence: float = CONFIDENCE
) -> Comparison:
    """Every target of the baseline. `flips`: paired outcomes of the same samples, baseline against now.

    `tolerance`: the share by which latency and memory of two runs on one device may differ, because two runs never
    meet the same machine; sizes may differ by 1 %.
    """
    rows, metric = [], metric_of(baseline)
    for name, before in baseline.targets.items():
        after = now.targets.get(name)
        if after is None:
            rows.append(Row(name, "target", "missing", "in the baseline, but not in this run"))
            continue
        rows += [Row(name, *found) for found in _target(name, before, after, flips, tolerance, confidence, metric)]
    return Comparison(rows, _differences(baseline, now))


def metric_of(report: Report) -> str:
    """The metric of the run's task."""
    task = report.recipe.get("task") or {}
    return str(task.get("metric", "accuracy"))


def _target(
    name: str, before: TargetRow, after: TargetRow, flips: Flips, tolerance: float, confidence: float, metric: str
) -> Iterator[tuple[str, Change, str]]:
    if before.verdict == "pass" and after.verdict != "pass":
        yield "verdict", "worse", f"pass before, {after.verdict} now: {after.reasons[0] if after.reasons else ''}"
    else:
        yield "verdict", "same" if before.verdict == after.verdict else "better", f"{before.verdict} -> {after.verdict}"
    for run in before.runs:
        yield f"{metric} at batch {run.batch}", *_accuracy(flips.get((name, run.batch), "not run"), confidence)
    for field, words, unit, share in SIZES:
        yield words, *_amount(getattr(before, field), getattr(after, field), unit, share)
    first, second = _deployment(before), _deployment(after)
    if first is None or second is None:
        yield "latency p50", "missing", "no run at the deployment batch"
        return
    yield "latency p50", *_latency(first, second, tolerance)
    yield "peak memory", *_memory(first, second, tolerance)
    yield "int8 share of MACs", *_share(before, after)
    yield "ops in float", *_ops(before, after, _other_device(first, second))


def _accuracy(found: Paired, confidence: float) -> tuple[Change, str]:
    if isinstance(found, str):
        return ("not comparable" if found.startswith("another") else "missing"), found
    if isinstance(found, Metric):
        return _metric(found)
    lost, gained, n = found
    low, high = (100 * bound(lost, gained, n, confidence) for bound in (tango_lower, tango_upper))
    change: Change = "worse" if low > 0 else "better" if high < 0 else "same"
    drop = 100 * (lost - gained) / n
    return change, f"drop {drop:+.2f} points ({low:+.2f} to {high:+.2f}; lost {lost}, gained {gained} of {n})"


def _metric(found: Metric) -> tuple[Change, str]:
    if found.drop is None or found.low is None or found.high is None:
        return "missing", found.method
    change: Change = "worse" if found.low > 0 else "better" if found.high < 0 else "same"
    unit = f" {found.unit}" if found.unit else ""
    return change, f"drop {found.drop:+.4g}{unit} ({found.low:+.4g} to {found.high:+.4g}; {found.method})"


def _amount(before: float | None, after: float | None, unit: str, tolerance: float) -> tuple[Change, str]:
    if before is None or after is None:
        which = "the baseline" if before is None else "this run"
        return ("not comparable" if before is None else "missing"), f"unavailable in {which}"
    change: Change = (
        "worse" if after > before * (1 + tolerance) else "better" if after < before * (1 - tolerance) else "same"
    )
    return change, f"{before:,.0f} -> {after:,.0f} {unit} (tolerance {tolerance:.0%})"


def _latency(before: RunRow, after: RunRow, tolerance: float) -> tuple[Change, str]:
    if differs := _other_device(before, after):
        return "not comparable", differs
    first, second = before.latency_interval_ms, after.latency_interval_ms
    if first is None or second is None:
        return ("not comparable" if first is None else "missing"), "no interval of the latency"
    text = f"{_spelled(first)} -> {_spelled(second)} ms (tolerance {tolerance:.0%})"
    if second.low > first.high * (1 + tolerance):
        return "worse", text
    return ("better" if second.high < first.low * (1 - tolerance) else "same"), text


def _memory(before: RunRow, after: RunRow, tolerance: float) -> tuple[Change, str]:
    if differs := _other_device(before, after):
        return "not comparable", differs
    return _amount(before.peak_memory_bytes, after.peak_memory_bytes, "B", tolerance)


def _share(before: TargetRow, after: TargetRow) -> tuple[Change, str]:
    first, second = (
        next((c.int8_mac_share for c in row.candidates if c.id == row.shipped), None) for row in (before, after)
    )
    if first is None or second is None:
        return ("not comparable" if first is None else "missing"), "unavailable"
    change: Change = "worse" if second < first - 1e-4 else "better" if second > first + 1e-4 else "same"
    return change, f"{first:.1%} -> {second:.1%} ({before.shipped} -> {after.shipped})"


def _ops(before: TargetRow, after: TargetRow, other_device: str) -> tuple[Change, str]:
    """Kinds of ops that the shipped model computes in float; names of single ops change with every export.

    What a runtime fuses depends on the CPU, so kinds that differ between two of them are no change of the model.
    """
    first, second = (_kinds(row) for row in (before, after))
    new, gone = sorted(second - first), sorted(first - second)
    if (new or gone) and other_device:
        return "not comparable", f"{other_device}; new in float: {', '.join(new) or 'none'}"
    if new:
        return "worse", f"new in float: {', '.join(new)}"
    return ("better", f"no more in float: {', '.join(gone)}") if gone else ("same", ", ".join(sorted(second)) or "none")


def _kinds(row: TargetRow) -> set[str]:
    return {op.partition(" ")[0] for c in row.candidates if c.id == row.shipped for op in c.float_ops}


def _deployment(row: TargetRow) -> RunRow | None:
    return next((run for run in row.runs if run.batch in row.batches[:1]), None)


def _other_device(before: RunRow, after: RunRow) -> str:
    """Why figures of two devices cannot be compared; empty where it is one device."""
    names = sorted(set(before.device) | set(after.device) - {"python"})
    differing = [n for n in names if n != "python" and before.device.get(n) != after.device.get(n)]
    if not before.device or not after.device:
        return "the device is unknown"
    changes = (f"{n} {before.device.get(n)} -> {after.device.get(n)}" for n in differing)
    return f"another device: {', '.join(changes)}" if differing else ""


def _spelled(interval: Interval) -> str:
    return f"{interval.median:.4f} ({interval.low:.4f}-{interval.high:.4f})"


def _differences(baseline: Report, now: Report) -> list[str]:
    """What the user changed between both: settings, the data, the versions of tools and of the runtimes."""
    found = list(_changed("recipe", _settings(baseline), _settings(now)))
    if baseline.gate_split.digest != now.gate_split.digest:
        found.append("data: another gate split")
    versions = (report.environment.get("versions", {}) for report in (baseline, now))
    return found + list(_changed("version", *versions))


def _settings(report: Report) -> dict[str, Any]:
    return {key: value for key, value in report.recipe.items() if key not in ("folder", "set", "gate")}


def _changed(what: str, before: Mapping[str, Any], after: Mapping[str, Any], within: str = "") -> Iterator[str]:
    """A line for each value that differs, of tables within tables by its whole name."""
    for key in sorted(set(before) | set(after)):
        one, other = before.get(key), after.get(key)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            yield from _changed(what, one, other, f"{within}{key}.")
        elif one != other:
            yield f"{what} {within}{key}: {one} -> {other}"
