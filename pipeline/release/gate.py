"""The gate: evidence and policy in, verdict out. It prints nothing, reads nothing and fails closed.

Every batch that was run must pass by itself (intersection-union test: no correction for several runs is needed,
because all of them have to hold). Evidence that is missing where it is needed, NaN, or not about the file that ships
is a failure with a reason, never a pass by default.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from pipeline.release import claims
from pipeline.release.checks import apart, check, is_count, is_number, parity
from pipeline.release.evidence import (
    BUDGETS,
    CLASS_METRICS,
    PLAUSIBLE,
    Budget,
    Chance,
    Check,
    Evidence,
    Metric,
    Policy,
    Run,
    Slice,
    Verdict,
)
from pipeline.release.statistics import Decision

__all__ = ["BUDGETS", "Budget", "Chance", "Check", "Evidence", "Metric", "Policy", "Run", "Slice", "Verdict", "judge"]


def judge(policy: Policy, evidence: Evidence) -> Verdict:
    """Fail if any check fails, else inconclusive if any is inconclusive, else pass."""
    checks = [*_identity(policy, evidence), *_budgets(policy, evidence, None, "file")]
    condition = claims.conditional(evidence.groups, policy.groups)
    whole = []
    for run in evidence.runs:
        broken = [*_broken(policy, run, evidence), *claims.broken_slices(policy, run)]
        checks += broken
        if not broken:
            whole.append(run)
            checks += _evidence(run)
            if run.still:
                checks.append(check("channels", "fail", run.still, run.batch))
            if policy.by_flips:
                checks.append(_accuracy(policy, run, condition))
            checks += claims.metrics(policy, run)
            checks += claims.required_slices(policy, run, condition)
            checks += _budgets(policy, run, run.batch, "every run")
            if run.batch in evidence.batches[:1]:
                checks += _budgets(policy, run, run.batch, "deployment")
    checks += claims.other_slices(policy, tuple(whole))
    for length, run in evidence.lengths.items():
        checks += [_at_length(length, row) for row in _shortened(policy, run, evidence, condition)]
    seen = {row.verdict for row in checks}
    verdict: Decision = "fail" if "fail" in seen else "inconclusive" if "inconclusive" in seen else "pass"
    return Verdict(verdict, [row.reason for row in checks if row.verdict == verdict], checks)


def _shortened(policy: Policy, run: Run, evidence: Evidence, condition: str) -> Iterator[Check]:
    """What must hold of samples that were cut to a length: sound figures, and no loss shown to exceed the margin.

    The margin is proven at the samples' own lengths; a sentence cut to one word may be no sentence any more.
    """
    broken = list(_broken(policy, run, evidence))
    yield from broken
    if broken:
        return
    yield from _evidence(run)
    for row in ([_accuracy(policy, run, condition)] if policy.by_flips else []) + list(claims.metrics(policy, run)):
        shown = row.verdict == "fail"
        text = row.reason if shown else f"not shown worse than the margin ({row.reason})"
        yield replace(row, verdict="fail" if shown else "pass", reason=text)


def _at_length(length: int, row: Check) -> Check:
    return replace(row, name=f"{row.name}, length {length}", reason=f"length {length}: {row.reason}")


def _identity(policy: Policy, evidence: Evidence) -> Iterator[Check]:
    """Is this evidence about the file that ships, on a sound gate split, at every batch that counts?"""
    verified, ships = evidence.verified_sha256, evidence.artifact_sha256
    if not verified or not ships:
        which = "the verified model" if not verified else "the artifact"
        yield check("artifact", "fail", f"the SHA-256 of {which} is unavailable, so the runs may be of another file")
    elif verified != ships:
        yield check("artifact", "fail", f"verified {verified[:12]}, but {ships[:12]} ships: verify again")
    else:
        yield check("artifact", "pass", f"what was verified is what ships ({ships[:12]})")
    if evidence.precision == "int8":
        yield from _posing(evidence)
    if not is_count(evidence.n, 1):
        yield check("gate split", "fail", f"n is {evidence.n}, expected at least 1 sample")
    elif policy.min_samples is not None and evidence.n < policy.min_samples:
        yield check("gate split", "fail", f"{evidence.n:,} samples, fewer than min_samples = {policy.min_samples:,}")
    if not is_count(evidence.leaked):
        yield check("gate split", "fail", "unavailable whether it shares samples with another split")
    elif evidence.leaked:
        yield check("gate split", "fail", f"{evidence.leaked} of {evidence.n} samples are in another split too")
    if policy.groups and not is_count(evidence.groups, 1):
        yield check("groups", "fail", "the data has groups, but their number is unavailable")
    if not evidence.batches:
        yield check("runs", "fail", "no batch size was asked for, so nothing was verified")
    for batch in evidence.batches:
        if all(run.batch != batch for run in evidence.runs):
            yield check("run", "fail", "missing, this batch was not run", batch)
    if policy.device is not None:
        for run in evidence.runs:
            yield _device(policy.device, run)
    for wanted in policy.devices:
        for batch in evidence.batches:
            yield _among(wanted, batch, [run for run in evidence.runs if run.batch == batch])
    if policy.max_age_days is not None:
        for run in evidence.runs:
            yield _age(policy.max_age_days, run, evidence.judged_at)
    if evidence.chance is not None:
        yield _above_chance(policy, evidence.chance, evidence.n)
    for name in _nan_fields(evidence):
        yield check(name, "fail", "is NaN")


def _above_chance(policy: Policy, seen: Chance, n: int) -> Check:
    """Does the float model know anything? Parity with one that does not is no evidence."""
    if seen.shown:
        return check("float", "pass", seen.words(policy.metric, n))
    if policy.allow_chance:
        return check("float at chance", "pass", f"{seen.words(policy.metric, n)}; gate.allow_chance says so")
    cause = (
        "one answer is right everywhere, which no model can beat: bring gate samples of other classes"
        if seen.constant == 1 and CLASS_METRICS.fullmatch(policy.metric)
        else "look for inputs in another layout or scale than it was trained on, labels in another order, or weights "
        "that were not loaded"
    )
    text = f"{seen.words(policy.metric, n)}: {cause}; gate.allow_chance = true says that it is meant"
    return check("float at chance", "fail", text)


def _posing(evidence: Evidence) -> Iterator[Check]:
    """Is it float that says it is int8?"""
    if evidence.int8_mac_share == 0:
        yield check("precision", "fail", "it says int8, but nothing runs in int8: run 'deploy explain'")
    elif evidence.runs and all(run.worst_error == 0 for run in evidence.runs):
        yield check("precision", "fail", "it says int8, but answers exactly as float does: run 'deploy explain'")


def _device(wanted: str, run: Run) -> Check:
    """Was this run measured on the device that the policy names?"""
    if not run.device:
        return check("device", "fail", f"unknown, but the policy requires '{wanted}'", run.batch)
    if wanted in (facts := _facts(run)):
        return check("device", "pass", f"measured on '{wanted}'", run.batch)
    return check("device", "fail", f"measured on {facts}, not on '{wanted}'", run.batch)


def _among(wanted: str, batch: int, runs: Sequence[Run]) -> Check:
    """Is one of the devices measured at this batch the one that the policy names?"""
    if any(wanted in _facts(run) for run in runs):
        return check("devices", "pass", f"measured on '{wanted}'", batch)
    seen = "; ".join(_facts(run) for run in runs if run.device) or "no known device"
    return check("devices", "fail", f"not measured on '{wanted}', only on {seen}", batch)


def _facts(run: Run) -> str:
    return ", ".join(str(fact) for fact in (run.device or {}).values() if isinstance(fact, str))


def _age(most_days: float, run: Run, judged_at: float | None) -> Check:
    """Was this run measured recently enough?"""
    if not is_number(run.measured_at) or not is_number(judged_at):
        return check("age", "fail", "unavailable when it was measured, but max_age_days is set", run.batch)
    assert run.measured_at is not None
    assert judged_at is not None
    days = (judged_at - run.measured_at) / 86_400
    if not days >= -CLOCKS_APART_DAYS:
        return check("age", "fail", "measured in the future: a clock is wrong", run.batch, days, most_days, "days")
    shown, limit = apart(max(days, 0.0), most_days)
    if days <= most_days:
        return check("age", "pass", f"measured {shown} days ago <= {limit} days", run.batch, days, most_days, "days")
    text = f"measured {shown} days ago > {limit} days: run 'deploy verify' and 'deploy profile'"
    return check("age", "fail", text, run.batch, days, most_days, "days")


CLOCKS_APART_DAYS = 0.01  # of two hosts that both keep time


def _broken(policy: Policy, run: Run, evidence: Evidence) -> Iterator[Check]:
    """Reasons why a run cannot be evidence."""
    n: Any = run.n
    lost: Any = run.lost
    gained: Any = run.gained
    counts = {"n": (n, 1)}
    flips = policy.metric == "accuracy" or lost is not None or gained is not None
    if flips:
        counts |= {"lost": (lost, 0), "gained": (gained, 0)}
    sound = True
    for name, (count, least) in counts.items():
        if not is_count(count, least):
            sound = False
            text = "is unavailable" if count is None else f"is {count}, expected a count of at least {least}"
            yield check(name, "fail", text, run.batch)
    if sound and flips and lost + gained > n:
        yield check("flips", "fail", f"lost {lost} and gained {gained} are more than n = {n}", run.batch)
    if sound and n != evidence.n:
        yield check("n", "fail", f"is {n}, but the gate split has {evidence.n} samples: run all of them", run.batch)
    if run.finite is None:
        yield check("outputs", "fail", "unavailable whether they are finite", run.batch)
    elif not run.finite:
        yield check("outputs", "fail", "have NaN or infinity", run.batch)
    for name in _nan_fields(run):
        if name not in counts:
            yield check(name, "fail", "is NaN", run.batch)


def _evidence(run: Run) -> Iterator[Check]:
    """Is the file of per-sample evidence the one that the run wrote? Whatever is asked of it."""
    if run.evidence:
        yield check("evidence", "fail", run.evidence, run.batch)


def _accuracy(policy: Policy, run: Run, condition: str) -> Check:
    """Paired non-inferiority of one run that `_broken` found nothing against."""
    assert run.lost is not None
    assert run.gained is not None
    assert run.n is not None
    lost, gained, n = int(run.lost), int(run.gained), int(run.n)
    return parity("accuracy", policy, lost, gained, n, policy.margin_points, run.batch, condition)


def _budgets(policy: Policy, measured: Evidence | Run, batch: int | None, scope: str) -> Iterator[Check]:
    """The budgets of one scope that the policy sets."""
    for budget in BUDGETS:
        limit = getattr(policy, budget.limit)
        if budget.scope != scope or limit is None:
            continue
        value = getattr(measured, budget.field)
        unit = "" if budget.unit == "share" else f" {budget.unit}"
        low, high = PLAUSIBLE[budget.unit]
        verdict: Decision = "fail"
        if value is None:
            text = f"unavailable, but {budget.limit} is set"
        elif not is_number(value) or not low <= value <= high:  # NaN is in no range
            text, value = f"{value}{unit} is no measurement", None
        else:
            holds = budget.holds(value, limit)
            verdict = "pass" if holds else "fail"
            shown, bound = apart(value, limit)
            text = f"{shown}{unit} {budget.relation if holds else budget.broken} budget {bound}{unit}"
        yield check(budget.name, verdict, text, batch, value, limit, budget.unit)


def _nan_fields(record: Any) -> list[str]:
    """Names of the fields that are NaN or hold a NaN, needed or not: a NaN is never harmless."""
    found = []
    for item in fields(record):
        value = getattr(record, item.name)
        named = {f"{item.name}.{k}": v for k, v in value.items()} if isinstance(value, Mapping) else {item.name: value}
        # Only NaN differs from itself, whatever the float type.
        found += [name for name, number in named.items() if is_number(number) and number != number]
    return found
