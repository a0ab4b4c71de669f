"""keep: which layers of an int8 candidate stay in float, found on the runtime itself.

Either the fewest that reach a fidelity, or as many as leave a speed-up over float. Layers go by what each gains alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.data import load_split
from pipeline.errors import StageError
from pipeline.explain import sensitivity
from pipeline.stages import Job, measure
from pipeline.stages.quantize import maker
from targets import base, registry, timing

SAMPLES = 64  # of the selection split
SHARE = 0.25  # of the race's time and rounds, for each look at a speed


def run(job: Job) -> dict[str, Any]:
    """Inputs: those of quantize, and `reference`, the float graph that fidelity is against.

    Metadata `keep`: the layers; with `keep_db` until all together reach it, empty where none need stay; with
    `keep_speedup` as many as leave that much, measured on the settings' device. The race judges the candidate that is
    made of them as a whole. Raises StageError where it takes them all, or where int8 itself is slower.
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
    if settings.get("keep_speedup"):
        order = [r.layer for r in sensitivity.leave_one_out(made, inputs, wanted) if r.gain_db is not None]
        keep = _as_fast(job, made, reference, order)
        reached = made.fidelity(keep, inputs, wanted)
        return {"keep": keep, "before_db": round(before, 2), "sqnr_db": round(reached, 2), "layers": len(order)}
    rows = sensitivity.leave_one_out(made, inputs, wanted) if before < settings["keep_db"] else []
    keep = []
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


def _as_fast(job: Job, made: sensitivity.Maker, reference: base.Model, order: list[str]) -> list[str]:
    """The longest beginning of `order` that in float leaves `keep_speedup` over the runtime's float, by bisection."""
    wanted = job.settings["keep_speedup"]
    fast, slow = 0, len(order)  # how many layers in float still are fast enough, and how many are not: all is float
    if (alone := _speedup(job, made, reference, [])) < wanted:
        raise StageError(
            f"{made.target.name}: quantize.keep_speedup = {wanted:g} is out of reach: "
            f"{alone:.2f} with every layer in int8: ask for less"
        )
    while slow - fast > 1:
        middle = (fast + slow) // 2
        if _speedup(job, made, reference, order[:middle]) >= wanted:
            fast = middle
        else:
            slow = middle
    return order[:fast]


def _speedup(job: Job, made: sensitivity.Maker, reference: base.Model, keep: list[str]) -> float:
    """Of the candidate with these layers in float, over the runtime's own float."""
    floating = next(c for c in made.target.candidates(reference) if c.precision == "f32")
    split = load_split(job.inputs["data"], "selection")
    with measure.workspace(split, reference, SAMPLES) as folder:
        (folder / "model").mkdir()
        model = made.make(keep, folder / "model")
        pair = [measure.Entrant("float", reference, floating), measure.Entrant("int8", model, made.candidate)]
        timed = measure.time(made.target, pair, folder, job, f"samples-{len(keep)}.npz", SHARE)
    found = timing.speedup(timed.ns["int8"], timed.ns["float"], timed.rounds)["median"]
    return float(found) if found is not None else 0.0
