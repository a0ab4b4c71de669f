"""What the command line does, as functions."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pipeline import delivered, delivery, order, outcome, road, user_modules
from pipeline import recipe as recipes
from pipeline.branch import Branch
from pipeline.errors import EvidenceError, UsageError
from pipeline.recipe import Recipe
from pipeline.release import report as reports
from pipeline.release.report import Report
from pipeline.runner import Runner, attached_device, target_device
from pipeline.stages import Emit, silent
from pipeline.store import Store

OUT = Path("deploy-out")


def default_store() -> Store:
    """`$DEPLOY_STORE`, else `.deploy` in the current folder."""
    return Store(Path(os.environ.get("DEPLOY_STORE") or ".deploy").absolute())


def run(
    recipe: Recipe | Path | str,
    *,
    targets: Sequence[str] = ("all",),
    out: Path | str = OUT,
    report_file: Path | None = None,
    overrides: Sequence[str] = (),
    seed: int | None = None,
    only: str | None = None,
    refresh_from: str | None = None,
    devices: Sequence[str] = (),
    store: Store | None = None,
    emit: Emit = silent,
) -> Report | None:
    """Run a recipe and deliver `out/TARGET/` and `out/report.json`; what `deploy --target ...` does.

    `overrides`: KEY=VALUE as in `--set`. `only`: stop after this stage (then there is no report: None).
    `refresh_from`: make this stage and all after it again. `devices`: URIs; race, verify and profile run on the first
    (this machine without one), and what ships is verified and timed on the others too, each a run of its own. Raises
    DeployError (its `exit_code` is the command's) for what concerns the whole run; a target that fails alone is in the
    report.
    """
    if not isinstance(recipe, Recipe):
        recipe = recipes.load(Path(recipe), overrides)
    if seed is not None:
        recipe = recipe.model_copy(update={"seed": seed})
    names = chosen_targets(recipe, targets)
    stages = order.of(recipe, names, only)
    refresh = stages.since(refresh_from) if refresh_from else frozenset[str]()
    device = next(iter(devices), None)
    if devices[1:]:
        further = {name: tuple(dict.fromkeys((*recipe.also.get(name, ()), *devices[1:]))) for name in names}
        recipe = recipe.model_copy(update={"also": recipe.also | further})
    for uri in (*([device] if device else map(target_device, names)), *_also(recipe, names)):
        reach(uri)
    if only is None:
        delivered.check(Path(out), names)
    runner = runner_of(recipe, store, emit, refresh)
    began = time.perf_counter()
    with runner.store.used(recipe.name):
        travelled = road.travel(recipe, names, runner, only, device)
        return _end(travelled, runner, Path(out), report_file, overrides, only, began)


def _end(
    travelled: road.Road,
    runner: Runner,
    out: Path,
    report_file: Path | None,
    overrides: Sequence[str],
    only: str | None,
    began: float,
) -> Report | None:
    errors = [branch.error for branch in travelled.branches.values() if branch.error]
    if errors and (only is not None or len(travelled.branches) == 1):
        raise errors[0]
    if only is not None:
        if only not in runner.ran:
            raise UsageError(f"--only {only}: it had nothing to do in this run")
        return None
    result = outcome.conclude(travelled, runner, overrides)
    delivered.deliver(travelled, result, out, report_file, runner.waits)
    runner.emit({"event": "end", "wall_s": time.perf_counter() - began, "stage_s": runner.stage_seconds})
    return result


def again(
    run_folder: Path,
    stage: str,
    targets: Sequence[str],
    device: str | None = None,
    store: Store | None = None,
    emit: Emit = silent,
) -> Report:
    """Measure `stage` ("verify" or "profile") of a finished run anew, on the files that lie in its folder.

    On the run's own device; `device` names another way to it. Raises EvidenceError where something else would ship now
    than lies there.
    """
    home = _report_file(run_folder).parent
    with delivery.settled(home):
        before = reports.read(run_folder)
    recipe = recipe_of(before)
    names = chosen_targets(recipe, targets) if targets else list(before.targets)
    for name in names:
        _check_delivered(before, run_folder, name)
    delivered.check(home, names)
    runner = runner_of(recipe, store, emit, frozenset({stage}))
    runner.stored_only = True
    device = device or before.environment.get("attached")
    for uri in (device, *_also(recipe, names)):
        reach(uri)
    with runner.store.used(recipe.name):
        travelled = road.travel(recipe, names, runner, device=device)
        for name, branch in travelled.branches.items():
            if branch.error:
                raise branch.error
            _check_same(before.targets[name], branch, run_folder / name)
        result = outcome.conclude(travelled, runner, before.recipe["set"])
        delivered.deliver_again(travelled, before, result, home)
    return result


def judge(
    run_folder: Path, targets: Sequence[str], overrides: Sequence[str] = (), policy_file: Path | None = None
) -> Report:
    """The gate's verdict on a finished run, from its report and its files alone.

    `policy_file`: keys of `[gate]` in place of the run's own; `overrides` change either.
    """
    with delivery.settled(_report_file(run_folder).parent):
        return _judge(run_folder, targets, overrides, policy_file)


def _judge(run_folder: Path, targets: Sequence[str], overrides: Sequence[str], policy_file: Path | None) -> Report:
    before = reports.read(run_folder)
    recipe = recipe_of(before, overrides, policy_file)
    rows = {}
    for name in targets or list(before.targets):
        if name not in before.targets:
            raise UsageError(f"{run_folder} has no target '{name}': it has {list(before.targets)}")
        row = before.targets[name]
        digest = _delivered_digest(run_folder, name) if row.shipped else None
        evidence = _report_file(run_folder).parent / name / outcome.EVIDENCE
        samples = [evidence, *sorted(part for part in evidence.glob("*") if part.is_dir())]
        policy = recipe.policy(name)
        rows[name] = (
            outcome.judged(row, policy, before.gate_split, before.float_, digest, samples) if row.shipped else row
        )
    code = outcome.first(outcome.VERDICT_CODES.get(row.verdict, before.exit_code) for row in rows.values())
    return before.model_copy(update={"targets": rows, "exit_code": code, "verdict": outcome.verdict_of(code)})


def render(run_folder: Path, files: Mapping[str, Path] | None = None) -> list[Path]:
    """Write a finished run's report in other forms, as `delivered.render` says."""
    return delivered.render(run_folder, files)


def _also(recipe: Recipe, targets: Iterable[str]) -> list[str]:
    return [uri for name in targets for uri in recipe.also.get(name, ())]


def reach(device: str | None) -> None:
    """Ask the device who it is, before any work. Raises UsageError for a bad URI, DeviceError when it cannot."""
    if device is None:
        return
    from targets.base import TargetError

    try:
        attached_device(device)
    except TargetError as error:
        raise UsageError(str(error)) from error


def recipe_of(finished: Report, overrides: Sequence[str] = (), policy_file: Path | None = None) -> Recipe:
    """The recipe that a report was made from; with `policy_file` its gate is that one's."""
    table = {key: value for key, value in finished.recipe.items() if key != "set"}
    folder, where = Path(table.pop("folder")), "the run's recipe"
    if policy_file is not None:
        table["gate"], where = recipes.read_policy(policy_file), str(policy_file)
    return recipes.from_table(table, folder, where, overrides)


def chosen_targets(recipe: Recipe, wanted: Iterable[str]) -> list[str]:
    """Names without repetition; "all" stands for those that the recipe lists.

    Raises UsageError, before any work, for an unknown target and for one whose packages are not installed.
    """
    from targets import registry

    names: list[str] = []
    for name in wanted:
        names += recipe.targets if name == "all" else [name]
    for name in names:
        try:
            target = registry.load(name)
            if lacking := registry.missing(target):
                raise registry.missing_error(target, lacking)
        except registry.TargetError as error:
            raise UsageError(str(error)) from error
    return list(dict.fromkeys(names))


def runner_of(
    recipe: Recipe, store: Store | None = None, emit: Emit = silent, refresh: frozenset[str] = frozenset()
) -> Runner:
    """A runner of the recipe's stages, over the default store where none is named.

    Raises UsageError where a module of the recipe has a name that is taken.
    """
    factories = {
        "model": recipe.model,
        "data": recipe.data,
        **recipe.task.functions(),
        **recipe.train.functions(),
        **recipe.distill.functions(),
    }
    for reference in factories.values():
        if ":" in reference:
            user_modules.own(reference, recipe.folder)
    return Runner(
        store=store or default_store(),
        folder=recipe.folder,
        factories=factories,
        cache_key=recipe.cache_key,
        recipe=recipe.name,
        seed=recipe.seed,
        emit=emit,
        refresh=refresh,
    )


def _report_file(run_folder: Path) -> Path:
    return run_folder / reports.FILE if run_folder.is_dir() else run_folder


def _delivered_digest(run_folder: Path, name: str) -> str | None:
    from targets import base

    folder = _report_file(run_folder).parent / name
    try:
        return base.read_manifest(folder).sha256
    except (OSError, ValueError, KeyError):
        return None


def _check_delivered(before: Report, run_folder: Path, name: str) -> None:
    row = before.targets.get(name)
    if row is None or row.shipped is None:
        raise UsageError(f"{run_folder} has no finished target '{name}': it has {list(before.targets)}")
    if _delivered_digest(run_folder, name) != row.sha256:
        raise EvidenceError(f"{run_folder / name} is not the artifact that the report speaks of: run 'deploy' again")


def _check_same(row: reports.TargetRow, branch: Branch, folder: Path) -> None:
    """What was measured anew must be what lies in the run's folder: where that does not run, the road ships another.

    Candidates that failed in the run have no stored result to say why: the report knows.
    """
    assert branch.verify is not None
    assert branch.choice is not None
    if branch.verify.metadata["sha256"] != row.sha256:
        why = f" ({branch.failed[row.shipped]})" if row.shipped in branch.failed else ""
        raise EvidenceError(
            f"{folder} holds '{row.shipped}', and '{branch.choice.shipped}' would ship now{why}: run 'deploy' again"
        )
    told = {one.id: one.why for one in row.candidates if one.verdict == "error"}
    branch.failed |= {name: told[name] for name in branch.failed if name in told}
