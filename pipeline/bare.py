"""Profile one model file on a device, without a recipe: `deploy profile MODEL --target NAME`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import bounds, files, worker
from pipeline.errors import DeviceError, StageError, UsageError
from pipeline.stages import Emit, Job
from targets import agent, measurement, registry, timing
from targets.base import TargetError, model_files, sha256_files
from targets.channels import LOCAL, ChannelError, open_device, runner
from targets.channels.base import Interrupted
from targets.channels.remote import RemoteDevice

RULES = {"warmup_s": 0.5, "budget_s": 5.0, "min_rounds": 1000, "max_rounds": 10**8, "seed": 0}


def profile(
    model: Path,
    target: str,
    device: str | None,
    threads: int,
    soak_s: float | None,
    samples: Path,
    emit: Emit,
    layers: bool = False,
    shapes: Sequence[str] = (),
) -> dict[str, Any]:
    """Latency of a file on normally distributed inputs of its own shapes; raw samples (ns, int64) go to `samples`.

    An ONNX file runs in its normal form, which is what a run makes of it; `shapes` of one sample, "NAME=3x224x224",
    size what it leaves open. `soak_s`: keep on for so long. `layers`: also where the time goes ("layers", or
    "layers_unavailable" says why not). Ctrl-C ends the rounds: "interrupted" is then true, and the figures are of what
    was measured. Raises UsageError, DeviceError, StageError.
    """
    try:
        runtime = registry.load(target).runtime
        there = open_device(device or LOCAL)
    except TargetError as error:
        raise UsageError(str(error)) from error
    limits = bounds.of_model(model)
    rules = RULES | ({"budget_s": soak_s} if soak_s else {})
    row = {
        "id": "model",
        "runtime": runtime,
        "path": str(model.resolve()),
        "sha256": sha256_files(model_files(model.resolve())),
        "options": {"threads": threads, "precision": "f32", "batch": 1},
    }
    digest = row["sha256"]
    task = {"do": "time", "models": ["model"], "inputs": None, "samples": "samples.npz", **rules}
    request = {"protocol": 1, "models": [row], "tasks": [task], "result": "result.json"}
    with tempfile.TemporaryDirectory(prefix="deploy-") as name, tempfile.TemporaryDirectory(prefix="deploy-") as made:
        if model.suffix == ".onnx":
            asked = Job("profile", {"file": str(model), "shapes": list(shapes)}, {}, Path(made), 0)
            row |= worker.run_isolated("pipeline.foreign:to_file", asked, limits)
        try:
            told = there.run(_watched(row), Path(name))["tasks"][0] if layers else {}
            result = measurement.measure(there, request, Path(name), listen=partial(_progress, emit)).result
        except Interrupted as stopped:
            result = stopped.result
        except ChannelError as error:
            raise DeviceError(str(error)) from error
        except TargetError as error:
            raise StageError(str(error)) from error
        timed = measurement.load(Path(name) / "samples.npz")
        raw = timed.ns["model"]
        if not len(raw):
            raise StageError("profile: stopped before there was a sample")
        _keep(Path(name) / "samples.npz", samples)
    measured, loaded = result["tasks"][0], result["models"]["model"]
    return {
        "model": str(model),
        "sha256": digest,
        "device": {"uri": there.uri, **result["device"]},
        "runtime_version": loaded["runtime_version"],
        "threads": threads,
        "batch": 1,
        "latency_ms": timing.latency(raw),
        "latency_interval_ms": timing.median_ms(raw, timed.rounds),
        "processes": len(timed.rounds),
        "peak_memory_bytes": loaded["peak_memory_bytes"],
        "load_ms": loaded["load_ms"],
        "warmup": measured["warmup"]["model"],
        "energy": measured["energy"],
        "conditions": measured["conditions"],
        "disturbed": timing.disturbances(raw, measured["conditions"], measured["warmup"]["model"]["steady"]),
        "interrupted": measured["interrupted"],
        "samples": str(samples),
        "layers": told.get("layers"),
        "layers_unavailable": told.get("unavailable"),
    }


def _watched(row: Mapping[str, Any]) -> dict[str, Any]:
    """A request for the layers of a model."""
    watched = {**row, "options": {**row["options"], "profile": True}}
    task = {"do": "layers", "model": row["id"], "inputs": None, "runs": 50, "seed": RULES["seed"]}
    return {"protocol": 1, "models": [watched], "tasks": [task], "result": "result.json"}


def by_runner(
    model: Path, target: str, device: str | None, threads: int, soak_s: float | None, program: Path, emit: Emit
) -> dict[str, Any]:
    """The same by a platform's own program (targets/channels/runner.py), on a device that may have no Python.

    It prints no raw samples and no outputs: both are None, "unavailable", as is what its version does not print.
    Raises UsageError, DeviceError.
    """
    try:
        runtime = registry.load(target).runtime
        there = open_device(device or LOCAL)
    except TargetError as error:
        raise UsageError(str(error)) from error
    if not isinstance(there, RemoteDevice):
        raise UsageError("--runner is for attached devices: name one with --device ssh://... or adb://...")
    if runtime not in runner.TOOLS:
        raise UsageError(f"--runner: no benchmark program of {target} is known: they are of {', '.join(runner.TOOLS)}")
    if not program.is_file():
        raise UsageError(f"--runner: no file {program}")
    budget_s = soak_s or RULES["budget_s"]
    hear = partial(_progress, emit)
    try:
        told = runner.run(there, runtime, program, model, threads, budget_s, measurement.PROCESSES, hear)
    except ChannelError as error:
        raise DeviceError(str(error)) from error

    def middle(name: str, least: int = 1) -> float | None:
        known = [row.get(name) for row in told if (row["n"] or 0) >= least]
        return None if None in known or not known else float(np.median(np.array(known, float)))

    return {
        "model": str(model),
        "sha256": sha256_files(model_files(model.resolve())),
        "device": {"uri": there.uri},
        "runtime_version": f"{runner.TOOLS[runtime].name} {agent.file_sha256(program)[:12]}",
        "threads": threads,
        "batch": None,
        "latency_ms": {
            "p50": middle("p50"),
            "p90": middle("p90"),
            "p99": middle("p99", timing.P99_NEEDS),
            "n": sum(int(row["n"] or 0) for row in told),
        },
        "average_ms": middle("average"),
        "latency_interval_ms": timing.across([row.get("p50") or row["average"] or 0.0 for row in told]),
        "processes": len(told),
        "peak_memory_bytes": middle("memory"),
        "load_ms": middle("load"),
        "runner": str(program),
        **dict.fromkeys(("warmup", "energy", "conditions", "samples", "outputs", "layers", "layers_unavailable")),
        "disturbed": [],
        "interrupted": False,
    }


def seconds(text: str) -> float:
    """`90`, `90s`, `10m` or `1h`. Raises UsageError."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    try:
        value = float(number) * units[unit]
    except ValueError:
        value = 0.0
    if not 0 < value < 10**6:
        raise UsageError(f"--soak {text}: expected a duration such as 90s, 10m or 1h")
    return value


def _progress(emit: Emit, line: Mapping[str, Any]) -> None:
    emit({"event": "progress", **line})


def _keep(measured: Path, samples: Path) -> None:
    try:
        files.write_whole(samples, measured)
    except OSError as error:
        raise UsageError(f"cannot write {samples}: {error.strerror}; name another file with --samples") from error
