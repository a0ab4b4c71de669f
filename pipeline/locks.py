"""Locks between processes: files held with flock(2), so that a lock ends with its holder, however that one ended.

A lock's file says who holds it and is removed on release. Who had opened it before that notices (the path leads to
another file by then, or to none) and tries again: the last lines of `_take`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Holder:
    """Who holds a lock. `born`: when that process began, in the kernel's ticks: numbers of processes come again."""

    pid: int
    born: str
    what: str
    since: float  # seconds since the epoch

    def __str__(self) -> str:
        since = time.strftime("%H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} ({', '.join(filter(None, (self.what, f'since {since}')))})"

    @property
    def alive(self) -> bool:
        """Whether it is still the process that took the lock."""
        return self.born == _born(self.pid)


Waiting = Callable[[Holder | None], None]  # called once, when a lock is not free at once


@contextlib.contextmanager
def held(file: Path, what: str = "", waiting: Waiting | None = None) -> Iterator[None]:
    """Hold the lock `file`, whose folder is there; wait for it where another holds it, in this process or elsewhere.

    `what`: told to those who wait. Raises OSError where the file cannot be made.
    """
    handle = _take(file, wait=False)
    if handle is None:
        if waiting is not None:
            waiting(holder(file))
        handle = take(file)
    try:
        _sign(handle, what)
        yield
    finally:
        file.unlink(missing_ok=True)  # while it is held: nobody else's
        os.close(handle)


def holder(file: Path) -> Holder | None:
    """Who says to hold a lock, where that process lives."""
    try:
        found = Holder(**json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
    return found if found.alive else None


def busy(file: Path) -> bool:
    """Whether somebody holds the lock now."""
    try:
        handle = os.open(file, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


@contextlib.contextmanager
def unless_busy(file: Path) -> Iterator[bool]:
    """Hold the lock where it is free, and say whether it was."""
    handle = _take(file, wait=False)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            file.unlink(missing_ok=True)
            os.close(handle)


def take(file: Path) -> int:
    """The descriptor that holds the lock, as soon as nobody else does."""
    handle = _take(file, wait=True)
    assert handle is not None
    return handle


def _take(file: Path, wait: bool) -> int | None:
    """The descriptor that holds the lock; None where it is another's and nobody waits."""
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(file.stat(), os.fstat(handle)):
                    return handle
        except BlockingIOError:
            os.close(handle)
            return None
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its holder has removed it meanwhile


def _sign(handle: int, what: str) -> None:
    note = Holder(os.getpid(), _born(os.getpid()), what, time.time())
    with contextlib.suppress(OSError):  # a full disk: the lock itself holds
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(asdict(note)).encode(), 0)


def _born(pid: int) -> str:
    """Start time of a process; "" where the system does not say, or there is no such process."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # a name may hold spaces
    except OSError:
        return ""
    return words[19] if len(words) > 19 else ""
