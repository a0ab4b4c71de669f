"""The baseline: a run's report and per-sample evidence, kept as files that belong into version control."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import delivery, outcome
from pipeline.artifact import sha256_file
from pipeline.errors import EvidenceError, UsageError
from pipeline.release import compare
from pipeline.release import report as reports
from pipeline.release.report import Report, RunRow

if TYPE_CHECKING:
    from pipeline.release.samples import Samples

FOLDER = Path("deploy-baseline")


def keep(run: Path, baseline: Path = FOLDER) -> Report:
    """Make a run the baseline, in place of the one before. Raises EvidenceError unless it passed, with all evidence."""
    report = reports.read(run)
    home = run if run.is_dir() else run.parent
    if report.verdict != "pass":
        raise EvidenceError(f"{run}: the verdict is {report.verdict}: only a run that passed can be the baseline")
    if baseline.exists() and not (baseline / reports.FILE).is_file():
        raise UsageError(f"{baseline} is there and no baseline: name another folder with --to")
    if baseline.resolve() == home.resolve():
        raise UsageError(f"{baseline} is the run itself: name another folder with --to")
    with delivery.settled(home), delivery.delivering(delivery.Place(baseline, "baseline", "--to")) as parcel:
        for name, row in report.targets.items():
            (parcel.new / name).mkdir(parents=True)
            for one in row.runs:
                file = _samples(home, name, one, within=outcome.EVIDENCE)
                if (why := _broken(file, one)) is not None:
                    raise EvidenceError(f"{name} at batch {one.batch}: {why}")
                shutil.copy(file, parcel.new / name / file.name)
        (parcel.new / reports.FILE).write_text(report.to_json())
        parcel.keep_only_new()
    return report


def against(run: Path, baseline: Path = FOLDER, tolerance: float = 0.10) -> compare.Comparison:
    """Compare a finished run with a baseline, or with another finished run's folder."""
    if not (baseline / reports.FILE).is_file():
        raise UsageError(f"no baseline at {baseline}: make one with 'deploy baseline set RUN'")
    before, now = reports.read(baseline), reports.read(run)
    home = run if run.is_dir() else run.parent
    flips = {}
    for name, row in before.targets.items():
        after = now.targets[name].runs if name in now.targets else []
        for one in row.runs:
            other = next((found for found in after if found.batch == one.batch), None)
            within = outcome.EVIDENCE if (baseline / name / outcome.EVIDENCE).is_dir() else ""
            old = _samples(baseline, name, one, within)
            new = _samples(home, name, one, outcome.EVIDENCE)
            same = before.gate_split.digest == now.gate_split.digest
            flips[name, one.batch] = (
                _flips(old, one, new, other, compare.metric_of(before)) if same else "another gate split"
            )
    return compare.compare(before, now, flips, tolerance)


def _flips(old: Path, before: RunRow, new: Path, after: RunRow | None, metric: str) -> compare.Paired:
    """(lost, gained, n) of the same samples, of another metric what was lost, or why there is no such thing."""
    if after is None:
        return "not run"
    for file, row in ((old, before), (new, after)):
        if (why := _broken(file, row)) is not None:
            return why
    from pipeline.release import samples  # numpy comes with it

    one, other = samples.load(old), samples.load(new)
    first, second = one.answers, other.answers
    if metric != "accuracy" or first is None or second is None:
        return _loss(metric, one, other)
    if len(first.labels) != len(second.labels) or (first.labels != second.labels).any():
        return "another gate split: the labels differ"
    was, now = first.deployed_class == first.labels, second.deployed_class == second.labels
    return int((was & ~now).sum()), int((now & ~was).sum()), len(was)


def _loss(metric: str, one: Samples, other: Samples) -> compare.Paired:
    """What the deployed model lost of the task's metric since the baseline, by the paired bootstrap."""
    from pipeline.release import metrics
    from pipeline.release.samples import Samples
    from pipeline.release.scores import Pair

    if metric not in one.scores or metric not in other.scores:
        return f"no evidence of {metric}"
    before, after = one.scores[metric], other.scores[metric]
    if before.before.shape != after.before.shape or (before.before != after.before).any():
        return "another gate split, or another float model"
    pair = Pair(before.after, after.after)
    return metrics.measure(metric, Samples(one.n, None, {metric: pair}, one.groups), compare.CONFIDENCE)


def _samples(folder: Path, target: str, run: RunRow, within: str) -> Path:
    return folder / target / within / f"samples-{run.batch}.npz"


def _broken(file: Path, run: RunRow) -> str | None:
    """Why a file is not the per-sample evidence of a run."""
    try:
        digest = sha256_file(file)
    except OSError:
        return f"no per-sample evidence at {file}: run 'deploy verify'"
    return None if digest == run.samples_sha256 else f"{file} is not the evidence that the report speaks of"
