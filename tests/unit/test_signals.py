"""Ctrl-C, SIGTERM and a terminal that goes away: one line, our own code, and nothing left over."""

import itertools
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from pipeline import errors, temporary
from tests.unit.test_cli import deploy

# The command, in which a module's import is the moment at which a signal comes.
SENT_AT = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.{signal})

signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever whoever runs the tests made of it
sys.argv = ["deploy", {words}]
sys.meta_path.insert(0, Finder())
from pipeline.cli import main
main()
"""


def sent(name: str, module: str, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    script = SENT_AT.format(module=module, signal=name, words=", ".join(map(repr, words)))
    environment = os.environ | {"TMPDIR": str(cwd)}
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)


MODULES = ("pipeline.helpers", "typer", "rich.text")  # before the commands are known, with them, and within one
ENDS = {"SIGINT": (130, "interrupted"), "SIGTERM": (143, "terminated"), "SIGHUP": (143, "terminated")}


@pytest.mark.parametrize(("name", "module"), [*itertools.product(("SIGINT", "SIGTERM"), MODULES), ("SIGHUP", "typer")])
def test_from_the_first_import_on_it_is_one_line_and_the_code(tmp_path: Path, name: str, module: str) -> None:
    code, says = ENDS[name]
    done = sent(name, module, "doctor", cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert done.stderr == f"deploy: {says}; finished stages are stored, run again to go on\n"
    assert [*tmp_path.iterdir()] == []  # no temporary folder


def test_an_emulator_ends_with_a_process_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import os, subprocess, sys\nfrom targets.cortex_m.emulator import ends_with_parent\n"
        "started = subprocess.Popen([*ends_with_parent(), 'sleep', '600'], stdout=sys.stdout)\n"
        "while open(f'/proc/{started.pid}/comm').read().strip() != 'sleep': pass\n"
        "os.kill(os.getpid(), 9)"
    )
    # its standard output is this pipe's other end: read to the end, nobody holds it any more
    done = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, check=False)
    assert done.returncode == -signal.SIGKILL


def test_what_was_to_be_ignored_stays_ignored(tmp_path: Path) -> None:
    """`nohup deploy ...` outlives its terminal."""
    command = ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh", sys.executable, "-c"]
    script = SENT_AT.format(module="typer", signal="SIGHUP", words="'schema'")
    done = subprocess.run([*command, script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_codes_are_in_the_table_and_in_the_help(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    shown = " ".join(deploy("--help", cwd=tmp_path).stdout.split())
    for code, word in ((errors.INTERRUPTED, "interrupted"), (errors.TERMINATED, "terminated")):
        assert f"| {code} | {word}" in readme
        assert f"{code} {word}" in shown
    assert errors.PRECEDENCE[:2] == (errors.TERMINATED, errors.INTERRUPTED)


def test_the_temporary_folder_of_a_killed_command_goes_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "import os, tempfile\nfrom pipeline import temporary\nwith temporary.folder():\n"
    script += "    open(tempfile.mkdtemp() + '/x', 'w').close()\n    os.kill(os.getpid(), 9)"
    command = [sys.executable, "-c", script]
    assert (
        subprocess.run(command, check=False, env=os.environ | {"TMPDIR": str(tmp_path)}).returncode == -signal.SIGKILL
    )
    (left,) = tmp_path.iterdir()
    theirs = tmp_path / "deploy.theirs"
    theirs.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with temporary.folder():
        assert not left.exists()
        mine = Path(tempfile.gettempdir())
        assert mine.parent == tmp_path
        assert os.environ["TMPDIR"] == str(mine)
        with temporary.folder():  # another command, which must not take this one for a dead one
            assert mine.is_dir()
    assert [*tmp_path.iterdir()] == [theirs]
    assert tempfile.gettempdir() == str(tmp_path)
