"""What versions without a listing delivered: recognised by what it is, never by its name alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.artifact import sha256_file
from pipeline.errors import UsageError
from pipeline.release import report

BESIDE = ("report.html", "report.md", "junit.xml", report.EXPLANATION, report.SENSITIVITY)
TIMINGS = re.compile(r".+-(race|profile(-\d+)?)\.npz")
EVIDENCE = re.compile(r"evidence/(\d+/)?(samples-\d+(-length-\d+)?|flipped)\.npz")
BASELINE = re.compile(r"samples-\d+\.npz")
NETWORK = re.compile(r"weights\.safetensors|edits\.json|program\..+|(expected|selection|gate)\.npz")


def ours(out: Path, kind: str) -> set[str]:
    """Paths below a folder that an earlier version delivered there; none where its report is not there."""
    return set(KINDS[kind](out)) if out.is_dir() else set()


def _run(out: Path) -> Iterator[str]:
    if not _reported(out):
        return
    yield from (name for name in (report.FILE, *BESIDE) if (out / name).is_file())
    for folder in (path for path in out.iterdir() if path.is_dir()):
        known = _known(folder)
        for path in folder.rglob("*") if known else ():
            name = path.relative_to(folder).as_posix()
            if path.is_file() and known and known(name):
                yield f"{folder.name}/{name}"


def _known(folder: Path) -> Callable[[str], bool] | None:
    """What a run's folder may hold, by the path below it; None of a folder that is none of a run."""
    if folder.name == "samples":
        return lambda name: TIMINGS.fullmatch(name) is not None
    if folder.name == "pytorch":
        return lambda name: NETWORK.fullmatch(name.rpartition("/")[2]) is not None
    model = _model(folder)
    if not model:
        return None
    return lambda name: name in model or EVIDENCE.fullmatch(name) is not None


def _model(folder: Path) -> set[str]:
    """A delivered model declares its own files, with their digests."""
    try:
        declared = json.loads((folder / "declared.json").read_text())["files"]
        if all(sha256_file(folder / name) == digest for name, digest in declared.items()):
            return {*declared, "declared.json", "model.json", "loader.py", "loader.hpp"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return set()


def _baseline(out: Path) -> Iterator[str]:
    if _reported(out):
        yield report.FILE
        for path in out.glob("*/samples-*.npz"):
            if BASELINE.fullmatch(path.name):
                yield path.relative_to(out).as_posix()


def _firmware(out: Path) -> Iterator[str]:
    from targets.cortex_m import emit

    if emit.ours(out):
        known = {"model.h", "model.c", "CMakeLists.txt", "README.md", emit.PICTURE, *emit.kernels()}
        yield from (name for name in known if (out / name).is_file())


def _reported(out: Path) -> bool:
    try:
        report.read(out)
    except UsageError:
        return False
    return True


KINDS: dict[str, Callable[[Path], Iterator[str]]] = {"run": _run, "baseline": _baseline, "firmware": _firmware}
