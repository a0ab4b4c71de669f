"""What the README says to type works as written, and every command is in the README."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import typer

from pipeline.cli import app
from tests.road.newcomer import Folder

README = Path(__file__).parents[2] / "README.md"


def commands() -> list[str]:
    """The indented `deploy ...` lines of the section Commands, without their comments."""
    section = README.read_text().partition("### Commands")[2].partition("\n### ")[0]
    return [line.partition("#")[0].strip() for line in section.splitlines() if line.startswith("    deploy ")]


def test_every_command_and_option_is_documented() -> None:
    text = README.read_text()
    group = typer.main.get_command(app)
    for name in group.commands:  # type: ignore[attr-defined]
        assert re.search(rf"deploy {name}\b", text), f"deploy {name}"
    for option in ("--target", "--set", "--out", "--only", "--from", "--json", "--report"):
        assert option in text, option


def test_the_readme_has_commands() -> None:
    assert len(commands()) >= 10


@pytest.mark.slow
@pytest.mark.parametrize("command", commands())
def test_the_command_works(finished: Folder, tmp_path: Path, command: str) -> None:
    work = Folder(tmp_path / "work")
    shutil.copytree(finished.path, work.path)
    done = work.deploy(*shlex.split(command)[1:])
    # A stricter margin may fail the gate, in words; nothing else may.
    assert done.returncode in ((0, 1, 3) if "margin" in command or "prune.macs" in command else (0,)), done.stderr
    assert "Traceback" not in done.stderr
