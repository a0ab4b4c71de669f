"""The suite is itself tested: a real target is broken on purpose, in one way each, and a named check must say so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from targets.base import Batch, Candidate, Model, OpInfo, Program, Session, Support, Target, TargetError

from . import checks
from .case import Case, Network

Array = npt.NDArray[Any]
EMPTY_DOMAIN = b"\x22\x00"  # appended to an ONNX file: other bytes, same model
REAL, NETWORK = "onnxruntime", "conv_bn_relu"  # the quickest to make; which one is broken does not matter


class Broken:
    """Does as the real target does, except for what a subclass overrides."""

    def __init__(self, real: Target, folder: Path) -> None:
        self.real, self.folder = real, folder

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


class Spoiled(Broken):
    """A target whose sessions are spoiled: the hooks see every batch on its way in and out."""

    precisions: tuple[str, ...] = ("f32", "int8")

    @contextmanager
    def open(self, model: Model, candidate: Candidate) -> Iterator[Session]:
        with self.real.open(model, candidate) as session:
            yield SpoiledSession(self, session) if candidate.precision in self.precisions else session

    def before(self, array: Array) -> Array:
        return array

    def after(self, array: Array) -> Array:
        return array

    def tap(self, session: Session, batch: Batch, names: Sequence[str]) -> Batch:
        return session.tap(batch, names)


class SpoiledSession:
    def __init__(self, owner: Spoiled, session: Session) -> None:
        self.owner, self.session = owner, session

    def run(self, batch: Batch) -> Batch:
        outputs = self.session.run({name: self.owner.before(array) for name, array in batch.items()})
        return {name: self.owner.after(array) for name, array in outputs.items()}

    def tap(self, batch: Batch, names: Sequence[str]) -> Batch:
        return self.owner.tap(self.session, batch, names)


# ------------------------------------------------------------------------------------------------ what it declares


class KeepsItsReasons(Broken):
    @property
    def capabilities(self) -> Any:
        ops = {**self.real.capabilities.ops, "aten.gelu": Support("float")}
        return replace(self.real.capabilities, ops=ops)


class InventsAScheme(Broken):
    @property
    def capabilities(self) -> Any:
        return replace(self.real.capabilities, schemes=frozenset({"u8s8", "u9s9"}))


class ProposesOnlyFloat(Broken):
    def candidates(self, model: Model) -> Sequence[Candidate]:
        return self.real.candidates(model)[:1]


# ------------------------------------------------------------------------------------------------------- interface


class RenamesTheOutput(Broken):
    def lower(self, program: Program, out: Path) -> Model:
        model = self.real.lower(program, out)
        return replace(model, outputs=(replace(model.outputs[0], name="logits"),))


class FixesTheBatch(Broken):
    def lower(self, program: Program, out: Path) -> Model:
        model = self.real.lower(program, out)
        return replace(model, inputs=tuple(replace(spec, shape=(1, *spec.shape[1:])) for spec in model.inputs))


class CastsWhatComes(Spoiled):
    def before(self, array: Array) -> Array:
        return array.astype(np.float32)


class TapsAnything(Spoiled):
    def tap(self, session: Session, batch: Batch, names: Sequence[str]) -> Batch:
        return session.tap(batch, [name for name in names if " " not in name])


class TapsCodes(Spoiled):
    """As integers stand in memory: without scale and zero point."""

    precisions = ("int8",)

    def tap(self, session: Session, batch: Batch, names: Sequence[str]) -> Batch:
        return {name: np.round(100 * array) for name, array in session.tap(batch, names).items()}


class TapsWithoutRounding(Spoiled):
    """The float graph, whatever was opened."""

    precisions = ("int8",)

    def lower(self, program: Program, out: Path) -> Model:
        self.floating = self.real.lower(program, out)
        return self.floating

    def tap(self, session: Session, batch: Batch, names: Sequence[str]) -> Batch:
        with self.real.open(self.floating, self.real.candidates(self.floating)[0]) as floating:
            return floating.tap(batch, names)


class TapsNothingQuantized(Broken):
    def quantize(self, model: Model, *rest: Any) -> Model:
        return replace(self.real.quantize(model, *rest), tensors=())


class KeepsNoLayer(Broken):
    def quantize(self, model: Model, candidate: Candidate, *rest: Any) -> Model:
        return self.real.quantize(model, replace(candidate, options={}), *rest)


# -------------------------------------------------------------------------------------------------------- fidelity


class SwapsChannels(Spoiled):
    def after(self, array: Array) -> Array:
        return array[:, [1, 0, *range(2, array.shape[1])]]


class TakesAnotherLayout(Spoiled):
    def before(self, array: Array) -> Array:
        return np.ascontiguousarray(np.moveaxis(array, 1, -1).reshape(array.shape))


class ComputesInHalfPrecision(Spoiled):
    def after(self, array: Array) -> Array:
        return array.astype(np.float16).astype(np.float32)


class GivesOneNaN(Spoiled):
    precisions = ("int8",)

    def after(self, array: Array) -> Array:
        array[-1, -1] = np.nan
        return array


class ShiftsAZeroPoint(Broken):
    """By 32 codes of 256, in the file, where the second of the activations is read."""

    def quantize(self, model: Model, *rest: Any) -> Model:
        import onnx
        from onnx import numpy_helper

        made = self.real.quantize(model, *rest)
        graph = onnx.load(made.path)
        quantized = [node.output[0] for node in graph.graph.node if node.op_type == "QuantizeLinear"]
        reader = next(node for node in graph.graph.node if node.input[0] == quantized[1])
        zero = next(tensor for tensor in graph.graph.initializer if tensor.name == reader.input[2])
        shifted = numpy_helper.to_array(zero) ^ 32
        graph.graph.initializer.append(numpy_helper.from_array(shifted, "shifted"))
        reader.input[2] = "shifted"
        onnx.save(graph, made.path)
        return made


class IsConstant(Spoiled):
    precisions = ("int8",)

    def after(self, array: Array) -> Array:
        return np.repeat(array[:1], len(array), axis=0)


class LosesAChannel(Spoiled):
    """One output channel of many has a single code."""

    precisions = ("int8",)

    def after(self, array: Array) -> Array:
        array[:, 2] = 0
        return array


class IsBlindToChannels(Spoiled):
    precisions = ("int8",)

    def before(self, array: Array) -> Array:
        return np.broadcast_to(array.mean(axis=1, keepdims=True), array.shape).copy()


# ------------------------------------------------------------------------------------------------- int8 is int8


class StaysFloat(Broken):
    """Hands back the float model under another name, and says so when inspected."""

    def quantize(self, model: Model, candidate: Candidate, ranges: Any, batches: Any, out: Path) -> Model:
        path = out / "model.onnx"
        path.write_bytes(model.path.read_bytes() + EMPTY_DOMAIN)
        return replace(model, path=path, tensors=())


class SecretlyFloat(StaysFloat):
    """Lies in `inspect` and in `weight_bytes` too."""

    def inspect(self, model: Model, candidate: Candidate) -> Sequence[OpInfo]:
        return [replace(op, precision=candidate.precision) for op in self.real.inspect(model, candidate)]

    def weight_bytes(self, model: Model) -> int:
        return self.real.weight_bytes(model) // (1 if model.tensors else 4)


class LosesWork(Broken):
    def inspect(self, model: Model, candidate: Candidate) -> Sequence[OpInfo]:
        ops = self.real.inspect(model, candidate)
        return [op for op in ops if op.macs != max(op.macs for op in ops)]


def quantized(model: Model) -> bool:
    """Case calls folders after what they hold."""
    return not model.path.parent.name.startswith("float-")


class StoresFloatWeights(Broken):
    def quantize(self, model: Model, *rest: Any) -> Model:
        self.stored = self.real.weight_bytes(model)
        return self.real.quantize(model, *rest)

    def weight_bytes(self, model: Model) -> int:
        return self.stored if quantized(model) else self.real.weight_bytes(model)


class OverlooksWeights(Broken):
    def weight_bytes(self, model: Model) -> int:
        return self.real.weight_bytes(model) // (2 if quantized(model) else 1)


class IgnoresOurRanges(Broken):
    def quantize(self, model: Model, candidate: Candidate, ranges: Any, batches: Any, out: Path) -> Model:
        return self.real.quantize(model, replace(candidate, quantizer="onnxruntime"), None, batches, out)


class TakesAnyScheme(Broken):
    def quantize(self, model: Model, candidate: Candidate, *rest: Any) -> Model:
        return self.real.quantize(model, replace(candidate, scheme="u8s8"), *rest)


class ReadsFirst(Broken):
    def quantize(self, model: Model, candidate: Candidate, ranges: Any, batches: Any, out: Path) -> Model:
        return self.real.quantize(model, candidate, ranges, list(batches), out)


class WritesFirst(Broken):
    def quantize(self, model: Model, candidate: Candidate, ranges: Any, batches: Any, out: Path) -> Model:
        (out / "note.txt").write_text(candidate.id)
        return self.real.quantize(model, candidate, ranges, batches, out)


# ---------------------------------------------------------------------------------------- the same model elsewhere

ADAPTER = """
from __main__ import OnnxRuntime

class Spoiled(OnnxRuntime):
    def read(self, handle):
        return {{name: {change} for name, array in super().read(handle).items()}}

def open(path, options):
    return Spoiled(path, options)
"""


class RunsAnotherModelThere(Broken):
    change = "array[:, ::-1]"

    @property
    def runtime(self) -> str:
        path = self.folder / "adapter.py"
        path.write_text(ADAPTER.format(change=self.change))
        return str(path)


class MixesTheBatchThere(RunsAnotherModelThere):
    change = "array - 0.2 * array.mean(axis=0) * (len(array) > 1)"


class MixesTheBatch(Spoiled):
    def after(self, array: Array) -> Array:
        mixed: Array = array - 0.2 * array.mean(axis=0) * (len(array) > 1)
        return mixed.astype(np.float32)


class KeepsItsWeightsElsewhere(Broken):
    """External data in a file of another stem, which no digest covers and nobody copies."""

    def quantize(self, model: Model, *rest: Any) -> Model:
        import onnx

        made = self.real.quantize(model, *rest)
        graph = onnx.load(made.path)
        onnx.save(graph, made.path, save_as_external_data=True, location="weights.bin", size_threshold=0)
        return made


class WritesIntoTheFloatModel(Broken):
    def quantize(self, model: Model, *rest: Any) -> Model:
        made = self.real.quantize(model, *rest)
        with model.path.open("ab") as stream:
            stream.write(EMPTY_DOMAIN)
        return made


Check = Callable[[Case], None]

# (what is broken, the check that must say so, words of what it says)
SABOTAGES: tuple[tuple[type[Broken], Check, str], ...] = (
    (KeepsItsReasons, checks.capabilities_are_consistent, "does not say why"),
    (InventsAScheme, checks.capabilities_are_consistent, "unknown schemes"),
    (ProposesOnlyFloat, checks.candidates_are_well_formed, "no int8 candidate"),
    (RenamesTheOutput, checks.names_shapes_and_types_are_the_programs, "outputs are"),
    (FixesTheBatch, checks.names_shapes_and_types_are_the_programs, "inputs have batch"),
    (CastsWhatComes, checks.wrong_inputs_are_refused, "takes float64"),
    (TapsAnything, checks.taps_are_the_graphs_tensors, "can be tapped"),
    (TapsCodes, checks.quantized_taps_are_rounded_floats, "tapped"),
    (TapsWithoutRounding, checks.quantized_taps_are_rounded_floats, "is float's, not rounded"),
    (TapsNothingQuantized, checks.quantized_taps_are_rounded_floats, "can be tapped at"),
    (KeepsNoLayer, checks.a_layer_can_stay_in_float, "int8 does 1.0 of the MACs"),
    (SwapsChannels, checks.float_is_pytorch, "float against PyTorch"),
    (TakesAnotherLayout, checks.float_is_pytorch, "float against PyTorch"),
    (ComputesInHalfPrecision, checks.float_is_pytorch, "float against PyTorch"),
    (GivesOneNaN, checks.outputs_are_finite, "NaN"),
    (GivesOneNaN, checks.int8_keeps_its_floor, "NaN"),
    (ShiftsAZeroPoint, checks.int8_keeps_its_floor, "dB"),
    (SwapsChannels, checks.int8_keeps_its_floor, "dB"),
    (LosesAChannel, checks.no_output_channel_stands_still, "moves in float and stands still"),
    (IsConstant, checks.output_depends_on_every_input_channel, "the same for every sample"),
    (IsBlindToChannels, checks.output_depends_on_every_input_channel, "the order of channels"),
    (StaysFloat, checks.int8_runs_as_int8, "float islands"),
    (LosesWork, checks.int8_runs_as_int8, "MACs"),
    (SecretlyFloat, checks.int8_is_no_float_in_disguise, "nothing was quantized"),
    (StoresFloatWeights, checks.int8_is_no_float_in_disguise, "bytes of weights, float has"),
    (OverlooksWeights, checks.int8_is_no_float_in_disguise, "bytes of weights, float has"),
    (IgnoresOurRanges, checks.our_ranges_reach_the_model, "not clipped"),
    (TakesAnyScheme, checks.illegal_schemes_are_refused_before_work, "which is not declared"),
    (ReadsFirst, checks.illegal_schemes_are_refused_before_work, "before it looked at the scheme"),
    (WritesFirst, checks.illegal_schemes_are_refused_before_work, "were written"),
    (RunsAnotherModelThere, checks.a_fresh_process_agrees, "in a fresh process"),
    (KeepsItsWeightsElsewhere, checks.a_fresh_process_agrees, "does not load"),
    (MixesTheBatch, checks.batch_does_not_matter, "in this process"),
    (FixesTheBatch, checks.batch_does_not_matter, "the manifest says a batch of 1"),
    (MixesTheBatchThere, checks.batch_does_not_matter, "in the agent"),
    (KeepsItsWeightsElsewhere, checks.the_digest_covers_the_model, "not under the digest"),
    (WritesIntoTheFloatModel, checks.the_float_model_is_left_alone, "changed the float model"),
)


@pytest.fixture(scope="module")
def real(installed: Callable[[str], Target]) -> Target:
    return installed(REAL)


@pytest.mark.parametrize(
    ("sabotage", "check", "words"), SABOTAGES, ids=[f"{row[0].__name__}-{row[1].__name__}" for row in SABOTAGES]
)
def test_sabotage_is_caught(
    real: Target,
    network_of: Callable[[str], Network],
    tmp_path: Path,
    sabotage: Callable[[Target, Path], Target],
    check: Check,
    words: str,
) -> None:
    case = Case(sabotage(real, tmp_path), network_of(NETWORK), tmp_path / "case")
    with pytest.raises((AssertionError, TargetError), match=words):
        check(case)


def test_the_untouched_target_passes(real: Target, network_of: Callable[[str], Network], tmp_path: Path) -> None:
    untouched: Any = Broken(real, tmp_path)
    case = Case(untouched, network_of(NETWORK), tmp_path / "case")
    for check in checks.CHECKS:
        check(case)


UNSTEADY = """
from dataclasses import replace
from targets import registry

class Unsteady:
    def __init__(self): self.real, self.name = registry.load("{real}"), "unsteady"
    def __getattr__(self, name): return getattr(self.real, name)
    def quantize(self, *arguments):
        import uuid
        import onnx
        made = self.real.quantize(*arguments)
        graph = onnx.load(made.path)
        graph.doc_string = str(uuid.uuid4())
        onnx.save(graph, made.path)
        return made

TARGET = Unsteady()
"""


@pytest.mark.slow
def test_unsteady_bytes_are_caught(
    real: Target, network_of: Callable[[str], Network], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fresh processes find their target by name, so this one is published as any other is."""
    record = tmp_path / "unsteady-1.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: unsteady\nVersion: 1\n")
    (record / "entry_points.txt").write_text("[edge_deploy.targets]\nunsteady = unsteady:TARGET\n")
    (tmp_path / "unsteady.py").write_text(UNSTEADY.format(real=REAL))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    class Unsteady(Broken):
        name = "unsteady"

    target: Any = Unsteady(real, tmp_path)
    with pytest.raises(AssertionError, match="different bytes of"):
        checks.bytes_are_deterministic(Case(target, network_of(NETWORK), tmp_path / "case"))


def test_no_check_is_without_a_sabotage() -> None:
    assert {check for _, check, _ in SABOTAGES} == set(checks.CHECKS)
