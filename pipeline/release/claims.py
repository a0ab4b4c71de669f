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
from pipeline.release.evidence import Check, Metric, Policy, Run, Slice
from pipeline.release.statistics import holm, worse_p


def required_slices(policy: Policy, run: Run, condition: str) -> Iterator[Check]:
    """Parity of each slice that the policy names."""
    for name, margin_points in policy.slices.items():
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
            yield parity(title, policy, lost, gained, n, margin_points, run.batch, own)


def other_slices(policy: Policy, runs: tuple[Run, ...]) -> Iterator[Check]:
    """What is shown to be worse among the slices that the policy does not name; one check a run where nothing is."""
    margin = policy.margin_points / 100
    parts = {
        (run.batch, name): part
        for run in runs
        for name, part in run.slices.items()
        if name not in policy.slices and _sound(part)
    }
    names = {f"{batch} {name}": (batch, name) for batch, name in parts}
    raw = {key: worse_p(*_whole(parts[at]), margin) for key, at in names.items()}
    adjusted = {names[key]: p for key, p in holm(raw).items()}
    for run in runs:
        own = {name: p for (batch, name), p in adjusted.items() if batch == run.batch}
        worse = [name for name, p in own.items() if p <= 1 - policy.confidence]
        for name in worse:
            text = f"shown worse than the margin: {_drop(parts[run.batch, name])}, {_p(own[name], len(adjusted))}"
            yield check(f"slice {name}", "fail", text, run.batch, own[name], 1 - policy.confidence, "p")
        if own and not worse:
            least = min(own, key=lambda name: own[name])
            text = (
                f"none of {len(own)} is shown worse than the margin "
                f"(nearest {least}: {_drop(parts[run.batch, least])}, {_p(own[least], len(adjusted))})"
            )
            yield check("slices", "pass", text, run.batch)


def broken_slices(run: Run) -> Iterator[Check]:
    """Slices that cannot be evidence: impossible counts, or kinds that do not make up the run."""
    for name, part in run.slices.items():
        if not _sound(part):
            yield check(f"slice {name}", "fail", f"its counts are {_counts(part)}", run.batch)
    for kind in sorted({name.partition(":")[0] for name in run.slices}):
        parts = [part for name, part in run.slices.items() if name.partition(":")[0] == kind]
        if all(_sound(part) for part in parts):
            sums = tuple(sum(column) for column in zip(*(_whole(part) for part in parts), strict=True))
            if sums != (run.lost, run.gained, run.n):
                text = f"together they lost {sums[0]}, gained {sums[1]} of {sums[2]}, but the run {_counts(run)}"
                yield check(f"{kind} slices", "fail", text, run.batch)


def metrics(policy: Policy, run: Run) -> Iterator[Check]:
    """Non-inferiority of each metric that the policy names, by its bounds."""
    for name, margin in policy.metrics.items():
        found = run.metrics.get(name)
        if found is None:
            yield check(name, "fail", "unavailable, but the policy requires it", run.batch)
        elif not all(is_number(v) and v == v for v in (found.drop_points, found.low_points, found.high_points)):
            yield check(name, "fail", f"unavailable: {found.method}", run.batch)
        else:
            yield _metric(name, found, margin, policy.confidence, run)


def _metric(name: str, found: Metric, margin: float, confidence: float, run: Run) -> Check:
    assert found.drop_points is not None
    assert found.low_points is not None
    assert found.high_points is not None
    side, bound, relation = "upper", found.high_points, ">="
    if found.high_points < margin:
        verdict, relation = "pass", "<"
    elif found.low_points > margin:
        verdict, side, bound, relation = "fail", "lower", found.low_points, ">"
    else:
        verdict = "inconclusive"
    shown, limit = apart(bound, margin)
    text = (
        f"drop {number(found.drop_points)} points, {100 * confidence:g} % {side} bound {shown} points {relation} "
        f"margin {limit} points ({found.method})"
    )
    if verdict == "inconclusive" and run.n:
        needed = _enough(found.drop_points, found.high_points, margin, confidence, run.n)
        text += (
            "; the drop seen is not below the margin, so more samples like these would not show parity"
            if needed is None
            else f"; about n = {needed:,} samples like these would decide with {100 * POWER:g} % power"
        )
    return check(name, verdict, text, run.batch, bound, margin, "points")  # type: ignore[arg-type]


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


def _drop(part: Slice) -> str:
    lost, gained, n = _whole(part)
    return f"drop {number(100 * (lost - gained) / n)} points (lost {lost:,}, gained {gained:,} of {n:,})"


def _p(p: float, claims: int) -> str:
    return f"p {p:.2g} after Holm over {claims}"


def conditional(evidence_groups: int | None, has_groups: bool) -> str:
    """What a claim about data with groups is conditional on."""
    return f"; conditional on these {evidence_groups} groups" if has_groups else ""


def as_slices(rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Slice]:
    """Slices from their stored counts."""
    return {name: Slice(row.get("n"), row.get("lost"), row.get("gained")) for name, row in rows.items()}
