"""What the agent says while it works, read as it comes: progress lines, then `DONE <sha256 of its result>`."""

from __future__ import annotations

import contextlib
import queue
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

from targets.channels import answer, bounded
from targets.channels.base import Listen

PROGRESS, DONE, ENDED = "PROGRESS ", "DONE ", "ENDED "
MOST_WAITING = 1000  # lines that came and were not read yet
BEAT_S = 2.0  # how often the other side is told that this one is there


@dataclass(frozen=True)
class Said:
    """How it ended: `done` is the digest that it claims for its result, None when it did not come that far.

    `ended`: a shell there said the exit code, `code`; else `code` is that of the process here.
    """

    done: str | None
    code: int
    errors: str
    interrupted: bool = False
    ended: bool = False

    @property
    def last_words(self) -> str:
        """The last line on stderr."""
        lines = [line.strip() for line in self.errors.splitlines() if line.strip()]
        return lines[-1] if lines else "it said nothing"


def follow(
    process: subprocess.Popen[bytes],
    listen: Listen | None = None,
    silence_s: float | None = None,
    on_silence: Callable[[], None] | None = None,
    on_interrupt: Callable[[], None] | None = None,
    still_time: Callable[[], None] | None = None,
) -> Said:
    """Read until the process ends; its stdin stays open until the job has ended, and gets a byte each BEAT_S.

    `on_silence` is called after each `silence_s` without a line, and `still_time` after each BEAT_S with or without
    one; both may raise to give up. Who sends lines faster than they are read has to wait. A first Ctrl-C calls
    `on_interrupt`, and what the agent says then is still read; a second one raises KeyboardInterrupt, and so does the
    first without it.
    """
    assert process.stdout is not None
    assert process.stderr is not None
    lines: queue.Queue[bytes | None] = queue.Queue(MOST_WAITING)
    errors: deque[bytes] = deque(maxlen=MOST_WAITING)  # the last ones say why it died
    given_up = threading.Event()

    def read(stream: IO[bytes]) -> None:
        for line in _lines(stream):
            _hand_over(lines, line, given_up)
        _hand_over(lines, None, given_up)

    def drain(stream: IO[bytes]) -> None:
        errors.extend(_lines(stream))

    readers = [
        threading.Thread(target=read, args=(process.stdout,), daemon=True),
        threading.Thread(target=drain, args=(process.stderr,), daemon=True),
    ]
    for reader in readers:
        reader.start()
    try:
        done, ended, interrupted = _listen(process, lines, listen, silence_s, on_silence, on_interrupt, still_time)
        code = process.wait()
        for reader in readers:
            reader.join(timeout=5)
    finally:
        given_up.set()
    words = b"".join(errors).decode(errors="replace")
    return Said(done, code if ended is None else ended, words, interrupted, ended is not None)


def _listen(
    process: subprocess.Popen[bytes],
    lines: queue.Queue[bytes | None],
    listen: Listen | None,
    silence_s: float | None,
    on_silence: Callable[[], None] | None,
    on_interrupt: Callable[[], None] | None,
    still_time: Callable[[], None] | None,
) -> tuple[str | None, int | None, bool]:
    """What `follow` does with the lines: the digest claimed, the code that a shell said, whether Ctrl-C came."""
    done: str | None = None
    ended: int | None = None
    interrupted = False
    heard = beaten = time.monotonic()
    while True:
        try:
            line = lines.get(timeout=BEAT_S)
        except queue.Empty:
            line = b""
        except KeyboardInterrupt:
            if interrupted or on_interrupt is None:
                raise
            interrupted = True
            on_interrupt()
            continue
        if line is None:
            break
        now = time.monotonic()
        if now - beaten >= BEAT_S:
            beaten = now
            _beat(process)
            if still_time:
                still_time()
        if line:
            heard = now
        elif silence_s is not None and now - heard >= silence_s:
            heard = now
            if on_silence:
                on_silence()
        text = line.decode(errors="replace").rstrip("\r\n")
        if text.startswith(DONE):
            done = text.removeprefix(DONE).strip()
        elif text.startswith(ENDED) and text.removeprefix(ENDED).isdigit():
            ended = int(text.removeprefix(ENDED))
            _hang_up(process)
        elif text.startswith(PROGRESS) and listen and (told := answer.progress(text.removeprefix(PROGRESS))):
            listen(told)
    return done, ended, interrupted


def _hand_over(lines: queue.Queue[bytes | None], line: bytes | None, given_up: threading.Event) -> None:
    """Into the queue, as soon as it has room and while anybody reads it."""
    while not given_up.is_set():
        with contextlib.suppress(queue.Full):
            lines.put(line, timeout=BEAT_S)
            return


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Lines, and of a longer one its parts, until the end or until the stream is closed here."""
    with contextlib.suppress(ValueError):
        while line := stream.readline(bounded.MOST_LINE_BYTES):
            yield line


def _beat(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None and not process.stdin.closed:
        with contextlib.suppress(OSError):  # it ended: its output says how
            process.stdin.write(b".")
            process.stdin.flush()


def _hang_up(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()


def end(process: subprocess.Popen[bytes]) -> None:
    """End the client, if it still runs, and close its streams."""
    if process.poll() is None:
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def identity(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a survey that results depend on."""
    names = ("system", "machine", "cpu", "cpu_features", "saturates", "cores", "serial", "python", "runtimes")
    return {name: facts.get(name) for name in names}
