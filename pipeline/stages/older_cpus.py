"""older-cpus: what ships, run as a CPU with fewer instructions would, beside itself as it runs here.

Integer kernels without wide accumulators (x86 before VNNI) add pairs of products in 16 bits, which saturate: the same
file gives other answers there. Runtimes that can be held to an instruction set show it on this machine.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from calibration.metrics import sqnr_db
from pipeline.data import load_split
from pipeline.stages import Job, measure
from targets import base, registry

SAMPLES = 128  # of the selection split


def run(job: Job) -> dict[str, Any]:
    """Inputs: data, float, shipped. Metadata `older_cpus`: name -> SQNR in dB of the worst output there, against here.

    None stands for identical outputs.
    """
    settings = job.settings
    target = registry.load(settings["target"])
    floating, shipped = (base.read_manifest(job.inputs[role]) for role in ("float", "shipped"))
    candidate = base.find(target, floating, settings["candidate"])
    split = load_split(job.inputs["data"], "selection")
    limits = {"here": {}, **target.capabilities.older_cpus}
    answers = {}
    with measure.workspace(split, floating, limit=SAMPLES) as folder:
        for name, options in limits.items():
            entrant = measure.Entrant("shipped", shipped, candidate, options)
            found, _ = measure.outputs(target, [entrant], folder, settings["batch"], settings)
            answers[name] = found["shipped"]
    here = answers.pop("here")
    return {
        "older_cpus": {
            name: measure.rounded(min(sqnr_db(here[key], there[key]) for key in here))
            for name, there in answers.items()
        },
        "samples": min(SAMPLES, len(split)),
        "finite": all(bool(np.isfinite(array).all()) for there in answers.values() for array in there.values()),
    }
