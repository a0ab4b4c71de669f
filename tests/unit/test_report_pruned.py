"""What prunings took out, and what each layer can spare, in the report's page."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipeline import sensitivity
from pipeline.errors import UsageError
from pipeline.release import html
from pipeline.release.report import FILE, SENSITIVITY, Report
from tests.unit.test_report_forms import HOSTILE, record

STOP = {
    "name": "latency", "limit": 0.2, "reached": 0.19, "whole": 0.4,
    "tries": [{"share": 0.5, "value": 0.25}, {"share": 0.4, "value": 0.19}],
}  # fmt: skip
KEPT = [{"name": "head", "width": 10, "reason": f"its channels are the model's output {HOSTILE}"}]
PRUNING = {"layers": [{"name": "stem<1>", "before": 48, "after": 16}], "kept": KEPT, "stop": STOP}
FOUND = {
    "name": "bars", "metric_name": "accuracy", "float_key": "k", "metric": 0.9, "granularity": ["channel"],
    "criterion": "l2",
    "rows": [
        {"name": "spares", "width": 8, "points": [{"ratio": 0.5, "kept": 4, "metric": 0.85}]},
        {"name": "needs<1>", "width": 6, "points": [{"ratio": 0.5, "kept": 3, "metric": 0.25}]},
    ],
}  # fmt: skip


def pruned(change: dict[str, Any], name: str = "prune-measured tflite") -> Report:
    def add(made: Any) -> None:
        row = made["stages"][0] | {"name": name, "pruning": PRUNING | change}
        made["stages"].append(row)

    return record(add)


def test_widths_stop_and_what_stayed_whole_are_shown(tmp_path: Path) -> None:
    page = html.page(pruned({"faster": {"float": 1.5, "int8": 0.97}}), tmp_path)
    assert HOSTILE not in page
    assert re.search(r"<code>stem&lt;1&gt;</code></td><td>48</td><td>16</td><td>33\xa0%", page)
    assert "stopped at 0.190\xa0ms, where 0.200\xa0ms were allowed; unpruned it takes 0.400\xa0ms" in page
    assert "50\xa0%: 0.250\xa0ms, 40\xa0%: 0.190\xa0ms" in page
    assert "unpruned network&#39;s speed in float 1.50, int8 0.97" in page
    assert "<code>head</code> (10): its channels are" in page
    assert page.count("#pruned") == 1


@pytest.mark.parametrize(
    ("name", "reached", "says"),
    [
        ("macs", 1_505_840, "stopped at 1.51\xa0M MACs"),
        ("parameters", 8_511, "stopped at 8.51\xa0k parameters"),
        ("bytes", 16_811, "stopped at 16.8\xa0kB"),
        ("latency_ms", 0.19, "stopped at 0.190\xa0ms"),
        ("drop", 4.5, "stopped at 4.5 lost"),
    ],
)
def test_every_stop_has_its_unit(tmp_path: Path, name: str, reached: float, says: str) -> None:
    page = html.page(pruned({"stop": {"name": name, "limit": 2 * reached, "reached": reached}}, "prune"), tmp_path)
    assert says in page
    assert "unpruned it takes" not in page


def test_a_run_without_pruning_has_no_such_part(tmp_path: Path) -> None:
    page = html.page(record(), tmp_path)
    assert "#pruned" not in page
    assert "What each layer can spare" not in page


def test_curves_beside_the_report_are_shown_and_those_of_another_model_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(record().to_json())
    sensitivity.keep(FOUND, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert page.index("needs&lt;1&gt;") < page.index("<code>spares</code>")  # what can spare least comes first
    assert re.search(r"<td>25\.00\xa0%</td>", page)
    with pytest.raises(UsageError, match="began from another float model than bars here"):
        sensitivity.keep(FOUND | {"float_key": "other"}, tmp_path)
    assert json.loads((tmp_path / SENSITIVITY).read_text()) == FOUND
    (tmp_path / SENSITIVITY).write_text('{"rows": []}')
    assert "What each layer can spare" not in html.page(record(), tmp_path)
