"""The user's own code: found by `module:function`, called, and blamed in one line when it raises."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.errors import DeployError, UsageError


def resolve(reference: str, folder: str | Path) -> Callable[..., Any]:
    """The function that "module:function" names, `folder` first on the import path. Raises UsageError."""
    module_name, _, name = reference.partition(":")
    folder = str(folder)
    if sys.path[0] != folder:  # first, whatever other recipe was called in between
        sys.path[:] = [folder, *(path for path in sys.path if path != folder)]
    _forget_foreign(module_name, Path(folder))
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise UsageError(f"{reference}: cannot import '{module_name}' from {folder}: {blame(error)}") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise UsageError(f"{reference}: '{module_name}' has no function '{name}'")
    return function  # type: ignore[no-any-return]


def call(reference: str, folder: str | Path) -> Any:
    """What the user's factory returns. Raises UsageError naming the user's line."""
    function = resolve(reference, folder)
    try:
        return function()
    except DeployError:
        raise
    except Exception as error:
        raise UsageError(f"{reference} raised {blame(error)}") from error


def _forget_foreign(module_name: str, folder: Path) -> None:
    """A module of the same name from another recipe's folder must not answer for this one."""
    top = module_name.partition(".")[0]
    here = [folder / f"{top}.py", folder / top / "__init__.py"]
    loaded = sys.modules.get(top)
    if loaded is None or not any(path.is_file() for path in here):
        return
    if Path(getattr(loaded, "__file__", None) or "") not in here:
        for name in [name for name in sys.modules if name == top or name.startswith(f"{top}.")]:
            del sys.modules[name]


def blame(error: BaseException) -> str:
    """One line for an exception in the user's code: `ValueError: message (data.py:12)`, their innermost frame."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "site-packages" not in frame.filename and "importlib" not in frame.filename and frame.filename != __file__
    ]
    if isinstance(error, SyntaxError) and error.filename:
        return f"SyntaxError: {error.msg} ({Path(error.filename).name}:{error.lineno})"
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    message = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {message}{place}"
