"""The road: which stages run for a recipe, on what. Branches of several targets are one while their keys are equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from pipeline import bounds, candidates, lengths, order, side_by_side, source, training_road, weight_road, worker
from pipeline.artifact import Artifact, sha256_file
from pipeline.branch import FIXED, Branch, Exported, Network, model_of, rows_of
from pipeline.errors import DeployError, StageError, UsageError
from pipeline.op_table import check_calls, check_ops
from pipeline.order import Order
from pipeline.recipe import Recipe
from pipeline.release import choose
from pipeline.release.evidence import CLASS_METRICS, OWN_SCORE, is_relative
from pipeline.runner import Runner, target_device
from pipeline.stages import Job

if TYPE_CHECKING:
    from targets.base import Capabilities

NO_ONNX = "give the .pt2 that the file was exported from, or module:function; openvino and onnxruntime take ONNX"
Ways = dict[str, tuple[str, ...]]  # how a target has lengths that vary -> the targets that have them so


@dataclass
class Road:
    """A finished (or stopped) run, before the gate has spoken."""

    recipe: Recipe
    device: str | None = None  # URI of the attached device that measures; None: this machine
    data: Artifact | None = None
    floating: Artifact | None = None  # the original float model
    reference: Artifact | None = None
    network: Network = field(default_factory=Network)  # each branch has its own where they part
    branches: dict[str, Branch] = field(default_factory=dict)


def travel(
    recipe: Recipe, targets: Sequence[str], runner: Runner, only: str | None = None, device: str | None = None
) -> Road:
    """Run the stages in order, to `only` and none after it; race, verify and profile on `device`.

    A target that fails ends its own branch only. Raises DeployError for shared stages, UsageError where the recipe has
    no stage `only`.
    """
    road = Road(recipe, device)
    wanted = order.of(recipe, targets, only)
    _shared(road, tuple(targets), runner, wanted)
    for name in targets:
        branch = road.branches[name] = Branch(name, road.network)
        if not wanted.after("bring" if recipe.program else "reference"):
            continue
        try:
            if parts(recipe):
                branch.network = _network(
                    road, {_way(road, name): (name,)}, runner, wanted, _there(road, name) | {"batch": recipe.batch}
                )
            _branch(road, branch, tuple(targets), runner, wanted)
        except DeployError as error:
            branch.error = error
            runner.emit({"event": "failed", "target": name, "message": str(error)})
    return road


def _shared(road: Road, everyone: tuple[str, ...], runner: Runner, wanted: Order) -> None:
    from pipeline.data import input_names  # numpy comes with these
    from targets import registry

    recipe = road.recipe
    files = source.digest_files(recipe.data_files, recipe.folder)
    road.data = data = runner.do("data", {}, {}, branches=everyone, extra={"files": files})
    runner.known = {"inputs": ",".join(input_names(data.path))}
    varying = lengths.of(data.metadata, "data")
    ways: Ways = {}
    for name in everyone:
        able = registry.load(name).capabilities
        lengths.check_target(name, able.lengths, varying)
        way = _way(road, name)
        ways[way] = (*ways.get(way, ()), name)
        _check_dtypes(name, able.dtypes, data.metadata["inputs"])
        if recipe.calibrate.strategies is not None:
            _check_strategies(name, able, recipe.calibrate.strategies)
    candidates.check_names(recipe, everyone)
    if not wanted.after("data"):
        return
    task = {"task": recipe.task.model_dump()}
    if recipe.program:
        if varying:
            raise UsageError(f"lengths: {recipe.model} is a finished program of fixed lengths: name a module:function")
        _bring(road, everyone, runner, wanted, task)
        return
    floating = training_road.float_model(recipe, runner, data, everyone)
    road.floating = road.network.model = floating
    if wanted("reference"):
        road.reference = runner.do("reference", {"model": floating, "data": data}, task, branches=everyone)
    if wanted.after("reference") and not parts(recipe):
        road.network = _network(road, ways, runner, wanted)


def parts(recipe: Recipe) -> bool:
    """Do the branches of the targets part at the pruning, since it is measured on each?"""
    return recipe.prune.measured and "prune" in recipe.stages


def _way(road: Road, target: str) -> str:
    """How a target has lengths that vary; FIXED where none does."""
    from targets import registry

    assert road.data is not None
    return registry.load(target).capabilities.lengths if road.data.metadata["lengths"] else FIXED


def _network(
    road: Road, ways: Ways, runner: Runner, wanted: Order, measuring: Mapping[str, Any] | None = None
) -> Network:
    """What becomes of the float model. `measuring`: settings of what measures, where it is pruned for one branch."""
    assert road.data is not None
    assert road.floating is not None
    recipe, data = road.recipe, road.data
    branches = tuple(name for names in ways.values() for name in names)
    model = training_road.compressed(recipe, runner, data, road.floating, branches, wanted, measuring)
    network = Network(model)
    if wanted("export-pt2"):
        for way, names in ways.items():
            label = " ".join(filter(None, (names[0] if measuring else "", way)))
            network.exports[way] = _export(road, model, runner, way, names, label, wanted)
    return network


def _export(
    road: Road, model: Artifact, runner: Runner, way: str, targets: tuple[str, ...], label: str, wanted: Order
) -> Exported:
    """The model as a program for the targets that have varying lengths that way."""
    assert road.data is not None
    assert road.floating is not None
    recipe, data = road.recipe, road.data
    settings = {"lengths": way} if way else {}
    program = runner.do("export-pt2", {"model": model, "data": data}, settings, branches=targets, label=label)
    original = None
    if recipe.profile.original:
        inputs = {"model": road.floating, "data": data}
        original = runner.do("export-pt2", inputs, settings, branches=targets, label=f"original {way}".strip())
    if wanted("weights") and recipe.weights.method != "none":
        return Exported(program, weight_road.of_targets(recipe, data, program, targets, runner, label), original)
    return Exported(program, {}, original)


def _bring(road: Road, everyone: tuple[str, ...], runner: Runner, wanted: Order, task: Mapping[str, Any]) -> None:
    """A model that comes as a program: its own answers are the reference, and no stage of torch runs."""
    recipe = road.recipe
    path = recipe.folder / recipe.model
    bounds.regular(path, "model")
    without = ", ".join(("train", *recipe.stages))
    runner.emit({"event": "note", "message": f"{recipe.model} is a finished program: without {without}"})
    assert road.data is not None
    road.floating = road.reference = brought = runner.do(
        "bring",
        {"data": road.data},
        {"model": recipe.model, **task},
        branches=everyone,
        extra={"sha256": sha256_file(path), **_beside(path)},
    )
    stepped: Mapping[str, Artifact] = {}
    if brought.metadata["kind"] == "pt2" and wanted("weights") and recipe.weights.method != "none":
        stepped = weight_road.of_targets(recipe, road.data, brought, everyone, runner, "")
    road.network = Network(brought, {FIXED: Exported(brought, stepped)})


def _beside(path: Path) -> dict[str, Any]:
    """Digests of the files that hold an ONNX file's weights."""
    if path.suffix != ".onnx":
        return {}
    asked = Job("bring", {"model": str(path)}, {}, path.parent, 0)
    return worker.run_isolated("pipeline.foreign:external", asked, bounds.of_model(path))


def _there(road: Road, target: str) -> dict[str, Any]:
    """Settings of a stage that measures on a target."""
    device = _device(road, target)
    named = {"device": device} if device else {}
    return {"target": target, **named, "threads": road.recipe.profile.threads}


def _branch(road: Road, branch: Branch, everyone: tuple[str, ...], runner: Runner, wanted: Order) -> None:
    from targets import registry  # numpy comes with it

    recipe, data, reference = road.recipe, road.data, road.reference
    assert data is not None
    assert reference is not None
    target = registry.load(branch.name)
    made = branch.network.exports.get(_way(road, branch.name))
    if made is None or not (wanted("export-onnx") or wanted("lower")):  # the run ends before
        return
    exported = made.program
    stepped = made.stepped.get(branch.name, exported)

    check_ops(branch.name, target.capabilities.ops, exported.metadata["ops"])
    check_calls(branch.name, target.capabilities, exported.metadata.get("calls", ()))
    same = (branch.name,) if parts(recipe) else everyone
    sharing = tuple(n for n in same if registry.load(n).capabilities.program == "onnx")
    if parts(recipe):
        sharing = (branch.name,)
    do = partial(runner.do, branches=(branch.name,))
    on_target: dict[str, Any] = {"target": branch.name}
    task = {"task": recipe.task.model_dump()}
    graphs: dict[str, Artifact] = {}
    programs = {"": exported, "stepped": stepped} | ({"original": made.original} if made.original else {})

    def lower(label: str, start: Artifact) -> None:
        program = start
        if start.metadata["kind"] == "onnx" and target.capabilities.program != "onnx":
            raise UsageError(
                f"{branch.name}: no road from ONNX: it lowers .{target.capabilities.program} programs: {NO_ONNX}"
            )
        if target.capabilities.program == "onnx" and start.metadata["kind"] != "onnx":
            program = runner.do("export-onnx", {"program": start}, {}, branches=sharing, label=label)
        if wanted("lower"):
            inputs = {"program": program, "expected": start, "data": data}
            graphs[label] = do("lower", inputs, on_target, label=f"{branch.name} {label}".strip())

    for label, start in programs.items():
        if not label or start is not exported:
            lower(label, start)
    if not wanted("lower"):
        return
    graphs |= {label: graphs[""] for label in programs if label not in graphs}  # no weight step: one graph is both
    branch.lowered, branch.stepped = graphs[""], graphs["stepped"]
    lowered = branch.lowered
    if not wanted("observe"):
        return
    samples = {"samples": recipe.calibrate.samples, "kind": candidates.observer_kind(recipe)}

    def observed(graph: Artifact, label: str = "") -> dict[str, Artifact]:
        inputs = {"float": graph, "data": data}
        told = do("observe", inputs, {**on_target, **samples}, label=f"{branch.name} {label}".strip())
        return {**inputs, "statistics": told}

    starts = {"ours": observed(graphs["stepped"])}
    branch.observed = starts["ours"]["statistics"]
    if not wanted("quantize"):
        return
    vendors = {"float": lowered, "data": data}
    device = _device(road, branch.name)
    chosen = candidates.choose(branch, lowered, recipe, candidates.strategies(recipe, branch.name, device))
    kinds = set(map(candidates.start_of, chosen))
    if stepped is exported:
        starts |= dict.fromkeys((candidates.PLAIN, candidates.HALF), starts["ours"])
    else:
        if candidates.HALF in kinds:
            lower("half range", weight_road.half_range(recipe, data, exported, branch.name, sharing, runner))
            starts[candidates.HALF] = observed(graphs["half range"], "half range")
        if candidates.PLAIN in kinds:
            starts[candidates.PLAIN] = observed(lowered, "plain")
    do = partial(do, label=branch.name)
    candidates.quantize(branch, chosen, starts, vendors, runner, recipe)
    measured = _there(road, branch.name)
    timing = {"warmup_s": 0.5, "max_rounds": 20000, "batch": recipe.batch}
    race = recipe.race.model_dump(include={"budget_s", "min_rounds", "processes"})
    if wanted("keep"):
        if recipe.quantize.keep_db is not None:
            candidates.keep(branch, lowered, runner, {"keep_db": recipe.quantize.keep_db})
        elif recipe.quantize.keep_speedup is not None:
            speed = {"keep_speedup": recipe.quantize.keep_speedup}
            candidates.keep(branch, lowered, runner, {**measured, **timing, **race, **speed})
    if not wanted("screen"):
        return
    common = {"data": data, "float": lowered}
    models = {f"candidate:{name}": model_of(artifact, lowered) for name, artifact in branch.candidates.items()}
    said = {**measured, **task, "batch": recipe.batch, **_bound(recipe, branch.name)}
    branch.screened = do(
        "screen", {**common, "reference": reference, **models}, {**said, "candidates": list(branch.candidates)}
    )
    candidates.drop(branch, branch.screened.metadata["failed"], runner)
    if not wanted("race"):
        return
    rows, policy = rows_of(branch), recipe.policy(branch.name)
    margin = _margin(recipe, branch.name, next(row for row in rows if row["precision"] == "f32"))
    most, all_timed = recipe.race.max_candidates, recipe.race.time_failed
    branch.untimed = choose.untimed(rows, margin, policy["confidence"], most, keep_failed=all_timed, policy=policy)
    runners = [name for name in branch.candidates if name not in branch.untimed]
    branch.race = do(
        "race",
        {**common, **{key: models[key] for key in (f"candidate:{name}" for name in runners)}},
        {**measured, **timing, "candidates": runners} | race,
    )
    candidates.drop(branch, branch.race.metadata["failed"], runner)

    def choose_one() -> choose.Choice:
        try:
            return choose.choose(rows_of(branch), recipe.quantize.prefer, margin, policy["confidence"], policy)
        except ValueError as error:  # a board runs no float
            raise StageError(f"{branch.name}: {error}") from error

    branch.choice = choose_one()
    if not wanted("verify"):
        return
    large = [recipe.large_batch] if lowered.metadata["free_batch"] else []  # else the file runs at one batch only
    branch.batches = list(dict.fromkeys([recipe.batch, *large]))
    own = sorted(name for name in policy["metrics"] if OWN_SCORE.fullmatch(name))  # beside the task's
    judged = {"data": data, "reference": reference, "float": lowered}
    asked = {**task, "scores": own, "batches": branch.batches}
    if data.metadata["lengths"]:
        asked["lengths"] = target.capabilities.lengths
    scores = {"scores": [source.digest(name.partition(":")[0], [recipe.folder]) for name in own]} if own else None

    def verify(chosen: str) -> Artifact:
        shipped = model_of(branch.candidates[chosen], lowered)
        return do("verify", {**judged, "shipped": shipped}, {**measured, "candidate": chosen, **asked}, extra=scores)

    branch.verify = verify(branch.choice.shipped)
    while why := branch.verify.metadata["failed"]:
        candidates.drop(branch, {branch.choice.shipped: why}, runner)
        branch.choice = choose_one()
        branch.verify = verify(branch.choice.shipped)
    shipped = model_of(branch.candidates[branch.choice.shipped], lowered)
    on_it, judged = {**measured, "candidate": branch.choice.shipped}, {**judged, "shipped": shipped}
    integers = branch.candidates[branch.choice.shipped].metadata["precision"] == "int8"
    if target.capabilities.older_cpus and integers and wanted("older-cpus"):
        here = {name: value for name, value in on_it.items() if name != "device"}
        inputs = {"data": data, "float": lowered, "shipped": shipped}
        branch.older_cpus = do("older-cpus", inputs, {**here, "batch": recipe.batch})
    if not wanted("profile"):
        return
    timed = {"data": data, "float": lowered, "shipped": shipped}
    timed |= {"original": graphs["original"]} if "original" in graphs else {}
    settings = {**recipe.profile.model_dump(exclude={"original"}), **timing}
    branch.profile = do("profile", timed, {**on_it, **settings})

    def there(uri: str, runner: Runner) -> tuple[Artifact, Artifact]:
        on_that = {**on_it, "device": uri}
        do = partial(runner.do, branches=(branch.name,), label=f"{branch.name} {uri.partition('?')[0]}")
        found = do("verify", judged, {**on_that, **asked}, extra=scores)
        if why := found.metadata["failed"]:
            raise StageError(f"{branch.name}: what ships does not run on {uri}: {why}")
        return found, do("profile", timed, {**on_that, **settings})

    branch.also += side_by_side.measure(recipe.also.get(branch.name, ()), there, runner)


def _device(road: Road, target: str) -> str | None:
    """URI of where a target is measured, None for this machine; an emulated board is told where the CMSIS-NN lies."""
    device, vendor = road.device or target_device(target), road.recipe.race.cmsis_nn
    if vendor is None or device is None or not device.startswith("qemu://"):
        return device
    return f"{device}{'&' if '?' in device else '?'}{urlencode({'cmsis-nn': road.recipe.folder / vendor})}"


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


def _check_strategies(target: str, able: Capabilities, strategies: Sequence[str]) -> None:
    for strategy in strategies:
        if strategy != "default" and not any(scheme.endswith(f"-{strategy}") for scheme in able.schemes):
            raise UsageError(
                f"calibrate.strategies: {target} has no '{strategy}': its schemes are {', '.join(sorted(able.schemes))}"
                + (f"; {able.lacking[strategy]}" if strategy in able.lacking else "")
            )
