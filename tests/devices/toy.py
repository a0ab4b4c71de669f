"""A runtime of these tests' own, y = x * factor, with its request. A model is a JSON file: {"factor": 2, ...}."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from targets.base import model_files, sha256_files

RUNTIME = """
import json, os, time
import numpy as np

class Model:
    runtime_version = "toy 1"
    def __init__(self, path, options):
        self.model = json.load(open_(path))
        if self.model.get("needs"):
            __import__(self.model["needs"])
    def prepare(self, inputs):
        return inputs["x"]
    def invoke(self, handle):
        if self.model.get("fails"):
            raise RuntimeError(self.model["fails"])
        if self.model.get("allocates"):
            self.heap = bytearray(self.model["allocates"])
        if "sleep_s" in self.model:
            time.sleep(self.model["sleep_s"])
        end = time.perf_counter() + self.model.get("spin_s", 0)
        while time.perf_counter() < end:
            pass
        self.out = handle * self.model["factor"]
    def run(self, inputs):
        self.invoke(self.prepare(inputs))
        return {"y": self.out.astype(np.float32)}
    def close(self):
        pass

open_ = open
def open(path, options):
    return Model(path, options)
"""
X = np.arange(21, dtype=np.float32).reshape(7, 3)


def request(folder: Path, *tasks: dict[str, Any], **facts: Any) -> dict[str, Any]:
    """A request in `folder` for one model with these facts; without tasks, one that runs it over all samples."""
    (folder / "inputs").mkdir(exist_ok=True)
    np.save(folder / "inputs" / "x.npy", X)
    (folder / "toy.py").write_text(RUNTIME)
    model = folder / "model" / "m.json5"
    model.parent.mkdir(exist_ok=True)
    model.write_text(json.dumps({"factor": 2, **facts}))
    row = {
        "id": "m",
        "runtime": "toy.py",
        "path": "model/m.json5",
        "sha256": sha256_files(model_files(model)),
        "options": {"threads": 1, "precision": "f32", "batch": 2},
    }
    chosen = list(tasks) or [{"do": "run", "model": "m", "inputs": "inputs", "outputs": "y.npz"}]
    return {"protocol": 1, "models": [row], "tasks": chosen, "result": "result.json"}


def timing(**limits: Any) -> dict[str, Any]:
    """A timing task of the model."""
    limits = {"warmup_s": 0.01, "budget_s": 0.0, "min_rounds": 20, "max_rounds": 20, "seed": 3, **limits}
    return {"do": "time", "models": ["m"], "inputs": "inputs", "samples": "t.npz", **limits}


def long() -> dict[str, Any]:
    """A timing task that only something from outside ends."""
    return timing(min_rounds=10**6, max_rounds=10**6)
