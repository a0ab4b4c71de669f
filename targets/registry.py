"""Targets by name, through the entry-point group `edge_deploy.targets`: built-in ones use the same door as others'."""

from __future__ import annotations

import contextlib
import difflib
import re
import shlex
import sys
from collections.abc import Sequence
from functools import lru_cache
from importlib import metadata

from targets.base import Target, TargetError

GROUP = "edge_deploy.targets"
OURS = "edge-deploy"  # our distribution

__all__ = ["GROUP", "TargetError", "entry", "load", "missing", "missing_error", "names"]


def names() -> list[str]:
    """What is published, sorted."""
    return sorted({point.name for point in _points()})


@lru_cache(maxsize=1)
def _points() -> tuple[metadata.EntryPoint, ...]:
    """Read once a process: it looks into every installed distribution."""
    return tuple(metadata.entry_points(group=GROUP))


def entry(name: str) -> metadata.EntryPoint:
    """The entry point, not imported. Raises TargetError with the nearest name for an unknown one, and when two
    distributions publish the same."""
    found = {point.value: point for point in _points() if point.name == name}
    if len(found) > 1:
        raise TargetError(f"target '{name}' is published more than once: {sorted(found)}; uninstall all but one")
    if found:
        return next(iter(found.values()))
    known = names()
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known are {known}"
    raise TargetError(f"unknown target '{name}': {hint}", "unsupported")


def load(name: str) -> Target:
    """The target object; its heavy packages are not imported.

    Raises TargetError: "unsupported" for an unknown name, "missing" when its module lacks a package, "failed" when it
    breaks on import or is no Target.
    """
    point = entry(name)
    try:
        target = point.load()
    except ImportError as error:
        dist = None if point.dist is None else point.dist.name
        brings = "install it again" if dist in (None, OURS) else f"pip install --upgrade {dist}"
        text = f"target '{name}' ({point.value}) cannot be imported: {error}: {brings}"
        raise TargetError(text, "missing") from error
    except Exception as error:
        raise TargetError(f"target '{name}' ({point.value}) breaks on import: {error}") from error
    if not isinstance(target, Target):
        lacking = sorted(
            attribute
            for attribute in (*Target.__annotations__, *(m for m in vars(Target) if not m.startswith("_")))
            if not hasattr(target, attribute)
        )
        raise TargetError(f"target '{name}' ({point.value}) is no Target: it lacks {lacking}")
    return target


def missing(target: Target) -> list[str]:
    """Distributions that the target needs and that are not installed."""

    def installed(name: str) -> bool:
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            return False
        return True

    return [name for name in target.packages if not installed(name)]


def missing_error(target: Target, lacking: Sequence[str]) -> TargetError:
    """What to say when packages are missing: which, and the command that brings them."""
    text = f"target '{target.name}' needs {', '.join(lacking)}, not installed here: {remedy(lacking)}"
    return TargetError(text, "missing")


def remedy(lacking: Sequence[str]) -> str:
    """The command that brings distributions into this Python, in the versions that ours were tried with.

    It names them one by one: an extra of ours would need our own distribution from an index.
    """
    with contextlib.suppress(metadata.PackageNotFoundError):
        for line in metadata.requires(OURS) or ():
            wanted = line.partition(";")[0].strip()
            name = re.split(r"[^\w.-]", wanted, maxsplit=1)[0]
            lacking = [wanted if one == name else one for one in lacking]
    return f"{shlex.quote(sys.executable)} -m pip install {' '.join(map(shlex.quote, lacking))}"
