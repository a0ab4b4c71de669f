"""The one boundary between a command and the shell: every end is a code of our table, every error one line.

Python's own exit code for an exception is 1, which here means that a gate failed; a library's, or the user's, may be
anything. None of them leaves here: codes are those of pipeline/errors.py, 0 only where a command or a verdict said so.
"""

from __future__ import annotations

import atexit
import errno
import os
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TextIO

from pipeline import errors, plain, signals
from pipeline.errors import DeployError, StageError, UsageError

MOST_LINES = 50  # of one error: a recipe with a fault in every key


class _Outlasting:
    """A standard stream whose reader may go away, or whose disk may be full: what is written then is lost, no more."""

    def __init__(self, stream: TextIO, number: int) -> None:
        self.stream, self.number = stream, number
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        """As of any text stream."""
        try:
            return self.stream.write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def flush(self) -> None:
        """As of any text stream."""
        try:
            self.stream.flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        self.lost = self.lost or error
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.number)  # what is buffered, and what libraries print, goes there
        os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def guard(run: Callable[[], int | None]) -> NoReturn:
    """Run a command and end with its code. `run` returns one of our codes, or None for a command without a verdict."""
    out = _hold_streams()
    atexit.register(_end)  # before all that a command imports: the last to be called
    try:
        code = _coded(run, out)
    except BaseException as error:  # while an error was told
        code = signals.code() if isinstance(error, KeyboardInterrupt) else errors.STAGE_FAILED
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    _END.append(code)
    raise SystemExit(code)


_END: list[int] = []


def _end() -> None:
    """Leave with the command's code, whatever other handlers and destructors of libraries would make of it."""
    if _END:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(_END[0])


def _hold_streams() -> _Outlasting:
    """Standard streams that are there, take every character, and outlast their readers. Returns standard output."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # closed: the next file that anybody opens would be taken for it
            os.open(os.devnull, os.O_RDWR)
    held = []
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name) or open(number, "w", closefd=False)  # noqa: SIM115
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
        held.append(_Outlasting(stream, number))
        setattr(sys, name, held[-1])
    return held[0]


def _coded(run: Callable[[], int | None], out: _Outlasting) -> int:
    try:
        code = run()
    except BaseException as error:
        if signals.came():  # whatever a library made of it
            signals.leave()
        return told(error, any(word in ("-v", "--verbose") for word in sys.argv[1:]))
    out.flush()
    if out.lost is not None and out.lost.errno != errno.EPIPE:
        print(f"deploy: standard output: {out.lost.strerror}", file=sys.stderr)
        return errors.STAGE_FAILED if code is None else code  # a verdict stands in report.json too
    code = errors.PASS if code is None else code
    return code if code in errors.PRECEDENCE else errors.STAGE_FAILED


def told(error: BaseException, verbose: bool) -> int:
    """Tell an error on stderr, a line for each of its lines; with `verbose` the traceback first. Returns its code."""
    if verbose:
        import traceback

        traceback.print_exception(error)
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()  # type: ignore[attr-defined]
        return errors.USAGE
    code, text = _words(error)
    for line in text.splitlines()[:MOST_LINES] or ["failed"]:
        print(f"deploy: {plain.line(line)}", file=sys.stderr)
    return code


def _words(error: BaseException) -> tuple[int, str]:
    """An error's code and what to say of it."""
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Abort":
        return signals.code(), signals.words()
    if any(kind.__name__ == "ClickException" for kind in type(error).__mro__):  # typer brings a click of its own
        return errors.USAGE, f"{error.format_message()} (--help lists what there is)"  # type: ignore[attr-defined]
    known = deploy_error(error)
    return known.exit_code, str(known)


def deploy_error(error: BaseException) -> DeployError:
    """An error of any kind as one of ours: UsageError for what the user can mend, StageError for a fault of ours."""
    from calibration.errors import CalibrationError

    if isinstance(error, DeployError):
        return error
    if isinstance(error, SystemExit):
        return _ended(error)
    if isinstance(error, CalibrationError):
        return UsageError(str(error))
    names = {kind.__name__ for kind in type(error).__mro__}
    if "TargetError" in names:  # not imported: numpy comes with it
        return StageError(str(error)) if getattr(error, "kind", "failed") == "failed" else UsageError(str(error))
    if "ChannelError" in names:
        return errors.DeviceError(str(error))
    if isinstance(error, MemoryError):
        return StageError("out of memory")
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return UsageError(f"{error.filename}: {error.strerror}")
    if isinstance(error, ImportError):
        return UsageError(f"{one_line(error)}: the installation is damaged, install it again")
    return StageError(f"a fault of deploy itself: {one_line(error)}{_place(error)}; -v shows the traceback")


def _ended(error: SystemExit) -> DeployError:
    """Somebody ended the process: the user's code, a library; or we did, with a code of ours."""
    from pipeline import user, user_modules

    if user.frame_of(error, user_modules.FOLDER.path) is not None:
        return UsageError(f"the recipe's code: {user.blame(error, user_modules.FOLDER.path)}")
    ended = StageError("a library ended the process" if error.code not in errors.PRECEDENCE else "ended")
    if error.code in errors.PRECEDENCE:
        ended.exit_code = int(error.code or 0)
    return ended


def _place(error: BaseException) -> str:
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    return f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""  # noqa: PTH119


def one_line(error: BaseException) -> str:
    """The error's type and message, cut to a line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
