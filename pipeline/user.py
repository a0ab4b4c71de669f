"""The user's own code: found by `module:function`, called, blamed in one line when it raises or ends the process."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from pipeline import ours, user_modules
from pipeline.errors import DeployError, UsageError

GUARD = "put what runs as a script below 'if __name__ == \"__main__\":'"


class EndedError(SystemExit):
    """The user's code called os._exit, which would end this process without a word."""


def resolve(reference: str, folder: str | Path) -> Callable[..., Any]:
    """The function that "module:function" names in `folder`. Raises UsageError."""
    module_name, _, name = reference.partition(":")
    user_modules.prepare(reference, Path(folder))
    os._exit = _exit
    with blamed(f"{reference}: cannot import '{module_name}' from {folder}:", folder):
        module = importlib.import_module(module_name)
    function = getattr(module, name, None)
    if not callable(function):
        raise UsageError(f"{reference}: '{module_name}' has no function '{name}'")
    return function  # type: ignore[no-any-return]


def call(reference: str, folder: str | Path) -> Any:
    """What the user's factory returns. Raises UsageError naming the user's line."""
    function = resolve(reference, folder)
    with blamed(f"{reference} raised", folder):
        return function()


@contextmanager
def blamed(what: str, folder: str | Path) -> Iterator[None]:
    """Around the user's code: what it raises, and an end of the process, is a UsageError that begins with `what`."""
    try:
        yield
    except DeployError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(f"{what} {blame(error, folder)}") from error


def blame(error: BaseException, folder: str | Path = "") -> str:
    """One line for an exception in the user's code: `ValueError: message (data.py:12)`, their innermost frame."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"SyntaxError: {error.msg} ({Path(error.filename).name}:{error.lineno})"
    frame = frame_of(error, folder)
    place = f" ({Path(frame.filename).name}:{frame.lineno})" if frame else ""
    if isinstance(error, SystemExit):
        call = f"os._exit({error.code})" if isinstance(error, EndedError) else f"sys.exit({error.code!r})"
        return f"{call} would end the run{place}: return instead, or {GUARD}"
    message = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {message}{place}"


def frame_of(error: BaseException, folder: str | Path = "") -> traceback.FrameSummary | None:
    """The innermost frame in `folder`; without any there, the innermost that is no library's and not ours."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_foreign(frame.filename, folder)]
    inside = [frame for frame in frames if folder and Path(frame.filename).is_relative_to(Path(folder).resolve())]
    return next(iter([*inside[-1:], *frames[-1:]]), None)


def _is_foreign(file: str, folder: str | Path) -> bool:
    if any(part in file for part in ("site-packages", "importlib", "contextlib.py")):
        return False
    ours_too = [str(Path(ours.ROOT, name)) for name in ours.PACKAGES]
    shipped = folder and str(folder).startswith(ours_too[0]) and file.startswith(str(folder))  # a recipe of ours
    return bool(shipped) or not file.startswith(tuple(f"{place}{os.sep}" for place in ours_too))


_really_exit = os._exit


def _exit(status: int) -> NoReturn:
    """os._exit, except that the user's own modules get an exception: nobody would learn what happened, nor where."""
    caller = str(sys._getframe(1).f_globals.get("__name__"))
    if caller.partition(".")[0] in user_modules.FOLDER.names:
        raise EndedError(status)
    _really_exit(status)
