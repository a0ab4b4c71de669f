"""The folder of a run: what ships in `TARGET/`, raw timings in `samples/`, the network in `pytorch/`, the report."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline import delivery, files, locks
from pipeline.branch import Branch, shipped_artifact
from pipeline.errors import UsageError
from pipeline.outcome import EVIDENCE, PYTORCH, evidence
from pipeline.release import report
from pipeline.road import Road, parts

SAMPLES = "samples"
SPEAK_OF_IT = (report.EXPLANATION, report.SENSITIVITY)  # of one run: they go with it


def place(out: Path) -> delivery.Place:
    """The folder as one that we deliver to."""
    return delivery.Place(out, "run")


def check(out: Path, targets: Iterable[str]) -> None:
    """Raise UsageError, before the work, where a run of these targets could not be delivered."""
    from pipeline.release import renderings  # jinja comes with it

    place(out).check((*targets, PYTORCH, SAMPLES, *SPEAK_OF_IT, report.FILE, *renderings.FORMS))


def check_beside(out: Path, name: str) -> None:
    """The same of a file beside the report, which the page shows."""
    from pipeline.release import renderings  # jinja comes with it

    place(out).check((name, *renderings.FORMS))


def deliver(
    road: Road, result: report.Report, out: Path, report_file: Path | None, waiting: locks.Waiting | None = None
) -> None:
    """Everything at once, in place of what an earlier run delivered of the same targets; `report_file` too."""
    with delivery.delivering(place(out), f"delivers {road.recipe.name}", waiting) as parcel:
        for name, branch in road.branches.items():
            if result.targets[name].shipped is not None:
                _model(road, branch, result, parcel.new / name)
        _timings(road.branches, parcel, out)
        _networks(road, parcel.new)
        parcel.drop((*road.branches, PYTORCH, SAMPLES, *SPEAK_OF_IT))
        _report(result, parcel.new)
    if report_file is not None and report_file.resolve() != (out / report.FILE).resolve():
        try:
            files.write_whole(report_file, result.to_json(), folders=True)
        except OSError as error:
            raise UsageError(
                f"cannot write {report_file}: {error.strerror}; name another file with --report"
            ) from error


def deliver_again(road: Road, before: report.Report, result: report.Report, out: Path) -> None:
    """What was measured anew of a run that lies there, beside its models, which stay as they are.

    Raises UsageError where another run has been delivered there since `before` was read.
    """
    with delivery.delivering(place(out), f"measures {road.recipe.name} again") as parcel:
        _still(before, out)
        for name, branch in road.branches.items():
            assert road.data is not None
            shutil.copytree(out / name, parcel.new / name, ignore=shutil.ignore_patterns(EVIDENCE, *delivery.DERIVED))
            _evidence(branch, road.data.path, parcel.new / name)
        for name in SPEAK_OF_IT:  # the page shows them
            if name in parcel.listed and (out / name).is_file():
                shutil.copy2(out / name, parcel.new / name)
        _timings(road.branches, parcel, out)
        _report(result, parcel.new)


def put(out: Path, of: report.Report, texts: Mapping[str, str]) -> None:
    """Single files beside the report of the run that they speak of, and its forms for people once more: they show them.

    Raises UsageError where another run has been delivered there meanwhile.
    """
    with delivery.delivering(place(out)) as parcel:
        _still(of, out)
        for name, text in texts.items():
            (parcel.new / name).write_text(text)
    render(out)


def render(run: Path, elsewhere: Mapping[str, Path] | None = None) -> list[Path]:
    """The report of a finished run, a folder or its report, for people and for CI: `elsewhere` says in which forms
    (release/renderings.py) and where; all of them beside `report.json` without. Returns what was written.

    Raises UsageError for a file that cannot be written.
    """
    from pipeline.release import renderings  # jinja comes with it

    report.read(run)  # before a lock: is there one?
    folder = run if run.is_dir() else run.parent
    if not elsewhere:
        with delivery.delivering(place(folder)) as parcel:
            for name, form in renderings.FORMS.items():
                (parcel.new / name).write_text(form(report.read(run), folder))
        return [folder / name for name in renderings.FORMS]
    with delivery.settled(folder):
        texts = {file: renderings.FORMS[name](report.read(run), folder) for name, file in elsewhere.items()}
    for file, text in texts.items():
        try:
            files.write_whole(file, text, folders=True)
        except OSError as error:
            raise UsageError(f"cannot write {file}: {error.strerror}; name another file") from error
    return list(texts)


def _still(before: report.Report, out: Path) -> None:
    if report.read(out) != before:
        raise UsageError(f"another run was delivered to {out} meanwhile: run this again for that one")


def _report(result: report.Report, new: Path) -> None:
    from pipeline.release import renderings  # jinja comes with it

    (new / report.FILE).write_text(result.to_json())
    for name, form in renderings.FORMS.items():
        (new / name).write_text(form(result, new))


def _model(road: Road, branch: Branch, result: report.Report, folder: Path) -> None:
    """What ships on a target, its loaders, and the evidence."""
    from pipeline.loader import ship  # numpy comes with it

    assert road.data is not None
    assert road.reference is not None
    shutil.copytree(shipped_artifact(branch).path, folder)
    precision = branch.candidates[str(result.targets[branch.name].shipped)].metadata["precision"]
    activation, judged = "softmax" if road.recipe.task.classifies else "none", road.reference.metadata["output"]
    ship.write(folder, road.data.path, precision, activation, judged)
    _evidence(branch, road.data.path, folder)


def _evidence(branch: Branch, data: Path, folder: Path) -> None:
    """The per-sample evidence of a target; with it, a few of the inputs that flipped, from the artifact `data`."""
    from pipeline.data import load_split  # numpy comes with it
    from pipeline.release import flipped, samples

    for number, stored in enumerate(evidence(branch)):
        to = folder / EVIDENCE / str(number or "")
        to.mkdir(exist_ok=True)
        for file in sorted(stored.glob("samples-*.npz")):
            shutil.copy(file, to / file.name)
    first = folder / EVIDENCE / samples.file_name(branch.batches[0])
    answers = samples.load(first).answers if first.is_file() else None  # outputs that are not finite leave no samples
    if answers is not None:
        flipped.save(folder / EVIDENCE / flipped.FILE, answers, load_split(data, "gate").inputs)


def _timings(branches: Mapping[str, Branch], parcel: delivery.Parcel, out: Path) -> None:
    """The raw timings of these targets, beside those of others that lie there."""
    folder = parcel.new / SAMPLES
    folder.mkdir()
    for path in parcel.listed:
        top, _, name = path.partition("/")
        of_these = any(name.startswith((f"{target}-race", f"{target}-profile")) for target in branches)
        if top == SAMPLES and not of_these and (out / path).is_file():
            shutil.copy2(out / path, folder / name)
    for target, branch in branches.items():
        also = {f"profile-{number}": profile for number, (_, profile) in enumerate(branch.also, 1)}
        for stage, measured in {"race": branch.race, "profile": branch.profile, **also}.items():
            if measured is not None:
                shutil.copy(measured.path / "samples.npz", folder / f"{target}-{stage}.npz")
    if not any(folder.iterdir()):
        folder.rmdir()


def _networks(road: Road, new: Path) -> None:
    """One network, or a folder with one for each target where they were pruned for it; none where that failed."""
    own = {name: branch.network for name, branch in road.branches.items()} if parts(road.recipe) else {}
    made = {name: network.model for name, network in own.items() if network is not road.network}
    for name, model in (made if own else {"": road.network.model}).items():
        if model is not None:
            shutil.copytree(model.path, new / PYTORCH / name)
