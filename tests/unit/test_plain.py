"""Text from outside is shown as it stands: on a terminal, in Markdown, and never as a path."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest

from pipeline import api, baseline, console, deployed_encodings, plain
from pipeline.errors import UsageError
from pipeline.release import markdown
from pipeline.release.report import Report
from tests.unit.test_report_forms import record

EVIL = "a\x1b[2J\x1b]0;x\x07\r\nverdict: pass\u202egpj.exe\u2028\x85b [red]c[/] [mcu]"


def test_a_line_is_one_line_of_what_can_be_seen() -> None:
    shown = plain.line(EVIL)
    assert "\\x1b[2J" in shown
    assert "\\u202egpj.exe" in shown
    assert not re.search(
        r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800]", plain.line(EVIL + "\ud800")
    )
    long = plain.line(f"{'x' * 10**6}: name another with --out")
    assert (len(long) < 950, long.endswith(": name another with --out")) == (True, True)
    assert plain.line("naïve 模型 ✅") == "naïve 模型 ✅"


def test_the_consoles_show_brackets_and_no_escapes_in_lines_cells_and_titles() -> None:
    from rich.table import Table

    out = console.Plain(file=io.StringIO(), width=200, force_terminal=True)
    table = Table(EVIL, title=EVIL)
    table.add_row(EVIL)
    for shown in (EVIL, table):
        out.print(shown)
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("[mcu]") == text.count("\\x1b[2J") == 4
    assert "\x1b[2J" not in text
    assert "\u202e" not in text


MARKDOWN = "![p](http://e/a.png) [l](x) @you org/r#12 `c` ``` <img src=x> **b** | ~~d~~ www.e.org https://e.org $x$"


def test_markdown_from_outside_is_words() -> None:
    shown = plain.markdown(MARKDOWN + "\n# title")
    assert not re.search(r"(?<!\\)[\[\]`*|!~$](?!--)", shown.replace("<!--", "").replace("-->", ""))
    assert "<img" not in shown
    for active in ("@you", "#12", "://e", "www.e"):
        assert active not in shown
    assert "\n" not in shown


def test_every_name_in_report_md_is_words() -> None:
    made = record().model_dump(by_alias=True)
    made["recipe"]["name"] = made["recipe"]["task"] = MARKDOWN
    made["recipe"]["task"] = {"metric": "accuracy"}
    row = next(iter(made["targets"].values()))
    made["targets"] = {MARKDOWN: row | {"reasons": [MARKDOWN], "verdict": "fail"}}
    text = markdown.text(Report.model_validate(made))
    for active in ("![p]", "@you", "<img", "`c`", "https://e"):
        assert active not in text


@pytest.mark.parametrize("name", ["../../etc", "/etc", "a/b", "..", "", "a\x00b", "a\nb"])
def test_a_name_in_a_report_is_never_a_path(name: str, tmp_path: Path) -> None:
    made = json.loads(record().to_json())
    for key in ("target", "artifact", "candidate"):
        found = json.loads(json.dumps(made))
        row = next(iter(found["targets"].values()))
        if key == "target":
            found["targets"] = {name: row}
        elif key == "artifact":
            row["artifact"] = name
        else:
            row["candidates"][0]["artifact"] = f"/x/../{name}"
        (tmp_path / "report.json").write_text(json.dumps(found))
        for use in (
            lambda: api.judge(tmp_path, ()),
            lambda: api.render(tmp_path),
            lambda: baseline.keep(tmp_path, tmp_path / "kept"),
            lambda: deployed_encodings.read(tmp_path, None, None),
        ):
            with pytest.raises(UsageError, match="is no name of a target or of an artifact"):
                use()
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]
