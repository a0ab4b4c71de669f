"""`deploy sensitivity`: each layer's metric against the share of it that goes, measured and drawn."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import delivered, road
from pipeline.api import runner_of
from pipeline.errors import UsageError
from pipeline.recipe import Recipe
from pipeline.release import report as reports
from pipeline.runner import Runner
from pipeline.stages import Emit, silent
from pipeline.store import Store

RATIOS = (0.25, 0.5, 0.75, 0.9)


def measure(recipe: Recipe, ratios: Sequence[float], store: Store | None = None, emit: Emit = silent) -> dict[str, Any]:
    """The curves of the recipe's float model, by its `[prune]` granularity and criterion; stored like every result.

    `ratios`: shares of a layer that go. Raises UsageError for one outside of 0..1, and as the stages do.
    """
    if not ratios or not all(0 < ratio < 1 for ratio in ratios):
        raise UsageError(f"--ratio {', '.join(f'{one:g}' for one in ratios)}: shares that go, above 0 and below 1")
    if recipe.program:
        raise UsageError(f"sensitivity: {recipe.model} is a finished program, which nothing cuts: name a factory")
    runner = runner_of(recipe, store, emit, frozenset())
    with runner.store.used(recipe.name):
        return _measure(recipe, ratios, runner)


def _measure(recipe: Recipe, ratios: Sequence[float], runner: Runner) -> dict[str, Any]:
    travelled = road.travel(recipe, recipe.targets, runner, "reference")
    assert travelled.floating is not None
    assert travelled.data is not None
    prune = recipe.prune
    settings = {
        "granularity": list(prune.granularity),
        "criterion": prune.criterion,
        "samples": prune.samples,
        "ratios": sorted(set(ratios)),
        "task": recipe.task.model_dump(),
    }
    inputs = {"model": travelled.floating, "data": travelled.data}
    found = runner.do("sensitivity", inputs, settings, branches=recipe.targets)
    told = {"name": recipe.name, "metric_name": recipe.task.metric, "float_key": travelled.floating.key}
    return {**told, **settings, **found.metadata}


def keep(found: Mapping[str, Any], run: Path) -> None:
    """Put curves into a finished run's report. Raises UsageError where they are those of another float model."""
    report = reports.read(run)
    if found["float_key"] not in {row.key for row in report.stages}:
        raise UsageError(f"the run at {run} began from another float model than {found['name']} here: run it again")
    folder = run if run.is_dir() else run.parent
    delivered.put(folder, report, {reports.SENSITIVITY: json.dumps(found, indent=1) + "\n"})
