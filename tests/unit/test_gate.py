"""The gate: verdicts from evidence, and every way in which evidence can be broken ends in a named failure."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UsageError
from pipeline.release.gate import Evidence, Policy, Run, Verdict, judge
from pipeline.release.statistics import tango_lower, tango_upper

DIGEST = "ab" * 32
LATENCY = {"p50": 0.021, "p90": 0.024, "p99": 0.031}
SMALL = Run(1, 860, 12, 8, True, metric=0.871, sqnr_db=31.5, latency_ms=LATENCY)
LARGE = Run(64, 860, 11, 8, True, metric=0.872, sqnr_db=31.6)
EVIDENCE = Evidence(
    n=860,
    batches=(1, 64),
    runs=(SMALL, LARGE),
    verified_sha256=DIGEST,
    artifact_sha256=DIGEST,
    leaked=0,
    size_bytes=15_432,
    weight_bytes=7_100,
    int8_mac_share=0.97,
    groups=2,
)
POLICY = Policy(
    margin_points=3,
    max_size_bytes=20_000,
    max_weight_bytes=8_000,
    max_latency_ms=0.05,
    max_flip_rate=0.05,
    min_sqnr_db=20,
    min_int8_mac_share=0.9,
    groups=True,
)


def small(**changes: Any) -> Evidence:
    return replace(EVIDENCE, runs=(replace(SMALL, **changes), LARGE))


def large(**changes: Any) -> Evidence:
    return replace(EVIDENCE, runs=(SMALL, replace(LARGE, **changes)))


def only_reason(verdict: Verdict) -> str:
    assert len(verdict.reasons) == 1, verdict.reasons
    return verdict.reasons[0]


def test_sound_evidence_passes_and_says_why() -> None:
    verdict = judge(POLICY, EVIDENCE)
    assert verdict.verdict == "pass"
    assert verdict.reasons == [
        "artifact: what was verified is what ships (abababababab)",
        "file size: 15,432 bytes <= budget 20,000 bytes",
        "weight bytes: 7,100 bytes <= budget 8,000 bytes",
        "int8 share of MACs: 0.97 >= budget 0.9",
        "accuracy at batch 1: drop 0.465 points (lost 12, gained 8 of 860), "
        "95 % upper bound 1.4 points < margin 3 points; conditional on these 2 groups",
        "flip rate at batch 1: 0.0233 <= budget 0.05",
        "SQNR at batch 1: 31.5 dB >= budget 20 dB",
        "latency p50 at batch 1: 0.021 ms <= budget 0.05 ms",
        "accuracy at batch 64: drop 0.349 points (lost 11, gained 8 of 860), "
        "95 % upper bound 1.26 points < margin 3 points; conditional on these 2 groups",
        "flip rate at batch 64: 0.0221 <= budget 0.05",
        "SQNR at batch 64: 31.6 dB >= budget 20 dB",
    ]


def test_check_carries_the_bound_that_the_reason_names() -> None:
    accuracy = next(check for check in judge(POLICY, EVIDENCE).checks if check.name == "accuracy")
    assert accuracy.value == pytest.approx(100 * tango_upper(12, 8, 860), rel=1e-12)
    assert (accuracy.limit, accuracy.unit, accuracy.batch) == (3, "points", 1)


NAN = math.nan
BROKEN = [
    # What is wrong, the evidence, the start of the only reason.
    (
        "hash differs",
        replace(EVIDENCE, artifact_sha256="cd" * 32),
        "artifact: verified abababababab, but cdcdcdcdcdcd ships",
    ),
    (
        "no hash of the artifact",
        replace(EVIDENCE, artifact_sha256=None),
        "artifact: the SHA-256 of the artifact is unav",
    ),
    (
        "no hash verified",
        replace(EVIDENCE, verified_sha256=None),
        "artifact: the SHA-256 of the verified model is unav",
    ),
    ("empty hash", replace(EVIDENCE, verified_sha256=""), "artifact: the SHA-256 of the verified model is unav"),
    ("leak", replace(EVIDENCE, leaked=3), "gate split: 3 of 860 samples are in another split too"),
    ("leak unknown", replace(EVIDENCE, leaked=None), "gate split: unavailable whether it shares samples"),
    ("leak negative", replace(EVIDENCE, leaked=-1), "gate split: unavailable whether it shares samples"),
    ("groups unknown", replace(EVIDENCE, groups=None), "groups: the data has groups, but their number is unavailable"),
    ("groups zero", replace(EVIDENCE, groups=0), "groups: the data has groups, but their number is unavailable"),
    ("large run missing", replace(EVIDENCE, runs=(SMALL,)), "run at batch 64: missing"),
    ("deployment run missing", replace(EVIDENCE, runs=(LARGE,)), "run at batch 1: missing"),
    ("part of the split", small(n=859), "n at batch 1: is 859, but the gate split has 860 samples"),
    ("n missing", small(n=None), "n at batch 1: is unavailable"),
    ("n zero", small(n=0, lost=0, gained=0), "n at batch 1: is 0, expected a count of at least 1"),
    ("n NaN", small(n=NAN), "n at batch 1: is nan"),
    ("lost missing", small(lost=None), "lost at batch 1: is unavailable"),
    ("lost NaN", small(lost=NAN), "lost at batch 1: is nan"),
    ("lost negative", small(lost=-1), "lost at batch 1: is -1"),
    ("lost a share", small(lost=0.01), "lost at batch 1: is 0.01"),
    ("lost a truth", small(lost=True), "lost at batch 1: is True"),
    ("gained missing", large(gained=None), "gained at batch 64: is unavailable"),
    ("gained NaN", large(gained=NAN), "gained at batch 64: is nan"),
    ("more flips than samples", small(lost=500, gained=400), "flips at batch 1: lost 500 and gained 400 are more"),
    ("outputs not finite", small(finite=False), "outputs at batch 1: have NaN or infinity"),
    ("outputs not looked at", large(finite=None), "outputs at batch 64: unavailable"),
    ("metric NaN", small(metric=NAN), "metric at batch 1: is NaN"),
    ("metric NaN of NumPy", small(metric=np.float32("nan")), "metric at batch 1: is NaN"),
    ("SQNR NaN", large(sqnr_db=NAN), "sqnr_db at batch 64: is NaN"),
    ("p99 NaN", small(latency_ms=LATENCY | {"p99": NAN}), "latency_ms.p99 at batch 1: is NaN"),
    ("no latency", small(latency_ms=None), "latency p50 at batch 1: unavailable, but max_latency_ms is set"),
    ("no median", small(latency_ms={}), "latency p50 at batch 1: unavailable, but max_latency_ms is set"),
    ("latency zero", small(latency_ms={"p50": 0.0}), "latency p50 at batch 1: 0.0 ms is no measurement"),
    ("latency text", small(latency_ms={"p50": "fast"}), "latency p50 at batch 1: fast ms is no measurement"),
    ("latency infinite", small(latency_ms={"p50": math.inf}), "latency p50 at batch 1: inf ms > budget 0.05 ms"),
    ("SQNR missing", large(sqnr_db=None), "SQNR at batch 64: unavailable, but min_sqnr_db is set"),
    ("no size", replace(EVIDENCE, size_bytes=None), "file size: unavailable, but max_size_bytes is set"),
    ("size zero", replace(EVIDENCE, size_bytes=0), "file size: 0 bytes is no measurement"),
    ("no weight bytes", replace(EVIDENCE, weight_bytes=None), "weight bytes: unavailable, but max_weight_bytes is set"),
    ("no int8 share", replace(EVIDENCE, int8_mac_share=None), "int8 share of MACs: unavailable"),
    ("int8 share above 1", replace(EVIDENCE, int8_mac_share=97.0), "int8 share of MACs: 97.0 is no measurement"),
    ("too large", replace(EVIDENCE, size_bytes=20_001), "file size: 20,001 bytes > budget 20,000 bytes"),
    ("weights too large", replace(EVIDENCE, weight_bytes=8_001), "weight bytes: 8,001 bytes > budget 8,000 bytes"),
    ("float islands", replace(EVIDENCE, int8_mac_share=0.89), "int8 share of MACs: 0.89 < budget 0.9"),
    ("too slow", small(latency_ms={"p50": 0.0501}), "latency p50 at batch 1: 0.0501 ms > budget 0.05 ms"),
    ("too noisy", large(sqnr_db=19.99), "SQNR at batch 64: 19.99 dB < budget 20 dB"),
    ("no signal", small(sqnr_db=-math.inf), "SQNR at batch 1: -inf dB < budget 20 dB"),
    ("too many flips", small(lost=22, gained=22), "flip rate at batch 1: 0.0512 > budget 0.05"),
]


@pytest.mark.parametrize(("evidence", "reason"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_broken_evidence_fails_with_its_reason(evidence: Evidence, reason: str) -> None:
    verdict = judge(POLICY, evidence)
    assert verdict.verdict == "fail"
    assert only_reason(verdict).startswith(reason)


@pytest.mark.parametrize("n", [0, -1, None, NAN])
def test_gate_split_without_samples_fails(n: Any) -> None:
    verdict = judge(POLICY, replace(EVIDENCE, n=n))
    assert verdict.verdict == "fail"
    assert f"gate split: n is {n}, expected at least 1 sample" in verdict.reasons


@pytest.mark.parametrize("field", ["size_bytes", "weight_bytes", "int8_mac_share", "groups"])
def test_nan_fails_even_where_no_budget_needs_it(field: str) -> None:
    verdict = judge(Policy(margin_points=3), replace(EVIDENCE, **{field: NAN}))
    assert verdict.verdict == "fail"
    assert only_reason(verdict) == f"{field}: is NaN"


def test_no_batch_at_all_fails() -> None:
    verdict = judge(POLICY, replace(EVIDENCE, batches=(), runs=()))
    assert verdict.verdict == "fail"
    assert only_reason(verdict) == "runs: no batch size was asked for, so nothing was verified"


def test_what_no_budget_needs_may_be_unavailable() -> None:
    bare = Evidence(860, (1,), (Run(1, 860, 12, 8, True),), DIGEST, DIGEST, 0)
    verdict = judge(Policy(margin_points=3), bare)
    assert verdict.verdict == "pass"
    assert [check.name for check in verdict.checks] == ["artifact", "accuracy"]
    assert "conditional" not in " ".join(verdict.reasons)


def test_numpy_counts_and_lists_from_storage_are_as_good() -> None:
    stored = replace(small(n=np.int64(860), lost=np.int64(12), gained=np.int32(8)), batches=[1, 64])  # type: ignore[arg-type]
    assert judge(POLICY, stored).reasons == judge(POLICY, EVIDENCE).reasons


def test_exact_equality_to_float_passes() -> None:
    """A float candidate that ships: no noise at all is an SQNR of infinity."""
    assert judge(POLICY, small(sqnr_db=math.inf, lost=0, gained=0)).verdict == "pass"


def test_shown_worse_than_the_margin_fails_with_the_lower_bound() -> None:
    verdict = judge(Policy(margin_points=3), large(lost=60, gained=17))
    assert verdict.verdict == "fail"
    reason = only_reason(verdict)
    assert reason.startswith("accuracy at batch 64: drop 5 points (lost 60, gained 17 of 860), 95 % lower bound")
    assert reason.endswith(f"{100 * tango_lower(60, 17, 860):.2f} points > margin 3 points")


def test_inconclusive_says_how_many_samples_would_decide() -> None:
    verdict = judge(Policy(margin_points=2), small(lost=30, gained=22))
    assert verdict.verdict == "inconclusive"
    reason = only_reason(verdict)
    assert "95 % upper bound" in reason
    assert ">= margin 2 points; at the rates seen, n = " in reason
    assert reason.endswith(" samples would decide with 80 % power")


def test_inconclusive_beyond_the_margin_promises_nothing() -> None:
    verdict = judge(Policy(margin_points=2), small(lost=45, gained=22))
    assert verdict.verdict == "inconclusive"
    assert only_reason(verdict).endswith("so more samples like these would not show parity")


def test_one_failing_batch_fails_and_failure_outranks_doubt() -> None:
    doubtful, failing = replace(SMALL, lost=30, gained=22), replace(LARGE, lost=90, gained=17)
    verdict = judge(Policy(margin_points=2), replace(EVIDENCE, runs=(doubtful, failing)))
    assert verdict.verdict == "fail"
    assert only_reason(verdict).startswith("accuracy at batch 64")
    assert {check.verdict for check in verdict.checks} == {"pass", "inconclusive", "fail"}


def test_a_run_that_nobody_asked_for_must_pass_too() -> None:
    extra = replace(LARGE, batch=256, lost=90)
    assert judge(POLICY, replace(EVIDENCE, runs=(SMALL, LARGE, extra))).verdict == "fail"


def test_latency_budget_is_for_the_deployment_batch() -> None:
    assert judge(POLICY, large(latency_ms={"p50": 5.0})).verdict == "pass"


def test_bound_and_margin_are_told_apart_in_words() -> None:
    bound = 100 * tango_upper(12, 8, 860)
    below, above = (only_accuracy(Policy(margin_points=bound + delta)) for delta in (1e-6, -1e-6))
    assert below[0] == "pass"
    assert above[0] == "inconclusive"
    for _, text in (below, above):
        shown = text.split("bound ")[1].split(" points")[0]
        margin = text.split("margin ")[1].split(" points")[0]
        assert shown != margin


def only_accuracy(policy: Policy) -> tuple[str, str]:
    evidence = replace(EVIDENCE, batches=(1,), runs=(SMALL,))
    check = next(check for check in judge(policy, evidence).checks if check.name == "accuracy")
    return check.verdict, check.reason


@pytest.mark.parametrize("margin", [0, -1, 100, NAN, math.inf])
def test_policy_refuses_a_margin_that_decides_nothing(margin: float) -> None:
    with pytest.raises(UsageError, match="margin_points"):
        Policy(margin_points=margin)


@pytest.mark.parametrize("confidence", [0.0, 0.49, 1.0, 95, NAN])
def test_policy_refuses_a_confidence_that_means_nothing(confidence: float) -> None:
    with pytest.raises(UsageError, match="confidence"):
        Policy(margin_points=3, confidence=confidence)


@pytest.mark.parametrize(
    "budget",
    [
        {"max_size_bytes": 0},
        {"max_weight_bytes": -1},
        {"max_latency_ms": 0.0},
        {"max_latency_ms": math.inf},
        {"max_flip_rate": 5.0},
        {"min_sqnr_db": NAN},
        {"min_int8_mac_share": 90.0},
    ],
    ids=str,
)
def test_policy_refuses_a_budget_that_no_measurement_can_meet_or_miss(budget: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(budget))):
        Policy(margin_points=3, **budget)
