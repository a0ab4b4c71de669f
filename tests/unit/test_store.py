"""The store: whole or absent, damaged means absent, a full disk leaves it intact."""

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import StageError, UsageError
from pipeline.store import Store

KEY = "ab" * 32


def write(folder: Path) -> dict[str, int]:
    (folder / "sub").mkdir()
    (folder / "sub" / "x.bin").write_bytes(b"abc")
    return {"answer": 42}


def test_what_was_put_comes_back(tmp_path: Path) -> None:
    store = Store(tmp_path)
    put = store.put("stage", KEY, write)
    got = store.get(KEY)
    assert got == put
    assert (got.path / "sub" / "x.bin").read_bytes() == b"abc"
    assert got.metadata == {"answer": 42}
    assert store.entries()[0]["size_bytes"] == 3


def test_the_digest_is_of_the_content_alone(tmp_path: Path) -> None:
    first = Store(tmp_path / "a").put("one", KEY, write)
    second = Store(tmp_path / "b").put("two", "cd" * 32, write)
    assert first.digest == second.digest


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "add", "metadata", "not json", "no entry"])
def test_a_damaged_entry_is_absent_and_made_again(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    path = store.put("stage", KEY, write).path
    file, entry = path / "sub" / "x.bin", path.parent / "entry.json"
    if damage == "flip":
        file.write_bytes(b"abd")
    elif damage == "truncate":
        file.write_bytes(b"")
    elif damage == "remove":
        file.unlink()
    elif damage == "add":
        (path / "more").write_text("x")
    elif damage == "metadata":
        record = json.loads(entry.read_text())
        record["metadata"]["answer"] = 43
        entry.write_text(json.dumps(record))
    elif damage == "not json":
        entry.write_text("{")
    else:
        entry.unlink()
    assert store.get(KEY) is None
    assert store.put("stage", KEY, write) == store.get(KEY)


def test_a_stage_that_raises_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def broken(folder: Path) -> dict[str, int]:
        write(folder)
        raise StageError("broke")

    with pytest.raises(StageError):
        store.put("stage", KEY, broken)
    assert store.get(KEY) is None
    assert list((tmp_path / "building").iterdir()) == []


def test_a_full_disk_is_one_line_and_the_rest_is_intact(tmp_path: Path) -> None:
    store = Store(tmp_path)
    kept = store.put("stage", KEY, write)

    def full(folder: Path) -> dict[str, int]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StageError, match="no space left for results"):
        store.put("stage", "cd" * 32, full)
    assert store.get(KEY) == kept
    assert list((tmp_path / "building").iterdir()) == []


def test_what_a_killed_run_left_is_cleared_by_the_next(tmp_path: Path) -> None:
    script = f"""
import os, pathlib, signal
from pipeline.store import Store
def killed(folder):
    (folder / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
store = Store(pathlib.Path({str(tmp_path)!r}))
with store.lock({KEY!r}):
    store.put("stage", {KEY!r}, killed)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    assert len(list((tmp_path / "building").iterdir())) == 1
    store = Store(tmp_path)
    assert store.get(KEY) is None
    with store.lock(KEY):  # the dead run's lock is free
        store.put("stage", KEY, write)
    assert list((tmp_path / "building").iterdir()) == []
    assert store.get(KEY) is not None


def test_two_runs_at_once_make_a_result_once(tmp_path: Path) -> None:
    made = []

    def slow(folder: Path) -> dict[str, int]:
        made.append(1)
        time.sleep(0.2)
        return write(folder)

    def one() -> None:
        store = Store(tmp_path)
        with store.lock(KEY):
            if store.get(KEY) is None:
                store.put("stage", KEY, slow)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write to the store"):
        Store(tmp_path / "file" / "store").put("stage", KEY, write)


def in_another_process(root: Path, body: str) -> "subprocess.Popen[str]":
    """A process that does something with the store, says "there", and stays so until its stdin closes."""
    script = (
        f"import pathlib, sys\nfrom pipeline.store import Store\nstore = Store(pathlib.Path({str(root)!r}))\n{body}"
    )
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", script], stdin=pipe, stdout=pipe, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    return process


def let_go(process: "subprocess.Popen[str]") -> None:
    process.communicate("")
    assert process.returncode == 0


def age(store: Store, key: str) -> None:
    long_ago = time.time() - 10**6
    os.utime(store.root / "entries" / key / "entry.json", (long_ago, long_ago))


def test_pruning_takes_nothing_that_a_run_uses(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for key in (KEY, "cd" * 32):
        store.put("stage", key, write)
        age(store, key)
    body = f"with store.used('bars'):\n    store.get({KEY!r})\n    print('there', flush=True)\n    sys.stdin.read()"
    run = in_another_process(tmp_path, body)
    assert [row["key"] for row in store.prune(time.time())] == ["cd" * 32]
    assert store.get(KEY) is not None
    let_go(run)
    assert [row["key"] for row in store.prune(time.time())] == [KEY]


def test_what_is_being_made_is_counted_and_not_pruned_and_what_killed_runs_left_is(tmp_path: Path) -> None:
    store = Store(tmp_path)
    making = (
        f"with store.lock({KEY!r}, 'bars: train'):\n"
        f"    for part in (store.scratch({KEY!r}), store.root / 'building' / ({KEY!r} + '-00000000')):\n"
        "        part.mkdir(parents=True)\n        (part / 'x').write_bytes(b'12345')\n"
        "    print('there', flush=True)\n    sys.stdin.read()"
    )
    run = in_another_process(tmp_path, making)
    rows = {row["kind"]: row for row in store.leftovers()}
    assert {kind: (row["in_use"], row["key"]) for kind, row in rows.items()} == dict.fromkeys(
        ("scratch", "building", "locks"), (True, KEY)
    )
    assert rows["scratch"]["size_bytes"] == rows["building"]["size_bytes"] == 5
    assert store.prune(time.time()) == []
    run.kill()
    run.communicate()
    assert not any(row["in_use"] for row in store.leftovers())
    assert {row["kind"] for row in store.prune(time.time() - 3600)} == {"building", "locks"}  # scratch: to go on from
    assert {row["kind"] for row in store.prune(time.time() + 1)} == {"scratch"}
    assert store.leftovers() == []


def test_the_next_run_removes_what_a_killed_one_left_half_made(tmp_path: Path) -> None:
    store = Store(tmp_path)
    half = tmp_path / "building" / ("cd" * 32 + "-00000000")
    half.mkdir(parents=True)
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / f"{KEY}.lock").touch()
    with store.used("bars"):
        assert not half.exists()
        assert len([*(tmp_path / "locks").iterdir()]) == 1  # this run's
    assert [*(tmp_path / "locks").iterdir()] == []


def test_scratch_of_a_result_that_is_there_goes(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put("stage", KEY, write)
    store.scratch(KEY).mkdir(parents=True)
    assert store.get(KEY) is not None
    assert not store.scratch(KEY).exists()


def test_the_store_is_its_users_alone(tmp_path: Path) -> None:
    root = tmp_path / "a" / "store"
    Store(root).put("stage", KEY, write)
    assert [path.stat().st_mode & 0o777 for path in (root, root / "entries")] == [0o700, 0o700]
    root.chmod(0o755)  # an earlier version's
    with Store(root).lock(KEY):
        assert root.stat().st_mode & 0o777 == 0o700
    mixed = tmp_path / "b"
    mixed.mkdir(mode=0o755)
    (mixed / "theirs").touch()
    Store(mixed).put("stage", KEY, write)
    assert mixed.stat().st_mode & 0o777 == 0o755
    assert (mixed / "entries").stat().st_mode & 0o777 == 0o700


def test_what_belongs_to_another_user_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.put("stage", KEY, write)
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    for use in (lambda: store.get(KEY), store.entries, lambda: store.put("stage", "cd" * 32, write)):
        with pytest.raises(UsageError, match=r"belongs to another user .*: set DEPLOY_STORE to a folder of your own"):
            use()


def test_a_half_made_result_that_goes_while_it_is_looked_at_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, there = Store(tmp_path), tmp_path / "building" / f"{KEY}-1"
    (there / "files" / "sub").mkdir(parents=True)
    scandir = os.scandir

    def gone(path: Any = ".") -> Any:
        """Another run has put its result in place between two looks at the folder."""
        if str(path).endswith("sub"):
            shutil.rmtree(there)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", gone)
    with store.used("bars"):
        assert not there.exists()
