"""What every target promises, one plain function a promise: it takes a Case and raises AssertionError with words."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from calibration import fidelity
from calibration.metrics import sqnr_db
from calibration.qparams import from_range, limits
from calibration.rules import OBSERVERS
from calibration.schemes import SCHEMES
from pipeline.stages.quantize import shares
from targets import base, registry
from targets.base import Batch, Candidate, TargetError

from .case import Case
from .compare import Untouchable, described, interface, nearer_than, parts, refusal, same

FLOAT_DB = 100.0  # float32 arithmetic in another order; bf16 has about 47 dB
# Against PyTorch, on data like the calibration data. Seen: ours 33.2 at worst; vendors' own defaults 10.1 (a moving
# average of ranges, on the linear network), so their floor only tells a poor range from a wrong number.
FLOOR_DB = {"ours": 30.0, "vendor": 8.0}
QUANTIZED_DB = 70.0  # no 8-bit model is nearer to float than this: one that is, is float
SAME_INT8_DB = 40.0  # the same int8 model elsewhere: a code may round the other way, and no more
WEIGHT_SHARE = 0.35  # int8 weights, 32-bit biases, and scales, of the float model's weights and biases
MAC_SHARE = 0.9
LARGE_BATCH = 32


def db(candidate: Candidate) -> float:
    """How near the same model must be to itself elsewhere."""
    return SAME_INT8_DB if candidate.precision == "int8" else FLOAT_DB


# ------------------------------------------------------------------------------------------------- what it declares


def capabilities_are_consistent(case: Case) -> None:
    able = case.target.capabilities
    for name in ("name", "version", "extra", "runtime"):
        value = getattr(case.target, name)
        assert isinstance(value, str), f"{name} is {value!r}, expected text"
        assert value, f"{name} is empty"
    assert registry.missing(case.target) == [], "it runs without packages that it declares"
    assert able.program in ("pt2", "onnx"), f"no program of kind {able.program!r}"
    assert able.batch in ("fixed", "resizable", "dynamic"), f"no batch of kind {able.batch!r}"
    assert able.schemes, "it declares no scheme"
    assert able.schemes <= set(SCHEMES), f"unknown schemes {sorted(able.schemes - set(SCHEMES))}"
    assert "float32" in able.dtypes, "float32 inputs are not declared"
    assert all(str(np.dtype(name)) == name for name in able.dtypes), f"not NumPy's names: {sorted(able.dtypes)}"
    for op, support in able.ops.items():
        assert op.startswith("aten."), f"'{op}' is no core ATen op name"
        assert support.level in ("int8", "float", "refused", "depends"), f"{op} has level {support.level!r}"
        assert support.level == "int8" or support.reason, f"{op} is {support.level}, and does not say why"


def candidates_are_well_formed(case: Case) -> None:
    found = case.candidates
    assert found, "it proposes nothing"
    first = found[0]
    assert (first.quantizer, first.precision) == ("none", "f32"), f"the first candidate is {first.id}, not float"
    assert len({c.id for c in found}) == len(found), f"ids are not unique: {[c.id for c in found]}"
    assert case.ours, "it has no int8 candidate with our ranges"
    assert len(case.ours) < len(case.int8), "it has no int8 candidate of the vendor's"
    for candidate in found:
        quantized = candidate.precision == "int8"
        assert quantized == (candidate.quantizer != "none"), f"{candidate.id} quantizes to {candidate.precision}"
        assert not quantized or candidate.scheme in case.target.capabilities.schemes, (
            f"{candidate.id}: undeclared scheme"
        )
        assert candidate not in case.ours or candidate.observer in OBSERVERS, f"{candidate.id}: unknown observer"
        options = case.target.options(candidate)
        assert json.loads(json.dumps(options)) == options, f"{candidate.id}: options do not survive JSON: {options}"


# -------------------------------------------------------------------------------------------------------- interface


def names_shapes_and_types_are_the_programs(case: Case) -> None:
    for end in ("inputs", "outputs"):
        wanted, found = getattr(case.program, end), getattr(case.model, end)
        assert interface(found) == interface(wanted), f"{end} are {found}, the program's are {wanted}"
        batch, declared = {spec.shape[0] for spec in found}, case.target.capabilities.batch
        assert len(batch) == 1, f"{end} have different batches: {batch}"
        allowed = {"dynamic": batch == {None}, "fixed": batch != {None}, "resizable": True}
        assert allowed[declared], f"{end} have batch {batch.pop()}, declared is '{declared}'"
    n = len(case.network.reference)
    for candidate in case.candidates:
        for end in ("inputs", "outputs"):
            assert getattr(case.artifact(candidate), end) == getattr(case.model, end), f"{candidate.id}: other {end}"
        outputs = case.outputs(candidate)
        shapes = {name: (array.shape, str(array.dtype)) for name, array in outputs.items()}
        wanted = {spec.name: ((n, *spec.shape[1:]), "float32") for spec in case.program.outputs}
        assert shapes == wanted, f"{candidate.id} gives {shapes}, expected {wanted}"


def wrong_inputs_are_refused(case: Case) -> None:
    name, good = next(iter(case.network.held_out.items()))
    good = good[:1]
    wrong: dict[str, Batch] = {
        "an unknown name": {f"{name}_": good},
        "an input too many": {name: good, "extra": good},
        "no input": {},
        "float64": {name: good.astype(np.float64)},
        "integers": {name: good.astype(np.int32)},
        "a rank too few": {name: good[..., 0]},
        "a sample one too wide": {name: np.concatenate([good, good[..., :1]], axis=-1)},
        "a sample turned": {name: np.moveaxis(good, 1, -1)} if good.ndim > 2 else {},
    }
    for candidate in (case.floating, case.ours[0]):
        with case.target.open(case.artifact(candidate), candidate) as session:
            for what, batch in wrong.items():
                refusal(ValueError, f"{candidate.id} takes {what}", partial(session.run, batch))


def taps_are_the_graphs_tensors(case: Case) -> None:
    tensors, n = case.model.tensors, 2
    assert tensors, "the float graph has no tensors to tap"
    assert len(set(tensors)) == len(tensors), "tensor names are not unique"
    batch = {name: array[:n] for name, array in case.network.held_out.items()}
    with case.target.open(case.model, case.floating) as session:
        tapped = session.tap(batch, tensors)
        assert set(tapped) == set(tensors), f"asked for {len(tensors)} tensors, got {len(tapped)}"
        for name, values in tapped.items():
            assert np.isfinite(values).all(), f"'{name}' is not finite"
            assert len(values) == n, f"'{name}' has {len(values)} rows for {n} samples"
        first = base.to_model_layout(batch, case.model.inputs)[case.model.inputs[0].name]
        assert np.array_equal(tapped[tensors[0]], first), f"the first tensor, '{tensors[0]}', is not the input"
        tap = partial(session.tap, batch, ["no such tensor"])
        error = refusal((ValueError, TargetError), "a tensor that the graph lacks can be tapped", tap)
        assert "no such tensor" in str(error), f"does not say which tensor is unknown: {error}"


def quantized_taps_are_rounded_floats(case: Case) -> None:
    """A quantized model's tensors go by the float graph's names, and stand for the same numbers."""
    n, outputs = 4, {spec.name for spec in case.program.outputs}
    batch = {name: array[:n] for name, array in case.network.held_out.items()}
    step = case.model.inputs[0].shape[0] or 1
    with case.target.open(case.model, case.floating) as session:
        floats = [session.tap(part, case.model.tensors) for part in parts(batch, step)]
    wanted = {name: np.concatenate([row[name] for row in floats]) for name in case.model.tensors}
    for candidate in case.int8:
        model = case.artifact(candidate)
        if not model.tensors:  # a board shows no activations: then it says so
            with case.target.open(model, candidate) as session:
                tap = partial(session.tap, {name: array[:1] for name, array in batch.items()}, case.model.tensors[:1])
                error = refusal((ValueError, TargetError), f"{candidate.id} names no tensor, and is tapped", tap)
            assert getattr(error, "kind", "") == "unsupported", f"{candidate.id}: it can be tapped at nothing: {error}"
            continue
        names = [name for name in model.tensors if name not in outputs]
        assert len(names) > 1, f"{candidate.id}: it can be tapped at {names} alone"
        unknown = [name for name in names if name not in wanted]
        assert not unknown, f"{candidate.id}: the float graph has no {unknown}"
        with case.target.open(model, candidate) as session:
            rows = [session.tap(part, model.tensors) for part in parts(batch, step)]
            found = {name: np.concatenate([row[name] for row in rows]) for name in model.tensors}
            ran = [session.run(part) for part in parts(batch, step)]
        floor = FLOOR_DB["ours" if candidate.quantizer == "ours" else "vendor"]
        for name in names:
            nearer_than(floor, wanted[name], found[name], f"{candidate.id}: '{name}' tapped")
            assert not np.array_equal(wanted[name], found[name]), f"{candidate.id}: '{name}' is float's, not rounded"
        for name in outputs & set(found):
            alone = np.concatenate([row[name] for row in ran])
            nearer_than(SAME_INT8_DB, alone, found[name], f"{candidate.id}: '{name}' tapped, against a run")


def a_layer_can_stay_in_float(case: Case) -> None:
    """By every quantizer: the layer's MACs are no longer int8, all others' are."""
    layers = list(case.target.layers(case.model))
    assert len(layers) > 1, f"it names the layers {layers}"
    for candidate in {c.quantizer: c for c in case.int8}.values():
        left = base.keeping(candidate, layers[1:2])
        try:
            model = case.quantize(left, case.ranges(candidate))
        except TargetError as error:  # kernels for int8 alone
            if error.kind != "unsupported":
                raise
            continue
        share = shares(case.target.inspect(model, left))["int8_mac_share"]
        assert share is not None, f"{candidate.id}: no int8 share with '{layers[1]}' left in float"
        assert 0 < share < 1, f"{candidate.id}: with '{layers[1]}' left in float, int8 does {share} of the MACs"
        nearer_than(
            FLOOR_DB["vendor"],
            case.network.reference,
            case.run(model, left, case.network.held_out)[case.program.outputs[0].name],
            f"{candidate.id} with '{layers[1]}' left in float",
        )


# --------------------------------------------------------------------------------------------------------- fidelity


def float_is_pytorch(case: Case) -> None:
    nearer_than(FLOAT_DB, case.network.reference, case.logits(case.floating), "float against PyTorch")


def outputs_are_finite(case: Case) -> None:
    for candidate in case.candidates:
        for name, values in case.outputs(candidate).items():
            assert np.isfinite(values).all(), f"{candidate.id}: '{name}' holds NaN or infinity"


def int8_keeps_its_floor(case: Case) -> None:
    for candidate in case.int8:
        floor = FLOOR_DB["ours" if candidate.quantizer == "ours" else "vendor"]
        nearer_than(floor, case.network.reference, case.logits(candidate), f"{candidate.id} against PyTorch")


def no_output_channel_stands_still(case: Case) -> None:
    wanted = case.outputs(case.floating)
    for candidate in case.int8:
        for found in fidelity.outputs(wanted, case.outputs(candidate)):
            where = ", ".join(channel.at for channel in found.still)
            assert not found.dead, f"{candidate.id}: '{found.name}'{where} moves in float and stands still in int8"


def output_depends_on_every_input_channel(case: Case) -> None:
    inputs = case.network.held_out
    for candidate in (case.floating, *case.int8):
        logits, model = case.logits(candidate), case.artifact(candidate)
        spread = np.ptp(logits, axis=0)
        assert spread.max() > 0, f"{candidate.id}: the output is the same for every sample"
        turned = {name: np.ascontiguousarray(np.roll(array, 1, axis=1)) for name, array in inputs.items()}
        moved = case.run(model, candidate, turned)[case.program.outputs[0].name]
        assert np.abs(moved - logits).max() > 0.05 * spread.max(), (
            f"{candidate.id}: the order of channels is nothing to it"
        )


# --------------------------------------------------------------------------------------------------- int8 is int8


def int8_runs_as_int8(case: Case) -> None:
    for candidate in (case.floating, *case.int8):
        ops = case.target.inspect(case.artifact(candidate), candidate)
        assert ops, f"{candidate.id}: inspect sees no op"
        found = shares(ops)
        macs = sum(op.macs for op in ops)
        assert macs == case.network.macs, f"{candidate.id}: {macs} MACs, the network has {case.network.macs}"
        if candidate.precision == "f32":
            assert set(found["precisions"]) == {"f32"}, f"float runs {found['precisions']}"
            continue
        assert found["int8_op_share"] == 1, f"{candidate.id}: float islands {found['float_ops']}"
        share = found["int8_mac_share"]
        assert share >= MAC_SHARE, f"{candidate.id}: int8 does only {share} of the MACs"


def int8_is_no_float_in_disguise(case: Case) -> None:
    """Seen from outside, whatever `inspect` says: in the output, and in the size of what is stored."""
    stored, weights = case.target.weight_bytes(case.model), case.network.weights
    assert 4 * weights < stored < 5 * weights, f"float: {stored} bytes for {weights} weights and their biases"
    for candidate in case.int8:
        model = case.artifact(candidate)
        assert model.sha256 != case.model.sha256, f"{candidate.id}: the file is the float model"
        apart = sqnr_db(case.logits(case.floating), case.logits(candidate))
        assert apart < QUANTIZED_DB, f"{candidate.id}: only {apart:.0f} dB from float: nothing was quantized"
        found = case.target.weight_bytes(model)
        assert weights < found <= WEIGHT_SHARE * stored, f"{candidate.id}: {found} bytes of weights, float has {stored}"


def our_ranges_reach_the_model(case: Case) -> None:
    """Ask for half the input's range: the model must then not tell an input from the same input clipped to it."""
    name, output = case.model.tensors[0], case.program.outputs[0].name
    for candidate in case.ours:
        ranges = dict(case.ranges(candidate) or {})
        seen = case.statistics.tensors[name]
        ranges[name] = from_range(seen.lo / 2, seen.hi / 2, ranges[name].scheme, name=name)
        low, high = (float(end) for end in limits(ranges[name]))
        model = case.quantize(candidate, ranges)
        logits = []
        for part in (np.inf, 1.0, 0.8):
            ends = {name: np.clip(array, part * low, part * high) for name, array in case.network.held_out.items()}
            logits.append(case.run(model, candidate, ends)[output])
        assert np.array_equal(logits[0], logits[1]), f"{candidate.id}: inputs are not clipped to {low:.4f}..{high:.4f}"
        assert not np.array_equal(logits[0], logits[2]), f"{candidate.id}: inputs are clipped to less than was asked"


def illegal_schemes_are_refused_before_work(case: Case) -> None:
    candidate = case.ours[0]
    others = ["x3y9", *sorted(set(SCHEMES) - case.target.capabilities.schemes)]
    for scheme in others:
        for quantizer in dict.fromkeys(c.quantizer for c in [candidate, *case.int8]):
            asked = replace(candidate, quantizer=quantizer, scheme=scheme)
            out = case.new_folder("refused")
            work = partial(case.target.quantize, case.model, asked, case.ranges(candidate), Untouchable(), out)
            what = f"quantizer '{quantizer}' takes the scheme {scheme}, which is not declared"
            error = refusal(TargetError, what, work)
            assert error.kind == "unsupported", f"scheme {scheme}: the error is of kind '{error.kind}'"
            assert scheme in str(error), f"the error does not name {scheme}: {error}"
            left = [path.name for path in out.iterdir()]
            assert not left, f"scheme {scheme} was refused, but {left} were written"


# ----------------------------------------------------------------------------------------- the same model elsewhere


def a_fresh_process_agrees(case: Case) -> None:
    """Moved elsewhere, by manifest, in the agent: what is measured there is the model that was made here."""
    for candidate in (case.floating, *case.int8):
        model, elsewhere = case.artifact(candidate), case.new_folder("moved")
        for file in [*base.model_files(model.path), model.path.with_name(base.MANIFEST)]:
            shutil.copy(file, elsewhere)
        moved = base.read_manifest(elsewhere)
        assert described(moved) == described(model), f"{candidate.id}: the manifest says {moved}, it was {model}"
        outputs = case.agent(moved, candidate, batch=1)
        same(db(candidate), case.outputs(candidate), outputs, f"{candidate.id} in a fresh process")


def batch_does_not_matter(case: Case) -> None:
    """One by one or together: the same rows. A model whose batch is fixed says so when asked for another."""
    free, step = case.model.inputs[0].shape[0] is None, case.model.inputs[0].shape[0] or 1
    for candidate in (case.floating, *case.int8):
        model, together = case.artifact(candidate), case.outputs(candidate)
        with case.target.open(model, candidate) as session:
            singles = [session.run(part) for part in parts(case.network.held_out, step)]
        alone = {name: np.concatenate([part[name] for part in singles]) for name in together}
        words = f"{candidate.id}, {LARGE_BATCH} together"
        same(db(candidate), alone, together, f"{words} in this process")
        large = partial(case.agent, model, candidate, LARGE_BATCH)
        if free:
            same(db(candidate), alone, large(), f"{words} in the agent")
        else:
            error = refusal(TargetError, f"{words} in the agent: the manifest says a batch of {step}", large)
            assert "fixed" in str(error), f"{words} in the agent does not say why not: {error}"


def the_digest_covers_the_model(case: Case) -> None:
    """A byte changed is another digest, and the agent refuses it. A quantized model's folder holds nothing else."""
    for candidate in (case.floating, case.ours[0]):
        model = case.artifact(candidate)
        files = base.model_files(model.path)
        if candidate is not case.floating:
            files = sorted(path for path in model.path.parent.iterdir() if path.name != base.MANIFEST)
        for file in files:
            folder = case.new_folder("changed")
            shutil.copytree(model.path.parent, folder, dirs_exist_ok=True)
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            (folder / file.name).write_bytes(content)
            other = base.read_manifest(folder)
            assert other.sha256 != model.sha256, f"{candidate.id}: '{file.name}' is not under the digest"
            work = partial(case.agent, other, candidate, 1, sha256=model.sha256)
            error = refusal(TargetError, f"the agent runs a model whose '{file.name}' was changed", work)
            assert "sha256" in str(error), f"refused, but not for its digest: {error}"


def the_float_model_is_left_alone(case: Case) -> None:
    for candidate in case.candidates:
        case.target.inspect(case.artifact(candidate), candidate)
        case.outputs(candidate)
    assert case.model.sha256 == case.lowered_sha256, "quantizing, inspecting or running changed the float model"


CHECKS: tuple[Callable[[Case], None], ...] = (
    capabilities_are_consistent,
    candidates_are_well_formed,
    names_shapes_and_types_are_the_programs,
    wrong_inputs_are_refused,
    taps_are_the_graphs_tensors,
    quantized_taps_are_rounded_floats,
    a_layer_can_stay_in_float,
    float_is_pytorch,
    outputs_are_finite,
    int8_keeps_its_floor,
    no_output_channel_stands_still,
    output_depends_on_every_input_channel,
    int8_runs_as_int8,
    int8_is_no_float_in_disguise,
    our_ranges_reach_the_model,
    illegal_schemes_are_refused_before_work,
    a_fresh_process_agrees,
    batch_does_not_matter,
    the_digest_covers_the_model,
    the_float_model_is_left_alone,
)


def bytes_are_deterministic(case: Case) -> None:
    """Lower and quantize in two fresh processes: equal digests. Slow, and by name: the process finds its own target."""
    statistics = case.folder / "statistics.npz"
    case.statistics.save(statistics)
    script, environment = Path(__file__).with_name("make_again.py"), {**os.environ, "PYTHONHASHSEED": "0"}
    made = []
    for _ in range(2):
        program = case.network.programs[case.target.capabilities.program]
        paths = [program, case.network.data, statistics, case.new_folder("again")]
        ended = subprocess.run(
            [sys.executable, str(script), case.target.name, *map(str, paths)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, f"a fresh process cannot make the models: {ended.stderr[-500:]}"
        made.append(json.loads(ended.stdout.splitlines()[-1]))
    differ = [name for name in made[0] if made[0][name] != made[1][name]]
    assert not differ, f"two fresh processes made different bytes of {differ}"
    assert set(made[0]) == {c.id for c in case.candidates}, f"made were {sorted(made[0])}"
