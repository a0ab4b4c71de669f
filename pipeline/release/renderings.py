"""The report in every form that is made from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pipeline.release import html, junit, markdown
from pipeline.release.report import Report

# file beside report.json -> what makes its text of the report and the folder where the run was delivered
FORMS: dict[str, Callable[[Report, Path], str]] = {
    "report.html": html.page,
    "report.md": lambda report, _: markdown.text(report),
    "junit.xml": lambda report, _: junit.text(report),
}
