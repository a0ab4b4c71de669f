"""The weight step on the road: which targets share one, the one for weights of half the range, and what comes of its
equalization alone.
"""

from __future__ import annotations

from pipeline.artifact import Artifact
from pipeline.op_table import beyond
from pipeline.recipe import Recipe
from pipeline.runner import Runner


def of_targets(
    recipe: Recipe, data: Artifact, program: Artifact, targets: tuple[str, ...], runner: Runner, label: str
) -> dict[str, Artifact]:
    """Of each target, the program after the weight step; one for all that keep the same ops in int8."""
    inputs = {"program": program, "data": data}
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in targets:
        groups.setdefault(beyond(name, program.metadata["ops"]), []).append(name)
    made: dict[str, Artifact] = {}
    for ops, names in groups.items():
        settings = {**recipe.weights.model_dump(), "beyond": list(ops)}
        title = " ".join(filter(None, (label, *(names if len(groups) > 1 else ()))))
        made |= dict.fromkeys(names, runner.do("weights", inputs, settings, branches=tuple(names), label=title))
    return made


def half_range(
    recipe: Recipe, data: Artifact, program: Artifact, target: str, targets: tuple[str, ...], runner: Runner
) -> Artifact:
    """The program after a weight step whose codes fill half of the range; shared by those that ask the same."""
    from calibration.weights import HALF_RANGE_CODE  # numpy comes with it

    ops = list(beyond(target, program.metadata["ops"]))
    settings = {**recipe.weights.model_dump(), "beyond": ops, "largest_code": HALF_RANGE_CODE}
    return runner.do("weights", {"program": program, "data": data}, settings, branches=targets, label="half range")


def equalized(recipe: Recipe, data: Artifact, program: Artifact, target: str, runner: Runner) -> Artifact:
    """The program with the channels of the weight step and weights that no step has rounded."""
    settings = {**recipe.weights.model_dump(), "method": "none"}
    return runner.do("weights", {"program": program, "data": data}, settings, branches=(target,), label="equalized")
