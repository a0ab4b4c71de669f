"""A runtime for the agent whose models are text files: what stands in one is what goes wrong with it."""

import os
from pathlib import Path

import numpy as np


class Faulty:
    runtime_version = "1"

    def __init__(self, path, options):
        self.fault = Path(path).read_text().strip()
        if self.fault == "does not load":
            raise RuntimeError("this is no model")

    def specs(self):
        return {"x": ([0, 3], "float32")}

    def prepare(self, inputs):
        return dict(inputs)

    def invoke(self, handle):
        if self.fault == "crashes" or (self.fault == "crashes when timed" and len(handle["x"]) == 1):
            os._exit(139)
        handle["y"] = handle["x"] * 2

    def read(self, handle):
        y = handle["y"]
        if self.fault == "rotates":
            return {"y": y[:, :, None].transpose(0, 2, 1)}
        if self.fault == "forgets":
            return {"z": y}
        if self.fault == "loses rows":
            return {"y": y[:-1]}
        return {"y": y * np.nan if self.fault == "is not finite" else y}

    def run(self, inputs):
        handle = self.prepare(inputs)
        self.invoke(handle)
        return self.read(handle)

    def close(self):
        pass


def open(path, options):  # the agent's door
    return Faulty(path, options)
