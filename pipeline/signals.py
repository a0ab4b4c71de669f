"""Ctrl-C, SIGTERM and a terminal that goes away end the command alike: children and temporary files gone, one line.

From the first import on. What cleans up says so (`cleaning`): there a signal is a KeyboardInterrupt, whichever it was;
elsewhere the command ends at once. Standard library only: this is loaded first.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from pipeline.errors import INTERRUPTED, TERMINATED

CODES = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED, signal.SIGHUP: TERMINATED}
WORDS = {INTERRUPTED: "interrupted", TERMINATED: "terminated"}


class _State:
    """`code`: of the first signal that came; `cleaning`: whether somebody would see a KeyboardInterrupt."""

    code = INTERRUPTED
    came = cleaning = quiet = False  # quiet: one of several, whose first speaks


def listen(quiet: bool = False) -> None:
    """From now on. A signal that whoever started us wants ignored (nohup, a shell's background) stays so."""
    _State.quiet = quiet
    for number in CODES:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _hear)


def code() -> int:
    """The exit code that belongs to the signal that came."""
    return _State.code


def came() -> bool:
    """Whether one came. What libraries make of a KeyboardInterrupt may be any error."""
    return _State.came


def words() -> str:
    """What there is to say of it."""
    return f"{WORDS[_State.code]}; finished stages are stored, run again to go on"


@contextlib.contextmanager
def cleaning() -> Iterator[None]:
    """Inside, a signal is raised as KeyboardInterrupt: `finally` ends what was begun."""
    before, _State.cleaning = _State.cleaning, True
    try:
        yield
    finally:
        _State.cleaning = before


def leave() -> NoReturn:
    """The line and the code of the signal that came, at once: runtimes' threads must not delay it."""
    for number in CODES:
        with contextlib.suppress(ValueError):  # another thread than the first
            signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(OSError, ValueError):  # the terminal may be gone
        if not _State.quiet:
            print(f"deploy: {words()}", file=sys.stderr)
            sys.stderr.flush()
    os._exit(_State.code)


def _hear(number: int, frame: FrameType | None) -> None:
    if not _State.came:
        _State.came, _State.code = True, CODES[signal.Signals(number)]
    if not _State.cleaning:
        leave()
    raise KeyboardInterrupt
