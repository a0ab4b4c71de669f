"""Claims beside accuracy: required slices and metrics must hold, other slices may only fail when shown worse."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from pipeline.errors import UsageError
from pipeline.release.gate import Metric, Policy, Slice, Verdict, judge
from pipeline.release.statistics import noninferior, tango_upper, worse_p
from tests.unit.test_gate import EVIDENCE, LARGE, SMALL, Evidence, only_reason

# 860 samples of which 12 were lost and 8 gained, as classes and as groups.
CLASSES = {"class:up": Slice(400, 6, 4), "class:down": Slice(420, 5, 4), "class:rare": Slice(40, 1, 0)}
GROUPS = {"group:ann": Slice(500, 9, 6), "group:bob": Slice(360, 3, 2)}
GOOD = Metric(0.4, -0.3, 1.1, "paired BCa bootstrap over 860 samples")


def evidence(slices: dict[str, Slice] | None = None, metrics: dict[str, Metric] | None = None) -> Evidence:
    run = replace(SMALL, slices=CLASSES | GROUPS if slices is None else slices, metrics=metrics or {})
    return replace(EVIDENCE, batches=(1,), runs=(run,))


def policy(**changes: Any) -> Policy:
    return Policy(**({"margin_points": 3.0} | changes))


def worsened(name: str, part: Slice) -> dict[str, Slice]:
    """The classes with one changed, and the rest so that all still make up the run."""
    rest = Slice(860 - part.n, 12 - part.lost, 8 - part.gained)  # type: ignore[operator]
    return {name: part, "class:rest": rest}


def test_small_slices_are_information() -> None:
    verdict = judge(policy(), evidence())
    assert verdict.verdict == "pass"
    reason = next(r for r in verdict.reasons if r.startswith("slices at batch 1"))
    assert reason.startswith("slices at batch 1: none of 5 is shown worse than the margin (nearest ")
    assert "after Holm over 5" in reason


def test_a_slice_that_is_doubtful_by_itself_does_not_stop_a_release() -> None:
    assert noninferior(1, 0, 40, 0.03) == "inconclusive"
    assert judge(policy(), evidence()).verdict == "pass"


def test_a_slice_that_is_shown_worse_fails() -> None:
    verdict = judge(policy(), evidence(worsened("class:night", Slice(40, 12, 0))))
    assert verdict.verdict == "fail"
    reason = only_reason(verdict)
    assert reason.startswith("slice class:night at batch 1: shown worse than the margin: drop 30 points (lost 12")


def test_one_of_many_slices_is_held_to_holm() -> None:
    """A slice with p below 0.025 fails where there is one other claim, and not where it is the worst of many."""
    part = next(Slice(60, lost, 0) for lost in range(13) if 0.006 < worse_p(lost, 0, 60, 0.03) < 0.025)
    alone = evidence(worsened("class:night", part))
    assert judge(policy(), alone).verdict == "fail"
    quiet = {f"class:{i}": Slice(100, 0, 1) for i in range(7)}
    lost, gained = 12 - part.lost, 1  # type: ignore[operator]
    many = evidence({"class:night": part, **quiet, "class:rest": Slice(100, lost, gained)})
    assert judge(policy(), many).verdict == "pass"


def test_holm_is_over_all_runs() -> None:
    runs = tuple(replace(run, slices={"class:all": Slice(860, run.lost, 8)}) for run in (SMALL, LARGE))
    reasons = judge(policy(), replace(EVIDENCE, runs=runs)).reasons
    assert sum("after Holm over 2" in reason for reason in reasons) == 2


def test_a_required_slice_must_hold_by_itself() -> None:
    assert judge(policy(slices={"group:ann": 3.0}), evidence()).verdict == "pass"
    verdict = judge(policy(slices={"class:rare": 3.0}), evidence())
    assert verdict.verdict == "inconclusive"
    reason = only_reason(verdict)
    assert reason.startswith("slice class:rare at batch 1: drop 2.5 points (lost 1, gained 0 of 40), 95 % upper bound")
    assert "samples would decide with 80 % power" in reason
    check = next(c for c in verdict.checks if c.name == "slice class:rare")
    assert check.value == pytest.approx(100 * tango_upper(1, 0, 40))
    assert judge(policy(slices={"class:rare": 15.0}), evidence()).verdict == "pass"


def test_required_slices_are_not_judged_twice() -> None:
    verdict = judge(policy(slices={"class:rare": 15.0}), evidence())
    assert any("none of 4 is shown worse" in reason for reason in verdict.reasons)


def test_a_required_metric_must_hold() -> None:
    asked = policy(metrics={"macro_f1": 2.0})
    passed = judge(asked, evidence(metrics={"macro_f1": GOOD}))
    assert passed.verdict == "pass"
    assert (
        "macro_f1 at batch 1: drop 0.4 points, 95 % upper bound 1.1 points < margin 2 points "
        "(paired BCa bootstrap over 860 samples)" in passed.reasons
    )
    failed = judge(asked, evidence(metrics={"macro_f1": replace(GOOD, drop=4.0, low=2.1, high=6)}))
    assert failed.verdict == "fail"
    assert "95 % lower bound 2.1 points > margin 2 points" in only_reason(failed)


def test_an_inconclusive_metric_says_how_many_samples() -> None:
    asked = policy(metrics={"macro_f1": 1.0})
    verdict = judge(asked, evidence(metrics={"macro_f1": GOOD}))
    assert verdict.verdict == "inconclusive"
    # Widths shrink with the root of n: (0.7 (1 + 0.84 / 1.64) / 0.6)^2 = 3.11 times as many.
    assert "about n = 2,676 samples" in only_reason(verdict).replace("2,675", "2,676").replace("2,677", "2,676")
    beyond = replace(GOOD, drop=1.05)
    assert "would not show parity" in only_reason(judge(asked, evidence(metrics={"macro_f1": beyond})))


def test_a_gate_split_below_the_policys_minimum_fails() -> None:
    assert judge(policy(min_samples=860), evidence()).verdict == "pass"
    verdict = judge(policy(min_samples=861), evidence())
    assert verdict.verdict == "fail"
    assert only_reason(verdict) == "gate split: 860 samples, fewer than min_samples = 861"


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"cpu": "Cortex-A53", "board": "pi 3"}, None),
        ({"cpu": "Xeon", "cores": 2}, "device at batch 1: measured on Xeon, not on 'Cortex-A53'"),
        ({}, "device at batch 1: unknown, but the policy requires 'Cortex-A53'"),
        (None, "device at batch 1: unknown, but the policy requires 'Cortex-A53'"),
    ],
)
def test_only_the_device_that_the_policy_names_counts(facts: dict[str, Any] | None, reason: str | None) -> None:
    given = evidence()
    given = replace(given, runs=(replace(given.runs[0], device=facts),))
    verdict = judge(policy(device="Cortex-A53"), given)
    assert verdict.verdict == ("pass" if reason is None else "fail")
    assert reason is None or only_reason(verdict) == reason
    assert judge(policy(), given).verdict == "pass"


NAN = math.nan
CLOSED = [
    ("metric missing", {"metrics": {"macro_f1": 2.0}}, {}, "macro_f1 at batch 1: unavailable, but the policy requires"),
    (
        "metric NaN",
        {"metrics": {"macro_f1": 2.0}},
        {"metrics": {"macro_f1": replace(GOOD, high=NAN)}},
        "macro_f1 at batch 1: unavailable",
    ),
    (
        "metric without figures",
        {"metrics": {"top5": 2.0}},
        {"metrics": {"top5": Metric(None, None, None, "top5 is always right with 4 classes")}},
        "top5 at batch 1: unavailable: top5 is always right with 4 classes",
    ),
    ("slice missing", {"slices": {"group:eve": 3.0}}, {}, "slice group:eve at batch 1: unavailable, but the policy"),
    ("no slices", {"slices": {"group:eve": 3.0}}, {"slices": {}}, "slice group:eve at batch 1: unavailable"),
    (
        "slice without samples",
        {},
        {"slices": CLASSES | {"class:none": Slice(0, 0, 0)}},
        "slice class:none at batch 1: its counts are lost 0, gained 0 of 0",
    ),
    (
        "slice NaN",
        {},
        {"slices": CLASSES | {"class:up": Slice(400, NAN, 4)}},  # type: ignore[arg-type]
        "slice class:up at batch 1: its counts are lost nan",
    ),
    (
        "slices that hide losses",
        {},
        {"slices": CLASSES | {"class:up": Slice(400, 2, 4)}},
        "class slices at batch 1: together they lost 8, gained 8 of 860, but the run lost 12",
    ),
    (
        "slices of a part",
        {},
        {"slices": {"group:ann": GROUPS["group:ann"]}},
        "group slices at batch 1: together they lost 9, gained 6 of 500, but the run",
    ),
]


@pytest.mark.parametrize(("asked", "given", "reason"), [row[1:] for row in CLOSED], ids=[row[0] for row in CLOSED])
def test_missing_or_broken_claims_fail(asked: dict[str, Any], given: dict[str, Any], reason: str) -> None:
    verdict: Verdict = judge(policy(**asked), evidence(**given))
    assert verdict.verdict == "fail"
    assert only_reason(verdict).startswith(reason)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"metrics": {"acuracy": 2.0}}, "no metric 'acuracy'"),
        ({"metric": "aces"}, "no metric 'aces'"),
        ({"metric": "mae"}, "mae has a unit of its own: set margin"),
        ({"metrics": {"mae": "a%"}}, "expected a number, or a share of float such as '1%'"),
        ({"margin": "100%"}, "margin is '100%'"),
        ({"margin": "1"}, "margin is '1'"),
        ({"max_age_days": 0.0}, "max_age_days is 0"),
        ({"devices": ("pi", "")}, "devices has an empty name"),
        ({"slices": {"tag:light": 2.0}}, "no slice 'tag:light'"),
        ({"metrics": {"top1": 2.0}}, "no metric 'top1'"),
        ({"metrics": {"macro_f1": 0.0}}, r"metrics\.macro_f1 is 0"),
        ({"metrics": {"macro_f1": NAN}}, r"metrics\.macro_f1 is nan"),
        ({"min_samples": 0}, "min_samples is 0"),
        ({"device": " "}, "device is empty"),
        ({"slices": {"ann": 2.0}}, "no slice 'ann'"),
        ({"slices": {"group:ann": 100.0}}, 'slices."group:ann" is 100'),
    ],
)
def test_a_policy_that_asks_for_nothing_known_is_refused(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        policy(**asked)


# ------------------------------------------------------------------------------ other primary metrics, shares of float


def test_another_primary_metric_takes_the_place_of_flips() -> None:
    asked = policy(metric="mae", margin=0.5)
    run = replace(SMALL, lost=None, gained=None, slices={}, metrics={"mae": replace(GOOD, unit="", high=0.4)})
    given = replace(EVIDENCE, batches=(1,), runs=(run,))
    passed = judge(asked, given)
    assert passed.verdict == "pass"
    assert not any(check.name in ("accuracy", "slices") for check in passed.checks)
    assert "mae at batch 1: drop 0.4, 95 % upper bound 0.4 < margin 0.5 (paired BCa" in " ".join(passed.reasons)
    assert judge(asked, replace(given, runs=(replace(run, metrics={}),))).verdict == "fail"
    assert "lost at batch 1: is unavailable" in judge(policy(), given).reasons


def test_a_share_of_float_is_judged_as_one() -> None:
    asked, found = policy(margin="2%"), replace(GOOD, unit="% of float", float_value=87.0)
    run = replace(evidence().runs[0], metrics={"accuracy": found})
    given = replace(EVIDENCE, batches=(1,), runs=(run,))
    verdict = judge(asked, given)
    assert verdict.verdict == "pass"
    assert any("upper bound 1.1 % of float < margin 2 % of float" in reason for reason in verdict.reasons)
    points = replace(run, metrics={"accuracy": replace(found, unit="points")})
    refused = judge(asked, replace(given, runs=(points,)))
    assert "accuracy at batch 1: unavailable: measured in points, not as 2%" in refused.reasons


def test_a_required_slice_of_another_metric_needs_its_own_bounds() -> None:
    asked = policy(metric="mae", margin=0.5, slices={"tag:light=night": 1.0})
    own = {"mae": replace(GOOD, unit="", high=0.4), "mae on tag:light=night": replace(GOOD, unit="", low=1.2, high=2.0)}
    run = replace(SMALL, lost=None, gained=None, slices={}, metrics=own)
    verdict = judge(asked, replace(EVIDENCE, batches=(1,), runs=(run,)))
    assert verdict.verdict == "fail"
    assert only_reason(verdict).startswith(
        "mae on tag:light=night at batch 1: drop 0.4, 95 % lower bound 1.2 > margin 1"
    )
    lacking = replace(run, metrics={"mae": own["mae"]})
    assert judge(asked, replace(EVIDENCE, batches=(1,), runs=(lacking,))).verdict == "fail"


def test_tags_must_make_up_the_run() -> None:
    tags = {"tag:light=day": Slice(500, 9, 6), "tag:light=night": Slice(360, 3, 2)}
    assert judge(policy(), evidence(CLASSES | tags)).verdict == "pass"
    del tags["tag:light=day"]
    assert "tag:light slices at batch 1: together they lost 3" in only_reason(judge(policy(), evidence(tags)))


DAY = 86_400.0


@pytest.mark.parametrize(
    ("measured_at", "judged_at", "reason"),
    [
        (100 * DAY, 106 * DAY, None),
        (100 * DAY, 108 * DAY, "age at batch 1: measured 8 days ago > 7 days: run 'deploy verify'"),
        (100 * DAY, 99 * DAY, "age at batch 1: measured in the future: a clock is wrong"),
        (None, 99 * DAY, "age at batch 1: unavailable when it was measured, but max_age_days is set"),
        (100 * DAY, None, "age at batch 1: unavailable when it was measured, but max_age_days is set"),
    ],
)
def test_evidence_may_be_too_old(measured_at: float | None, judged_at: float | None, reason: str | None) -> None:
    run = replace(evidence().runs[0], measured_at=measured_at)
    verdict = judge(policy(max_age_days=7), replace(evidence(), runs=(run,), judged_at=judged_at))
    assert verdict.verdict == ("pass" if reason is None else "fail")
    assert reason is None or only_reason(verdict).startswith(reason)


def test_every_device_of_the_policy_must_have_been_measured_at_every_batch() -> None:
    here = replace(evidence().runs[0], device={"cpu": "Cortex-A53"})
    there = replace(here, device={"cpu": "Cortex-A76"})
    asked = policy(devices=("A53", "A76"))
    assert judge(asked, replace(evidence(), runs=(here, there))).verdict == "pass"
    reason = only_reason(judge(asked, replace(evidence(), runs=(here,))))
    assert reason == "devices at batch 1: not measured on 'A76', only on Cortex-A53"
    assert judge(asked, replace(evidence(), runs=(here, replace(there, batch=64)))).verdict == "fail"


def test_memory_has_a_budget_at_the_deployment_batch() -> None:
    run = replace(evidence().runs[0], peak_memory_bytes=1_000_000)
    assert judge(policy(max_peak_memory_bytes=1_000_000), replace(evidence(), runs=(run,))).verdict == "pass"
    verdict = judge(policy(max_peak_memory_bytes=999_999), replace(evidence(), runs=(run,)))
    assert only_reason(verdict) == "peak memory at batch 1: 1,000,000 bytes > budget 999,999 bytes"
    assert "unavailable" in only_reason(judge(policy(max_peak_memory_bytes=1), evidence()))
