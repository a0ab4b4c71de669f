"""`deploy explain`: a finished run's models, with what its store still holds, explained and written beside them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import api, delivered, lengths, order, road
from pipeline.branch import Branch, model_folder
from pipeline.errors import EvidenceError, StageError, UsageError
from pipeline.explain import answers, causes, facts, layers, losses, sensitivity, stands_for
from pipeline.outcome import EVIDENCE
from pipeline.recipe import Recipe
from pipeline.release import report as reports
from pipeline.release import samples
from pipeline.release.report import EXPLANATION, Report, TargetRow
from pipeline.runner import Runner
from pipeline.stages import Emit, silent
from pipeline.store import Store


@dataclass(frozen=True)
class Explanation:
    """One candidate of one target. Layers are in execution order, `kept` by what they gain; `split` names the samples
    that were looked at: never the gate's, whose evidence gives `confusion` alone. `losses`: what compression cost,
    where there was any, then what int8 cost; all else compares int8 with the compressed float graph. `outputs`: SQNR in
    dB of each where there are several; `lengths`: of the worst one at several lengths, where an axis is free.
    """

    target: str
    candidate: str
    shipped: bool
    split: str
    n: int
    losses: Sequence[losses.Loss]
    int8_mac_share: float | None
    sqnr_db: float | None
    agreement: float | None
    alone_db: float | None
    breaks_at: str | None
    causes: Sequence[causes.Cause]
    layers: Sequence[layers.LayerRow]
    kept: Sequence[sensitivity.Kept]
    worst: Sequence[answers.Sample]
    confusion: answers.Confusion | None
    outputs: Mapping[str, float]
    lengths: Mapping[int, float]
    note: str = ""


def explain(
    run: Path,
    targets: Sequence[str] = (),
    *,
    candidate: str | None = None,
    tapped: int = 64,
    leave_one_out: bool = True,
    store: Store | None = None,
    emit: Emit = silent,
) -> list[Explanation]:
    """Explain each target of a finished run and write `explain.json` into it.

    `candidate`: another one than what ships. `tapped`: samples of the selection split that are looked at layer by
    layer. Raises UsageError where the run or its stored results are not there, StageError where a runtime fails.
    """
    before = reports.read(run)
    home = run if run.is_dir() else run.parent
    names = list(targets) or list(before.targets)
    if unknown := [name for name in names if name != "all" and name not in before.targets]:
        raise UsageError(f"{run} has no target '{unknown[0]}': it has {list(before.targets)}")
    recipe = api.recipe_of(before)
    names = [name for name in api.chosen_targets(recipe, names) if name in before.targets]
    runner = api.runner_of(recipe, store, emit)
    runner.stored_only = True
    delivered.check_beside(home, EXPLANATION)
    with runner.store.used(recipe.name):
        found = _each(before, home, recipe, names, runner, candidate, tapped, leave_one_out)
    text = json.dumps([as_json(one) for one in found], indent=1, allow_nan=False) + "\n"
    delivered.put(home, before, {EXPLANATION: text})
    return found


def _each(
    before: Report,
    home: Path,
    recipe: Recipe,
    names: Sequence[str],
    runner: Runner,
    candidate: str | None,
    tapped: int,
    leave_one_out: bool,
) -> list[Explanation]:
    last = "keep" if "keep" in order.of(recipe, names).stages else "quantize"
    travelled = road.travel(recipe, names, runner, only=last)
    found = []
    for name, branch in travelled.branches.items():
        if branch.error:
            raise branch.error
        chosen = _candidate(name, before.targets[name], candidate)
        runner.emit({"event": "start", "name": f"explain {name}", "stage": "explain", "branches": [name]})
        graph = stands_for.float_graph(travelled, branch, chosen, runner)
        found.append(_one(before, home, travelled, branch, chosen, graph.path, tapped, leave_one_out))
    return found


def as_json(one: Explanation) -> dict[str, Any]:
    """JSON-able; what is infinite has no spelling and is None."""
    plain: dict[str, Any] = _finite(asdict(one))
    return plain


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value


def _candidate(target: str, row: TargetRow, wanted: str | None) -> str:
    """The one asked for, what ships, or where float ships the int8 candidate that came nearest."""
    made = {one.id: one for one in row.candidates if one.artifact is not None}
    if wanted is not None:
        if wanted not in made:
            raise UsageError(f"{target} has no candidate '{wanted}': it has {', '.join(made)}")
        return wanted
    integers = [one for one in made.values() if one.precision == "int8"]
    if row.shipped is not None and made[row.shipped].precision == "int8":
        return row.shipped
    if not integers:
        raise UsageError(f"{target}: no int8 candidate was made: {'; '.join(row.reasons) or 'nothing to explain'}")
    return max(integers, key=lambda one: one.sqnr_db if one.sqnr_db is not None else -math.inf).id


def _one(
    before: Report,
    home: Path,
    travelled: road.Road,
    branch: Branch,
    chosen: str,
    graph: Path,
    tapped: int,
    leave_one_out: bool,
) -> Explanation:
    """`graph`: the folder of the float graph to compare with."""
    from calibration.metrics import agreement, sqnr_db
    from pipeline.data import load_split
    from targets import base, registry

    target, row = registry.load(branch.name), before.targets[branch.name]
    assert travelled.data is not None
    floating, shipped = base.read_manifest(graph), chosen == row.shipped
    folder = home / branch.name if shipped else model_folder(branch, chosen)
    try:
        model = base.read_manifest(folder)
    except (OSError, ValueError, KeyError) as error:
        raise EvidenceError(f"no model at {folder}: run 'deploy' again") from error
    split = load_split(travelled.data.path, "selection")
    labels = json.loads((travelled.data.path / "declared.json").read_text())["labels"]
    assert travelled.reference is not None
    judged = travelled.reference.metadata["output"] or floating.outputs[0].name
    pair = facts.Pair(target, floating, model, base.find(target, floating, chosen), judged)
    notes = []
    if shipped and model.sha256 != row.sha256:
        notes.append("the file is not the one that the report speaks of")
    kept: Sequence[sensitivity.Kept] = ()
    try:
        varying = lengths.load(travelled.data.path)
        seen = facts.gather(pair, dict(split.inputs), labels, tapped, varying)
        if leave_one_out and pair.candidate.precision == "int8":
            some = {name: array[:tapped] for name, array in seen.inputs.items()}
            wanted = {name: array[:tapped] for name, array in seen.wanted.items()}
            kept = sensitivity.leave_one_out(_maker(branch, chosen, home), some, wanted)
    except (base.TargetError, ValueError) as error:
        raise StageError(f"explain {branch.name}: {error}") from error
    names = [judged, *(spec.name for spec in floating.outputs if spec.name != judged)]
    one, other, n = seen.wanted[judged], seen.found[judged], len(seen.wanted[judged])
    groups = None if split.groups is None else split.groups[:n]
    return Explanation(
        target=branch.name,
        candidate=chosen,
        shipped=shipped,
        split="selection",
        n=n,
        losses=_losses(travelled, branch, split.labels[:n], seen, pair.candidate.precision),
        int8_mac_share=seen.facts.int8_mac_share,
        sqnr_db=sqnr_db(one, other) if np.isfinite(other).all() else None,
        agreement=agreement(one, other) if one.ndim == 2 and np.isfinite(other).all() else None,
        alone_db=seen.facts.alone_db,
        breaks_at=layers.first_break(seen.facts.rows),
        causes=causes.found(seen.facts),
        layers=seen.facts.rows,
        kept=kept,
        worst=answers.worst(one, other, np.asarray(split.labels[:n]), labels, groups),
        confusion=_confusion(home / branch.name / EVIDENCE, row) if shipped else None,
        outputs={name: facts.same_db(seen.wanted[name], seen.found[name]) for name in names if names[1:]},
        lengths=seen.lengths,
        note="; ".join(notes),
    )


def _losses(travelled: road.Road, branch: Branch, labels: Any, seen: facts.Gathered, how: str) -> list[losses.Loss]:
    """Compression's part against the float model as it came, then what `how` it is computed cost."""
    from pipeline import tasks
    from pipeline.data import load_named

    assert travelled.reference is not None
    assert travelled.data is not None
    recipe, model = travelled.recipe, branch.network.model
    models = {"float": load_named(travelled.reference.path / "selection.npz"), how: seen.found}
    if model is not None and travelled.floating is not None and model.digest != travelled.floating.digest:
        by = ", ".join([*(["rewrite"] if recipe.rewrite else []), *recipe.stages])
        models = {"float": models["float"], by: seen.wanted, how: seen.found}
    models = {by: {name: array[: len(labels)] for name, array in named.items()} for by, named in models.items()}
    settings = recipe.task.model_dump() | {"output": travelled.reference.metadata["output"]}
    task = tasks.on(tasks.Task(**settings, folder=str(recipe.folder)), travelled.data.path)
    return losses.losses(task, np.asarray(labels), models)


def _maker(branch: Branch, chosen: str, folder: Path) -> sensitivity.Maker:
    """How the candidate was made, from the store."""
    from pipeline.stages import Job
    from pipeline.stages.quantize import maker

    given, settings = branch.made[chosen]
    return maker(Job("explain", settings, {role: artifact.path for role, artifact in given.items()}, folder, 0))


def _confusion(folder: Path, row: TargetRow) -> answers.Confusion | None:
    """From the evidence of the deployment batch, where it lies there."""
    if not row.batches:
        return None
    try:
        return answers.confusion(samples.load(folder / samples.file_name(row.batches[0])).answers)
    except (OSError, ValueError, KeyError):
        return None
