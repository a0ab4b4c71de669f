"""weights: the exported program with weights on the int8 grid that suit its inputs, and biases that undo the rest.

The same architecture, the same names; only numbers change, so every target that quantizes it inherits the step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.weights import LARGEST_CODE
from pipeline.data import Array, Split
from pipeline.stages import Job
from pipeline.stages.equalized import equalized

if TYPE_CHECKING:
    from calibration.weights import Moments
    from pipeline.compression.program import Layer
    from targets.base import Program

BATCH = 8  # samples at a time
SIMULATED = 512  # samples of the selection split for the simulation
LARGEST_INPUT = 4608  # inputs of one output channel; beyond, second moments would take over 170 MB
MOMENTS_BYTES = 256 << 20  # second moments held at a time; what does not fit waits for another pass

# Ops beside convolutions and fully connected layers that hold weights. Not every target keeps them in int8; where it
# does not, codes would be nothing but noise.
BEYOND = ("aten.conv_transpose1d", "aten.conv_transpose2d", "aten.gru", "aten.lstm", "aten.rnn_tanh")
ROUNDED = ("rounding", "adaround")  # methods that choose codes by second moments

State = Mapping[str, Array]


def run(job: Job) -> dict[str, Any]:
    """Inputs: program (pt2), data. Files: `program.pt2`. Settings: method ("bias" | "rounding" | "adaround"), samples
    (of the calibration split), equalize, beyond (ops of BEYOND that a target keeps int8), largest_code (127 unless
    given). Method "none" equalizes and stops there: float weights whose tensors are those that int8 ones stand for.

    Metadata: `passes` that were tried before it (pipeline/stages/equalized.py); `weight_sqnr_db`, of the logits on the
    selection split with weights in int8 and everything else in float (a simulation: nearest codes, then what the step
    makes of them; None where nothing differs); `layers`, with what was gained of the expected error of each one's
    outputs; `left`: what stays as it was, and why.
    """
    import torch

    from pipeline.compression import program
    from pipeline.data import load_split
    from pipeline.stages.export import read_program, save_pt2

    torch.set_num_threads(1)
    settings = job.settings
    source = read_program(job.inputs["program"])
    exported = torch.export.load(source.path)
    calibration, selection = (load_split(job.inputs["data"], name) for name in ("calibration", "selection"))
    samples = min(settings["samples"], len(calibration))
    passes: list[dict[str, Any]] = []
    if settings["equalize"]:
        exported, passes = equalized(exported, source.inputs, calibration, selection, samples)
    module: Any = exported.module(check_guards=False)
    told = {"method": settings["method"], "samples": samples, "passes": passes}
    if settings["method"] == "none":
        return {**save_pt2(exported, source, _expected(module, {}, calibration, source), job.out), **told}
    found, left = program.layers(module, settings["beyond"])
    state = {name: tensor.detach().numpy() for name, tensor in exported.state_dict.items()}
    near: dict[str, Array] = {}
    stepped: dict[str, Array] = {}
    rows: dict[str, dict[str, Any]] = {}
    largest = settings.get("largest_code", LARGEST_CODE)
    for chosen, second in _passes(found, state, settings["method"] in ROUNDED):
        moments = _moments(job, module, chosen, second, calibration, samples)
        for layer in chosen:
            plain, made, rows[layer.name] = _step(layer, state, moments[layer.name], settings["method"], largest)
            near[layer.weight] = layer.put(near.get(layer.weight, state[layer.weight]), plain)
            for key, array in made.items():
                stepped[key] = layer.put(stepped.get(key, state[key]), array)
    sqnr_db = _simulate(module, selection, {"nearest": near, settings["method"]: stepped})
    changed = {name: torch.from_numpy(array) for name, array in stepped.items()}
    expected = _expected(module, changed, calibration, source)
    with torch.no_grad():
        for name, tensor in changed.items():
            exported.state_dict[name].copy_(tensor)
    return {
        **save_pt2(exported, source, expected, job.out),
        **told,
        "weight_sqnr_db": sqnr_db,
        "layers": [rows[layer.name] for layer in found],
        "left": left,
    }


def _expected(module: Any, changed: Mapping[str, Any], calibration: Split, source: Program) -> dict[str, Array]:
    """Every output for the first calibration samples, with some of the state changed."""
    from pipeline.compression import program
    from pipeline.stages.export import EXPECTED

    batches = _batches(calibration, min(EXPECTED, len(calibration)))
    answers = [program.predict(module, changed, batch) for _, batch in batches]
    return {
        spec.name: np.concatenate([answer[i].float().numpy() for answer in answers])
        for i, spec in enumerate(source.outputs)
    }


def _passes(found: Sequence[Layer], state: State, rounding: bool) -> Iterator[tuple[list[Layer], bool]]:
    """Layers whose moments are gathered together, and whether these are second moments too."""
    inputs = {layer.name: layer.kernel(state[layer.weight])[0].size for layer in found}
    small = [layer for layer in found if rounding and inputs[layer.name] <= LARGEST_INPUT]
    chosen: list[Layer] = []
    room = MOMENTS_BYTES
    for layer in small:
        size = 8 * layer.geometry.groups * inputs[layer.name] ** 2
        if chosen and size > room:
            yield chosen, True
            chosen, room = [], MOMENTS_BYTES
        chosen.append(layer)
        room -= size
    if chosen:
        yield chosen, True
    if others := [layer for layer in found if layer not in small]:
        yield others, False


def _moments(
    job: Job, module: Any, chosen: Sequence[Layer], second: bool, calibration: Split, samples: int
) -> dict[str, Moments]:
    """What each layer gets, over the first samples of the calibration split."""
    from calibration.weights import Moments
    from pipeline.compression import program

    moments = {layer.name: Moments(layer.geometry, second) for layer in chosen}
    for done, batch in _batches(calibration, samples):
        program.watch(module, chosen, batch, lambda layer, x: moments[layer.name].update(x))
        job.emit({"event": "progress", "done": done, "total": samples})
    return moments


def _step(
    layer: Layer, state: State, moments: Moments, method: str, largest: int
) -> tuple[Array, dict[str, Array], dict[str, Any]]:
    """The layer's kernel at its nearest codes; what the step makes of the layer's part of weights and bias, by key; and
    its row.
    """
    from calibration import weights
    from pipeline.compression import adaround

    kernel = layer.kernel(state[layer.weight])
    scale = weights.scales(kernel, largest)
    plain = made = weights.dequantized(weights.nearest(kernel, largest), scale)
    row: dict[str, Any] = {"name": layer.label, "inputs": int(moments.mean.shape[1]), "gain_db": None}
    if moments.second:
        # Where the mean error can be taken off the bias, only the variance is left to be made small.
        objective = moments.covariance if layer.shift else moments.raw
        way = adaround.rounded if method == "adaround" else weights.rounded
        made = weights.dequantized(way(kernel, objective, largest), scale)
        before, after = weights.error_power(kernel, plain, moments.raw), weights.error_power(kernel, made, objective)
        row["gain_db"] = round(float(10 * np.log10(before / after)), 2) if before > 0 and after > 0 else None
    changed = {layer.weight: made}
    if layer.shift is not None:
        key, sign = layer.shift
        shift = weights.bias_shift(kernel, made, moments.mean)
        bias = state[key] if layer.rows is None else state[key][slice(*layer.rows)]
        changed[key] = np.asarray(bias + sign * shift, state[key].dtype)
    return plain, changed, row | {"bias": None if layer.shift is None else layer.shift[0]}


def _simulate(module: Any, selection: Split, kinds: Mapping[str, State]) -> dict[str, float | None]:
    """SQNR in dB of the first output with some of the state replaced, against the program's own."""
    import torch

    from calibration.metrics import sqnr_db
    from pipeline.compression import program

    changes = {"float": {}, **{kind: {k: torch.from_numpy(v) for k, v in new.items()} for kind, new in kinds.items()}}
    logits: dict[str, list[Array]] = {kind: [] for kind in changes}
    for _, batch in _batches(selection, min(SIMULATED, len(selection))):
        for kind, changed in changes.items():
            logits[kind].append(program.predict(module, changed, batch)[0].float().numpy())
    answers = {kind: np.concatenate(parts) for kind, parts in logits.items()}
    measured = {kind: sqnr_db(answers["float"], answers[kind]) for kind in kinds}
    return {kind: round(value, 2) if np.isfinite(value) else None for kind, value in measured.items()}


def _batches(split: Split, samples: int) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """How many samples are done after a batch, and the batch."""
    import torch

    for start in range(0, samples, BATCH):
        stop = min(start + BATCH, samples)
        yield stop, tuple(torch.from_numpy(np.array(array[start:stop])) for array in split.inputs.values())
