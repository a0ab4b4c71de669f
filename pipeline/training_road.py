"""The part of the road that PyTorch walks: the float model, its students and teachers, pruning and recovery."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pipeline import source
from pipeline.artifact import Artifact, sha256_file
from pipeline.errors import UsageError
from pipeline.recipe import Recipe
from pipeline.runner import Runner

Wanted = Callable[[str], bool]  # whether the run goes as far as this stage


def float_model(recipe: Recipe, runner: Runner, data: Artifact, branches: tuple[str, ...]) -> Artifact:
    """The model that everything is compared with: brought by the factory, loaded from a checkpoint, or trained."""
    task = {"task": recipe.task.model_dump()}
    if recipe.pretrained:
        return runner.do("load", {"data": data}, {"checkpoint": None} | task, branches=branches)
    if recipe.checkpoint is None:
        settings = recipe.train.model_dump(exclude_none=True) | task
        return runner.do("train", {"data": data}, settings, branches=branches, extra=_start(recipe))
    path = (recipe.folder / recipe.checkpoint).resolve()
    if not path.is_file():
        raise UsageError(f"checkpoint: no file at {path}: correct 'checkpoint', or leave it out to train")
    return runner.do(
        "load",
        {"data": data},
        {"checkpoint": recipe.checkpoint} | task,
        branches=branches,
        extra={"sha256": sha256_file(path)},
    )


def compressed(
    recipe: Recipe,
    runner: Runner,
    data: Artifact,
    floating: Artifact,
    branches: tuple[str, ...],
    wanted: Wanted,
    device: Mapping[str, Any] | None = None,
) -> Artifact:
    """What the recipe's prunings and recoveries make of the float model, or of a student of its own.

    `device`: settings of what measures, where a pruning is one of its target's own branch.
    """
    task = {"task": recipe.task.model_dump()}
    model = floating
    teachers, learned_from = _teachers(recipe, runner, data, branches)
    if recipe.distill.student:
        model = _built(runner, data, recipe, recipe.distill.student, "", "student", branches)
    if recipe.rewrite and wanted("rewrite"):
        passes = {"passes": list(recipe.rewrite), **task}
        label = ", ".join(recipe.rewrite)
        model = runner.do("rewrite", {"model": model, "data": data}, passes, branches=branches, label=label)
    sequence = recipe.sequence()
    done = {"prune": 0, "distill": 0}
    for stage in sequence:
        if not any(map(wanted, (MEASURED if device else ("prune",)) if stage == "prune" else ("soft-labels", stage))):
            break
        done[stage] += 1
        count = str(done[stage]) if sequence.count(stage) > 1 else ""
        label = " ".join(filter(None, (count, branches[0] if device else "")))
        inputs = {"model": model, "data": data}
        if stage == "prune":
            # Several prunings share one budget: the k-th of K leaves share^(k/K), equal factors each time.
            part = done["prune"] / sequence.count("prune")
            settings = {**_pruning(recipe), "part": part, "sparsity": 1 - (1 - recipe.prune.sparsity) ** part, **task}
            inputs["float"] = floating
            if device:
                model = _measured(runner, inputs, settings, device, branches, label, wanted)
            else:
                model = runner.do("prune", inputs, settings, branches=branches, label=label)
            continue
        settings = {**recipe.distill.model_dump(exclude={"student", "teachers"}), **task}
        taught_by = teachers or {"teacher": floating}
        inputs |= taught_by
        if recipe.distill.method != "finetune" and not recipe.distill.augment:
            asked = task | ({"temperature": recipe.distill.temperature} if len(taught_by) > 1 else {})
            role = {**taught_by, "data": data}
            inputs["soft_labels"] = runner.do("soft-labels", role, asked, branches=branches, extra=learned_from)
        if not wanted(stage):
            break
        model = runner.do(stage, inputs, settings, branches=branches, label=label, extra=learned_from)
    return model


MEASURED = ("shapes", "device-profile", "prune-measured")  # the stages of a pruning that is measured on a target
TIMING = {"warmup_s": 0.2, "budget_s": 1.5, "min_rounds": 50, "max_rounds": 20000}  # of a measurement among several


def _measured(
    runner: Runner,
    inputs: Mapping[str, Artifact],
    settings: Mapping[str, Any],
    device: Mapping[str, Any],
    branches: tuple[str, ...],
    label: str,
    wanted: Wanted,
) -> Artifact:
    """A pruning that is measured on a target; its kernels are looked at first where they say the widths.

    The network as it was where the run ends before it is pruned.
    """
    there = {**device, **TIMING}
    if settings["align"] == "measured":
        of = {name: inputs[name] for name in ("model", "data")}
        found = runner.do("shapes", of, {"granularity": settings["granularity"]}, branches=branches, label=label)
        if not wanted("device-profile"):
            return inputs["model"]
        shapes = found.metadata["shapes"]
        profile = runner.do("device-profile", {}, {**there, "shapes": shapes}, branches=branches, label=label)
        inputs = {**inputs, "profile": profile}
        settings = {**settings, "shapes": {name: found.metadata[name] for name in ("shapes", "groups")}}
    if not wanted("prune-measured"):
        return inputs["model"]
    return runner.do("prune-measured", inputs, {**settings, **there}, branches=branches, label=label)


def _pruning(recipe: Recipe) -> dict[str, Any]:
    schedule = "uniform" if recipe.prune.schedule == "iterative" else recipe.prune.schedule
    return {**recipe.prune.model_dump(exclude={"steps"}, exclude_none=True), "schedule": schedule}


def _start(recipe: Recipe) -> dict[str, Any]:
    """What training starts from, as a part of its key. Raises UsageError when it is not there."""
    if recipe.train.start is None:
        return {}
    path = (recipe.folder / recipe.train.start).resolve()
    if not path.exists():
        raise UsageError(f"train.start: nothing at {path}: give a checkpoint, or the folder OUT/pytorch of a run")
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.is_file())
    return {"start": {file.name: sha256_file(file) for file in files}}


def _teachers(
    recipe: Recipe, runner: Runner, data: Artifact, branches: tuple[str, ...]
) -> tuple[dict[str, Artifact], dict[str, Any]]:
    """The teachers that the recipe names, by their role, and their source as a part of the student's key."""
    named = recipe.distill.teachers
    roles = [f"teacher{index}" for index in range(len(named))]
    built = {
        role: _built(runner, data, recipe, one.model, one.checkpoint, role, branches)
        for role, one in zip(roles, named, strict=True)
    }
    return built, {"teachers": [_source(recipe, one.model) for one in named]} if named else {}


def _built(
    runner: Runner,
    data: Artifact,
    recipe: Recipe,
    factory: str,
    checkpoint: str,
    label: str,
    branches: tuple[str, ...],
) -> Artifact:
    """A student or teacher that has a factory of its own."""
    extra = {"factory": _source(recipe, factory)}
    if checkpoint:
        path = (recipe.folder / checkpoint).resolve()
        if not path.is_file():
            raise UsageError(f"distill.teachers: no checkpoint at {path}: correct it, or leave it out")
        extra["sha256"] = sha256_file(path)
    settings = {"checkpoint": checkpoint, "factory": factory, "task": recipe.task.model_dump()}
    return runner.do("load", {"data": data}, settings, branches=branches, label=label, extra=extra)


def _source(recipe: Recipe, factory: str) -> str:
    return source.digest(factory.partition(":")[0], [recipe.folder])
