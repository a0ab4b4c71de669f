"""The gate: evidence and policy in, verdict out. It prints nothing, reads nothing and fails closed.

Every batch that was run must pass by itself (intersection-union test: no correction for several runs is needed,
because all of them have to hold). Evidence that is missing where it is needed, NaN, or not about the file that ships
is a failure with a reason, never a pass by default.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any

from pipeline.errors import UsageError
from pipeline.release.statistics import Decision, noninferior, samples_to_decide, tango_lower, tango_upper

POWER = 0.8  # of the sample size that an inconclusive verdict asks for


@dataclass(frozen=True)
class Policy:
    """What a release must hold. None means that no budget is set.

    `margin_points`: accuracy that may be lost at most, in percentage points against the original float model.
    `max_latency_ms`: on the median (p50) at the deployment batch. `max_flip_rate`: share of samples that went from
    right to wrong or back. `groups`: the data has groups (people, devices, ...), so the claim is stated as
    conditional on those in the gate split. Raises UsageError for values that no policy can have.
    """

    margin_points: float
    confidence: float = 0.95
    max_size_bytes: int | None = None
    max_weight_bytes: int | None = None
    max_latency_ms: float | None = None
    max_flip_rate: float | None = None
    min_sqnr_db: float | None = None
    min_int8_mac_share: float | None = None
    groups: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.margin_points < 100:
            raise UsageError(f"gate: margin_points is {self.margin_points}, expected more than 0 and less than 100")
        if not 0.5 <= self.confidence < 1:
            raise UsageError(f"gate: confidence is {self.confidence}, expected at least 0.5 and less than 1")
        for budget in BUDGETS:
            limit, (low, high) = getattr(self, budget.limit), PLAUSIBLE[budget.unit]
            if limit is not None and not (low <= limit <= high and math.isfinite(limit)):
                raise UsageError(f"gate: {budget.limit} is {limit}, expected {low:g} to {high:g} {budget.unit}")


@dataclass(frozen=True)
class Run:
    """What was measured on the whole gate split at one batch size, on one device.

    `lost`, `gained`: samples right only with the original float model, right only with this one. `latency_ms` has
    p50, p90 and p99 of one batch. `finite`: whether every output value was a finite number. None = unavailable.
    What stored evidence really holds is checked by `judge`, not by these types.
    """

    batch: int
    n: int | None
    lost: int | None
    gained: int | None
    finite: bool | None
    metric: float | None = None
    sqnr_db: float | None = None
    latency_ms: Mapping[str, float] | None = None

    @property
    def p50_ms(self) -> float | None:
        """Median latency of one batch."""
        return None if self.latency_ms is None else self.latency_ms.get("p50")

    @property
    def flip_rate(self) -> float | None:
        """Share of samples whose correctness changed, either way."""
        if not self.n or self.lost is None or self.gained is None:
            return None
        return (self.lost + self.gained) / self.n


@dataclass(frozen=True)
class Evidence:
    """All that a verdict is made from; None = unavailable.

    `n`: samples in the gate split. `batches`: the batch sizes that had to be run, deployment first. `leaked`: samples
    of the gate split that are in another split too. `groups`: how many groups the gate split has. `verified_sha256`
    is the digest of the model that the runs measured, `artifact_sha256` that of the file which ships.
    """

    n: int
    batches: tuple[int, ...]
    runs: tuple[Run, ...]
    verified_sha256: str | None
    artifact_sha256: str | None
    leaked: int | None
    size_bytes: int | None = None
    weight_bytes: int | None = None
    int8_mac_share: float | None = None
    groups: int | None = None


@dataclass(frozen=True)
class Check:
    """One thing that was judged; `batch` is None for what concerns the file. `value` and `limit` are in `unit`."""

    name: str
    verdict: Decision
    reason: str
    batch: int | None = None
    value: float | None = None
    limit: float | None = None
    unit: str = ""


@dataclass(frozen=True)
class Verdict:
    """`reasons` are those of the checks that made the verdict (all of them for a pass); `checks` has every one."""

    verdict: Decision
    reasons: list[str]
    checks: list[Check]


@dataclass(frozen=True)
class Budget:
    """A row of BUDGETS: `field` of the evidence or of each run must be at most / at least the policy's `limit`."""

    name: str
    field: str
    limit: str
    relation: str  # "<=" or ">="
    unit: str
    scope: str  # "file", "deployment" (the run at the deployment batch), "every run"


BUDGETS = (
    Budget("file size", "size_bytes", "max_size_bytes", "<=", "bytes", "file"),
    Budget("weight bytes", "weight_bytes", "max_weight_bytes", "<=", "bytes", "file"),
    Budget("int8 share of MACs", "int8_mac_share", "min_int8_mac_share", ">=", "share", "file"),
    Budget("latency p50", "p50_ms", "max_latency_ms", "<=", "ms", "deployment"),
    Budget("flip rate", "flip_rate", "max_flip_rate", "<=", "share", "every run"),
    Budget("SQNR", "sqnr_db", "min_sqnr_db", ">=", "dB", "every run"),
)
# What a measurement can be at all: a size of 0 bytes or a latency below a nanosecond was never measured.
PLAUSIBLE = {
    "bytes": (1.0, math.inf),
    "ms": (1e-6, math.inf),
    "share": (0.0, 1.0),
    "dB": (-math.inf, math.inf),
}


def judge(policy: Policy, evidence: Evidence) -> Verdict:
    """Fail if any check fails, else inconclusive if any is inconclusive, else pass."""
    checks = [*_identity(policy, evidence), *_budgets(policy, evidence, None, "file")]
    for run in evidence.runs:
        broken = list(_broken(run, evidence))
        checks += broken or [_accuracy(policy, run, evidence)]
        if not broken:
            checks += _budgets(policy, run, run.batch, "every run")
            if run.batch in evidence.batches[:1]:
                checks += _budgets(policy, run, run.batch, "deployment")
    seen = {check.verdict for check in checks}
    verdict: Decision = "fail" if "fail" in seen else "inconclusive" if "inconclusive" in seen else "pass"
    return Verdict(verdict, [check.reason for check in checks if check.verdict == verdict], checks)


def _check(
    name: str,
    verdict: Decision,
    text: str,
    batch: int | None = None,
    value: float | None = None,
    limit: float | None = None,
    unit: str = "",
) -> Check:
    where = "" if batch is None else f" at batch {batch}"
    return Check(name, verdict, f"{name}{where}: {text}", batch, value, limit, unit)


def _identity(policy: Policy, evidence: Evidence) -> Iterator[Check]:
    """Is this evidence about the file that ships, on a sound gate split, at every batch that counts?"""
    verified, ships = evidence.verified_sha256, evidence.artifact_sha256
    if not verified or not ships:
        which = "the verified model" if not verified else "the artifact"
        yield _check("artifact", "fail", f"the SHA-256 of {which} is unavailable, so the runs may be of another file")
    elif verified != ships:
        yield _check("artifact", "fail", f"verified {verified[:12]}, but {ships[:12]} ships: verify again")
    else:
        yield _check("artifact", "pass", f"what was verified is what ships ({ships[:12]})")
    if not _is_count(evidence.n, 1):
        yield _check("gate split", "fail", f"n is {evidence.n}, expected at least 1 sample")
    if not _is_count(evidence.leaked):
        yield _check("gate split", "fail", "unavailable whether it shares samples with another split")
    elif evidence.leaked:
        yield _check("gate split", "fail", f"{evidence.leaked} of {evidence.n} samples are in another split too")
    if policy.groups and not _is_count(evidence.groups, 1):
        yield _check("groups", "fail", "the data has groups, but their number is unavailable")
    if not evidence.batches:
        yield _check("runs", "fail", "no batch size was asked for, so nothing was verified")
    for batch in evidence.batches:
        if all(run.batch != batch for run in evidence.runs):
            yield _check("run", "fail", "missing, this batch was not run", batch)
    for name in _nan_fields(evidence):
        yield _check(name, "fail", "is NaN")


def _broken(run: Run, evidence: Evidence) -> Iterator[Check]:
    """Reasons why a run cannot be evidence."""
    n: Any = run.n
    lost: Any = run.lost
    gained: Any = run.gained
    counts = {"n": (n, 1), "lost": (lost, 0), "gained": (gained, 0)}
    sound = True
    for name, (count, least) in counts.items():
        if not _is_count(count, least):
            sound = False
            text = "is unavailable" if count is None else f"is {count}, expected a count of at least {least}"
            yield _check(name, "fail", text, run.batch)
    if sound and lost + gained > n:
        yield _check("flips", "fail", f"lost {lost} and gained {gained} are more than n = {n}", run.batch)
    if sound and n != evidence.n:
        yield _check("n", "fail", f"is {n}, but the gate split has {evidence.n} samples: run all of them", run.batch)
    if run.finite is None:
        yield _check("outputs", "fail", "unavailable whether they are finite", run.batch)
    elif not run.finite:
        yield _check("outputs", "fail", "have NaN or infinity", run.batch)
    for name in _nan_fields(run):
        if name not in counts:
            yield _check(name, "fail", "is NaN", run.batch)


def _accuracy(policy: Policy, run: Run, evidence: Evidence) -> Check:
    """Paired non-inferiority of one run that `_broken` found nothing against."""
    assert run.lost is not None
    assert run.gained is not None
    assert run.n is not None
    lost, gained, n = int(run.lost), int(run.gained), int(run.n)
    margin = policy.margin_points / 100
    decision = noninferior(lost, gained, n, margin, policy.confidence)
    bound, side = (tango_lower, "lower") if decision == "fail" else (tango_upper, "upper")
    bound_points = 100 * bound(lost, gained, n, policy.confidence)
    relation = {"pass": "<", "fail": ">", "inconclusive": ">="}[decision]
    shown, limit = _apart(bound_points, policy.margin_points)
    text = (
        f"drop {_text(100 * (lost - gained) / n)} points (lost {lost:,}, gained {gained:,} of {n:,}), "
        f"{100 * policy.confidence:g} % {side} bound {shown} points {relation} margin {limit} points"
    )
    if decision == "inconclusive":
        needed = samples_to_decide(lost, gained, n, margin, POWER, policy.confidence)
        if needed is None:
            text += "; the drop seen is not below the margin, so more samples like these would not show parity"
        else:
            text += f"; at the rates seen, n = {needed:,} samples would decide with {100 * POWER:g} % power"
    if policy.groups:
        text += f"; conditional on these {evidence.groups} groups"
    return _check("accuracy", decision, text, run.batch, bound_points, policy.margin_points, "points")


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
        elif not _is_number(value) or not low <= value <= high:  # NaN is in no range
            text, value = f"{value}{unit} is no measurement", None
        else:
            holds = value <= limit if budget.relation == "<=" else value >= limit
            verdict = "pass" if holds else "fail"
            shown, bound = _apart(value, limit)
            text = f"{shown}{unit} {budget.relation if holds else _OPPOSITE[budget.relation]} budget {bound}{unit}"
        yield _check(budget.name, verdict, text, batch, value, limit, budget.unit)


_OPPOSITE = {"<=": ">", ">=": "<"}


def _nan_fields(record: Any) -> list[str]:
    """Names of the fields that are NaN or hold a NaN, needed or not: a NaN is never harmless."""
    found = []
    for item in fields(record):
        value = getattr(record, item.name)
        named = {f"{item.name}.{k}": v for k, v in value.items()} if isinstance(value, Mapping) else {item.name: value}
        # Only NaN differs from itself, whatever the float type.
        found += [name for name, number in named.items() if _is_number(number) and number != number]
    return found


def _is_number(value: object) -> bool:
    """A real number, NumPy's too, but no bool."""
    return not isinstance(value, bool) and isinstance(value, Real)


def _is_count(value: object, least: int = 0) -> bool:
    """A whole number of at least `least`."""
    return isinstance(value, Integral) and _is_number(value) and int(value) >= least


def _text(value: float, digits: int = 3) -> str:
    """At least `digits` significant digits, no exponent, thousands separated: 0.0142, 1.35, 15,432."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _apart(value: float, limit: float) -> tuple[str, str]:
    """Both as text with enough digits to be told apart, so that no reason reads "3 points < 3 points"."""
    for digits in range(3, 18):
        texts = _text(value, digits), _text(limit, digits)
        if texts[0] != texts[1] or value == limit:
            break
    return texts
