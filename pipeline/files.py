"""Files of the user's that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from pathlib import Path
from typing import IO

from pipeline import locks
from pipeline.errors import StageError

NEARLY_NOTHING = 64 * 1024  # bytes


def write_whole(file: Path, content: str | bytes | Path, folders: bool = False) -> None:
    """Write a text, bytes or another file's content aside, rename: a reader sees the old content or the new, never
    half, and a killed writer leaves nothing that the next one does not use. What is no plain file (/dev/stdout, a pipe)
    is written to as it is. `folders`: those that it lies in are made where they are missing.

    Raises OSError, with the old content in place.
    """
    file = Path(os.path.realpath(file))  # of a link the file that it names: the link stays
    if file.exists() and not file.is_file():
        with file.open("wb") as stream:
            _pour(content, stream)
        return
    if folders:
        file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.deploy-part")
    handle = locks.take(aside)  # of another process that writes there, or what a killed one left
    try:
        with os.fdopen(handle, "wb", closefd=False) as stream:
            stream.truncate(0)
            with contextlib.suppress(FileNotFoundError):
                os.fchmod(handle, stat.S_IMODE(file.stat().st_mode))  # as it was written in place
            _pour(content, stream)
            stream.flush()
            os.fsync(handle)
        aside.replace(file)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


def _pour(content: str | bytes | Path, stream: IO[bytes]) -> None:
    if isinstance(content, Path):
        with content.open("rb") as source:
            shutil.copyfileobj(source, stream)
    else:
        stream.write(content.encode() if isinstance(content, str) else content)


def sync(folder: Path) -> None:
    """Have a folder and all that lies in it reach the disk."""
    for path in (*folder.rglob("*"), folder):
        sync_one(path)


def sync_one(path: Path) -> None:
    """Have a file, or the names in a folder, reach the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_full(error: BaseException, folder: Path) -> bool:
    """Whether an error means that the disk of `folder` is full.

    Libraries spell it in many ways (NumPy: "307200 requested and 153568 written"; copytree: a list): look at the disk.
    """
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    with contextlib.suppress(OSError):
        return isinstance(error, OSError | StageError) and shutil.disk_usage(folder).free < NEARLY_NOTHING
    return False
