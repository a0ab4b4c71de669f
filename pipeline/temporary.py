"""One temporary folder for a command: its stages', their processes' and the libraries' own lie below it.

It goes with the command. One whose command was killed goes with the next: the lock on it is free then.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "deploy."
OURS = re.compile(re.escape(PREFIX) + r"[a-z0-9_]{8}")


@contextlib.contextmanager
def folder() -> Iterator[None]:
    """`tempfile` and $TMPDIR of this process and its children lead into a folder that is removed at the end."""
    try:
        home = Path(tempfile.gettempdir())
        _sweep(home)
        made, handle = _make(home)
    except OSError:  # no room, or nowhere to write: what needs a file says so
        yield
        return
    before, variable = tempfile.tempdir, os.environ.get("TMPDIR")
    tempfile.tempdir = os.environ["TMPDIR"] = str(made)
    try:
        yield
    finally:
        tempfile.tempdir = before
        os.environ.pop("TMPDIR")
        if variable is not None:
            os.environ["TMPDIR"] = variable
        shutil.rmtree(made, ignore_errors=True)
        os.close(handle)


def _make(home: Path) -> tuple[Path, int]:
    """A folder that this process holds; one that another swept before it was held is made again."""
    while True:
        made = Path(tempfile.mkdtemp(prefix=PREFIX, dir=home))
        with contextlib.suppress(FileNotFoundError):
            handle = os.open(made, os.O_RDONLY)
            with contextlib.suppress(OSError):  # a file system without locks: nobody sweeps there either
                fcntl.flock(handle, fcntl.LOCK_EX)
            if made.is_dir():
                return made, handle
            os.close(handle)


def _sweep(home: Path) -> None:
    """Remove what killed commands of this user left."""
    with contextlib.suppress(OSError), os.scandir(home) as entries:
        left = [Path(entry.path) for entry in entries if OURS.fullmatch(entry.name)]
        for path in left:
            with contextlib.suppress(OSError):
                _remove_dead(path)


def _remove_dead(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(handle).st_uid == os.geteuid():
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(handle)
