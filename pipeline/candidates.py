"""Which candidates a target races: those that it proposes and those that the recipe asks for, each made once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pipeline.artifact import Artifact
from pipeline.branch import Branch
from pipeline.errors import StageError, UsageError
from pipeline.recipe import Recipe
from pipeline.runner import Runner, attached_device

COARSE = ("per_tensor", "half_range")  # strategies that round weights to other codes than the weight step's
ENCODINGS = "encodings"  # the "observer" of a candidate whose ranges are the user's


def strategies(recipe: Recipe, target: str, device: str | None) -> tuple[str, ...]:
    """Those of the recipe. "auto" is the default one; on a CPU that adds pairs of products in 16 bits (of `device`, a
    URI; None: this machine) those that the target's table names for it.
    """
    from targets import agent, registry

    wished = recipe.calibrate.strategies
    if wished != "auto":
        return wished
    able = registry.load(target).capabilities.saturating
    if able == ("default",):
        return able
    return able if (attached_device(device)["saturates"] if device else agent.saturates()) else ("default",)


def quantize(
    branch: Branch,
    inputs: Mapping[str, Mapping[str, Artifact]],
    vendors: Mapping[str, Artifact],
    runner: Runner,
    recipe: Recipe,
    wanted: Sequence[str],
) -> None:
    """Every candidate, from what its quantizer starts with: `inputs`, and `vendors` for those not named there.

    `wanted`: the strategies of those that take ranges of ours.
    """
    rows = vendors["float"].metadata["candidates"]
    proposed = {row["id"]: row for row in rows if row["quantizer"] != "ours"}
    if len(proposed) < len(rows):  # the target takes ranges of ours
        own = next(row for row in rows if row["quantizer"] == "ours")
        observers = [*recipe.calibrate.observers, *([ENCODINGS] if branch.name in recipe.calibrate.encodings else [])]
        proposed |= {
            f"ours-{name}" + ("" if strategy == "default" else f"-{strategy}"): own
            for strategy in wanted
            for name in observers
        }
    wished = recipe.quantize.candidates
    if wished and not set(wished) & set(proposed):
        raise UsageError(f"quantize.candidates: {branch.name} has none of {list(wished)}; it proposes {list(proposed)}")
    chosen = {
        n: row["precision"] for n, row in proposed.items() if not wished or n in wished or row["precision"] == "f32"
    }
    for name in chosen:
        settings: dict[str, Any] = {"target": branch.name, "candidate": name, "samples": recipe.calibrate.samples}
        settings["weights"] = recipe.weights.method if proposed[name]["quantizer"] == "ours" else "none"
        if name.startswith(f"ours-{ENCODINGS}"):
            settings["observer"] = recipe.calibrate.observers[0]
            settings[ENCODINGS] = _encodings(recipe, branch.name)
        kind = "ours-plain" if name.endswith(COARSE) else proposed[name]["quantizer"]
        if kind == "ours-plain":
            settings["weights"] = "none"
        given = inputs.get(kind, vendors)
        branch.made[name] = (given, settings)
        try:
            branch.candidates[name] = runner.do(
                "quantize", given, settings, branches=(branch.name,), label=f"{branch.name}/{name}"
            )
        except StageError as error:  # a vendor's quantizer that breaks on this model is a result, and shown as one
            branch.failed[name] = str(error)
            runner.emit({"event": "failed", "target": f"{branch.name}/{name}", "message": str(error)})
    integers = [name for name, kind in chosen.items() if kind == "int8"]
    if integers and not any(name in branch.candidates for name in integers):
        raise StageError(f"{branch.name}: every int8 candidate failed: {branch.failed[integers[0]]}")


def keep(branch: Branch, lowered: Artifact, runner: Runner, keep_db: float) -> None:
    """One more candidate: the nearest of ours with the layers in float that it takes to reach `keep_db`."""
    ours = [name for name in branch.candidates if name.startswith("ours-")]
    if not ours:
        return
    name = min(ours, key=lambda one: (one.endswith(COARSE), "mse" not in one))  # the nearest to float, as a rule
    given, settings = branch.made[name]
    title = f"{branch.name}/{name}-keep"
    try:
        found = runner.do(
            "keep",
            {**given, "reference": lowered},
            {**settings, "keep_db": keep_db},
            branches=(branch.name,),
            label=title,
        )
        if not found.metadata["keep"]:
            return
        left = {**settings, "candidate": f"{name}-keep", "keep": found.metadata["keep"]}
        branch.candidates[f"{name}-keep"] = runner.do("quantize", given, left, branches=(branch.name,), label=title)
        branch.made[f"{name}-keep"] = (given, left)
    except StageError as error:
        branch.failed[f"{name}-keep"] = str(error)
        runner.emit({"event": "failed", "target": title, "message": str(error)})


def _encodings(recipe: Recipe, target: str) -> dict[str, Any]:
    """The ranges of activations in the user's file, as JSON: content, not path, is what a stage depends on."""
    from calibration import encodings  # numpy comes with it
    from calibration.errors import CalibrationError

    path = recipe.folder / recipe.calibrate.encodings[target]
    try:
        return {name: asdict(one) for name, one in encodings.read(path).activations.items()}
    except CalibrationError as error:
        raise UsageError(f"calibrate.encodings: {error}") from error
    except OSError as error:
        raise UsageError(f"calibrate.encodings: cannot read {path}: {error.strerror}") from error
