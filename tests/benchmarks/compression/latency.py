"""How long the pruned networks take beside their teacher: `make bench-compression`, after run.py.

Every share of the MACs, ours and Torch-Pruning's, in float and in int8, each beside the teacher in the same precision,
all interleaved in one process on one thread. Weights do not change the time, so nothing is recovered here.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from pipeline import api, models, road
from pipeline.branch import Branch, model_folder
from pipeline.data import load_split
from pipeline.recipe import from_table
from pipeline.stages import Job, measure
from targets import base, registry, timing
from tests.benchmarks.compression import run

TARGETS = ("onnxruntime", "openvino", "tflite")
SHARES = (0.9, 0.75, 0.5, 0.25, 0.1, 0.03)  # the last shows what the runtime itself takes
INT8 = "ours-mse"  # or what follows from it on this CPU: with half-range weights where it has no VNNI
TEACHER = run.BUILD / "fashion" / "teacher-0"
RULES = {
    "warmup_s": 0.5,
    "budget_s": 6.0,
    "min_rounds": 200,
    "max_rounds": 20000,
    "batch": 1,
    "threads": 1,
    "processes": 10,
}


def travelled(**table: Any) -> dict[str, Branch]:
    """Through all quantizers of every target."""
    whole = {"name": "latency", "data": "data:splits", "targets": list(TARGETS), "weights": {"method": "none"}}
    recipe = from_table(whole | table, run.HERE, "latency")
    branches = road.travel(recipe, TARGETS, api.runner_of(recipe), only="quantize").branches
    for branch in branches.values():
        if branch.error:
            raise branch.error
    return branches


def peer(share: float) -> Path:
    """Torch-Pruning's network as a program with a free batch."""
    first = torch.zeros(2, 1, 28, 28)
    owner = run.job("fashion", "", {}, TEACHER, 0).user
    cut = run.peer(models.load(owner, TEACHER), first, share).eval()
    file = run.BUILD / "fashion" / f"torch-pruning-{share:g}.pt2"
    torch.export.save(torch.export.export(cut, (first,), dynamic_shapes=(({0: torch.export.Dim("n")},),)), file)
    return file


def rows() -> list[dict[str, Any]]:
    """One row a target, precision, tool and share."""
    weights = {"checkpoint": str(TEACHER / models.WEIGHTS), "model": "net:build"}
    found = {("teacher", 1.0): travelled(stages=[], **weights)}
    for share in SHARES:
        found["ours", share] = travelled(stages=["prune"], prune={"macs": share}, **weights)
        found["torch-pruning", share] = travelled(stages=[], model=str(peer(share)))
    made = []
    for name in TARGETS:
        target = registry.load(name)
        entrants = []
        for (tool, share), branches in found.items():
            branch = branches[name]
            floating = next(key for key, one in branch.candidates.items() if one.metadata["precision"] == "f32")
            integers = [key for key in branch.candidates if key.startswith(INT8)][-1]
            for precision, candidate in (("float", floating), ("int8", integers)):
                model = base.read_manifest(model_folder(branch, candidate))
                assert branch.lowered is not None
                rule = base.find(target, base.read_manifest(branch.lowered.path), candidate)
                entrants.append(measure.Entrant(f"{precision} {tool} {share:g}", model, rule))
        out = run.BUILD / "fashion" / f"latency-{name}"
        out.mkdir(exist_ok=True)
        job = Job("latency", RULES, {}, out, 0)
        split = load_split(run.BUILD / "fashion" / "data", "selection")
        with measure.workspace(split, entrants[0].model, limit=64) as folder:
            timed = measure.time(target, entrants, folder, job)
        for one in entrants:
            precision, tool, share_text = one.id.split()
            ratio = timing.speedup(timed.ns[one.id], timed.ns[f"{precision} teacher 1"], timed.rounds)
            row = {"target": name, "precision": precision, "tool": tool, "macs": float(share_text)}
            made.append(row | {"p50_ms": timing.latency(timed.ns[one.id])["p50"], "speedup": dict(ratio)})
    return made


def main() -> None:
    """Measure, and write beside the rows of run.py."""
    found = rows()
    run.write({"latency": found})
    for row in found:
        print(row, file=sys.stderr)


if __name__ == "__main__":
    main()
