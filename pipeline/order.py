"""The stages that a recipe has for some targets, in the order in which each first runs: what --only and --from name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

from pipeline.errors import UsageError
from pipeline.recipe import Recipe


@dataclass(frozen=True)
class Order:
    """`stages`: those that a recipe has; `last`: the one that the run ends with. Called with a stage: is it made?"""

    stages: tuple[str, ...]
    last: str | None = None

    def __call__(self, stage: str) -> bool:
        """Whether the run goes as far as a stage."""
        return self.last is None or stage in self.stages[: self.stages.index(self.last) + 1]

    def after(self, stage: str) -> bool:
        """Whether the run goes on after a stage that the recipe has."""
        return self.last is None or self.stages.index(self.last) > self.stages.index(stage)

    def since(self, stage: str) -> frozenset[str]:
        """A stage and all that come after it. Raises UsageError where the recipe has no such stage."""
        return frozenset(self.stages[self.stages.index(self.checked(stage)) :])

    def checked(self, stage: str) -> str:
        """The stage itself. Raises UsageError where the recipe has none of that name."""
        if stage not in self.stages:
            raise UsageError(f"no stage '{stage}' in this recipe: its stages are {', '.join(self.stages)}")
        return stage


def of(recipe: Recipe, targets: Sequence[str], last: str | None = None) -> Order:
    """The order of a recipe's run, which ends with the stage `last`. Raises UsageError where it has no such stage."""
    from targets import registry

    able = [registry.load(name).capabilities for name in targets]
    is_onnx = recipe.model.endswith(".onnx")
    steps = (
        ("data", True),
        *([("bring", True)] if recipe.program else _of_network(recipe)),
        ("weights", recipe.weights.method != "none" and not is_onnx),
        ("export-onnx", not is_onnx and any(one.program == "onnx" for one in able)),
        *((stage, True) for stage in ("lower", "observe", "quantize")),
        ("keep", recipe.quantize.keep_db is not None or recipe.quantize.keep_speedup is not None),
        *((stage, True) for stage in ("screen", "race", "verify")),
        ("older-cpus", any(one.older_cpus for one in able)),
        ("profile", True),
    )
    order = Order(tuple(dict.fromkeys(stage for stage, there in steps if there)))
    return order if last is None else Order(order.stages, order.checked(last))


def _of_network(recipe: Recipe) -> list[tuple[str, bool]]:
    loaded = recipe.pretrained or recipe.checkpoint is not None
    soft_labels = recipe.distill.method != "finetune" and not recipe.distill.augment
    by_kernel = recipe.prune.align == "measured"
    makes = {
        "prune": [("shapes", by_kernel), ("device-profile", by_kernel), ("prune-measured", True)]
        if recipe.prune.measured
        else [("prune", True)],
        "distill": [("soft-labels", soft_labels), ("distill", True)],
    }
    return [
        ("load" if loaded else "train", True),
        ("reference", True),
        ("load", bool(recipe.distill.teachers or recipe.distill.student)),
        ("rewrite", bool(recipe.rewrite)),
        *chain.from_iterable(makes[stage] for stage in recipe.sequence()),
        ("export-pt2", True),
    ]
