"""The plan of a gate: exact chances, the samples that would do, and what no plan can be made of."""

import json
from pathlib import Path

import pytest
from scipy import stats

from pipeline.errors import UsageError
from pipeline.release.plan import plan
from pipeline.release.statistics import noninferior
from tests.unit.test_cli import deploy


def test_the_chances_are_those_of_every_table() -> None:
    made = plan(60, margin_points=10, drop_points=2, flips_percent=12)
    wanted = dict.fromkeys(("pass", "fail", "inconclusive"), 0.0)
    false_pass = 0.0
    for lost in range(61):
        for gained in range(61 - lost):
            table = [lost, gained, 60 - lost - gained]
            decision = noninferior(lost, gained, 60, 0.10)
            wanted[decision] += stats.multinomial.pmf(table, 60, [0.07, 0.05, 0.88])
            if decision == "pass":
                false_pass += stats.multinomial.pmf(table, 60, [0.11, 0.01, 0.88])
    assert made.chances == pytest.approx(wanted, abs=3e-6)
    assert made.false_pass == pytest.approx(false_pass, abs=2e-6)


def test_the_samples_it_asks_for_have_the_power() -> None:
    asked = plan(100, 2, 0.5, 4).samples
    for power, n in asked.items():
        assert n is not None
        assert plan(n, 2, 0.5, 4).chances["pass"] >= float(power)
        assert plan(n - 1, 2, 0.5, 4).chances["pass"] < float(power)


def test_a_drop_beyond_the_margin_promises_nothing() -> None:
    made = plan(1000, margin_points=1, drop_points=1.5, flips_percent=5)
    assert made.samples == {"0.80": None, "0.95": None}
    assert made.chances["pass"] < 0.05


def test_too_few_flips_for_the_margin_have_no_false_pass() -> None:
    assert plan(500, margin_points=2, drop_points=0, flips_percent=1).false_pass is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, 1, 0, 5), "--n is 0"),
        ((10**9, 1, 0, 5), "--n is"),
        ((100, 0, 0, 5), "--margin is 0"),
        ((100, float("nan"), 0, 5), "--margin is nan"),
        ((100, 1, float("nan"), 5), "a drop of nan"),
        ((100, 1, 0, 101), "--flips is 101"),
        ((100, 1, 0, float("nan")), "--flips is nan"),
        ((100, 1, -6, 5), "a drop of -6 points"),
        ((100, 1, 0, 5, 1.0), "--confidence is 1"),
    ],
)
def test_what_no_model_can_have_is_refused(arguments: tuple[float, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        plan(*arguments)  # type: ignore[arg-type]


def test_the_command_needs_no_run(tmp_path: Path) -> None:
    arguments = ("gate", "--plan", "--n", "860", "--margin", "2", "--drop", "0.7", "--flips", "8")
    shown = deploy(*arguments, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "80 % power needs n = 2,971" in shown.stdout
    made = json.loads(deploy(*arguments, "--json", cwd=tmp_path).stdout)
    assert made == plan(860, 2, 0.7, 8).as_json()
    assert list(tmp_path.iterdir()) == []


def test_one_sample_can_be_planned_and_chances_have_six_places() -> None:
    found = plan(1, 50.0, 0.0, 10.0)
    assert found.chances["pass"] == 0.05  # only a gain, half of all flips, holds such a margin
    found = plan(137, 3.0, 0.5, 7.0)
    for chance in (*found.chances.values(), found.false_pass):
        assert chance == round(chance, 6)
