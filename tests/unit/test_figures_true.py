"""Figures as people read them: each says what it is, and none says what is false."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pipeline import console, outcome, tasks
from pipeline.release import html, markdown
from pipeline.release.gate import Slice, judge
from pipeline.release.html import words
from pipeline.release.html.pruned import sensitivity as drawn_sensitivity
from pipeline.release.html.steps import steps
from pipeline.release.report import GateSplit, Report
from tests.unit.test_claims import evidence, policy
from tests.unit.test_report_forms import N, record

PASS, FAIL, OPEN = ("pass", 1.5, 2.0), ("fail", 1.54, 0.3), ("inconclusive", 2.0004, 2.0)


def checked(verdict: str, value: float, limit: float) -> Report:
    """A run whose parity check says so."""

    def change(made: Any) -> None:
        told = {"verdict": verdict, "value": value, "limit": limit, "unit": "points", "reason": "r", "batch": 1}
        made["targets"]["tflite"]["checks"] = [{"name": "accuracy", **told}]
        made["targets"]["tflite"]["runs"][0] |= {"margin_points": limit, "drop_upper_points": value + 0.5}

    return record(change)


@pytest.mark.parametrize(
    ("check", "says"),
    [(PASS, "upper 1.5 < 2"), (FAIL, "lower 1.54 > 0.3"), (OPEN, "upper 2.0004 \N{GREATER-THAN OR EQUAL TO} 2")],
)
def test_the_bound_stands_to_its_margin_as_the_verdict_says(check: tuple[str, float, float], says: str) -> None:
    report = checked(*check)
    row = report.targets["tflite"]
    assert words.bound(row, row.runs[0], "accuracy") == says
    escaped = says.replace("<", "&lt;").replace(">", "&gt;")
    assert f"| {escaped} |" in markdown.text(report)
    assert html.page(report, Path("nowhere")).count(escaped) == 2


def test_without_the_check_the_runs_own_figures_are_compared() -> None:
    def failing(made: Any) -> None:
        made["targets"]["tflite"]["runs"][0] |= {"margin_points": 0.3, "drop_upper_points": 1.54}

    row = record(failing).targets["tflite"]
    assert words.bound(row, row.runs[0], "accuracy") == "upper 1.54 \N{GREATER-THAN OR EQUAL TO} 0.3"


def test_a_run_stands_beside_the_margin_that_it_was_judged_by(tmp_path: Path) -> None:
    row = record().targets["tflite"].model_copy(update={"sha256": "ab"})
    split = GateSplit(n=N, groups=None, shared_samples=0, digest="d")
    for margin, confidence in ((2.0, 0.95), (7.0, 0.99)):
        asked = {"margin_points": margin, "confidence": confidence}
        found = outcome.judged(row, asked, split, record().float_, "ab", [tmp_path])
        check = next(check for check in found.checks if check.name == "accuracy")
        assert found.runs[0].margin_points == check.limit == margin
        assert found.runs[0].drop_upper_points == pytest.approx(check.value, abs=1e-4)


def test_the_nearest_slice_is_the_worst_of_those_whose_adjusted_p_is_one() -> None:
    parts = {"class:a": Slice(300, 2, 3), "class:b": Slice(260, 6, 2), "class:c": Slice(300, 4, 3)}
    (reason,) = (one for one in judge(policy(margin_points=8.0), evidence(parts)).reasons if "slices" in one)
    assert "(nearest class:b: " in reason
    assert reason.endswith("p 1 after Holm over 3)")


def regression(made: Any) -> None:
    made["recipe"]["task"]["metric"] = "mae"
    made["float"] |= {"metric": 0.5313, "groups": {"ann": 0.25}}
    made["stages"][0]["metric"] = 0.5
    run = made["targets"]["tflite"]["runs"][0]
    run |= {"metric": 0.55, "flips": {}, "drop_points": None, "drop_upper_points": None, "groups": {"ann": 0.375}}
    run["metrics"] = {"mae": {"drop": 0.5, "low": 0.25, "high": 0.75, "method": "how", "unit": "% of float"}}


def balanced(made: Any) -> None:
    made["recipe"]["task"]["metric"] = "macro_f1"


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[Report], str]:
    """The summary, as a terminal of 200 columns shows it."""

    def summary(report: Report) -> str:
        monkeypatch.setattr(console, "OUT", Console(width=200, highlight=False))
        console.summary(report, Path("out"))
        return capsys.readouterr().out

    return summary


def test_an_error_is_no_percentage_and_has_its_own_sign(said: Callable[[Report], str]) -> None:
    text = said(record(regression))
    assert "float mae 0.5313 on" in text
    assert re.search(r"train +1\.0 +mae 0\.5 ", text)
    assert "by group: ann mae 0.375 (float mae 0.25)" in text
    assert not re.search(r"(53\.1|50\.0|37\.5)\d*%", text)
    event = {"stage": "train", "task": {"metric": "mae"}, "metadata": {"metric": 0.5, "metric_before": 0.625}}
    assert console._did(event) == "selection before mae 0.625, selection mae 0.5"
    assert console._did(event | {"task": {}}) == "selection before 62.5%, selection 50.0%"


@pytest.mark.parametrize(("metric", "chosen", "told"), [("mae", -0.25, 0.25), ("auc", 0.75, 0.75), ("top2", 0.5, 0.5)])
def test_what_a_stage_tells_is_the_metric_and_not_what_it_chose_by(metric: str, chosen: float, told: float) -> None:
    task = tasks.Task(metric)
    assert tasks.figure(task, chosen) == told
    assert tasks.merit(task, told) == chosen


def test_a_curve_of_errors_names_first_what_makes_them_largest(tmp_path: Path) -> None:
    rows = [
        {"name": name, "width": 4, "points": [{"ratio": 0.5, "metric": value}]} for name, value in (("a", 1), ("b", 3))
    ]
    found = {"metric": 0.5, "metric_name": "mae", "criterion": "l1", "granularity": ["channel"], "rows": rows}
    for higher, order in ((True, ["a", "b"]), (False, ["b", "a"])):
        (tmp_path / "sensitivity.json").write_text(json.dumps(found | {"higher": higher}))
        drawn = drawn_sensitivity(tmp_path)
        assert drawn is not None
        assert [row["name"] for row in drawn["rows"]] == order


def test_what_is_called_by_its_metric_is_that_metric(said: Callable[[Report], str]) -> None:
    """Of a task judged by macro F1 the figures of models and candidates are accuracies, and are called so."""
    report = record(balanced)
    assert "float 95.00% on" in said(report)
    assert "95.00\N{NO-BREAK SPACE}% accuracy on" in markdown.text(report)
    assert "macro_f1 there" not in html.page(report, Path("nowhere"))


def test_mcnemars_p_is_explained_once_and_not_on_every_line(said: Callable[[Report], str]) -> None:
    def tested(made: Any) -> None:
        made["targets"]["tflite"]["runs"] = [made["targets"]["tflite"]["runs"][0] | {"mcnemar_p": 1.0}] * 3

    assert "no proof" not in said(record(tested))
    assert html.page(record(tested), Path("nowhere")).count("no proof of parity") == 1


def test_each_p50_says_of_which_measurement_it_is() -> None:
    def timed(made: Any) -> None:
        target = made["targets"]["tflite"]
        target["candidates"][1]["latency_ms"] = {"p50": 3.0}
        target["runs"][0]["latency_ms"], target["runs"][0]["float_latency_ms"] = {"p50": 2.0}, {"p50": 4.0}

    report = record(timed)
    rows = {row.name: row.latency_ms for row, _ in steps(report)}
    assert rows["tflite: ours"] == 2.0
    page = html.page(report, Path("nowhere"))
    assert "<th>p50 in the race</th>" in page
    assert "<dt>p50, profiled</dt><dd>2.00" in page
    assert "medians of the two need not agree" in page
