"""The road: which stages run for a recipe, on what. Branches of several targets are one while their keys are equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pipeline import candidates, source
from pipeline.artifact import Artifact, sha256_file
from pipeline.branch import Branch, model_of, rows_of
from pipeline.errors import DeployError, UsageError
from pipeline.recipe import Recipe
from pipeline.release import choose
from pipeline.release.evidence import CLASS_METRICS, OWN_SCORE, is_relative
from pipeline.runner import Runner, target_device
from pipeline.stages.table import ORDER


@dataclass
class Road:
    """A finished (or stopped) run, before the gate has spoken."""

    recipe: Recipe
    device: str | None = None  # URI of the attached device that measures; None: this machine
    data: Artifact | None = None
    floating: Artifact | None = None  # the original float model
    reference: Artifact | None = None
    model: Artifact | None = None  # what pruning and recovery made of it
    program: Artifact | None = None  # that, exported
    stepped: Artifact | None = None  # that, after the weight step; the program itself where there is none
    original: Artifact | None = None  # the original float model, exported, where the profile asks for it
    branches: dict[str, Branch] = field(default_factory=dict)


def travel(
    recipe: Recipe, targets: Sequence[str], runner: Runner, only: str | None = None, device: str | None = None
) -> Road:
    """Run the stages in order; race, verify and profile on `device`. A target that fails ends its own branch only.

    Raises DeployError for shared stages.
    """
    road = Road(recipe, device)
    last = ORDER.index(only) if only else len(ORDER)

    def wanted(stage: str) -> bool:
        return ORDER.index(stage) <= last

    _shared(road, tuple(targets), runner, wanted)
    for name in targets:
        branch = road.branches[name] = Branch(name)
        if not wanted("export-onnx"):
            continue
        try:
            _branch(road, branch, tuple(targets), runner, wanted)
        except DeployError as error:
            branch.error = error
            runner.emit({"event": "failed", "target": name, "message": str(error)})
    return road


def _shared(road: Road, everyone: tuple[str, ...], runner: Runner, wanted: Any) -> None:
    from pipeline.data import input_names  # numpy comes with these
    from targets import registry

    recipe = road.recipe
    files = source.digest_files(recipe.data_files, recipe.folder)
    road.data = data = runner.do("data", {}, {}, branches=everyone, extra={"files": files})
    runner.known = {"inputs": ",".join(input_names(data.path))}
    for name in everyone:
        able = registry.load(name).capabilities
        _check_dtypes(name, able.dtypes, data.metadata["inputs"])
        _check_strategies(name, able.schemes, recipe.calibrate.strategies)
    if not wanted("load"):
        return
    task = {"task": recipe.task.model_dump()}
    if recipe.program:
        _bring(road, everyone, runner, wanted, task)
        return
    if recipe.pretrained:
        floating = runner.do("load", {"data": data}, {"checkpoint": None} | task, branches=everyone)
    elif recipe.checkpoint is None:
        settings = recipe.train.model_dump(exclude_none=True) | task
        floating = runner.do("train", {"data": data}, settings, branches=everyone, extra=_start(recipe))
    else:
        path = (recipe.folder / recipe.checkpoint).resolve()
        if not path.is_file():
            raise UsageError(f"checkpoint: no file at {path}: correct 'checkpoint', or leave it out to train")
        floating = runner.do(
            "load",
            {"data": data},
            {"checkpoint": recipe.checkpoint} | task,
            branches=everyone,
            extra={"sha256": sha256_file(path)},
        )
    road.floating = road.model = floating
    if wanted("reference"):
        road.reference = runner.do("reference", {"model": floating, "data": data}, task, branches=everyone)
    teachers, learned_from = _teachers(recipe, runner, data, everyone)
    if recipe.distill.student:
        road.model = _built(runner, data, recipe, recipe.distill.student, "", "student", everyone)
    sequence = recipe.sequence()
    prunings = sequence.count("prune")
    done = {"prune": 0, "distill": 0}
    for stage in sequence:
        if not wanted(stage):
            return
        done[stage] += 1
        label = str(done[stage]) if sequence.count(stage) > 1 else ""
        inputs = {"model": road.model, "data": data}
        extra: dict[str, Any] = {}
        if stage == "prune":
            # Several prunings share one budget: the k-th of K leaves macs^(k/K), equal shares each time.
            part = done["prune"] / prunings
            share = recipe.prune.macs**part
            zeros = {"sparsity": 1 - (1 - recipe.prune.sparsity) ** part}  # of what is left, likewise
            schedule = "uniform" if recipe.prune.schedule == "iterative" else recipe.prune.schedule
            settings = {**recipe.prune.model_dump(exclude={"steps"}), "macs": share, **zeros, "schedule": schedule}
            inputs["float"] = floating
        else:
            settings = recipe.distill.model_dump(exclude={"student", "teachers"})
            inputs |= teachers or {"teacher": floating}
            extra = learned_from
        road.model = runner.do(stage, inputs, {**settings, **task}, branches=everyone, label=label, extra=extra)
    if wanted("export-pt2"):
        road.program = road.stepped = runner.do(
            "export-pt2", {"model": road.model, "data": data}, {}, branches=everyone
        )
        if recipe.profile.original:
            inputs = {"model": floating, "data": data}
            road.original = runner.do("export-pt2", inputs, {}, branches=everyone, label="original")
    if wanted("weights") and recipe.weights.method != "none":
        road.stepped = _stepped(road, everyone, runner)


def _bring(road: Road, everyone: tuple[str, ...], runner: Runner, wanted: Any, task: Mapping[str, Any]) -> None:
    """A model that comes as a program: its own answers are the reference, and no stage of torch runs."""
    recipe = road.recipe
    path = recipe.folder / recipe.model
    if not path.is_file():
        raise UsageError(f"model: no file at {path}: correct 'model'")
    without = ", ".join(("train", *recipe.stages))
    runner.emit({"event": "note", "message": f"{recipe.model} is a finished program: without {without}"})
    road.floating = road.model = road.reference = road.program = road.stepped = brought = runner.do(
        "bring",
        {"data": road.data},  # type: ignore[dict-item]  # it is made by now
        {"model": recipe.model, **task},
        branches=everyone,
        extra={"sha256": sha256_file(path)},
    )
    if brought.metadata["kind"] == "pt2" and wanted("weights") and recipe.weights.method != "none":
        road.stepped = _stepped(road, everyone, runner)


def _stepped(road: Road, everyone: tuple[str, ...], runner: Runner) -> Artifact:
    assert road.program is not None
    assert road.data is not None
    inputs = {"program": road.program, "data": road.data}
    return runner.do("weights", inputs, road.recipe.weights.model_dump(), branches=everyone)


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
    recipe: Recipe, runner: Runner, data: Artifact, everyone: tuple[str, ...]
) -> tuple[dict[str, Artifact], dict[str, Any]]:
    """The teachers that the recipe names, by their role, and their source as a part of the student's key."""
    named = recipe.distill.teachers
    roles = [f"teacher{index}" for index in range(len(named))]
    built = {
        role: _built(runner, data, recipe, one.model, one.checkpoint, role, everyone)
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
    everyone: tuple[str, ...],
) -> Artifact:
    """A student or teacher that has a factory of its own."""
    extra = {"factory": _source(recipe, factory)}
    if checkpoint:
        path = (recipe.folder / checkpoint).resolve()
        if not path.is_file():
            raise UsageError(f"distill.teachers: no checkpoint at {path}: correct it, or leave it out")
        extra["sha256"] = sha256_file(path)
    settings = {"checkpoint": checkpoint, "factory": factory, "task": recipe.task.model_dump()}
    return runner.do("load", {"data": data}, settings, branches=everyone, label=label, extra=extra)


def _source(recipe: Recipe, factory: str) -> str:
    return source.digest(factory.partition(":")[0], [recipe.folder])


def _branch(road: Road, branch: Branch, everyone: tuple[str, ...], runner: Runner, wanted: Any) -> None:
    from targets import registry  # numpy comes with it

    recipe, data, reference, exported, stepped = road.recipe, road.data, road.reference, road.program, road.stepped
    assert data is not None
    assert reference is not None
    assert exported is not None
    assert stepped is not None
    target = registry.load(branch.name)

    check_ops(branch.name, target.capabilities.ops, exported.metadata["ops"])
    sharing = tuple(n for n in everyone if registry.load(n).capabilities.program == "onnx")
    do = partial(runner.do, branches=(branch.name,))
    on_target: dict[str, Any] = {"target": branch.name}
    task = {"task": recipe.task.model_dump()}
    graphs: dict[str, Artifact] = {}
    programs = {"": exported, "stepped": stepped} | ({"original": road.original} if road.original else {})
    for label, start in programs.items():
        if label and start is exported:  # no weight step: one graph is both
            graphs[label] = graphs[""]
            continue
        program = start
        if start.metadata["kind"] == "onnx" and target.capabilities.program != "onnx":
            raise UsageError(f"{branch.name}: no road from ONNX: it lowers .{target.capabilities.program} programs")
        if target.capabilities.program == "onnx" and start.metadata["kind"] != "onnx":
            program = runner.do("export-onnx", {"program": start}, {}, branches=sharing, label=label)
        if wanted("lower"):
            inputs = {"program": program, "expected": start, "data": data}
            graphs[label] = do("lower", inputs, on_target, label=f"{branch.name} {label}".strip())
    if not wanted("lower"):
        return
    branch.lowered, branch.stepped = graphs[""], graphs["stepped"]
    lowered = branch.lowered
    if not wanted("observe"):
        return
    do = partial(do, label=branch.name)
    samples = {"samples": recipe.calibrate.samples, "kind": candidates.observer_kind(recipe)}
    branch.observed = observed = do("observe", {"float": graphs["stepped"], "data": data}, {**on_target, **samples})
    if not wanted("quantize"):
        return
    vendors = {"float": lowered, "data": data}
    starts = {"ours": {"float": graphs["stepped"], "data": data, "statistics": observed}}
    if any(map(candidates.is_coarse, (*recipe.calibrate.strategies, *recipe.quantize.candidates))):
        plain = do("observe", vendors, {**on_target, **samples}, label=f"{branch.name} plain")
        starts["ours-plain"] = {**vendors, "statistics": plain}
    candidates.quantize(branch, starts, vendors, runner, recipe)
    if recipe.quantize.keep_db is not None and wanted("keep"):
        candidates.keep(branch, lowered, runner, recipe.quantize.keep_db)
    if not wanted("answers"):
        return
    device = road.device or target_device(branch.name)
    measured = {**on_target, **({"device": device} if device else {}), "threads": recipe.profile.threads}
    timing = {"warmup_s": 0.5, "max_rounds": 20000, "batch": recipe.batch}
    common = {"data": data, "float": lowered}
    models = {f"candidate:{name}": model_of(artifact, lowered) for name, artifact in branch.candidates.items()}
    said = {**measured, **task, "batch": recipe.batch, **_bound(recipe, branch.name)}
    branch.answers = do(
        "answers", {**common, "reference": reference, **models}, {**said, "candidates": list(branch.candidates)}
    )
    if not wanted("race"):
        return
    rows, policy = rows_of(branch), recipe.policy(branch.name)
    margin = _margin(recipe, branch.name, next(row for row in rows if row["precision"] == "f32"))
    branch.untimed = choose.untimed(
        rows, margin, policy["confidence"], recipe.race.max_candidates, keep_failed=recipe.race.time_failed
    )
    runners = [name for name in branch.candidates if name not in branch.untimed]
    branch.race = do(
        "race",
        {**common, **{key: models[key] for key in (f"candidate:{name}" for name in runners)}},
        {**measured, **timing, "candidates": runners}
        | {"budget_s": recipe.race.budget_s, "min_rounds": recipe.race.min_rounds},
    )
    branch.choice = choose.choose(rows_of(branch), recipe.quantize.prefer, margin, policy["confidence"])
    if not wanted("verify"):
        return
    shipped = model_of(branch.candidates[branch.choice.shipped], lowered)
    chosen = {**measured, "candidate": branch.choice.shipped}
    large = [recipe.large_batch] if lowered.metadata["free_batch"] else []  # else the file runs at one batch only
    branch.batches = list(dict.fromkeys([recipe.batch, *large]))
    own = sorted(name for name in policy["metrics"] if OWN_SCORE.fullmatch(name))  # beside the task's
    judged = {"data": data, "reference": reference, "float": lowered, "shipped": shipped}
    asked = {**task, "scores": own, "batches": branch.batches}
    scores = {"scores": [source.digest(name.partition(":")[0], [recipe.folder]) for name in own]} if own else None
    branch.verify = do("verify", judged, {**chosen, **asked}, extra=scores)
    integers = branch.candidates[branch.choice.shipped].metadata["precision"] == "int8"
    if target.capabilities.older_cpus and integers and wanted("older-cpus"):
        here = {name: value for name, value in chosen.items() if name != "device"}
        inputs = {"data": data, "float": lowered, "shipped": shipped}
        branch.older_cpus = do("older-cpus", inputs, {**here, "batch": recipe.batch})
    if not wanted("profile"):
        return
    timed = {"data": data, "float": lowered, "shipped": shipped}
    timed |= {"original": graphs["original"]} if "original" in graphs else {}
    settings = {**recipe.profile.model_dump(exclude={"original"}), **timing}
    branch.profile = do("profile", timed, {**chosen, **settings})
    for uri in recipe.also.get(branch.name, ()):
        there = {**chosen, "device": uri}
        verified = do("verify", judged, {**there, **asked}, extra=scores)
        branch.also.append((verified, do("profile", timed, {**there, **settings})))


def _margin(recipe: Recipe, target: str, floating: Mapping[str, Any]) -> float:
    """What may be lost in the race, in points or in the metric's unit; a share of accuracy is one of float's there."""
    policy, margin = recipe.policy(target), recipe.margin(target)
    shared = is_relative(policy["margin"] or 0.0) and CLASS_METRICS.fullmatch(policy["metric"])
    return margin * floating["metric"] if shared else margin


def _bound(recipe: Recipe, target: str) -> dict[str, Any]:
    """What race must know to bound a metric of a task without classes; nothing for a classification."""
    policy = recipe.policy(target)
    if CLASS_METRICS.fullmatch(policy["metric"]):
        return {}
    return {"bound": {"confidence": policy["confidence"], "relative": is_relative(policy["margin"])}}


def _check_dtypes(target: str, dtypes: frozenset[str], inputs: Mapping[str, Any]) -> None:
    for name, spec in inputs.items():
        if spec["dtype"] not in dtypes:
            raise UsageError(
                f"{target}: no road for input '{name}' of {spec['dtype']}: it takes {', '.join(sorted(dtypes))}"
            )


def _check_strategies(target: str, schemes: frozenset[str], strategies: Sequence[str]) -> None:
    for strategy in strategies:
        if strategy != "default" and not any(scheme.endswith(f"-{strategy}") for scheme in schemes):
            raise UsageError(
                f"calibrate.strategies: {target} has no '{strategy}': its schemes are {', '.join(sorted(schemes))}"
            )


def check_ops(target: str, table: Mapping[str, Any], ops: Mapping[str, str]) -> None:
    """Raise UsageError with the reasons of a target's capability table for ops that it refuses; op -> source line."""
    refused = [
        f"{op}{f' ({line})' if line else ''}: {table[base_name(op)].reason}"
        for op, line in ops.items()
        if base_name(op) in table and table[base_name(op)].level == "refused"
    ]
    if refused:
        raise UsageError(f"{target} cannot run {'; '.join(refused)}")


def base_name(op: str) -> str:
    """`aten.conv1d.default` and `aten.conv1d` are one row of the capability table; so are in-place forms."""
    namespace, _, rest = op.partition(".")
    return f"{namespace}.{rest.partition('.')[0].rstrip('_')}"
