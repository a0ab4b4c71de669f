"""A device's answer is believed only where it has the form of one: each way in which it can lie, and what is said."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from targets import agent
from targets.channels import answer, bounded, stream
from targets.channels.base import ChannelError
from targets.channels.local import run_agent
from tests.devices import toy

Change = Callable[[dict[str, Any]], object]
TIME = {"do": "time", "models": ["m"], "inputs": "inputs", "samples": "t.npz", "warmup_s": 0.01, "budget_s": 0.01}
TIME |= {"min_rounds": 3, "max_rounds": 5, "seed": 0}
RUN = {"do": "run", "model": "m", "inputs": "inputs", "outputs": "y.npz"}


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """A request, the agent's own answer, and their folder."""
    folder = tmp_path_factory.mktemp("honest")
    asked = toy.request(folder, RUN, TIME, {"do": "survey"})
    run_agent(asked, folder)
    return asked, json.loads((folder / "result.json").read_text()), folder


def swapped(*path: str | int, value: Any) -> Change:
    def change(record: dict[str, Any]) -> None:
        place: Any = record
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = value

    return change


LIES: dict[str, tuple[Change, str]] = {
    "no protocol of ours": (swapped("protocol", value=2), "protocol"),
    "a number as a word": (swapped("device", "cores", value="8"), "device.cores"),
    "a word as a list": (swapped("device", "cpu", value=["x"]), "device.cpu"),
    "an escape sequence": (swapped("device", "cpu", value="\x1b[2J"), "control characters"),
    "a book for a name": (swapped("device", "serial", value="x" * 100_000), "device.serial"),
    "another field": (swapped("device", "extra", value=1), "device.extra"),
    "no device": (lambda record: record.pop("device"), "device"),
    "a model that was not asked for": (swapped("models", "other", value=None), "models.other"),
    "no time to load": (swapped("models", "m", "load_ms", value=float("nan")), "load_ms"),
    "a task too few": (lambda record: record["tasks"].pop(), "it did the tasks"),
    "another task": (swapped("tasks", 0, value={"do": "dance"}), "tasks.0"),
    "another model's task": (swapped("tasks", 0, "model", value="n"), "of the model 'n'"),
    "rounds below zero": (swapped("tasks", 1, "rounds", value=-1), "rounds"),
    "half a round": (swapped("tasks", 1, "rounds", value=2.5), "rounds"),
    "endless time": (swapped("tasks", 1, "elapsed_s", value=float("inf")), "elapsed_s"),
    "no conditions": (swapped("tasks", 1, "conditions", value=[]), "conditions"),
    "a digest that is none": (swapped("files", "y.npz", value="../../etc"), "files.y.npz"),
    "an error of no known kind": (swapped("error", value={"kind": "boom", "message": ""}), "error.kind"),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_answer_of_another_form_is_refused_with_the_place(honest: Any, lie: str) -> None:
    asked, record, _ = honest
    assert answer.read(json.dumps(record).encode(), asked, "x://y")["error"] is None
    change, says = LIES[lie]
    changed = copy.deepcopy(record)
    change(changed)
    with pytest.raises(ChannelError, match=re.escape(says)) as caught:
        answer.read(json.dumps(changed).encode(), asked, "x://y")
    assert str(caught.value).startswith("x://y: its answer cannot be used: ")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"3", b"[" * 100_000, b'{"protocol": 1}'])
def test_what_is_no_answer_at_all_is_refused(honest: Any, body: bytes) -> None:
    with pytest.raises(ChannelError, match="its answer cannot be used"):
        answer.read(body, honest[0], "x://y")


def test_more_than_any_answer_has_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "result.json"
    with file.open("wb") as stream_:
        stream_.truncate(answer.MOST_JSON_BYTES + 1)
    with pytest.raises(ChannelError, match="bytes"):
        answer.content(file, "x://y")


ARRAYS: dict[str, tuple[str, Any, str]] = {
    "rows too few": ("y.npz", {"y": np.zeros((6, 3), np.float32)}, r"output 'y' is float32 \[6, 3\] for 7 samples"),
    "complex outputs": ("y.npz", {"y": np.zeros((7, 3), np.complex64)}, "complex64"),
    "times of another": ("t.npz", {"n": np.zeros(3, np.int64)}, r"it has times of \['n'\]"),
    "times that are no counts": ("t.npz", {"m": np.zeros(3, np.float64)}, "whole number of ns"),
    "times below zero": ("t.npz", {"m": np.full(3, -1)}, "whole number of ns"),
}


@pytest.mark.parametrize("lie", ARRAYS)
def test_arrays_that_are_not_what_was_asked_for_are_refused(honest: Any, tmp_path: Path, lie: str) -> None:
    asked, record, folder = honest
    for name in ("y.npz", "t.npz"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    answer.check_files(record, asked, tmp_path, "x://y")
    name, arrays, says = ARRAYS[lie]
    agent.save_npz(tmp_path / name, arrays)
    changed = copy.deepcopy(record)
    if "times of another" not in lie:
        changed["tasks"][1]["rounds"] = 3 if name == "t.npz" else changed["tasks"][1]["rounds"]
    with pytest.raises(ChannelError, match=says):
        answer.check_files(changed, asked, tmp_path, "x://y")


@pytest.mark.parametrize("save", [np.savez_compressed, lambda file, **arrays: file.write(b"PK no archive")])
def test_a_file_that_grows_when_it_is_read_or_is_none_is_refused(honest: Any, tmp_path: Path, save: Any) -> None:
    asked, record, _ = honest
    with (tmp_path / "y.npz").open("wb") as file:
        save(file, y=np.zeros((7, 3), np.float32))
    with pytest.raises(ChannelError, match=r"is compressed|is no file of arrays"):
        answer.check_files(record, asked, tmp_path, "x://y")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "{",
        "3",
        '{"done": 1}',
        '{"waiting": "yes"}',
        '{"done": "1", "total": 100, "rounds": 1, "median_ms": 1.0, "left_s": 1.0}',
        '{"done": 1, "total": 0, "rounds": 1, "median_ms": 1.0, "left_s": 1.0}',
        '{"done": 1, "total": 100, "rounds": 1, "median_ms": NaN, "left_s": 1.0}',
    ],
)
def test_a_progress_line_that_is_none_is_passed_over(line: str) -> None:
    assert answer.progress(line) is None
    good = {"done": 1, "total": 100, "rounds": 1, "median_ms": 1.0, "left_s": 0.5}
    assert answer.progress(json.dumps(good)) == good


def spoken(script: str) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", script], stdin=pipe, stdout=pipe, stderr=pipe)


ENDLESS = "import sys\nwhile True: sys.stdout.write('x' * 65536)"


def test_a_device_that_never_stops_talking_is_ended() -> None:
    with spoken(ENDLESS) as process, pytest.raises(bounded.TooMuchError):
        bounded.communicate(process)
    assert process.returncode is not None


def test_a_file_that_never_stops_growing_is_ended(tmp_path: Path) -> None:
    file = tmp_path / "pulled"
    with file.open("wb") as to:
        script = "import sys\nwhile True: sys.stdout.buffer.write(b'x' * 65536)"
        process = subprocess.Popen([sys.executable, "-c", script], stdout=to)
        with process, pytest.raises(bounded.TooMuchError):
            bounded.communicate(process, growing=file, most_bytes=1 << 20)


def test_a_job_that_talks_for_ever_is_ended_when_its_time_is_up() -> None:
    class UpError(Exception):
        pass

    def up() -> None:
        raise UpError

    with spoken("import sys\nwhile True: print('x' * 200_000)") as process:
        with pytest.raises(UpError):
            stream.follow(process, still_time=up)
        process.kill()


def test_what_a_program_says_and_how_it_ends_come_through() -> None:
    script = "import sys; sys.stdout.write(sys.stdin.read()[::-1]); sys.stderr.write('e'); sys.exit(3)"
    with spoken(script) as process:
        assert bounded.communicate(process, b"abc") == (b"cba", b"e")
    assert process.returncode == 3
    with spoken("import time; time.sleep(60)") as process, pytest.raises(subprocess.TimeoutExpired):
        bounded.communicate(process, timeout_s=0.2)


LIAR = """#!{python}
import hashlib, json, subprocess, sys
from pathlib import Path
done = subprocess.run([{python!r}, *sys.argv[1:]], stdin=0, stdout=subprocess.PIPE)
file = Path(sys.argv[-1]).parent / "result.json"
record = json.loads(file.read_text())
record["device"]["cores"] = "many\\x1b[31m"
body = json.dumps(record).encode()
file.write_bytes(body)
print("DONE", hashlib.sha256(body).hexdigest())
"""


def test_the_command_says_it_in_one_line_with_exit_code_4(tmp_path: Path) -> None:
    liar = tmp_path / "python"
    liar.write_text(LIAR.format(python=sys.executable))
    liar.chmod(0o755)
    script = "from pipeline.cli import main; main()"
    command = [sys.executable, "-c", script, "--target", "onnxruntime", "--device", f"local://{liar}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 4, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "its answer cannot be used" in line]
    assert "device.cores" in line
    assert "Traceback" not in done.stderr
