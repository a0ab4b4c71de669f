"""Files of the user's that are written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from pathlib import Path
from typing import IO

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
    handle = _alone(aside)
    try:
        with os.fdopen(handle, "wb", closefd=False) as stream:
            stream.truncate(0)
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


def _alone(aside: Path) -> int:
    """A file that no other process is writing to, open for writing; one that was left by a killed one is taken."""
    while True:
        handle = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(aside.stat(), os.fstat(handle)):
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # it has been renamed meanwhile


def is_full(error: BaseException, folder: Path) -> bool:
    """Whether an error means that the disk of `folder` is full.

    Libraries spell it in many ways (NumPy: "307200 requested and 153568 written"; copytree: a list): look at the disk.
    """
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    with contextlib.suppress(OSError):
        return isinstance(error, OSError | StageError) and shutil.disk_usage(folder).free < NEARLY_NOTHING
    return False
