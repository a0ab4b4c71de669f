"""Every end of a command is a code of our table, and every error one line: whoever raised it, wherever."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACE = """
import os, sys, atexit
from pipeline import boundary
from pipeline.errors import *
def run(): {}
boundary.guard(run)
"""

ENDS = {
    "return 0": (0, ""),
    "return None": (0, ""),
    "return 1": (1, ""),
    "return 77": (5, ""),
    "raise UsageError('one\\ntwo')": (2, "deploy: one\ndeploy: two"),
    "raise EvidenceError('gone')": (1, "deploy: gone"),
    "raise ValueError('a\\nb')": (
        5,
        "deploy: a fault of deploy itself: ValueError: a b (<string>:5); -v shows the traceback",
    ),
    "raise MemoryError": (5, "deploy: out of memory"),
    "run()": (5, "deploy: a fault of deploy itself: RecursionError: maximum recursion depth exceeded"),
    "open('/no/such/file')": (2, "deploy: /no/such/file: No such file or directory"),
    "import no_such_module": (2, "deploy: ModuleNotFoundError: No module named 'no_such_module': the installation is"),
    "raise KeyboardInterrupt": (130, "deploy: interrupted; finished stages are stored"),
    "sys.exit(0)": (2, "deploy: the recipe's code: sys.exit(0) would end the run (<string>:5)"),
    "sys.exit('bye')": (2, "deploy: the recipe's code: sys.exit('bye') would end the run (<string>:5)"),
    "atexit.register(sys.exit, 0); return 3": (3, "Exception ignored in atexit callback"),
    "print('\\N{WHITE HEAVY CHECK MARK} \\udcff'); return 1": (1, ""),
    "import typer; raise typer.BadParameter('no such option')": (2, "no such option (--help lists"),
    "import typer; raise typer.Abort()": (130, "deploy: interrupted"),
    "from targets.base import TargetError; raise TargetError('x', 'unsupported')": (2, "deploy: x"),
    "from targets.channels import ChannelError; raise ChannelError('ssh://b', 'gone', 'plug it in')": (
        4,
        "deploy: ssh",
    ),
    "from calibration.errors import CalibrationError; raise CalibrationError('no range')": (2, "deploy: no range"),
}


def ended(body: str, *arguments: str, **kept: int) -> subprocess.CompletedProcess[str]:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **kept}
    command = [sys.executable, "-c", PLACE.format(body), *arguments]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, text=True, check=False, env=environment, **streams)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize("body", ENDS)
def test_every_end_is_a_code_of_ours(body: str) -> None:
    code, says = ENDS[body]
    done = ended(body)
    assert (done.returncode, says in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr or "atexit" in done.stderr


def test_the_traceback_comes_with_v() -> None:
    assert "Traceback" in ended("raise ValueError('a')", "-v").stderr


def test_output_that_nobody_reads_keeps_the_verdicts_code() -> None:
    for code in (0, 1, 3):
        reader, writer = os.pipe()
        os.close(reader)
        done = ended(f"print('x' * 100_000); sys.stdout.flush(); print('y'); return {code}", stdout=writer)
        os.close(writer)
        assert (done.returncode, done.stderr) == (code, "")


def test_errors_that_nobody_reads_keep_the_code() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    assert ended("print('x' * 100_000, file=sys.stderr); raise UsageError('a')", stderr=writer).returncode == 2
    os.close(writer)


@pytest.mark.parametrize(("body", "code"), [("return 1", 1), ("return 0", 0), ("return None", 5)])
def test_a_full_disk_below_standard_output_is_told(body: str, code: int) -> None:
    with Path("/dev/full").open("w") as full:
        done = ended(f"print('x'); {body}", stdout=full.fileno())
    assert (done.returncode, done.stderr) == (code, "deploy: standard output: No space left on device\n")


def test_closed_streams_are_not_taken_by_the_next_file(tmp_path: Path) -> None:
    body = f"open({str(tmp_path / 'a')!r}, 'w').write('kept'); os.write(1, b'noise'); print('x'); return 0"
    command = [sys.executable, "-c", PLACE.format(body)]
    done = subprocess.run(["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command], check=False, cwd=ROOT)
    assert done.returncode == 0
    assert (tmp_path / "a").read_text() == "kept"


def test_a_command_line_that_cannot_be_imported_is_no_failed_gate(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise ValueError('broken')\n")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", "from pipeline.cli import main\nmain()", "doctor"]
    done = subprocess.run(command, text=True, capture_output=True, check=False, env=environment)
    assert (done.returncode, done.stderr.count("\n")) == (5, 1)


@pytest.mark.parametrize("words", [("--nonsense",), ("nothing",), ("gate", "--n", "x"), ("store", "--days", "-1")])
def test_a_wrong_command_line_is_one_line_and_exit_2(words: tuple[str, ...], tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-c", "from pipeline.cli import main\nmain()", *words]
    done = subprocess.run(command, text=True, capture_output=True, check=False, cwd=tmp_path,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("deploy: ")
    assert done.stderr.count("\n") == 1
