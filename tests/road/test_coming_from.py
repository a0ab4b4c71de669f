"""Every line of ours on the page for people who come from elsewhere is taken, and its commands work."""

from __future__ import annotations

import re
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

from pipeline import recipe
from tests.road.newcomer import Folder

PAGE = Path(recipe.__file__).parent / "recipes" / "COMING_FROM.md"
BASE: dict[str, Any] = {"model": "net:build", "data": "data:splits", "targets": ["tflite", "openvino"]}


def ours() -> list[str]:
    """The right column of every table."""
    rows = [line.strip("|").split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    return [row[1] for row in rows if row[1].strip() != "Here"]


def quoted() -> list[str]:
    return [text for cell in ours() for text in re.findall(r"`([^`]+)`", cell)]


LINES = [cell for cell in ours() if any("=" in text for text in re.findall(r"`([^`]+)`", cell))]
COMMANDS = sorted({text for text in quoted() if text.startswith("deploy ")})


def _merge(into: dict[str, Any], other: dict[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict):
            _merge(into.setdefault(key, {}), value)
        else:
            into[key] = value


@pytest.mark.parametrize("cell", LINES)
def test_the_recipe_takes_the_line(tmp_path: Path, cell: str) -> None:
    table: dict[str, Any] = {**BASE}
    for text in re.findall(r"`([^`]+=[^`]+)`", cell):
        _merge(table, tomllib.loads(text))
    made = recipe.from_table(table, tmp_path, "recipe")
    given = made.model_dump(mode="json", exclude_unset=True)
    assert given.keys() == table.keys() | {"folder"}


def test_nothing_of_ours_is_left_untested() -> None:
    left = [t for t in quoted() if "=" not in t and not t.startswith("deploy ") and t != "deploy-out/report.json"]
    assert left == []
    assert len(COMMANDS) >= 5


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_works(finished: Folder, tmp_path: Path, command: str) -> None:
    work = Folder(tmp_path / "work")
    shutil.copytree(finished.path, work.path)
    done = work.deploy(*shlex.split(command)[1:])
    assert done.returncode == 0, done.stderr
    assert (work.path / "deploy-out" / "report.json").is_file()
