"""keep: which layers of an int8 candidate must stay in float to reach a fidelity, found on the runtime itself."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.data import load_split
from pipeline.errors import StageError
from pipeline.explain import sensitivity
from pipeline.stages import Job
from pipeline.stages.quantize import maker
from targets import base, registry

SAMPLES = 64  # of the selection split


def run(job: Job) -> dict[str, Any]:
    """Inputs: those of quantize, and `reference`, the float graph that fidelity is against.

    Metadata `keep`: the layers, by what each gains alone, until all together reach `keep_db`; empty where none need
    stay. The race judges the candidate that is made of them as a whole. Raises StageError where it takes them all.
    """
    settings = job.settings
    target = registry.load(settings["target"])
    made, reference = maker(job), base.read_manifest(job.inputs["reference"])
    split, step = load_split(job.inputs["data"], "selection"), reference.inputs[0].shape[0] or 1
    n = max(step, min(SAMPLES, len(split)) // step * step)
    inputs = {name: np.asarray(array[:n]) for name, array in split.inputs.items()}
    floating = next(c for c in target.candidates(reference) if c.precision == "f32")
    with target.open(reference, floating) as session:
        wanted = session.run(inputs)
    before = reached = made.fidelity((), inputs, wanted)
    rows = sensitivity.leave_one_out(made, inputs, wanted) if before < settings["keep_db"] else []
    keep: list[str] = []
    for row in (row for row in rows if row.gain_db is not None):
        if reached >= settings["keep_db"]:
            break
        keep.append(row.layer)
        reached = made.fidelity(keep, inputs, wanted)
    if reached < settings["keep_db"] or len(keep) == len(rows) > 0:
        raise StageError(
            f"{target.name}: quantize.keep_db = {settings['keep_db']:g} is out of reach of int8: {before:.1f} dB, and "
            f"{reached:.1f} dB with every layer in float: ask for less"
        )
    return {"keep": keep, "before_db": round(before, 2), "sqnr_db": round(reached, 2), "layers": len(rows)}
