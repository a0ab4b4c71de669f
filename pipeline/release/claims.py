"""Claims beside overall accuracy: slices of the split, and other metrics.

A slice that the policy requires must hold parity by itself, as the whole split must. All other slices are
information, and can only fail: where one is shown to have lost more than the margin, Holm's method over all of them
and all runs keeping a false alarm at 1 - confidence. A required metric must hold by its own bounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import NormalDist
from typing import Any

from pipeline.release.checks import POWER, apart, check, is_count, is_number, number, parity
from pipeline.release.evidence import RELATIVE, Check, Margin, Metric, Policy, Run, Slice, is_relative, limit_of
from pipeline.release.statistics import holm, worse_p


def on_slice(metric: str, name: str) -> str:
    """What the evidence calls a metric of one slice."""
    return f"{metric} on {name}"


def required_slices(policy: Policy, run: Run, condition: str) -> Iterator[Check]:
    """Parity of each slice that the policy names."""
    for name, margin in policy.slices.items():
        if policy.metric != "accuracy" or is_relative(margin):
            yield _claim(on_slice(policy.metric, name), margin, policy, run)
            continue
        part = run.slices.get(name)
        title = f"slice {name}"
        if part is None:
            there = ", ".join(run.slices) or "none"
            yield check(title, "fail", f"unavailable, but the policy requires it; there are: {there}", run.batch)
        elif not _sound(part):
            yield check(title, "fail", f"its counts are {_counts(part)}", run.batch)
        else:
            lost, gained, n = _whole(part)
            own = "; about this group alone" if name.startswith("group:") else condition
            yield parity(title, policy, lost, gained, n, limit_of(margin), run.batch, own)


def other_slices(policy: Policy, runs: tuple[Run, ...]) -> Iterator[Check]:
    """What is shown to be worse among the slices that the policy does not name; one check a run where nothing is.

    By accuracy, whose flips need no resampling; with another primary metric only the slices that are named count.
    """
    if policy.metric != "accuracy":
        return
    margins = {run.batch: _slice_margin(policy, run) for run in runs}
    parts = {
        (run.batch, name): part
        for run in runs
        for name, part in run.slices.items()
        if name not in policy.slices and _sound(part)
    }
    names = {f"{batch} {name}": (batch, name) for batch, name in parts}
    raw = {key: worse_p(*_whole(parts[at]), margins[at[0]]) for key, at in names.items()}
    adjusted = {names[key]: p for key, p in holm(raw).items()}
    for run in runs:
        own = {name: p for (batch, name), p in adjusted.items() if batch == run.batch}
        worse = [name for name, p in own.items() if p <= 1 - policy.confidence]
        for name in worse:
            text = f"shown worse than the margin: {_drop(parts[run.batch, name])}, {_p(own[name], len(adjusted))}"
            yield check(f"slice {name}", "fail", text, run.batch, own[name], 1 - policy.confidence, "p")
        if own and not worse:
            batch = run.batch
            least = min(own, key=lambda name: (own[name], raw[f"{batch} {name}"], -_lost(parts[batch, name])))
            text = (
                f"none of {len(own)} is shown worse than the margin "
                f"(nearest {least}: {_drop(parts[run.batch, least])}, {_p(own[least], len(adjusted))})"
            )
            yield check("slices", "pass", text, run.batch)


def _slice_margin(policy: Policy, run: Run) -> float:
    """The margin of accuracy as a share; where it is one of float's accuracy, that as it was seen."""
    if not is_relative(policy.primary):
        return limit_of(policy.primary) / 100
    found = run.metrics.get(policy.metric)
    seen = None if found is None else found.float_value
    return limit_of(policy.primary) / 100 * (seen / 100 if seen else 1)


def broken_slices(policy: Policy, run: Run) -> Iterator[Check]:
    """Slices that cannot be evidence: impossible counts, or kinds that do not make up the run."""
    for name, part in run.slices.items():
        if not _sound(part):
            yield check(f"slice {name}", "fail", f"its counts are {_counts(part)}", run.batch)
    for kind in sorted({_kind(name) for name in run.slices}):
        parts = [part for name, part in run.slices.items() if _kind(name) == kind]
        if all(_sound(part) for part in parts):
            sums = tuple(sum(column) for column in zip(*(_whole(part) for part in parts), strict=True))
            if sums != (run.lost, run.gained, run.n):
                text = f"together they lost {sums[0]}, gained {sums[1]} of {sums[2]}, but the run {_counts(run)}"
                yield check(f"{kind} slices", "fail", text, run.batch)


def _kind(name: str) -> str:
    """Slices of one kind make up the run: "class", "group", "tag:light"."""
    return name.partition("=")[0] if name.startswith("tag:") else name.partition(":")[0]


def metrics(policy: Policy, run: Run) -> Iterator[Check]:
    """Non-inferiority of each metric that the policy names, by its bounds."""
    for name, margin in policy.claims.items():
        yield _claim(name, margin, policy, run)


def _claim(name: str, margin: Margin, policy: Policy, run: Run) -> Check:
    found = run.metrics.get(name)
    if found is None:
        return check(name, "fail", "unavailable, but the policy requires it", run.batch)
    if not all(is_number(v) and v == v for v in (found.drop, found.low, found.high)):
        return check(name, "fail", f"unavailable: {found.method}", run.batch)
    if (found.unit == RELATIVE) != is_relative(margin):
        return check(
            name, "fail", f"unavailable: measured in {found.unit or 'its own unit'}, not as {margin}", run.batch
        )
    return _metric(name, found, limit_of(margin), policy.confidence, run)


def _metric(name: str, found: Metric, margin: float, confidence: float, run: Run) -> Check:
    assert found.drop is not None
    assert found.low is not None
    assert found.high is not None
    unit = f" {found.unit}" if found.unit else ""
    side, bound, relation = "upper", found.high, ">="
    if found.high < margin:
        verdict, relation = "pass", "<"
    elif found.low > margin:
        verdict, side, bound, relation = "fail", "lower", found.low, ">"
    else:
        verdict = "inconclusive"
    shown, limit = apart(bound, margin)
    text = (
        f"drop {number(found.drop)}{unit}, {100 * confidence:g} % {side} bound {shown}{unit} {relation} "
        f"margin {limit}{unit} ({found.method})"
    )
    if verdict == "inconclusive" and run.n:
        needed = _enough(found.drop, found.high, margin, confidence, run.n)
        text += (
            "; the drop seen is not below the margin, so more samples like these would not show parity"
            if needed is None
            else f"; about n = {needed:,} samples like these would decide with {100 * POWER:g} % power"
        )
    return check(name, verdict, text, run.batch, bound, margin, found.unit)  # type: ignore[arg-type]


def _enough(drop: float, high: float, margin: float, confidence: float, n: int) -> int | None:
    """Widths shrink with the root of n: the n for which `drop` passes with POWER; None where no n does."""
    if drop >= margin or high <= drop:
        return None
    z, more = NormalDist().inv_cdf(confidence), NormalDist().inv_cdf(POWER)
    return max(n + 1, round(n * ((high - drop) * (1 + more / max(z, 1e-9)) / (margin - drop)) ** 2))


def _sound(part: Slice) -> bool:
    n: Any = part.n
    lost: Any = part.lost
    gained: Any = part.gained
    return is_count(n, 1) and is_count(lost) and is_count(gained) and bool(lost + gained <= n)


def _whole(part: Slice) -> tuple[int, int, int]:
    assert part.n is not None
    assert part.lost is not None
    assert part.gained is not None
    return int(part.lost), int(part.gained), int(part.n)


def _counts(part: Slice | Run) -> str:
    return f"lost {part.lost}, gained {part.gained} of {part.n}"


def _lost(part: Slice) -> float:
    """The share of a slice's samples that was lost, less what was gained."""
    lost, gained, n = _whole(part)
    return (lost - gained) / n


def _drop(part: Slice) -> str:
    lost, gained, n = _whole(part)
    return f"drop {number(100 * _lost(part))} points (lost {lost:,}, gained {gained:,} of {n:,})"


def _p(p: float, claims: int) -> str:
    return f"p {p:.2g} after Holm over {claims}"


def conditional(evidence_groups: int | None, has_groups: bool) -> str:
    """What a claim about data with groups is conditional on."""
    return f"; conditional on these {evidence_groups} groups" if has_groups else ""


def as_slices(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Slice]:
    """Slices from their stored counts."""
    return {name: Slice(row.get("n"), row.get("lost"), row.get("gained")) for name, row in rows.items()}
