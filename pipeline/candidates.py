"""Which candidates a target races: those that it proposes and those that the recipe asks for, each made once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pipeline.artifact import Artifact
from pipeline.branch import Branch
from pipeline.errors import StageError, UsageError
from pipeline.recipe import Recipe
from pipeline.runner import Runner, attached_device

if TYPE_CHECKING:
    from targets.base import Candidate

# What candidates with our ranges start from, where it is not the program after the weight step: their strategies round
# weights to other codes. Half the range has a step of its own, where there is a step.
PLAIN, HALF = "ours-plain", "ours-half"
STARTS = {"per_tensor": PLAIN, "half_range": HALF}
KEPT = "-keep"  # as targets.base.KEPT, whose module brings numpy: how those with layers left in float end
OURS = "ours-"  # as targets.base.OURS: how the ids of candidates with our ranges begin
ENCODINGS = "encodings"  # the "observer" of a candidate whose ranges are the user's


def strategies(recipe: Recipe, target: str, device: str | None) -> tuple[str, ...]:
    """Those of the recipe. "auto" is the default one; on a CPU that adds pairs of products in 16 bits (of `device`, a
    URI; None: this machine) those that the target's table names for it.
    """
    from targets import agent, registry

    wished = recipe.calibrate.strategies
    if wished is not None:
        return wished
    able = registry.load(target).capabilities.saturating
    if able == ("default",):
        return able
    return able if (attached_device(device)["saturates"] if device else agent.saturates()) else ("default",)


def quantize(
    branch: Branch,
    chosen: Mapping[str, Candidate],
    inputs: Mapping[str, Mapping[str, Artifact]],
    vendors: Mapping[str, Artifact],
    runner: Runner,
    recipe: Recipe,
) -> None:
    """Every candidate, from what its quantizer starts with: `inputs`, and `vendors` for those not named there.

    One that fails is listed so, and the others go on. Raises its error where it is float, or where every int8 failed.
    """
    errors: list[StageError | UsageError] = []
    for name, candidate in chosen.items():
        settings: dict[str, Any] = {"target": branch.name, "candidate": name, "samples": recipe.calibrate.samples}
        settings["weights"] = recipe.weights.method if candidate.quantizer == "ours" else "none"
        if candidate.observer == ENCODINGS:
            settings["observer"] = recipe.calibrate.observers[0]
            settings[ENCODINGS] = _encodings(recipe, branch.name)
        kind = start_of(name) or candidate.quantizer
        if kind == PLAIN:
            settings["weights"] = "none"
        given = inputs.get(kind, vendors)
        branch.made[name] = (given, settings)
        try:
            branch.candidates[name] = runner.do(
                "quantize", given, settings, branches=(branch.name,), label=f"{branch.name}/{name}"
            )
        except (StageError, UsageError) as error:  # a quantizer that breaks on this model is a result, shown as one
            if candidate.observer == ENCODINGS or candidate.precision == "f32":
                raise  # the user's own ranges are wrong; without float there is nothing to compare with
            errors.append(error)
            drop(branch, {name: str(error)}, runner)
    integers = [name for name, candidate in chosen.items() if candidate.precision == "int8"]
    if errors and integers and not any(name in branch.candidates for name in integers):
        raise type(errors[0])(f"{branch.name}: every int8 candidate failed: {errors[0]}") from errors[0]


def drop(branch: Branch, failed: Mapping[str, str], runner: Runner) -> None:
    """Candidates that cannot go on, id -> why: each is listed as failed, and told unless an earlier run has told it."""
    for name, why in failed.items():
        branch.candidates.pop(name, None)
        branch.failed[name] = why
        if not runner.stored_only:
            runner.emit({"event": "failed", "target": f"{branch.name}/{name}", "message": why})


def choose(branch: Branch, lowered: Artifact, recipe: Recipe, wanted: Sequence[str]) -> dict[str, Candidate]:
    """Float, and those that the recipe names, or else what the target proposes with the recipe's observers.

    `wanted`: the strategies of those that take ranges of ours. Raises UsageError where none of those named is there.
    """
    from targets import base, registry  # numpy comes with these

    target = registry.load(branch.name)
    proposed = [base.Candidate(**row) for row in lowered.metadata["candidates"]]  # no runtime is loaded for it
    names = [candidate.id for candidate in proposed if candidate.quantizer != "ours"]
    if len(names) < len(proposed):  # the target takes ranges of ours
        observers = [*recipe.calibrate.observers, *([ENCODINGS] if branch.name in recipe.calibrate.encodings else [])]
        names += [
            f"{OURS}{name}" + ("" if strategy == "default" else f"-{strategy}")
            for strategy in wanted
            for name in observers
        ]
    found, why = {}, ""
    for name in [*names[:1], *(recipe.quantize.candidates or names[1:])]:
        try:
            found[name] = base.named(target, proposed, name)
        except base.TargetError as error:  # it may be another target's
            why = str(error)
    if recipe.quantize.candidates and not set(found) & set(recipe.quantize.candidates):
        raise UsageError(f"quantize.candidates: {why}; {branch.name} proposes {names}")
    return found


def check_names(recipe: Recipe, targets: Sequence[str]) -> None:
    """Raise UsageError for a name in quantize.candidates whose rule, strategy or variant no target has; before work.

    The vendors' own candidates depend on the lowered model, and are looked up when it is there.
    """
    from targets import registry  # numpy comes with it

    observer_kind(recipe)
    able = {name: registry.load(name).capabilities for name in targets}
    for wished in recipe.quantize.candidates:
        plain, at, variant = wished.removesuffix(KEPT).partition("@")
        strategy = plain.removeprefix(OURS).partition("-")[2] if plain.startswith(OURS) else ""
        lacks = [(variant, all(variant not in one.variants for one in able.values()))] if at else []
        if strategy:
            ends = f"-{strategy}"
            lacks += [(strategy, not any(s.endswith(ends) for one in able.values() for s in one.schemes))]
        for what, missing in lacks:
            if missing:
                why = "; ".join(f"{name}: {one.lacking[what]}" for name, one in able.items() if what in one.lacking)
                known = sorted({v for one in able.values() for v in (*one.variants, *map(_strategy, one.schemes))})
                raise UsageError(
                    f"quantize.candidates: no target here has '{what}' for '{wished}'{f' ({why})' if why else ''}: "
                    f"there are {', '.join(filter(None, known))}"
                )


def _strategy(scheme: str) -> str:
    return scheme.partition("-")[2]


def observer_kind(recipe: Recipe) -> str:
    """The class of observers that the recipe's rules need. Raises UsageError for a candidate with an unknown rule."""
    from calibration.errors import CalibrationError  # numpy comes with these
    from calibration.rules import least

    named = (one.removeprefix(OURS).partition("@")[0] for one in recipe.quantize.candidates if one.startswith(OURS))
    rules = [rule for rule in (name.partition("-")[0] for name in named) if rule != ENCODINGS]
    try:
        return least([*recipe.calibrate.observers, *rules]).__name__
    except CalibrationError as error:
        raise UsageError(f"quantize.candidates: {error}") from error


def start_of(name: str) -> str:
    """What a candidate starts from: PLAIN or HALF; empty where its quantizer alone decides."""
    return STARTS.get(_strategy(name.removeprefix(OURS).partition("@")[0]), "")


def keep(branch: Branch, lowered: Artifact, runner: Runner, asked: Mapping[str, Any]) -> None:
    """One more candidate: the nearest of ours with the layers in float that what is `asked` of it takes or allows."""
    ours = [name for name in branch.candidates if name.startswith(OURS)]
    if not ours:
        return
    name = min(ours, key=lambda one: (start_of(one) != "", "mse" not in one))  # the nearest to float, as a rule
    given, settings = branch.made[name]
    title = f"{branch.name}/{name}-keep"
    try:
        found = runner.do(
            "keep",
            {**given, "reference": lowered},
            {**settings, **asked},
            branches=(branch.name,),
            label=title,
        )
        if not found.metadata["keep"]:
            return
        left = {**settings, "candidate": f"{name}-keep", "keep": found.metadata["keep"]}
        branch.candidates[f"{name}-keep"] = runner.do("quantize", given, left, branches=(branch.name,), label=title)
        branch.made[f"{name}-keep"] = (given, left)
    except (StageError, UsageError) as error:
        drop(branch, {f"{name}-keep": str(error)}, runner)


def _encodings(recipe: Recipe, target: str) -> dict[str, Any]:
    """The ranges of activations in the user's file, as JSON: content, not path, is what a stage depends on."""
    from calibration.errors import CalibrationError  # numpy comes with these
    from targets import encodings
    from targets.base import TargetError

    path = recipe.folder / recipe.calibrate.encodings[target]
    try:
        return {name: asdict(one) for name, one in encodings.read(path).activations.items()}
    except (CalibrationError, TargetError) as error:
        raise UsageError(f"calibrate.encodings: {error}") from error
    except OSError as error:
        raise UsageError(f"calibrate.encodings: cannot read {path}: {error.strerror}") from error
