"""Pruning to a share of the MACs and recovery, ours beside Torch-Pruning: `make bench-compression`.

Row by row, and resumable: teachers and what is in training lie below build/compression, finished rows in
tests/benchmarks/results/compression.json, and a benchmark that was stopped goes on. The split "selection" decides what
a training keeps; accuracies are those of the gate split, which nothing else looks at. `run.py NAME` makes only the rows
whose id begins so.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline import data, models, user
from pipeline.compression import distillation, learner, macs, training
from pipeline.outcome import environment
from pipeline.stages import Job, distill, prune, silent, soft_labels, train

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
BUILD = ROOT / "build" / "compression"
RESULTS = HERE.parent / "results" / "compression.json"
SEEDS = range(5)

# What each example trains its teacher with, and how it prunes and recovers unless a row says otherwise.
EXAMPLES: dict[str, dict[str, Any]] = {
    "fashion": {
        "model": "net:build",
        "folder": HERE,
        "data": ROOT / "pipeline" / "recipes" / "fashion",
        "train": {"epochs": 4, "lr": 3e-3, "batch_size": 128, "weight_decay": 0.05, "label_smoothing": 0.0},
        "teachers": 2,  # each takes as long as four recoveries; seeds beyond prune and recover the same ones again
        "macs": 0.1,
        "epochs": 3,
        "batch_size": 128,
    },
    "watch": {
        "model": "net:build",
        "folder": ROOT / "pipeline" / "recipes" / "watch",
        "data": ROOT / "pipeline" / "recipes" / "watch",
        "train": {"epochs": 25, "lr": 5e-4, "batch_size": 32, "weight_decay": 0.1, "label_smoothing": 0.1},
        "teachers": 5,
        "macs": 0.15,
        "epochs": 40,
        "batch_size": 64,
    },
}
PRUNE: dict[str, Any] = {"granularity": ["channel"], "criterion": "l2", "schedule": "uniform", "align": 8}
# The default recovery, and plain fine-tuning as it is done with Torch-Pruning.
OURS: dict[str, Any] = {
    "method": "distill",
    "temperature": 2.0,
    "alpha": 0.3,
    "optimizer": "muon",
    "lr": 8e-3,
    "warmup": 0.1,
    "weight_decay": 0.0,
}
PLAIN: dict[str, Any] = {"method": "finetune", "optimizer": "adamw", "lr": 2e-3, "warmup": 0.0, "weight_decay": 0.05}
FINETUNE: dict[str, Any] = OURS | {"method": "finetune"}


def rows() -> dict[str, dict[str, Any]]:
    """Id -> what the row is, in the order in which they are made: the comparison first, then one factor at a time."""
    found: dict[str, dict[str, Any]] = {}

    def add(example: str, tool: str, what: str, seed: int, epochs: int | None = None, **change: Any) -> None:
        settings = {"example": example, "tool": tool, "what": what, "seed": seed, **change}
        settings["epochs"] = epochs or EXAMPLES[example]["epochs"]
        found[f"{example}/{settings['epochs']} epochs/{tool}, {what}/seed {seed}"] = settings

    teachers = EXAMPLES["fashion"]["teachers"]
    for own, epochs in itertools.product(range(teachers), (3, 8)):
        for seed in SEEDS[own::teachers]:
            add("fashion", "torch-pruning", "fine-tuned", seed, epochs, recover=PLAIN)
            add("fashion", "ours", "default", seed, epochs)
    for seed in SEEDS:
        add("watch", "torch-pruning", "fine-tuned", seed, recover=PLAIN)
        add("watch", "ours", "default", seed)
        add("watch", "ours", "AdamW", seed, recover=OURS | {"optimizer": "adamw", "lr": 2e-3, "weight_decay": 0.05})
    for seed in SEEDS:
        add("fashion", "torch-pruning", "our recovery", seed, recover=OURS)
        add("fashion", "ours", "fine-tuned", seed, recover=PLAIN)
    factors: dict[str, dict[str, Any]] = {
        "without teacher": {"recover": FINETUNE},
        "AdamW": {"recover": OURS | {"optimizer": "adamw"}},
        "fresh weights": {"fresh": True},
        "T 4, alpha 0.1": {"recover": OURS | {"temperature": 4.0, "alpha": 0.1}},
        "EMA 0.998": {"recover": OURS | {"ema": 0.998}},
        "no warm-up": {"recover": OURS | {"warmup": 0.0}},
        **{f"align {width}": {"prune": {"align": width}, "model": "net:contiguous"} for width in (1, 4)},
        **{f"schedule {name}": {"prune": {"schedule": name}} for name in ("global",)},
        **{
            f"criterion {name}": {"prune": {"criterion": name}}
            for name in (
                *("random", "l1", "bn_scale", "taylor", "obd", "obs", "fpgm", "lamp", "weight_gradient"),
                *("activation_gradient", "activation_sparsity", "activation_entropy", "contribution"),
            )
        },
        **{f"{share:.0%} of MACs": {"macs": share} for share in (0.25, 0.5)},
    }
    for seed in SEEDS[:2]:
        for what, change in factors.items():
            add("fashion", "ours", what, seed, **change)
    return found


def job(
    example: str, stage: str, settings: dict[str, Any], out: Path, seed: int, built: str = "", **inputs: Path
) -> Job:
    """A stage's job in the example's folder of build/compression. `built`: the factory, if not the example's."""
    about = EXAMPLES[example]
    owner = {"model": built or about["model"], "folder": str(about["folder"])}
    return Job(stage, settings, {"data": BUILD / example / "data"} | inputs, out, seed, owner, silent, out / "scratch")


def once(out: Path, make: Callable[[Path], Any]) -> Path:
    """A folder that is made once: aside, then renamed."""
    if not out.is_dir():
        aside = out.with_name(f".{out.name}")
        make(aside)
        aside.rename(out)
    return out


def teacher(example: str, seed: int) -> Path:
    """The float model of a seed; its data are brought first."""
    about, place = EXAMPLES[example], BUILD / example
    if not (place / "data").is_dir():
        once(place / "data", lambda out: data.save(data.from_factory(user.call("data:splits", about["data"]), ""), out))
    made = once(place / f"teacher-{seed}", lambda out: train.run(job(example, "train", about["train"], out, seed)))
    once(place / f"said-{seed}", lambda out: soft_labels.run(job(example, "soft-labels", {}, out, seed, teacher=made)))
    return made


def split(example: str, name: str) -> data.Split:
    """A split of an example."""
    return data.load_split(BUILD / example / "data", name)


def peer(model: torch.nn.Module, example: torch.Tensor, share: float) -> torch.nn.Module:
    """Torch-Pruning's own: magnitude of groups, one shot, one ratio for all, the lowest that meets the MACs."""
    import torch_pruning

    budget = share * macs.count(model, (example,)).macs
    for ratio in np.arange(0.02, 0.99, 0.0025):
        cut = copy.deepcopy(model)
        importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
        torch_pruning.pruner.BasePruner(
            cut, example, importance, pruning_ratio=float(ratio), ignored_layers=[cut.head]
        ).step()
        if macs.count(cut, (example,)).macs <= budget:
            return cut
    raise SystemExit(f"Torch-Pruning met no {share:g} of the MACs")


def recovery_of(row: dict[str, Any]) -> dict[str, Any]:
    """The settings of a row's recovery."""
    return row.get("recover", OURS) | {"epochs": row["epochs"], "batch_size": EXAMPLES[row["example"]]["batch_size"]}


def recover(row: dict[str, Any], model: torch.nn.Module, told: Path, scratch: Path) -> training.Fit:
    """The recovery of the stage "distill" for a network that is no stage's."""
    recovery = recovery_of(row)
    said = data.load_named(told / soft_labels.FILE)
    taught = torch.from_numpy(next(iter(said.values())))

    def loss(outputs: Any, labels: torch.Tensor, index: Any, inputs: Any) -> torch.Tensor:
        if recovery["method"] == "finetune":
            return torch.nn.functional.cross_entropy(outputs, labels)
        return distillation.loss(outputs, taught[index], labels, recovery["temperature"], recovery["alpha"])

    plan = learner.schedule(recovery)
    return training.fit(
        model, BUILD / row["example"] / "data", plan, loss, row["seed"], silent, "distill", scratch=scratch
    )


def make(row: dict[str, Any], out: Path) -> dict[str, Any]:
    """Prune, recover, and look at the gate split. `out`: a folder of the row's own."""
    example, seed = row["example"], row["seed"]
    about, place = EXAMPLES[example], BUILD / example
    taught_by = seed % about["teachers"]
    floating, began = teacher(example, taught_by), time.monotonic()
    built = row.get("model", "")
    owner = job(example, "", {}, place, seed, built).user
    share = row.get("macs", about["macs"])
    first = training.tensors(split(example, "train").inputs, slice(0, 2))
    with training.deterministic(seed):
        if row["tool"] == "ours":
            settings = PRUNE | {"macs": share} | row.get("prune", {})
            prune.run(job(example, "prune", settings, out, seed, built, model=floating, float=floating))
            model = models.load(owner, out)
        else:
            model = peer(models.load(owner, floating), first[0], share)
        before, _ = training.evaluate(model, split(example, "selection"))
        pruned_s = time.monotonic() - began
        if row.get("fresh"):
            for module in model.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
        if row["tool"] == "ours" and not row.get("fresh"):
            inputs = {"model": out, "teacher": floating, "soft_labels": place / f"said-{taught_by}"}
            told = distill.run(job(example, "distill", recovery_of(row), out / "done", seed, built, **inputs))
            model, selection = models.load(owner, out / "done"), told["metric"]
        else:
            torch.manual_seed(seed)
            selection = recover(row, model, place / f"said-{taught_by}", out / "scratch").metric
    gate, floated = split(example, "gate"), models.load(owner, floating)
    right, was = ((training.predict(one, gate).argmax(1) == torch.from_numpy(gate.labels)) for one in (model, floated))
    counted, whole = macs.count(model, first), macs.count(floated, first)
    return {
        **{key: value for key, value in row.items() if key in ("example", "tool", "what", "seed", "epochs")},
        "teacher": taught_by,
        "accuracy": round(100 * float(right.float().mean()), 3),
        "float_accuracy": round(100 * float(was.float().mean()), 3),
        "selection": round(100 * selection, 3),
        "before_recovery": round(100 * before, 3),
        "macs_share": round(counted.macs / whole.macs, 4),
        "params": counted.params,
        "prune_seconds": round(pruned_s, 1),
        "seconds": round(time.monotonic() - began, 1),
    }


def read() -> dict[str, Any]:
    """The results so far."""
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"rows": []}
    return found


def write(changed: dict[str, Any]) -> None:
    """Put these into the results, with what they were measured with."""
    measured_with = {key: value for key, value in environment().items() if key != "platform"}
    aside = RESULTS.with_suffix(".aside")
    aside.write_text(json.dumps(read() | changed | {"environment": measured_with}, indent=1) + "\n")
    aside.replace(RESULTS)


def main() -> None:
    """Make what is not made yet, and write after each row."""
    done = {row["id"]: row for row in read()["rows"]}
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    for name, row in rows().items():
        if name in done or not name.startswith(wanted):
            continue
        out = BUILD / row["example"] / "rows" / re.sub(r"\W+", "-", name)
        done[name] = {"id": name, **make(row, out)}
        shutil.rmtree(out)
        print(name, done[name]["accuracy"], done[name]["seconds"], file=sys.stderr, flush=True)
        write({"rows": list(done.values())})


if __name__ == "__main__":
    main()
