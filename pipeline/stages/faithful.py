"""Does a runtime compute what a quantized file says? Compared with the variant that rewrites no quantized graph."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from calibration.metrics import sqnr_db
from targets import base

NEAR_DB = 30.0  # as near to float as this, a file is computed as it says, whatever is rounded otherwise
GAP_DB = 6.0  # by which what the file says must be nearer to float than what is computed


def differs(
    target: base.Target, floating: base.Model, model: base.Model, candidate: base.Candidate, inputs: base.Batch
) -> str:
    """Where the compiled graph of an int8 file says something else than the file, in words; empty where it does not.

    `inputs`: a few samples by name. Names the first rounded tensor that is made otherwise.
    """
    variant = target.capabilities.plain
    if not variant or candidate.precision != "int8":
        return ""
    plain = replace(candidate, runtime={**candidate.runtime, **target.capabilities.variants[variant]})
    reference = next(one for one in target.candidates(floating) if one.precision == "f32")
    wanted = _answers(target, floating, reference, inputs)
    computed = _least(wanted, _answers(target, model, candidate, inputs))
    if computed >= NEAR_DB or not math.isfinite(computed):  # what has another shape or NaN is told elsewhere
        return ""
    said = _least(wanted, _answers(target, model, plain, inputs))
    if said - computed < GAP_DB:
        return ""
    with target.open(model, candidate) as one, target.open(model, plain) as other:
        here, there = (session.tap(inputs, model.tensors) for session in (one, other))
    first = next((name for name in model.tensors if sqnr_db(there[name], here[name]) < computed + GAP_DB), "an output")
    return (
        f"its compiled graph is {computed:.1f} dB from float, what its file says {said:.1f} dB: '{first}' is the first "
        f"tensor that is computed otherwise here ('@{variant}' computes what the file says)"
    )


def _answers(target: base.Target, model: base.Model, candidate: base.Candidate, inputs: base.Batch) -> base.Batch:
    with target.open(model, candidate) as session:
        return session.run(inputs)


def _least(wanted: base.Batch, found: base.Batch) -> float:
    return min(
        sqnr_db(array, found[name])
        if found[name].shape == array.shape and np.isfinite(found[name]).all()
        else float("-inf")
        for name, array in wanted.items()
    )
