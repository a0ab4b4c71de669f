"""Equalization before the weight step: the program whose channels suit one scale better, where that is seen to help."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.qparams import Float64
from pipeline.data import Array, Split
from targets.base import TensorSpec

if TYPE_CHECKING:
    from calibration.equalization import Inputs
    from pipeline.compression.equalize import Factors, Place

BATCH = 8  # samples at a time
SIMULATED = 64  # samples of the selection split for the simulation


def equalized(
    exported: Any, inputs: Sequence[TensorSpec], calibration: Split, selection: Split, samples: int
) -> tuple[Any, list[dict[str, Any]]]:
    """The program, which has `inputs`, equalized by the pass that gains most, or as it was; and a row for each pass.

    A row's `sqnr_db` is that of the first output on the selection split with nearest int8 weights and 8-bit inputs of
    all layers (a simulation), `gain_db` that over the program as it was. A pass is used where it gains LEAST_DB.
    """
    import torch

    from calibration.equalization import LEAST_DB, Inputs
    from calibration.metrics import sqnr_db
    from pipeline.compression import equalize, program

    module: Any = exported.module(check_guards=False)
    found = [layer for layer in program.layers(module)[0] if layer.rows is None]
    state = {name: tensor.detach().numpy() for name, tensor in exported.state_dict.items()}
    spots = equalize.places(module, found)
    if not spots:
        return exported, []
    seen = {layer.name: Inputs(layer.geometry) for layer in found}
    for batch in batches(calibration, samples):
        program.watch(module, found, batch, lambda layer, x: seen[layer.name].update(x))
    by_name = {layer.name: (layer, seen[layer.name]) for layer in found}
    given = list(batches(selection, min(SIMULATED, len(selection))))
    wanted = _first(program.predict(module, {}, batch) for batch in given)

    def fidelity(factors: Factors) -> float:
        with torch.no_grad():
            simulator = equalize.Simulator(module, by_name, state, factors)
            return sqnr_db(wanted, _first(simulator.run(*batch) for batch in given))

    before = fidelity({})
    rows: list[dict[str, Any]] = []
    best: tuple[float, list[Place], Factors] = (LEAST_DB, [], {})
    for name, way in {"cross_layer": _cross_layer, "smoothing": _smoothing}.items():
        chosen, factors = way(spots, state, seen)
        if not chosen:
            continue
        reached = fidelity(factors)
        rows.append(
            {
                "pass": name,
                "places": len(chosen),
                "multiplications": sum(not place.into for place in chosen),
                "sqnr_db": round(reached, 2),
                "gain_db": round(reached - before, 2),
            }
        )
        if reached - before >= best[0]:
            best = reached - before, chosen, factors
    for row in rows:
        row["used"] = bool(best[1]) and row["gain_db"] == round(best[0], 2)
    return _applied(exported, inputs, module, state, best[1], best[2], given[0]), rows


def _cross_layer(spots: list[Place], state: dict[str, Array], seen: dict[str, Inputs]) -> tuple[list[Place], Factors]:
    from calibration.equalization import cross_layer, most_of

    chosen = [place for place in spots if place.weight is not None]
    factors: dict[str, Float64] = {}
    for place in chosen:
        made = np.abs(state[str(place.weight)]).reshape(len(state[str(place.weight)]), -1).max(axis=1)
        read = np.max([most_of(state[layer.weight], layer.geometry) for layer in place.readers], axis=0)
        factors |= {layer.name: cross_layer(made.astype(np.float64), read) for layer in place.readers}
    return chosen, factors


def _smoothing(spots: list[Place], state: dict[str, Array], seen: dict[str, Inputs]) -> tuple[list[Place], Factors]:
    from calibration.equalization import LEAST_DB, smoothed

    chosen: list[Place] = []
    factors: dict[str, Float64] = {}
    for place in spots:
        by, gain_db = smoothed([state[layer.weight] for layer in place.readers], seen[place.readers[0].name])
        if gain_db >= LEAST_DB:
            chosen.append(place)
            factors |= {layer.name: by for layer in place.readers}
    return chosen, factors


def _applied(
    exported: Any,
    inputs: Sequence[TensorSpec],
    module: Any,
    state: Any,
    chosen: list[Place],
    factors: Factors,
    example: Any,
) -> Any:
    """The program with the factors in its state, exported again where multiplications were put in."""
    import torch

    from pipeline.compression import equalize
    from pipeline.stages.export import EXAMPLE

    changed = equalize.scale(module, state, chosen, factors)
    with torch.no_grad():
        for name, array in changed.items():
            exported.state_dict[name].copy_(torch.from_numpy(array))
    if all(place.into for place in chosen):
        return exported
    two = tuple(torch.from_numpy(np.resize(one.numpy(), (EXAMPLE, *one.shape[1:]))) for one in example)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export's own deprecations
        module.load_state_dict(exported.state_dict, strict=False)
        return torch.export.export(module, two, dynamic_shapes=tuple(free_axes(inputs)))


def free_axes(inputs: Sequence[TensorSpec]) -> Iterator[dict[int, Any]]:
    """Of each input, which axes are free for torch.export: those that were."""
    import torch

    from pipeline.stages.export import LARGEST_BATCH

    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    lengths: dict[tuple[int, int], Any] = {}
    for spec in inputs:
        free = {0: batch} if spec.shape[0] is None else {}
        if spec.varies:
            axis, *ends = spec.varies
            lengths.setdefault((ends[0], ends[1]), torch.export.Dim("length", min=ends[0], max=ends[1]))
            free[axis] = lengths[ends[0], ends[1]]
        yield free


def batches(split: Split, samples: int) -> Iterator[tuple[Any, ...]]:
    """The first `samples` of a split as tensors, BATCH at a time."""
    import torch

    for start in range(0, samples, BATCH):
        stop = min(start + BATCH, samples)
        yield tuple(torch.from_numpy(np.array(array[start:stop])) for array in split.inputs.values())


def _first(answers: Any) -> Array:
    """The first output of every batch, float32 [n, ...]."""
    one = [answer if hasattr(answer, "numpy") else answer[0] for answer in answers]
    return np.concatenate([answer.float().numpy() for answer in one])
