"""What race, verify and profile share: a request to the agent, and outputs turned into evidence."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from calibration import fidelity
from calibration.metrics import agreement, flips
from pipeline import tasks
from pipeline.data import Array, Split
from pipeline.stages import Job
from targets import base, measurement
from targets.base import TargetError
from targets.channels import LOCAL, Device, Listen, open_device

PROTOCOL = 1


@dataclass(frozen=True)
class Entrant:
    """One model that the agent loads: under `id`, at a batch. `options`: for the runtime, over the target's own."""

    id: str
    model: base.Model
    candidate: base.Candidate
    options: Mapping[str, Any] = field(default_factory=dict)


def entrants(job: Job, target: base.Target, floating: base.Model) -> list[Entrant]:
    """The models of the job's inputs `candidate:ID`, in the order of its setting `candidates`."""
    return [
        Entrant(name, base.read_manifest(job.inputs[f"candidate:{name}"]), base.find(target, floating, name))
        for name in job.settings["candidates"]
    ]


@contextmanager
def workspace(split: Split, model: base.Model, limit: int | None = None) -> Iterator[Path]:
    """A temporary folder with the split's inputs in the model's own layout below `inputs/`."""
    with tempfile.TemporaryDirectory(prefix="deploy-") as name:
        folder = Path(name)
        (folder / "inputs").mkdir()
        batch = {key: np.asarray(array[:limit]) for key, array in split.inputs.items()}
        for key, array in base.to_model_layout(batch, model.inputs).items():
            np.save(folder / "inputs" / f"{key}.npy", array)
        yield folder


def request(
    target: base.Target,
    entrants: Sequence[Entrant],
    tasks: Sequence[Mapping[str, Any]],
    batch: int,
    threads: int,
) -> dict[str, Any]:
    """A request to the agent, as JSON."""
    return {
        "protocol": PROTOCOL,
        "models": [
            {
                "id": entrant.id,
                "runtime": target.runtime,
                "path": str(entrant.model.path),
                "sha256": entrant.model.sha256,
                "options": {**target.options(entrant.candidate), **entrant.options, "batch": batch, "threads": threads},
            }
            for entrant in entrants
        ],
        "tasks": list(tasks),
        "result": "result.json",
    }


def device(settings: Mapping[str, Any]) -> Device:
    """Where the models run: the settings' `device`, a URI, else this machine."""
    return open_device(settings.get("device") or LOCAL)


def progress(job: Job) -> Listen:
    """The agent's progress as events of the stage."""
    return lambda line: job.emit({"event": "progress", **line}) if "total" in line else None


def outputs(
    target: base.Target, entrants: Sequence[Entrant], folder: Path, batch: int, settings: Mapping[str, Any]
) -> tuple[dict[str, base.Batch], dict[str, Any]]:
    """Every entrant over the inputs, on the settings' device: id -> outputs by name, and the agent's result.

    Raises TargetError where a model does not run, or answers otherwise than it promises.
    """
    runs = [
        {"do": "run", "model": entrant.id, "inputs": "inputs", "outputs": f"{index}.npz"}
        for index, entrant in enumerate(entrants)
    ]
    result = device(settings).run(request(target, entrants, runs, batch, settings["threads"]), folder, LIMIT_S)
    answers = {}
    for index, entrant in enumerate(entrants):
        with np.load(folder / f"{index}.npz") as arrays:
            named = {name: arrays[name] for name in arrays.files}
        _check_outputs(entrant, named)
        answers[entrant.id] = base.to_program_layout(named, entrant.model.outputs)
    return answers, result


LIMIT_S = 3600.0  # what one request for answers may take


def _check_outputs(entrant: Entrant, named: Mapping[str, Array]) -> None:
    """Raise TargetError for an output that is missing, or of another shape than the model's specification."""
    for spec in entrant.model.outputs:
        wanted = list(spec.shape[1:])
        if spec.name not in named:
            raise TargetError(f"model '{entrant.id}' has no output '{spec.name}', it gives {sorted(named)}")
        found = list(named[spec.name].shape[1:])
        if len(found) != len(wanted) or any(a != b for a, b in zip(wanted, found, strict=True) if a is not None):
            raise TargetError(f"model '{entrant.id}': output '{spec.name}' is {found} a sample, promised {wanted}")


FEWEST_PROCESSES = 6  # with fewer, a speed-up has no interval


def time(
    target: base.Target,
    entrants: Sequence[Entrant],
    folder: Path,
    job: Job,
    name: str = "samples.npz",
    share: float = 1.0,
    processes: int | None = None,
) -> measurement.Timed:
    """Interleaved timing in several processes, by the job's settings. Raw samples stay in the job's folder as `name`.

    `share` of the time, the rounds and (where it is not given) the processes that the settings give. A model that its
    device does not time has no samples; see `counts`.
    """
    settings = job.settings
    processes = processes or max(FEWEST_PROCESSES, round(share * settings["processes"]))
    task = {
        "do": "time",
        "models": [entrant.id for entrant in entrants],
        "inputs": "inputs",
        **{key: settings[key] for key in ("warmup_s", "max_rounds")},
        "budget_s": share * settings["budget_s"],
        "min_rounds": max(1, math.ceil(share * settings["min_rounds"])),
        "seed": job.seed,
        "samples": str(job.out / name),
    }
    whole = request(target, entrants, [task], settings["batch"], settings["threads"])
    return measurement.measure(device(settings), whole, folder, processes, progress(job))


def layers(target: base.Target, entrant: Entrant, folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Times of single layers on the settings' device: {"layers": rows or None, "layers_unavailable": why, or None}."""
    watched = replace(entrant, options={**entrant.options, "profile": True})
    task = {"do": "layers", "model": entrant.id, "inputs": "inputs", "runs": LAYER_RUNS}
    whole = request(target, [watched], [task], settings["batch"], settings["threads"])
    (told,) = device(settings).run(whole, folder)["tasks"]
    return {"layers": told["layers"], "layers_unavailable": told["unavailable"]}


LAYER_RUNS = 50


def counts(result: Mapping[str, Any]) -> dict[str, Any]:
    """Of a timing result: id -> what a device that counts says of one inference (targets/cortex_m/device.py)."""
    return {name: row for task in result["tasks"] for name, row in task.get("counts", {}).items()}


def compare(
    task: tasks.Task, targets: Array, original: base.Batch, floating: base.Batch, outputs: base.Batch
) -> dict[str, Any]:
    """Evidence for one model on one split; every figure None, and `finite` False, where an output is NaN or infinite.

    `original`: the float model before any compression, in PyTorch. `floating`: the runtime's own float. `metric` is the
    task's, accuracy for one; SQNR and the worst error are those of the worst output, `outputs` has each of them and its
    worst channels (calibration/fidelity.py), the worst first. Drops are in
    points of accuracy; they, the flips and the agreement are None where no classes are told apart. `task` names the
    output that is judged (tasks.settled).
    """
    n = len(targets)
    fitting = all(
        name in outputs and outputs[name].shape == original[name].shape and np.isfinite(outputs[name]).all()
        for name in original
    )
    if not fitting:
        return {"n": n, "finite": False, **dict.fromkeys(FIGURES), "outputs": []}
    each = fidelity.outputs({name: floating[name] for name in original}, outputs)
    return {
        "n": n,
        "finite": True,
        **dict.fromkeys(FIGURES),
        "metric": round(tasks.value(task, outputs, targets), 6),
        "sqnr_db": rounded(min(one.sqnr_db for one in each)),
        "worst_error": rounded(max(one.worst_error for one in each)),
        "outputs": [_row(one) for one in each],
        **(
            _classes(targets, *(judged(task, named) for named in (original, floating, outputs)))
            if task.classifies
            else {}
        ),
    }


def _row(one: fidelity.Output) -> dict[str, Any]:
    return asdict(one) | {
        "sqnr_db": rounded(one.sqnr_db),
        "worst_error": rounded(one.worst_error),
        "worst": [{"at": c.at, "sqnr_db": rounded(c.sqnr_db)} for c in one.worst],
        "still": [{"at": c.at, "sqnr_db": rounded(c.sqnr_db), "moved": float(f"{c.moved:.4g}")} for c in one.still],
    }


FIGURES = (
    "metric", "drop_points", "quant_drop_points", "flips", "quant_flips", "agreement", "sqnr_db", "worst_error"
)  # fmt: skip


def judged(task: tasks.Task, outputs: base.Batch) -> Array:
    """The output that the task names, else the first: the logits [n, classes] of a classification."""
    return outputs[task.output] if task.output else next(iter(outputs.values()))


def bound(
    task: tasks.Task, targets: Array, floating: base.Batch, outputs: base.Batch, confidence: float, relative: bool
) -> dict[str, Any]:
    """What quantization cost of a task's metric, with one-sided bounds, where no classes are told apart.

    In the metric's unit, or in percent of what float reaches (`relative`). {drop, low, high, unit, reason}, all figures
    None where there is none, and the reason says why.
    """
    from pipeline.release import metrics, samples

    kept = tasks.kept(task, floating, outputs, targets)
    found = metrics.measure(task.metric, samples.Samples(len(targets), None, kept), confidence, relative)
    return {"drop": found.drop, "low": found.low, "high": found.high, "unit": found.unit, "reason": found.method}


def _classes(labels: Array, original: Array, floating: Array, logits: Array) -> dict[str, Any]:
    n = len(labels)
    lost, gained = flips(labels, original, logits)
    quant_lost, quant_gained = flips(labels, floating, logits)
    return {
        "drop_points": round(100 * (lost - gained) / n, 4),
        "quant_drop_points": round(100 * (quant_lost - quant_gained) / n, 4),
        "flips": {"lost": lost, "gained": gained},
        "quant_flips": {"lost": quant_lost, "gained": quant_gained},
        "agreement": round(agreement(floating, logits), 6),
    }


def rounded(value: float) -> float | None:
    """Infinite (identical outputs) has no JSON spelling: None stands for 'nothing to measure'."""
    return round(float(value), 4) if np.isfinite(value) else None
