"""`report.html`: a finished run as one file that needs nothing else.

Everything comes from the report and from the files that were delivered with it (raw timings, evidence of flips); what
is not there is left out or said to be unavailable. No script, no font, no link to anything but the page itself.
"""

from __future__ import annotations

import json
import shlex
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.release.html import arena, charts, flips, words
from pipeline.release.html.explained import explained
from pipeline.release.html.layers import layers
from pipeline.release.html.pruned import prunings, sensitivity
from pipeline.release.html.steps import steps
from pipeline.release.report import Report, TargetRow

VERDICTS = {
    "pass": ("\N{CHECK MARK}", "passes", "All that the policy asks for holds."),
    "fail": (
        "\N{MULTIPLICATION X}",
        "fails",
        "It must not ship: the policy asks for something that does not hold.",
    ),
    "inconclusive": ("?", "is inconclusive", "The gate split is too small to decide."),
    "error": ("!", "did not finish", "At least one target has no evidence."),
}


def page(report: Report, folder: Path) -> str:
    """The whole page. `folder`: where the run was delivered."""
    metric = report.metric_name
    template = _environment().get_template("page.html.j2")
    return template.render(
        report=report,
        verdict=VERDICTS[report.verdict],
        marks={name: row[0] for name, row in VERDICTS.items()},
        steps=steps(report),
        prunings=prunings(report),
        sensitivity=sensitivity(folder),
        drops=charts.drops(report),
        races={name: _races(name, row, metric) for name, row in report.targets.items()},
        latencies={name: _latencies(folder, name, row) for name, row in report.targets.items() if row.shipped},
        layers=[one for name, row in report.targets.items() for one in layers(name, row)],
        arenas={name: drawn for name, row in report.targets.items() if (drawn := _arena(name, row)) is not None},
        islands={name: _islands(row) for name, row in report.targets.items() if row.shipped},
        cards=flips.cards(report, folder),
        explained=explained(report, folder),
        slices={name: row.runs[0].slices for name, row in report.targets.items() if row.runs and row.runs[0].slices},
        commands=_commands(report),
        metric=metric,
        bound=words.bound,
        recipe=json.dumps({k: v for k, v in report.recipe.items() if k not in ("folder", "set")}, indent=1),
    )


def _environment() -> Environment:
    loader = PackageLoader("pipeline.release", "html")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    names = ("number", "size", "count", "percent", "points", "milliseconds", "ratio", "score")
    environment.filters |= {name: getattr(words, name) for name in names}
    source, *_ = loader.get_source(environment, "style.css")
    environment.globals["style"] = Markup(source)
    return environment


def _races(name: str, row: TargetRow, metric: str) -> list[Markup]:
    drawn = (charts.candidates(name, row, kind, metric) for kind in charts.Y)
    return [chart for chart in drawn if chart is not None]


def _latencies(folder: Path, name: str, row: TargetRow) -> Markup | None:
    """From the raw samples of the profile; None where they are gone."""
    try:
        with (folder / "samples" / f"{name}-profile.npz").open("rb") as file, np.load(file) as arrays:
            raw: Mapping[str, Any] = {key: arrays[key] for key in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile):
        return None
    titles = {"float": "float", "shipped": f"{row.shipped} (ships)", "original": "the original float"}
    ordered = {title: raw[key] for key, title in titles.items() if key in raw and len(raw[key])}
    return charts.latencies(name, ordered) if ordered else None


def _arena(name: str, row: TargetRow) -> Markup | None:
    """The memory plan of what ships, where a board has one."""
    board = next((run.board for run in row.runs if run.board is not None and run.board.plan), None)
    return arena.draw(name, [buffer.model_dump() for buffer in board.plan], board.arena_bytes) if board else None


def _islands(row: TargetRow) -> dict[str, Any] | None:
    """What the shipped int8 model still computes in float; None where it is no int8 model."""
    found = next((c for c in row.candidates if c.id == row.shipped and c.precision == "int8"), None)
    return (
        None if found is None else {"ops": found.float_ops, "macs": found.int8_mac_share, "share": found.int8_op_share}
    )


def _commands(report: Report) -> list[str]:
    targets = [word for name in report.targets for word in ("--target", name)]
    options = [word for text in report.recipe["set"] for word in ("--set", text)]
    seed = ["--seed", str(report.recipe["seed"])]
    return [
        shlex.join(["deploy", *targets, "--recipe", f"{report.recipe['folder']}/deploy.toml", *seed, *options]),
        "deploy verify deploy-out",
        "deploy profile deploy-out",
        "deploy gate deploy-out",
    ]
