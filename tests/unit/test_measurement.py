"""One measurement in several processes of the real agent, with a runtime that notes who loaded what."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from targets import measurement
from targets.base import sha256_files
from targets.channels import LOCAL, open_device
from targets.channels.base import Interrupted, Listen
from targets.channels.local import LocalDevice

RUNTIME = """
import json, os, time

class Model:
    runtime_version = "noting 1"
    def __init__(self, path, options):
        with open_(json.load(open_(path))["notes"], "a") as notes:
            print(os.getpid(), path, file=notes)
    def prepare(self, inputs):
        return inputs
    def invoke(self, handle):
        time.sleep(0.001)
    def close(self):
        pass

open_ = open
def open(path, options):
    return Model(path, options)
"""
LIMITS = {"warmup_s": 0.06, "budget_s": 0.6, "min_rounds": 31, "max_rounds": 10**6, "seed": 4}


def request(folder: Path) -> dict[str, Any]:
    (folder / "inputs").mkdir()
    np.save(folder / "inputs" / "x.npy", np.ones((3, 2), np.float32))
    (folder / "noting.py").write_text(RUNTIME)
    rows = []
    for name in "ab":
        path = folder / f"{name}.json5"
        path.write_text(json.dumps({"notes": str(folder / "notes")}))
        row = {"id": name, "runtime": "noting.py", "path": path.name, "sha256": sha256_files([path])}
        rows.append({**row, "options": {"threads": 1, "precision": "f32", "batch": 1}})
    task = {"do": "time", "models": ["a", "b"], "inputs": "inputs", "samples": "t.npz", **LIMITS}
    return {"protocol": 1, "models": rows, "tasks": [task], "result": "result.json"}


def test_every_process_is_fresh_loads_in_its_own_order_and_shares_the_budget(tmp_path):
    heard: list[Any] = []
    timed = measurement.measure(open_device(LOCAL), request(tmp_path), tmp_path, 8, heard.append)
    notes = [line.split() for line in (tmp_path / "notes").read_text().splitlines()]
    assert len({pid for pid, _ in notes}) == 8
    assert len({path for _, path in notes[::2]}) == 2  # either model is loaded first
    assert len(timed.rounds) == 8
    assert min(timed.rounds) >= 4  # 31 rounds over 8 processes
    assert {name: len(ns) for name, ns in timed.ns.items()} == dict.fromkeys("ab", sum(timed.rounds))
    task = timed.result["tasks"][0]
    assert task["processes"] == 8
    assert task["rounds"] == sum(timed.rounds)
    assert task["elapsed_s"] >= 0.6
    assert [line["done"] for line in heard] == sorted(line["done"] for line in heard)
    assert heard[-1]["done"] == 100


def test_the_looks_at_the_device_go_on_from_process_to_process(tmp_path):
    task = measurement.measure(open_device(LOCAL), request(tmp_path), tmp_path, 6).result["tasks"][0]
    looks = task["conditions"]
    assert len(looks) == 12
    for name in ("elapsed_s", "rounds", "preempted"):
        values = [look[name] for look in looks]
        assert values == sorted(values)
    assert looks[-1]["rounds"] == task["rounds"]
    assert task["warmup"]["a"]["inferences"] >= 6 * 6


def test_what_was_measured_can_be_loaded(tmp_path):
    timed = measurement.measure(open_device(LOCAL), request(tmp_path), tmp_path, 6)
    again = measurement.load(tmp_path / "t.npz")
    assert again.rounds == timed.rounds
    assert all(np.array_equal(again.ns[name], timed.ns[name]) for name in "ab")


class Impatient(LocalDevice):
    """This machine, whose user has enough in the third process, before it says anything."""

    def run(self, request: Any, folder: Path, timeout_s: float | None = None, listen: Listen | None = None) -> Any:
        if len((folder / "notes").read_text().splitlines() if (folder / "notes").exists() else []) >= 4:
            raise KeyboardInterrupt
        return super().run(request, folder, timeout_s, listen)


def test_a_ctrl_c_between_two_processes_keeps_what_was_measured(tmp_path):
    device = Impatient(LOCAL, open_device(LOCAL).python)
    with pytest.raises(Interrupted) as caught:
        measurement.measure(device, request(tmp_path), tmp_path, 6)
    task = caught.value.result["tasks"][0]
    assert task["interrupted"]
    assert task["processes"] == 2
    assert len(measurement.load(tmp_path / "t.npz").rounds) == 2
