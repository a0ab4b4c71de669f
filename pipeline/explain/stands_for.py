"""The float graph whose tensors a candidate's tensors stand for: the one to compare them with, one by one.

The weight step may equalize before it rounds: channels of the tensors between layers get other scales, and
multiplications may come in, while the answers stay. Against the graph without that, a tensor of int8 is off by those
scales, and nothing is wrong with it.
"""

from __future__ import annotations

from dataclasses import replace

from pipeline import weight_road
from pipeline.artifact import Artifact
from pipeline.branch import Branch, Exported
from pipeline.road import Road
from pipeline.runner import Runner


def float_graph(road: Road, branch: Branch, candidate: str, runner: Runner) -> Artifact:
    """The lowered program, or the lowered equalized one, which is made now where the store has none.

    Equalized as the candidate's own was, with the weights as they were before any rounding: what rounding them cost is
    part of what is looked at.
    """
    assert branch.lowered is not None
    assert road.data is not None
    given, _ = branch.made[candidate]
    made = _exported(branch)
    stepped = made.stepped.get(branch.name)
    if given["float"].digest == branch.lowered.digest or stepped is None or not _used(stepped):
        return branch.lowered
    from targets import registry  # numpy comes with it

    runner = replace(runner, stored_only=False)
    name, label = (branch.name,), f"{branch.name} equalized"
    start = program = weight_road.equalized(road.recipe, road.data, made.program, branch.name, runner)
    if registry.load(branch.name).capabilities.program == "onnx":
        program = runner.do("export-onnx", {"program": start}, {}, branches=name, label="equalized")
    inputs = {"program": program, "expected": start, "data": road.data}
    return runner.do("lower", inputs, {"target": branch.name}, branches=name, label=label)


def _exported(branch: Branch) -> Exported:
    """The one that has a step for this target, else any: without a step all are alike here."""
    made = branch.network.exports.values()
    return next((one for one in made if branch.name in one.stepped), next(iter(made)))


def _used(stepped: Artifact) -> bool:
    return any(one["used"] for one in stepped.metadata["passes"])
