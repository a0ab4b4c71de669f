"""A device that is a folder of this machine, behind a channel that can be told to fail."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from targets.channels.base import ChannelError


class FakeChannel:
    """A Channel. `faults`: what happens at the next calls instead, first entry first; None lets one pass."""

    uri = "fake://board"

    def __init__(self, folder: Path, python: str) -> None:
        self.folder, self.python = str(folder), python
        self.faults: dict[str, list[Callable[[Path], None] | None]] = {"start": [], "push": [], "pull": []}
        self.lines = 0

    def start(self, script: str) -> subprocess.Popen[bytes]:
        self._fail("start", Path())
        pipe = subprocess.PIPE
        return subprocess.Popen(["sh", "-c", script], stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)

    def fault(self, errors: str) -> ChannelError:
        return ChannelError(self.uri, errors.strip() or "the line went dead", "plug it in", transient=True)

    def push(self, file: Path, to: str) -> None:
        shutil.copyfile(file, to)
        self._fail("push", Path(to))

    def pull(self, file: str, to: Path, most_bytes: int) -> None:
        shutil.copyfile(file, to)
        self._fail("pull", to)

    def _fail(self, where: str, file: Path) -> None:
        fault = self.faults[where].pop(0) if self.faults[where] else None
        if fault is not None:
            fault(file)


def damaged(file: Path) -> None:
    """One bit falls over on the way."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


def truncated(file: Path) -> None:
    """The second half is lost."""
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def unplugged(file: Path) -> None:
    """The client says so."""
    raise ChannelError(FakeChannel.uri, "it is gone", "plug it in", transient=True)
