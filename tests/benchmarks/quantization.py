"""Our int8 beside other tools', on the same samples: `make bench-quantization`, or `quantization.py MODEL ...`.

The five networks of `networks/` and the two examples, through each runtime. A row is a model, a runtime and a tool; it
is made in a fresh process (tests/benchmarks/peers.py) and written to `results/quantization.json` at once, and a row
that is there is not made again, so a stopped benchmark goes on. `--again` makes the rows of the named models anew;
`--without-times` leaves the speed-ups out, for a machine with other work. All figures are of the selection split,
against the runtime's own float; every tool calibrates on the same samples.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from calibration.weights import HALF_RANGE_CODE, LARGEST_CODE
from pipeline import op_table, recipe, road, tasks
from pipeline.api import default_store
from pipeline.branch import FIXED, Branch
from pipeline.data import load_named, load_split
from pipeline.outcome import environment
from pipeline.recipe import Recipe, from_table
from pipeline.runner import Runner
from pipeline.stages import Job, measure
from targets import base, registry, timing

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "networks")]
import peers  # noqa: E402
from run import COMMON, NETWORKS  # noqa: E402

RESULTS = HERE / "results" / "quantization.json"
README = HERE.parents[1] / "README.md"
MARKS = "<!-- quantization: begin -->", "<!-- quantization: end -->"
EXAMPLES = {"watch": recipe.EXAMPLE, "fashion": recipe.EXAMPLE.parents[1] / "fashion" / "deploy.toml"}
RUNTIMES = tuple(peers.TOOLS)
TIMED = {"warmup_s": 0.5, "budget_s": 4.0, "min_rounds": 20, "max_rounds": 20000}
KEY = ("model", "runtime", "tool")
OWN = "ours, "  # how the names of our tools begin
OURS = ["ours-mse", "ours-mse-half_range"]  # TFLite has the first alone


def recipe_of(model: str, method: str) -> Recipe:
    """The recipe of one of the models, with a weight step of its own for an example ("": the default)."""
    if model in EXAMPLES:
        changes = [f"weights.method={method}"] if method else []
        return recipe.load(EXAMPLES[model], [*changes, f"quantize.candidates={json.dumps(OURS)}"])
    made = {"name": model, **COMMON, **NETWORKS[model], "quantize": {"candidates": OURS}}
    return from_table(made, HERE / "networks", model)


def travelled(loaded: Recipe, runtimes: Sequence[str]) -> tuple[road.Road, Path]:
    """The road up to our candidates, and the program as the exporter leaves it: from the store what is there."""
    factories = {"model": loaded.model, "data": loaded.data}
    runner = Runner(default_store(), loaded.folder, factories, loaded.cache_key, loaded.seed)
    gone = road.travel(loaded, runtimes, runner, only="quantize")
    program = gone.network.exports[FIXED].program
    return gone, runner.do("export-onnx", {"program": program}, {}, branches=("onnxruntime",)).path


def row_of(gone: road.Road, onnx: Path, branch: Branch, model: str, tool: str, times: bool) -> dict[str, Any]:
    """Make one tool's model in a fresh process and measure it. A tool that breaks is a row too: `failed` says how."""
    assert gone.data
    assert gone.reference
    assert branch.lowered
    target, loaded = registry.load(branch.name), gone.recipe
    program = gone.network.exports[FIXED].program
    identity, half = {"model": model, "runtime": branch.name, "tool": tool}, tool.endswith(peers.HALF)
    with tempfile.TemporaryDirectory(prefix="deploy-") as folder:
        out = Path(folder)
        told = {
            "runtime": branch.name,
            "program": str(program.path),
            "onnx": str(onnx),
            "floating": str(branch.lowered.path),
            "stepped": str(branch.made[OURS[half]][0]["float"].path),
            "data": str(gone.data.path),
            "samples": loaded.calibrate.samples,
            "weights": {
                **loaded.weights.model_dump(),
                "beyond": op_table.beyond(branch.name, program.metadata["ops"]),
                "largest_code": HALF_RANGE_CODE if half else LARGEST_CODE,
            },
            "metric": loaded.task.metric,
            "out": folder,
            "tool": tool,
        }
        run = subprocess.run(
            [sys.executable, str(HERE / "peers.py"), json.dumps(told)],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(README.parent), "OMP_NUM_THREADS": "1"},
            check=False,
        )
        if run.returncode:
            lines = [line for line in run.stderr.splitlines() if line.strip()] or ["no message"]
            return identity | dict.fromkeys(FIGURES) | {"failed": lines[-1][:300]}
        cost = json.loads(run.stdout.splitlines()[-1])
        floating, made = base.read_manifest(branch.lowered.path), base.read_manifest(out)
        plain = next(one for one in target.candidates(floating) if one.precision == "f32")
        entrants = [
            measure.Entrant("float", floating, plain),
            measure.Entrant("int8", made, replace(plain, id="int8", precision="int8")),
        ]
        split = load_split(gone.data.path, "selection")
        task = tasks.of({"task": loaded.task.model_dump()}, {})
        with measure.workspace(split, floating) as work:
            settings = {"threads": 1, "batch": loaded.batch, **TIMED, "processes": loaded.race.processes}
            try:
                answers, _ = measure.outputs(target, entrants, work, loaded.batch, settings)
            except base.TargetError as error:  # what a tool made does not load
                return identity | dict.fromkeys(FIGURES) | {"failed": str(error)[:300]}
            original = load_named(gone.reference.path / "selection.npz")
            found = measure.compare(task, split.labels, original, answers["float"], answers["int8"])
            speedup = None
            if times:
                timed = measure.time(target, entrants, work, Job("time", settings, {}, out, 0))
                speedup = timing.speedup(timed.ns["int8"], timed.ns["float"], timed.rounds)
        return identity | {
            "sqnr_db": found["sqnr_db"],
            "agreement": found["agreement"],
            "flips": found["quant_flips"],
            "drop_points": found["quant_drop_points"],
            "size_bytes": made.size_bytes,
            "speedup": speedup,
            **cost,
        }


FIGURES = (
    "sqnr_db", "agreement", "flips", "drop_points", "size_bytes", "speedup", "quantize_seconds", "peak_rss_bytes"
)  # fmt: skip


def lacking(rows: Sequence[dict[str, Any]], model: str, times: bool) -> list[tuple[str, str]]:
    """(runtime, tool) of the model's rows that are not there, or there without the memory, or the time asked for."""
    whole = [row for row in rows if row.get("failed") or (row["peak_rss_bytes"] and (row["speedup"] or not times))]
    there = {tuple(row[key] for key in KEY) for row in whole}
    pairs = [(name, tool) for name in RUNTIMES for tool in peers.TOOLS[name] if model in EXAMPLES or not _method(tool)]
    return [(name, tool) for name, tool in pairs if (model, name, tool) not in there]


def _method(tool: str) -> str:
    """The weight step that a tool's name asks for; "" for the default."""
    return tool.partition(peers.STEP)[2]


def _times(row: dict[str, Any]) -> str:
    return f"{row['speedup']['median']:.2f}" if row["speedup"] else "-"


def summary(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: of each model and runtime the best of ours beside the best of the others', there and anywhere."""
    lines = ["| Model | Runtime | Ours: dB, speed-up | Best other tool there: dB, speed-up | Anywhere: dB |"]
    lines += ["|---" * 5 + "|"]
    known = [row for row in rows if row["sqnr_db"] is not None and not _method(row["tool"])]
    rising = sorted(known, key=lambda row: float(row["sqnr_db"]))
    others = [row for row in rising if not row["tool"].startswith(OWN)]
    mine = {(row["model"], row["runtime"]): row for row in rising if row["tool"].startswith(OWN)}  # the last one stays
    theirs = {(row["model"], row["runtime"]): row for row in others}
    for model, runtime in dict.fromkeys((row["model"], row["runtime"]) for row in known):
        one, other = mine.get((model, runtime)), theirs.get((model, runtime))
        if one is None or other is None:
            continue
        anywhere = max(row["sqnr_db"] for row in others if row["model"] == model)
        ahead = "**" if one["sqnr_db"] > anywhere else ""
        ours = f"{ahead}{one['sqnr_db']:.1f}, {_times(one)}{ahead} ({one['tool'].removeprefix(OWN)})"
        best = f"{other['sqnr_db']:.1f}, {_times(other)} ({other['tool']})"
        lines.append(f"| {model} | {runtime} | {ours} | {best} | {anywhere:.1f} |")
    return "\n".join(lines)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown, the best of each model and runtime in bold."""
    lines = ["| Model | Runtime | Tool | SQNR dB | Same answer | Speed-up | Seconds | MB |", "|---" * 8 + "|"]
    for row in rows:
        rivals = [one["sqnr_db"] for one in rows if (one["model"], one["runtime"]) == (row["model"], row["runtime"])]
        best = max((one for one in rivals if one is not None), default=None)
        if row.get("failed"):
            lines.append(f"| {row['model']} | {row['runtime']} | {row['tool']} | breaks | - | - | - | - |")
            continue
        ratio = "as float" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f}"  # not a bit differs: it went back
        cells = [
            f"**{ratio}**" if row["sqnr_db"] == best else ratio,
            "-" if row["agreement"] is None else f"{100 * row['agreement']:.1f}",
            _times(row),
            f"{row['quantize_seconds']:.0f}",
            f"{row['peak_rss_bytes'] / 1e6:,.0f}" if row["peak_rss_bytes"] else "-",
        ]
        lines.append(f"| {row['model']} | {row['runtime']} | {row['tool']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(asked: Sequence[str]) -> None:
    """Make the rows that are not there, write after each, print the table."""
    times, again = "--without-times" not in asked, "--again" in asked
    known = [*NETWORKS, *EXAMPLES]
    models = [name for name in asked if not name.startswith("--")] or known
    if unknown := set(models) - set(known):
        raise SystemExit(f"no model {sorted(unknown)}: there are {known}")
    kept: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
    here = {key: value for key, value in environment().items() if key != "platform"}
    if kept.get("environment", here)["device"] != here["device"]:
        kept = {"rows": []}  # another machine's figures stand beside none of this one
    rows = [row for row in kept["rows"] if not (again and row["model"] in models)]
    for model in models:
        wanted = lacking(rows, model, times)
        gone: dict[str, tuple[road.Road, Path]] = {}
        for runtime, tool in sorted(wanted, key=lambda pair: _method(pair[1])):
            method = _method(tool)
            if method not in gone:
                gone[method] = travelled(recipe_of(model, method), RUNTIMES)
            there, onnx = gone[method]
            branch = there.branches[runtime]
            if branch.error:
                raise branch.error
            row = row_of(there, onnx, branch, model, tool, times)
            rows = [one for one in rows if [one[key] for key in KEY] != [row[key] for key in KEY]] + [row]
            rows.sort(key=lambda one: (known.index(one["model"]), RUNTIMES.index(one["runtime"]), one["tool"]))
            RESULTS.write_text(json.dumps({"rows": rows, "environment": here}, indent=1) + "\n")
            print({key: row[key] for key in (*KEY, "sqnr_db", "agreement")}, file=sys.stderr)
    before, mark, rest = README.read_text().partition(MARKS[0])
    if mark:
        whole = f"<details><summary>All {len(rows)} rows</summary>\n\n{table(rows)}\n\n</details>"
        README.write_text(f"{before}{mark}\n{summary(rows)}\n\n{whole}\n{MARKS[1]}{rest.partition(MARKS[1])[2]}")
    print(table(rows))


if __name__ == "__main__":
    main(sys.argv[1:])
