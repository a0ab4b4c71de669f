"""Encodings of what a run made: where they lie, and a run again with ranges edited by hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import api
from pipeline.errors import UsageError
from pipeline.release import report as reports
from pipeline.release.report import Report
from pipeline.stages import Emit, silent

if TYPE_CHECKING:
    from calibration.encodings import Encodings

EDITED = "ours-encodings"


def read(path: Path, target: str | None = None, candidate: str | None = None) -> Encodings:
    """The encodings in a file, or in what a finished run ships (or in another of its candidates).

    Raises UsageError naming what is there when the question is not clear.
    """
    from calibration.errors import CalibrationError
    from targets import encodings
    from targets.base import TargetError

    try:
        return encodings.read(_model(path, target, candidate) if path.is_dir() else path)
    except (CalibrationError, TargetError) as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def again(run: Path, file: Path, target: str, out: Path, emit: Emit = silent) -> Report:
    """The run's recipe for one target, with the file's ranges in its int8 candidate; delivered to `out`."""
    before = reports.read(run)
    read(file)  # a bad file must not cost a run
    wanted = [f"calibrate.encodings.{target}={str(file.absolute())!r}", f"quantize.candidates=['{EDITED}']"]
    recipe = api.recipe_of(before, [*wanted, f"targets=['{target}']"])
    report = api.run(recipe, targets=[target], out=out, overrides=[*before.recipe["set"], *wanted], emit=emit)
    assert report is not None  # it was not asked to stop
    return report


def _model(run: Path, target: str | None, candidate: str | None) -> Path:
    from targets import base

    finished = reports.read(run)
    if target is None and len(finished.targets) == 1:
        target = next(iter(finished.targets))
    if target not in finished.targets:
        raise UsageError(f"{run}: name a target with --target: it has {', '.join(finished.targets)}")
    row = finished.targets[target]
    candidate = candidate or row.shipped
    made = {one.id: one.artifact for one in row.candidates if one.artifact and one.precision == "int8"}
    if candidate not in made:
        raise UsageError(f"{target}: '{candidate}' is no int8 candidate: name one with --candidate: {', '.join(made)}")
    folder = Path(made[candidate])
    try:
        return base.read_manifest(folder).path
    except (OSError, ValueError):
        raise UsageError(f"{target}: '{candidate}' is not in the store any more: run 'deploy' again") from None
