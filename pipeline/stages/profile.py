"""profile: latency of what ships, interleaved with the runtime's own float (and with the float model as it came, where
that is given); peak memory of each alone; and where the time goes, layer by layer.
"""

from __future__ import annotations

from typing import Any

from pipeline.data import load_split
from pipeline.stages import Job, measure
from targets import base, registry, timing

SAMPLES = 64  # inputs that the timed runs are fed from


def run(job: Job) -> dict[str, Any]:
    """Inputs: data, float, shipped, perhaps original. Files: `samples.npz` (raw, ns, int64, in the order measured)."""
    settings = job.settings
    target = registry.load(settings["target"])
    floating = base.read_manifest(job.inputs["float"])
    shipped = base.read_manifest(job.inputs["shipped"])
    entrant = measure.Entrant("shipped", shipped, base.find(target, floating, settings["candidate"]))
    entrants = [_float("float", floating, target), entrant]
    originals = [
        _float("original", base.read_manifest(job.inputs[name]), target) for name in job.inputs if name == "original"
    ]
    split = load_split(job.inputs["data"], "selection")
    with measure.workspace(split, floating, limit=max(SAMPLES, settings["batch"])) as folder:
        timed = measure.time(target, [*entrants, *originals], folder, job)
        memory = {}
        for one in entrants:  # alone in its process, so that the peak is its own
            _, result = measure.outputs(target, [one], folder, settings["batch"], settings)
            memory[one.id] = result["models"][one.id]["peak_memory_bytes"]
        layers = measure.layers(target, entrant, folder, settings) if "shipped" in timed.ns else {}
    raw, there = timed.ns, timed.result["device"]
    if "shipped" not in raw:  # a board counts
        return {"device": there, "batch": settings["batch"], "board": measure.counts(timed.result)["shipped"]}
    return {
        "device": there,
        "batch": settings["batch"],
        "latency_ms": timing.latency(raw["shipped"]),
        "latency_interval_ms": timing.median_ms(raw["shipped"], timed.rounds),
        "float_latency_ms": timing.latency(raw["float"]),
        "speedup": timing.speedup(raw["shipped"], raw["float"], timed.rounds),
        "peak_memory_bytes": memory["shipped"],
        "float_peak_memory_bytes": memory["float"],
        "original_latency_ms": timing.latency(raw["original"]) if originals else None,
        "speedup_over_original": timing.speedup(raw["shipped"], raw["original"], timed.rounds) if originals else None,
        **layers,
    }


def _float(name: str, model: base.Model, target: base.Target) -> measure.Entrant:
    return measure.Entrant(name, model, next(c for c in target.candidates(model) if c.precision == "f32"))
