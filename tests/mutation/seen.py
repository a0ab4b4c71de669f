"""A pytest plugin that notes which of our functions each test calls, by their first lines, and how long it takes.

What a test's fixtures call counts for all tests of its file: a fixture of the session runs for the first of them only.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

ROOT, RESULT = Path.cwd(), Path(os.environ["MUTATION_SEEN"])  # what was seen of each test file goes into RESULT/FILE
OURS = tuple(f"{ROOT}/{package}/" for package in ("calibration", "pipeline", "targets"))


class Seen:
    """The notes: node id (of a test, or of a file for its fixtures) -> "file:line"; node id -> seconds."""

    def __init__(self) -> None:
        self.lines: dict[str, set[str]] = {}
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
        yield from self._traced(item.nodeid.partition("::")[0])

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        yield from self._traced(item.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            self.seconds[report.nodeid] = float("inf")  # it fails without a mutant too

    def pytest_sessionfinish(self) -> None:
        for file in {name.partition("::")[0] for name in self.lines}:
            lines = {name: sorted(places) for name, places in self.lines.items() if name.partition("::")[0] == file}
            passed = {name: self.seconds[name] for name in lines if self.seconds.get(name, float("inf")) < float("inf")}
            (RESULT / file.replace("/", "-")).write_text(json.dumps({"lines": lines, "seconds": passed}))

    def _traced(self, name: str) -> Iterator[None]:
        found = self.lines.setdefault(name, set())

        def note(frame: FrameType, event: str, argument: Any) -> None:
            file = frame.f_code.co_filename
            if file.startswith(OURS):
                found.add(f"{file[len(str(ROOT)) + 1 :]}:{frame.f_code.co_firstlineno}")

        threading.settrace(note)
        sys.settrace(note)
        try:
            yield
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Seen())
