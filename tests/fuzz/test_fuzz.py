"""The short form of `make test-fuzz`: some mutated inputs of each kind; and the judge itself sees what is wrong."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from tests.fuzz import kinds, mutations, run

CASES, SEED = 68, 1


@pytest.mark.slow
def test_mutated_inputs_end_in_one_line_and_a_code_of_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "BUILD", tmp_path)
    command = ["run", "--cases", str(CASES), "--seed", str(SEED), "--workers", "1"]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setenv("FUZZ_BUILD", str(tmp_path))
    assert run.main() == 0, capsys.readouterr().out


def test_a_case_is_the_same_each_time() -> None:
    content = b'{"a": [1, 2, {"b": "c"}], "d": 3.5}' * 1
    for mutate in (*mutations.BYTES, mutations.in_json, mutations.lines):
        once, again = (mutate(content, random.Random("7")) for _ in range(2))
        assert once == again


SAID = {
    "a code that is none of the kind's": (5, "", "deploy: no", "exit code 5"),
    "a traceback": (2, "", "Traceback (most recent call last):\n  x\ndeploy: no", "a traceback"),
    "no reason": (2, "", "no", "no line that says why"),
    "an escape sequence": (0, "\x1b[2J", "", "control characters"),
    "a wall": (2, "", "deploy: " + "x" * 2000, "more than a line"),
}


@pytest.mark.parametrize("wrong", SAID)
def test_the_judge_sees_what_is_wrong(wrong: str) -> None:
    code, out, errors, says = SAID[wrong]
    one = run.Case(0, "recipe", kinds.DATA)
    assert list(run._problems(one, 2, "", "deploy: recipe: no", 0, False)) == []
    assert any(says in problem for problem in run._problems(one, code, out, errors, 0, False))
    assert list(run._problems(one, 2, "", "deploy: no", 3 << 30, False)) == ["3072 MiB of memory"]
    assert list(run._problems(one, 2, "", "", 0, True)) == [f"did not end in {run.LIMIT_S} s"]
