"""Timing on a device, in several fresh processes of the agent.

What a model costs differs from process to process by a percent or so (where its memory lies, which pages and cache sets
it shares), and stays so for a process's life: more rounds in one process tell one such case ever more exactly. So the
process is the unit of the statistics (targets/timing.py), as in Georges, Buytaert and Eeckhout, "Statistically Rigorous
Java Performance Evaluation" (OOPSLA 2007), and Kalibera and Jones, "Rigorous Benchmarking in Reasonable Time" (ISMM
2013). Each process loads all models, in an order of its own, and runs them interleaved in randomised order.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from targets import agent
from targets.channels.base import Device, Interrupted, Listen
from targets.timing import Samples

PROCESSES = 10
ROUNDS = "rounds of each process"  # the array beside the models' own in a file of raw samples


@dataclass
class Timed:
    """`ns`: model -> int64 [rounds], in the order measured; a model that its device does not time has none.
    `rounds`: of each process. `result`: the agent's, with one "time" task for all processes."""

    ns: dict[str, Samples] = field(default_factory=dict)
    rounds: list[int] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)


def measure(
    device: Device, request: Mapping[str, Any], folder: Path, processes: int = PROCESSES, listen: Listen | None = None
) -> Timed:
    """A request with one "time" task (targets/agent.py), whose warm-up, budget and rounds are shared by the processes.

    The raw samples go to the task's `samples`. A device that counts instead of timing is asked once. Raises what
    `Device.run` does; Interrupted with all that was measured, where that is something.
    """
    (task,) = request["tasks"]
    timed, parts, began = Timed(), [], time.monotonic()
    stopped: KeyboardInterrupt | None = None
    for index in range(processes):
        one = {**request, **_share(request["models"], task, processes, index)}
        try:
            result = device.run(one, folder, listen=_within(listen, timed, index, processes, began))
        except Interrupted as interrupt:
            stopped, result = interrupt, interrupt.result
        except KeyboardInterrupt as interrupt:
            if not timed.rounds:
                raise
            stopped = interrupt
            break
        parts.append(result)
        _take(timed, folder / PART)
        if stopped or any("counts" in row for row in result["tasks"]):
            break
        if listen and timed.ns:
            median_ms = float(np.median(timed.ns[task["models"][-1]])) / 1e6
            _tell(listen, (index + 1) / processes, sum(timed.rounds), median_ms, began)
    timed.result = {**parts[0], "tasks": [_merged([part["tasks"][0] for part in parts], stopped is not None)]}
    agent.save_npz(folder / task["samples"], timed.ns | {ROUNDS: np.array(timed.rounds, np.int64)})
    if stopped:
        raise Interrupted(timed.result)
    return timed


def load(samples: Path) -> Timed:
    """What `measure` wrote, without the agent's result."""
    with np.load(samples) as arrays:
        ns = {name: arrays[name] for name in arrays.files}
    return Timed(ns, ns.pop(ROUNDS).tolist())


PART = "process.npz"


def _share(models: Sequence[Mapping[str, Any]], task: Mapping[str, Any], processes: int, index: int) -> dict[str, Any]:
    """One process's part of the work; its seed, and the order in which it loads the models, are its own."""
    seed = task["seed"] * 1000 + index
    least = -(-task["min_rounds"] // processes)
    part = {
        "warmup_s": task["warmup_s"] / processes,
        "budget_s": task["budget_s"] / processes,
        "min_rounds": least,
        "max_rounds": max(least, task["max_rounds"] // processes),
    }
    return {
        "models": random.Random(seed).sample(list(models), len(models)),
        "tasks": [{**task, **part, "seed": seed, "samples": PART}],
    }


def _take(timed: Timed, file: Path) -> None:
    with np.load(file) as arrays:
        for name in arrays.files:
            timed.ns[name] = np.concatenate([timed.ns.get(name, np.empty(0, np.int64)), arrays[name]])
            rounds = len(arrays[name])
        if arrays.files and rounds:
            timed.rounds.append(rounds)
    file.unlink()


def _within(listen: Listen | None, timed: Timed, index: int, processes: int, began: float) -> Listen | None:
    """Progress of one process as that of all."""
    if listen is None:
        return None

    def hear(line: Mapping[str, Any]) -> None:
        if "total" not in line:
            listen(line)
            return
        done = (index + line["done"] / line["total"]) / processes
        _tell(listen, done, sum(timed.rounds) + line["rounds"], line["median_ms"], began)

    return hear


def _tell(listen: Listen, done: float, rounds: int, median_ms: float, began: float) -> None:
    left_s = (time.monotonic() - began) * (1 - done) / max(done, 1e-9)
    listen({"done": round(100 * done), "total": 100, "rounds": rounds, "median_ms": median_ms, "left_s": left_s})


def _merged(tasks: Sequence[Mapping[str, Any]], interrupted: bool) -> dict[str, Any]:
    """The agent's words on each process as those on one measurement: rounds, seconds and counters go on."""
    if "counts" in tasks[0]:
        return dict(tasks[0])
    looks: list[dict[str, Any]] = []
    for task in tasks:
        last = looks[-1] if looks else {"elapsed_s": 0.0, "rounds": 0, "preempted": 0}
        first = task["conditions"][0]["preempted"]
        for look in task["conditions"]:
            counted = None if first is None else last["preempted"] + look["preempted"] - first
            moved = {name: last[name] + look[name] for name in ("elapsed_s", "rounds")}
            looks.append({**look, **moved, "preempted": counted})
    energies = [task["energy"] for task in tasks]
    known = all(energies) and {"source": energies[0]["source"], "joules": sum(one["joules"] for one in energies)}
    return {
        "do": "time",
        "rounds": sum(task["rounds"] for task in tasks),
        "elapsed_s": sum(task["elapsed_s"] for task in tasks),
        "processes": len(tasks),
        "warmup": {name: _warmups([task["warmup"][name] for task in tasks]) for name in tasks[0]["warmup"]},
        "conditions": looks,
        "energy": known or None,
        "interrupted": interrupted,
    }


def _warmups(notes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Steady: at most one process in ten was not."""
    unsteady = sum(not note["steady"] for note in notes)
    return {"inferences": sum(note["inferences"] for note in notes), "steady": unsteady <= len(notes) // 10}
