"""Reads what a program says, and no more of it than anybody wants: what is at a device's end may send for ever."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

MOST_WORDS_BYTES = 4 << 20  # of a shell's or a client's answer
MOST_LINE_BYTES = 1 << 16
LOOK_S = 0.05


class TooMuchError(Exception):
    """More came than was wanted; the program was ended."""


def communicate(
    process: subprocess.Popen[bytes],
    stdin: bytes = b"",
    timeout_s: float | None = None,
    growing: Path | None = None,
    most_bytes: int = 0,
) -> tuple[bytes, bytes]:
    """As Popen.communicate, for a program whose streams may have no end. Streams that are no pipes are empty.

    `growing`: a file that the program writes, at most `most_bytes` of it. Raises TooMuchError and TimeoutExpired
    (after `timeout_s`); either way the program was killed.
    """
    flooded = threading.Event()
    kept = [bytearray(), bytearray()]

    def read(stream: IO[bytes], into: bytearray) -> None:
        while block := stream.read1(1 << 16):  # type: ignore[attr-defined]
            into += block
            if len(into) > MOST_WORDS_BYTES:
                flooded.set()
                return

    def write(stream: IO[bytes]) -> None:
        with contextlib.suppress(OSError):  # it ended without reading: its code says why
            stream.write(stdin)
            stream.close()

    streams = zip((process.stdout, process.stderr), kept, strict=True)
    readers = [threading.Thread(target=read, args=(s, into), daemon=True) for s, into in streams if s is not None]
    writers = [threading.Thread(target=write, args=(process.stdin,), daemon=True)] if process.stdin else []
    for thread in (*readers, *writers):
        thread.start()
    began = time.monotonic()
    try:
        while any(reader.is_alive() for reader in readers) or process.poll() is None:
            if timeout_s is not None and time.monotonic() - began > timeout_s:
                raise subprocess.TimeoutExpired(process.args, timeout_s)
            if flooded.is_set() or (growing is not None and size_bytes(growing) > most_bytes):
                raise TooMuchError
            _wait(process, readers)
    except BaseException:
        process.kill()
        process.wait()
        raise
    if flooded.is_set() or (growing is not None and size_bytes(growing) > most_bytes):
        raise TooMuchError
    return bytes(kept[0]), bytes(kept[1])


def _wait(process: subprocess.Popen[bytes], readers: Sequence[threading.Thread]) -> None:
    """For a stream to end, or for the process where all have; LOOK_S at most."""
    for reader in readers:
        if reader.is_alive():
            reader.join(LOOK_S)
            return
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(LOOK_S)


def size_bytes(file: Path) -> int:
    """Of a file that may not be there yet."""
    try:
        return file.stat().st_size
    except OSError:
        return 0
