"""A pytest plugin that notes which functions of one file each test calls, by their first lines, and how long it takes.

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

FILE, RESULT = os.environ["MUTATION_FILE"], Path(os.environ["MUTATION_SEEN"])


class Seen:
    """The notes: node id (of a test, or of a file for its fixtures) -> lines; node id -> seconds."""

    def __init__(self) -> None:
        self.lines: dict[str, set[int]] = {}
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
        tests = {name: seconds for name, seconds in self.seconds.items() if seconds < float("inf")}
        RESULT.write_text(json.dumps({"lines": {k: sorted(v) for k, v in self.lines.items()}, "seconds": tests}))

    def _traced(self, name: str) -> Iterator[None]:
        found = self.lines.setdefault(name, set())

        def note(frame: FrameType, event: str, argument: Any) -> None:
            if frame.f_code.co_filename.endswith(FILE):
                found.add(frame.f_code.co_firstlineno)

        threading.settrace(note)
        sys.settrace(note)
        try:
            yield
        finally:
            sys.settrace(None)
            threading.settrace(None)  # type: ignore[arg-type]


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Seen())
