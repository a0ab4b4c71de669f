"""What is delivered into a folder of the user's: ours is replaced in one swap, the rest is never touched."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import delivery, files, fits, locks
from pipeline.errors import UsageError
from tests.unit.killed_delivery import content, deliver

NAMES = ("tflite", "samples", "pytorch", "report.json")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder with a delivery of ours and a file of the user's."""
    folder = tmp_path / "out"
    deliver(folder, "A")
    (folder / "notes.txt").write_text("mine")
    return folder


def place(out: Path) -> delivery.Place:
    return delivery.Place(out, "run")


def test_ours_is_replaced_and_the_users_stays(out: Path) -> None:
    place(out).check(NAMES)
    deliver(out, "B")
    found = content(out)
    assert found.pop("notes.txt") == "mine"
    assert {*found.values()} == {"B"}
    assert not (out / "pytorch").exists()
    assert {path.name for path in out.glob(".*")} == {delivery.LISTING}


def folder_of_theirs(out: Path) -> Path:
    shutil.rmtree(out / "tflite")
    (out / "tflite").mkdir()
    (out / "tflite" / "code.py").write_text("mine")
    return out / "tflite" / "code.py"


def file_among_ours(out: Path) -> Path:
    (out / "pytorch" / "notes.txt").write_text("mine")
    return out / "pytorch" / "notes.txt"


def link_of_theirs(out: Path) -> Path:
    (out.parent / "elsewhere").mkdir()
    (out.parent / "elsewhere" / "x").write_text("mine")
    shutil.rmtree(out / "samples")
    (out / "samples").symlink_to(out.parent / "elsewhere")
    return out / "samples"


def report_of_theirs(out: Path) -> Path:
    (out / "report.json").write_text("mine")
    return out / "report.json"


def changed_since(out: Path) -> Path:
    file = out / "tflite" / "model.tflite"
    before = file.stat()
    file.write_text("Z")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    return file


def without_a_listing(out: Path) -> Path:
    (out / delivery.LISTING).unlink()
    return out


@pytest.mark.parametrize(
    "theirs",
    [folder_of_theirs, file_among_ours, link_of_theirs, report_of_theirs, changed_since, without_a_listing],
    ids=lambda made: made.__name__,
)
def test_what_is_not_ours_is_refused_before_and_after_the_work(out: Path, theirs: Callable[[Path], Path]) -> None:
    file = theirs(out)
    before = content(out)
    for attempt in (lambda: place(out).check(NAMES), lambda: deliver(out, "B")):
        with pytest.raises(UsageError, match=r"move it away, or name another folder with --out") as caught:
            attempt()
        assert str(file) in str(caught.value)
        assert content(out) == before
    assert not [*out.glob(".delivery-*")]


def test_what_importing_the_loader_leaves_is_no_obstacle(out: Path) -> None:
    (out / "tflite" / "__pycache__").mkdir()
    (out / "tflite" / "__pycache__" / "loader.cpython-311.pyc").write_bytes(b"x")
    deliver(out, "B")
    assert content(out)["tflite/model.tflite"] == "B"


def test_a_copy_of_a_delivery_is_ours_too(out: Path, tmp_path: Path) -> None:
    """Times of files change where a folder is checked out or unpacked: then the content counts."""
    copy = Path(shutil.copytree(out, tmp_path / "copy", copy_function=shutil.copyfile))
    place(copy).check(NAMES)
    deliver(copy, "B")
    assert content(copy)["report.json"] == "B"


def test_a_baseline_is_not_delivered_over_a_run(out: Path) -> None:
    with pytest.raises(UsageError, match="is not of an earlier baseline of ours"):
        delivery.Place(out, "baseline", "--to").check(NAMES)


def test_firmware_replaces_its_own_files_and_the_users_code_beside_them_stays(tmp_path: Path) -> None:
    fits._write(tmp_path, {"model.c": "1", "nn_old.c": "1", "Internal/arm.h": "1"})
    (tmp_path / "main.c").write_text("mine")
    fits._write(tmp_path, {"model.c": "2"})
    assert content(tmp_path) == {"model.c": "2", "main.c": "mine"}
    with pytest.raises(UsageError, match=r"main\.c is not of an earlier firmware of ours"):
        fits._write(tmp_path, {"main.c": "3"})
    assert content(tmp_path) == {"model.c": "2", "main.c": "mine"}


def test_killed_at_any_moment_nothing_is_half_lost_or_left_over(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.unit.killed_delivery", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50  # moments


def test_an_interruption_in_the_swap_leaves_the_new_delivery_whole(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swap, calls = delivery._swap, []

    def interrupted(new: Path, there: Path, old: Path) -> None:
        calls.append(there)
        if len(calls) == 2:
            raise KeyboardInterrupt
        swap(new, there, old)

    monkeypatch.setattr(delivery, "_swap", interrupted)
    with pytest.raises(KeyboardInterrupt):
        deliver(out, "B")
    assert {**content(out), "notes.txt": "B"} == dict.fromkeys(content(out), "B")
    assert {path.name for path in out.glob(".*")} == {delivery.LISTING}


def test_several_at_once_all_deliver_and_no_reader_sees_two(out: Path) -> None:
    ended = threading.Event()
    seen: list[set[str]] = []

    def read() -> None:
        while not ended.is_set():
            with delivery.settled(out):
                seen.append(
                    {(out / name).read_text() for name in ("tflite/model.tflite", "samples/a.npz", "report.md")}
                )

    reader = threading.Thread(target=read)
    reader.start()
    script = "import sys, pathlib; from tests.unit.killed_delivery import deliver\n"
    script += "for _ in range(5): deliver(pathlib.Path(sys.argv[1]), sys.argv[2])"
    runs = [subprocess.Popen([sys.executable, "-c", script, str(out), version]) for version in "ABCD"]
    codes = [run.wait() for run in runs]
    ended.set()
    reader.join()
    assert codes == [0, 0, 0, 0]
    assert seen
    assert all(len(versions) == 1 for versions in seen)
    assert len({text for name, text in content(out).items() if name != "notes.txt"}) == 1
    assert {path.name for path in out.glob(".*")} == {delivery.LISTING}


def test_a_full_disk_is_one_line_and_the_old_delivery_is_whole(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(out)

    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(UsageError, match=r"no space left in .*; what was delivered before is intact"):
        deliver(out, "B")
    assert content(out) == before
    assert {path.name for path in out.glob(".*")} == {delivery.LISTING}


def test_where_files_cannot_change_names_at_once_they_do_one_by_one(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "_exchange", lambda one, other: False)
    deliver(out, "B")
    assert {**content(out), "notes.txt": "B"} == dict.fromkeys(content(out), "B")


def test_a_file_is_written_whole_and_what_a_killed_writer_left_is_used(tmp_path: Path) -> None:
    target = tmp_path / "there" / "x.json"
    link = tmp_path / "link.json"
    link.symlink_to(target)
    files.write_whole(link, "old", folders=True)
    (target.parent / ".x.json.deploy-part").write_text("half of a very long text")
    files.write_whole(link, "new")
    assert target.read_text() == "new"
    assert link.is_symlink()
    assert [path.name for path in target.parent.iterdir()] == ["x.json"]


def test_what_is_no_plain_file_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    files.write_whole(pipe, "text")
    assert os.read(reader, 100) == b"text"
    os.close(reader)
    assert pipe.is_fifo()


def test_who_waits_for_a_lock_is_told_for_whom_once(tmp_path: Path) -> None:
    lock, told = tmp_path / "x.lock", []
    waits = threading.Event()

    def wait() -> None:
        def waiting(holder: locks.Holder | None) -> None:
            told.append(holder)
            waits.set()

        with locks.held(lock, "second", waiting):
            told.append("held")

    with locks.held(lock, "first"):
        assert locks.busy(lock)
        other = threading.Thread(target=wait)
        other.start()
        assert waits.wait(30)
        assert told[0].pid == os.getpid()
        assert str(told[0]).startswith(f"process {os.getpid()} (first, since ")
    other.join()
    assert told[1:] == ["held"]
    assert not lock.exists()


def test_a_number_of_a_process_that_came_again_is_not_taken_for_the_holder(tmp_path: Path) -> None:
    lock = tmp_path / "x.lock"
    lock.write_text(f'{{"pid": {os.getpid()}, "born": "1", "what": "long ago", "since": 0.0}}')
    assert locks.holder(lock) is None
    assert not locks.busy(lock)


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    lock = tmp_path / "x.lock"
    script = "import os, sys, pathlib; from pipeline import locks\n"
    script += "with locks.held(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", script, str(lock)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert lock.exists()
    with locks.unless_busy(lock) as free:
        assert free
    assert not lock.exists()


def test_a_file_that_is_written_over_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("old")
    (tmp_path / "secret").chmod(0o600)
    files.write_whole(tmp_path / "secret", "new")
    assert (tmp_path / "secret").read_text() == "new"
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_what_is_not_there_to_be_delivered_is_not_blamed_on_the_folder(tmp_path: Path) -> None:
    place = delivery.Place(tmp_path / "out", "run")
    with pytest.raises(FileNotFoundError, match="gone"), delivery.delivering(place) as parcel:
        shutil.copy(tmp_path / "gone", parcel.new / "model.onnx")
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(
        UsageError, match=r"cannot write to .*file/out: Not a directory; name another folder with --out"
    ):
        delivery.Place(tmp_path / "file" / "out", "run").check(())
