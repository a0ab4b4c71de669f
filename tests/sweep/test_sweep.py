"""The sweep's short form: some forms of many rows on every target, and that its table says what there is."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from . import forms, table
from .forms import Case
from .judge import FAULT, REFUSED, RIGHT, Judge
from .run import TARGETS, covered

SHORT = 12  # forms, of as many rows


def test_the_table_of_forms_has_every_row_and_every_refused_form() -> None:
    text = table.FILE.read_text()
    assert list(table.listed(text)) == forms.rows(), "make test-sweep writes it"
    assert all(line in text for line in table.refused()), "make test-sweep writes it"


@pytest.mark.parametrize("op", ["linear", "flatten", "leaky_relu"])
def test_the_table_counts_the_forms(op: str) -> None:
    assert table.listed(table.FILE.read_text())[op] == len(forms.cases(op))


def test_forms_come_from_pytorchs_own_signatures() -> None:
    shown = {case.shown for case in forms.cases("avg_pool1d")}
    assert {
        "torch.avg_pool1d(x3, 3)",
        "F.avg_pool1d(x3, 3)",
        "torch.avg_pool1d(x3, 3, ceil_mode=True)",
        "nn.AvgPool1d(3, count_include_pad=False)(x3)",
        "nn.AvgPool1d((3,))(x3)",
        "torch.avg_pool1d(x3, 3, stride=(2,))",
    } <= shown


def test_what_mixes_samples_is_no_form() -> None:
    assert not forms.legal(Case("flip", "x4.flip(0)"))
    assert forms.legal(Case("flip", "x4.flip(1)"))


@pytest.mark.slow
def test_forms_of_many_rows_are_right_or_refused_before_any_work(tmp_path: Path) -> None:
    ops = random.Random(0).sample([op for op in forms.rows() if op not in SLOW], SHORT)
    drawn = [random.Random(op).choice(found) for op in ops if (found := forms.cases(op))]
    ends = Judge(tmp_path / "net", TARGETS).judge(drawn)
    assert len(ends) == len(drawn) * len(TARGETS)
    rows = [{"op": e.case.op, "form": e.case.shown, "target": e.target, "end": e.end, "why": e.why} for e in ends]
    assert not [e for e in ends if e.end == FAULT], covered(rows)


@pytest.mark.slow
def test_a_refused_form_is_named_with_its_line_and_the_others_run(tmp_path: Path) -> None:
    cases = [Case("relu", "F.relu(x4)"), Case("sort", "torch.sort(x4, 1)[0]"), Case("neg", "-x4")]
    ends = {e.case.op: e for e in Judge(tmp_path / "net", ["tflite"]).judge(cases)}
    assert [ends[op].end for op in ("relu", "sort", "neg")] == [RIGHT, REFUSED, RIGHT]
    assert "aten.sort (net_" in ends["sort"].why


SLOW = {"gru", "lstm", "rnn_tanh"}  # unrolled over time: conversions of half a minute
