"""What a target is. Data flows lower -> (observe) -> quantize -> inspect / open; nothing here knows a runtime.

A target is an object with the attributes and methods of `Target`, published under the entry-point group
`edge_deploy.targets`; the built-in ones use the same door. Heavy packages are imported inside the methods.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from calibration.qparams import Ranges
from calibration.schemes import scheme_id

Array = npt.NDArray[Any]
Batch = dict[str, Array]  # tensor name -> array whose first axis is the batch

MANIFEST = "model.json"  # written beside every model file: what a fresh process needs to load it


class TargetError(Exception):
    """One clear line: what, where, what to do.

    `kind`: "unsupported" (the input asks for what the target lacks), "missing" (a package is not installed),
    "failed" (the tool broke).
    """

    def __init__(self, message: str, kind: Literal["unsupported", "missing", "failed"] = "failed") -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class TensorSpec:
    """One input or output at the model's float interface.

    `shape` has None for a free batch axis. `permutation` says how the program's axes lie in the deployed model:
    (0, 2, 3, 1) for a model that wants NHWC where the program has NCHW; None for no change. `varies`: (axis, lowest,
    highest) of an input's axis of free length, which is None in `shape` too.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    permutation: tuple[int, ...] | None = None
    varies: tuple[int, int, int] | None = None

    def at_most(self, batch: int = 1) -> list[int | None]:
        """The shape at a batch and at the upper bound of what varies; None for what nothing bounds."""
        axis, highest = (self.varies[0], self.varies[2]) if self.varies else (None, None)
        sizes = [highest if at == axis else size for at, size in enumerate(self.shape)]
        return [batch if sizes[0] is None else sizes[0], *sizes[1:]]


@dataclass(frozen=True)
class Program:
    """What training hands over: a `.pt2` exported program or an `.onnx` file, batch axis free."""

    path: Path
    kind: Literal["pt2", "onnx"]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Model:
    """A file that one runtime can load, float or quantized, with a manifest beside it.

    `inputs`/`outputs` describe its float interface in ITS OWN layout (integer inputs and outputs are converted
    outside of the timed part). `tensors` are the activations that can be tapped, in execution order; those of a
    quantized model go by the names of the float graph that it was made of.
    """

    path: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    tensors: tuple[str, ...] = ()

    @property
    def sha256(self) -> str:
        """One digest over the model's own files."""
        return sha256_files(model_files(self.path))

    @property
    def size_bytes(self) -> int:
        """Bytes of the model's own files."""
        return sum(file.stat().st_size for file in model_files(self.path))


@dataclass(frozen=True)
class Candidate:
    """One way to make and run the model on a target.

    `quantizer`: "none" for float, "ours" for ranges from `calibration`, else the vendor tool's name.
    `precision`: arithmetic asked of the runtime: "f32", "bf16", "int8"; "f16" and "w8" are f32 on weights that are
    stored in 16 and 8 bits.
    `options`: for the quantizer. Every quantizer takes KEEP: names of `Target.layers` that stay in float.
    `runtime`: options for the agent beside those that follow from `precision`.
    """

    id: str
    quantizer: str
    precision: Literal["f32", "bf16", "f16", "w8", "int8"]
    scheme: str | None = None
    observer: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    runtime: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class OpInfo:
    """One op of the runtime's own compiled graph. `precision` is what really runs: "int8", "f32", "bf16", ...

    `int8_capable`: the capability table says that this op runs in int8 here. `macs` is per sample.
    """

    name: str
    type: str
    precision: str
    macs: int
    int8_capable: bool


@dataclass(frozen=True)
class Support:
    """One row of a capability table: what becomes of an op, and why (the same text is check, message, document).

    "depends": int8 in the forms that `reason` names, refused in others, which only the quantized file shows.
    """

    level: Literal["int8", "float", "refused", "depends"]
    reason: str = ""


@dataclass(frozen=True)
class Form:
    """Forms of an op that a target refuses where it takes others.

    `op`: a row's name, "*" for any op. `refused`: told a call, {"op", "line", "args": name -> value, "out": [tensor]},
    where a tensor is {"shape": [size, None where free], "dtype": "float32"}. `reason`: what is lacking, and what to do.
    """

    op: str
    refused: Callable[[Mapping[str, Any]], bool]
    reason: str


@dataclass(frozen=True)
class Capabilities:
    """What a target can do, as data.

    `program`: the kind of program it lowers. `batch`: "fixed" (as exported), "resizable" (by reloading), "dynamic".
    `dtypes`: input dtypes it takes. `schemes`: ids from calibration.SCHEMES. `ops`: core ATen op name ("aten.conv1d",
    "aten.gelu", ...) -> Support; an op that is not listed is tried, and named as untested. `lengths`: an axis of
    varying length stays "free" between its bounds, or is "padded" to the upper one, for models that take a mask.
    `older_cpus`: CPUs with fewer instructions that the runtime can be held to here -> the options for the agent that
    do so. `saturating`: the strategies that suit a CPU which adds pairs of 8-bit products in 16 bits (agent.saturates).
    `forms`: forms of these ops that are refused.
    `further`: candidates that are raced where a recipe names them. `variants`: "ID@VARIANT" is a candidate under these
    options for the agent. `plain`: the one that computes a quantized file as it stands, where the runtime rewrites it.
    `lacking`: schemes and variants that a user may expect -> why this runtime has none.
    """

    program: Literal["pt2", "onnx"]
    batch: Literal["fixed", "resizable", "dynamic"]
    dtypes: frozenset[str]
    schemes: frozenset[str]
    ops: Mapping[str, Support]
    lengths: Literal["free", "padded"] = "padded"
    older_cpus: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    saturating: tuple[str, ...] = ("default",)
    forms: tuple[Form, ...] = ()
    further: tuple[Candidate, ...] = ()
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    plain: str = ""
    lacking: Mapping[str, str] = field(default_factory=dict)


class Session(Protocol):
    """A loaded model in this process. Inputs and outputs are float, in the PROGRAM's layout and names."""

    def run(self, batch: Batch) -> Batch:
        """All outputs for a batch, each [n, ...]. Raises ValueError on a wrong name, shape or dtype."""
        ...

    def tap(self, batch: Batch, names: Sequence[str]) -> Batch:
        """The named activations (of `Model.tensors`), in the graph's own layout; codes as the numbers they stand for.

        The tapped model computes with the kernels of the deployed one as far as the runtime allows."""
        ...


@runtime_checkable
class Target(Protocol):
    """One runtime. Every method is pure: it reads its arguments and writes only below `out`."""

    name: str
    version: str  # of this target's own code: part of every stage key
    packages: tuple[str, ...]  # distributions whose versions change its results
    extra: str  # the extra of its distribution that brings them
    runtime: str  # adapter name in targets/agent.py, or the path of a file with `open(path, options)`
    capabilities: Capabilities

    def lower(self, program: Program, out: Path) -> Model:
        """The float graph in the target's own format. Raises TargetError naming the op and its source line."""
        ...

    def candidates(self, model: Model) -> Sequence[Candidate]:
        """Float first, then the vendor's way and our ranges."""
        ...

    def layers(self, model: Model) -> Sequence[str]:
        """The float graph's layers with weights, in execution order: what a candidate may keep in float (KEEP)."""
        ...

    def quantize(
        self, model: Model, candidate: Candidate, ranges: Ranges | None, batches: Iterable[Batch], out: Path
    ) -> Model:
        """A new model file below `out`. `ranges` (for quantizer "ours") maps tensor name -> QParams; `batches` are
        raw float inputs in the PROGRAM's layout (for vendors' quantizers). Raises TargetError "unsupported" for an
        illegal scheme before any work."""
        ...

    def inspect(self, model: Model, candidate: Candidate) -> Sequence[OpInfo]:
        """The ops of the compiled graph with the precision that really runs."""
        ...

    def weight_bytes(self, model: Model) -> int:
        """Bytes of weights and biases stored in the model file."""
        ...

    def options(self, candidate: Candidate) -> dict[str, Any]:
        """Runtime options for the agent's adapter (JSON-able): threads, precision, ..."""
        ...

    def open(self, model: Model, candidate: Candidate) -> AbstractContextManager[Session]:
        """Load in this process."""
        ...


KEPT = "-keep"  # the end of the id of a candidate with layers left in float
KEEP = "keep"  # the option of a candidate that names layers to be left in float


def kept(candidate: Candidate) -> frozenset[str]:
    """The layers that a candidate leaves in float."""
    return frozenset(candidate.options.get(KEEP, ()))


def keeping(candidate: Candidate, layers: Iterable[str]) -> Candidate:
    """The same candidate with these layers in float."""
    return replace(candidate, options={**candidate.options, KEEP: tuple(layers)})


OURS = "ours-"  # a candidate of ours is called after its observer


def find(target: Target, model: Model, candidate_id: str) -> Candidate:
    """The target's candidate of that name for a model. Raises as `named` does."""
    return named(target, target.candidates(model), candidate_id)


def named(target: Target, candidates: Sequence[Candidate], candidate_id: str) -> Candidate:
    """The candidate of that name, where the target proposes `candidates`.

    Beside those that the target proposes there are its `further` ones, `ours-OBSERVER` and `ours-OBSERVER-STRATEGY` (of
    calibration.schemes.STRATEGIES), each with layers left in float, "ID-keep", and under other options of the runtime,
    "ID@VARIANT". Raises TargetError "unsupported" for what the target does not know or take.
    """
    able = target.capabilities
    plain, at, variant = candidate_id.partition("@")
    if at:
        if variant not in able.variants:
            why = f": {able.lacking[variant]}" if variant in able.lacking else ""
            raise TargetError(
                f"{target.name} has no variant '{variant}' for '{candidate_id}'{why}; it has {list(able.variants)}",
                "unsupported",
            )
        return replace(named(target, candidates, plain), id=candidate_id, runtime=able.variants[variant])
    proposed = (*candidates, *able.further)
    for candidate in proposed:
        if candidate.id == candidate_id:
            return candidate
    if candidate_id.endswith(KEPT):
        return replace(named(target, candidates, candidate_id.removesuffix(KEPT)), id=candidate_id)
    ours = next((c for c in proposed if c.quantizer == "ours"), None)
    if ours is None or ours.scheme is None or not candidate_id.startswith(OURS):
        known = list(dict.fromkeys(c.id for c in proposed))
        raise TargetError(f"{target.name} has no candidate '{candidate_id}', it has {known}", "unsupported")
    observer, _, strategy = candidate_id.removeprefix(OURS).partition("-")
    scheme = scheme_id(ours.scheme, strategy or "default")
    if scheme not in able.schemes:
        why = f"{able.lacking[strategy]}; " if strategy in able.lacking else ""
        raise TargetError(
            f"{target.name} has no scheme '{scheme}' for '{candidate_id}': {why}it takes "
            + ", ".join(sorted(able.schemes)),
            "unsupported",
        )
    return replace(ours, id=candidate_id, observer=observer, scheme=scheme)


def model_files(path: Path) -> list[Path]:
    """A model's own files: the one named and, for OpenVINO IR or external data, those that share its stem."""
    return sorted(p for p in path.parent.iterdir() if p.stem == path.stem and p.name != MANIFEST and p.is_file())


def sha256_files(files: Iterable[Path]) -> str:
    """One digest over names and contents, in order."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0")
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def write_manifest(model: Model) -> Model:
    """Store everything but the bytes beside the model, so that a fresh process can load it by path."""
    record = {k: v for k, v in asdict(model).items() if k != "path"} | {"file": model.path.name}
    (model.path.parent / MANIFEST).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    return model


def read_manifest(folder: Path) -> Model:
    """The model in a folder that `write_manifest` wrote. Raises OSError, and ValueError for what is no manifest."""
    try:
        record = json.loads((folder / MANIFEST).read_text())
        if Path(record["file"]).name != record["file"]:
            raise ValueError("its file lies elsewhere")
        return Model(
            path=folder / record["file"],
            inputs=specs_from_json(record["inputs"]),
            outputs=specs_from_json(record["outputs"]),
            tensors=tuple(record["tensors"]),
        )
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / MANIFEST} does not describe a model: {type(error).__name__}: {error}") from error


def specs_from_json(rows: Iterable[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    """TensorSpecs from their JSON form (lists for tuples)."""
    return tuple(
        TensorSpec(
            row["name"],
            row["dtype"],
            tuple(row["shape"]),
            tuple(row["permutation"]) if row.get("permutation") else None,
            tuple(row["varies"]) if row.get("varies") else None,
        )
        for row in rows
    )


def to_model_layout(batch: Batch, specs: Sequence[TensorSpec]) -> Batch:
    """Program layout -> model layout; checks names, rank, sizes and dtype. Raises ValueError."""
    unknown = sorted(set(batch) - {s.name for s in specs})
    missing = [s.name for s in specs if s.name not in batch]
    if unknown or missing:
        raise ValueError(
            f"inputs do not match: missing {missing}, unknown {unknown}; expected {[s.name for s in specs]}"
        )
    arranged: Batch = {}
    for spec in specs:
        array = batch[spec.name]
        if str(array.dtype) != spec.dtype:
            raise ValueError(f"input '{spec.name}' is {array.dtype}, expected {spec.dtype}")
        if array.ndim != len(spec.shape):
            raise ValueError(f"input '{spec.name}' has shape {list(array.shape)}, expected rank {len(spec.shape)}")
        array = array if spec.permutation is None else array.transpose(spec.permutation)
        if any(want is not None and want != have for want, have in zip(spec.shape[1:], array.shape[1:], strict=True)):
            raise ValueError(
                f"input '{spec.name}' has shape {list(array.shape)} in the model's layout, expected {list(spec.shape)}"
            )
        arranged[spec.name] = np.ascontiguousarray(array)
    return arranged


def to_program_layout(batch: Batch, specs: Sequence[TensorSpec]) -> Batch:
    """Model layout -> program layout, for outputs."""
    return {
        s.name: batch[s.name] if s.permutation is None else batch[s.name].transpose(np.argsort(s.permutation))
        for s in specs
    }
