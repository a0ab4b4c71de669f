"""A user's ONNX file: in its normal form (targets/onnx_normal.py), and proved to answer as the file itself does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import bounds
from pipeline.errors import UsageError
from pipeline.stages import Job

if TYPE_CHECKING:
    import onnx

    from pipeline.data import Array

SAMPLES = 32  # that both forms answer
PARITY_DB = 60.0  # float kernels that add in another order stay above 100


def brought(path: Path, inputs: Mapping[str, Array]) -> onnx.ModelProto:
    """The file's network in normal form, its inputs called and sized as the data's.

    `inputs`: samples by name, [n, ...] each. Raises UsageError where the data does not fit or the normal form answers
    otherwise, TargetError "unsupported" where there is none, both in one line.
    """
    from pipeline.stages.bring import transposed
    from targets import onnx_graph, onnx_normal

    source, _ = opened(path)
    if reason := refused(source):
        raise UsageError(f"{path}: {reason}")
    names = _matched(source, list(inputs), path)
    for value in source.graph.input:
        if ours := names.get(value.name):
            wanted = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
            if hint := transposed(ours, inputs[ours].shape, wanted):
                raise UsageError(f"{path}: {hint}")
    sizes = {theirs: inputs[ours].shape[1:] for theirs, ours in names.items()}
    model = onnx_normal.normal(source, path, sizes)
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    feeds = {theirs: np.array(inputs[ours][: batch or SAMPLES]) for theirs, ours in names.items()}
    if any(len(array) < batch for array in feeds.values()):
        raise UsageError(f"{path}: its batch is fixed at {batch}, more than a split has: leave its first axis free")
    bounds.loosen(2 * activation_bytes(model, batch or SAMPLES))
    _same(source, model, feeds, path)
    onnx_graph.rename(model, names)
    return model


def opened(path: Path) -> tuple[onnx.ModelProto, int]:
    """The file's model with all its weights, and the bytes of those that lie beside it."""
    from targets import onnx_normal

    beside = sum(file.stat().st_size for file in onnx_normal.external(path) if file.is_file())
    bounds.loosen(bounds.TIMES * beside)
    return onnx_normal.read(path), beside


def activation_bytes(model: onnx.ModelProto, batch: int) -> int:
    """Of all tensors inside together, as far as their shapes are known, in 4 bytes a number."""
    from targets import onnx_graph

    return sum(4 * math.prod(shape) for shape in onnx_graph.shapes(model, batch).values())


def refused(model: onnx.ModelProto) -> str:
    """Why no target takes a network that is an ONNX file; empty where they do."""
    from targets import onnx_normal

    if onnx_normal.is_quantized(model):
        return "it holds integer arithmetic already: bring the float network that it was made from"
    return ""


def _matched(model: onnx.ModelProto, names: list[str], path: Path) -> dict[str, str]:
    """The file's inputs -> the data's: by name where all are called alike, else in order."""
    stored = {tensor.name for tensor in model.graph.initializer}
    given = [value.name for value in model.graph.input if value.name not in stored]
    if len(names) != len(given):
        raise UsageError(f"{path} takes {len(given)} inputs, the data has {len(names)}: {names}")
    return dict(zip(names, names, strict=True)) if set(names) == set(given) else dict(zip(given, names, strict=True))


def _same(source: onnx.ModelProto, model: onnx.ModelProto, feeds: Mapping[str, Array], path: Path) -> None:
    """Raise UsageError naming the op where the two first differ. Outputs whose shape nobody infers get it here."""
    from targets import onnx_graph

    names = [value.name for value in source.graph.output]
    told, now = (_answers(one, names, feeds, path) for one in (source, model))
    worst = [name for name in names if not _alike(told[name], now[name])]
    if worst:
        node = _first_apart(source, model, feeds, path)
        opset = next((one.version for one in source.opset_import if not one.domain), 0)
        raise UsageError(
            f"{path}: raised from opset {opset}, {node or f'its output {worst[0]}'} answers otherwise: export it anew "
            "at opset 17"
        )
    for value in model.graph.output:
        shape = value.type.tensor_type.shape
        if not shape.dim:
            for size in now[value.name].shape:
                shape.dim.add().dim_value = size
            if shape.dim and not model.graph.input[0].type.tensor_type.shape.dim[0].dim_value:
                shape.dim[0].dim_param = onnx_graph.BATCH


def _answers(
    model: onnx.ModelProto, names: Sequence[str], feeds: Mapping[str, Array], path: Path, tapped: bool = False
) -> dict[str, Array]:
    import onnx

    from targets import agent

    asked = onnx.ModelProto()
    asked.CopyFrom(model)
    if tapped:
        asked.graph.ClearField("output")
        asked.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    try:
        session = agent.onnxruntime_session(asked.SerializeToString(), {})
        told = session.run(list(names), dict(feeds))
    except Exception as error:
        shapes = {name: f"{array.dtype} {list(array.shape)}" for name, array in feeds.items()}
        words = " ".join(str(error).split())[:300]
        raise UsageError(f"{path} does not run on {shapes} in ONNX Runtime: {words}") from error
    if any(not isinstance(array, np.ndarray) for array in told):
        raise UsageError(f"{path}: its outputs are no tensors: {list(names)}")
    return dict(zip(names, told, strict=True))


def _alike(one: Array, other: Array) -> bool:
    from calibration.metrics import sqnr_db

    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return bool(np.array_equal(one, other, equal_nan=one.dtype.kind == "f"))
    return sqnr_db(one.astype(np.float64), other.astype(np.float64)) >= PARITY_DB


def _first_apart(source: onnx.ModelProto, model: onnx.ModelProto, feeds: Mapping[str, Array], path: Path) -> str:
    """Op and name of the first node whose answer both forms have and that differs; empty where none is found."""
    made = {name for node in source.graph.node for name in node.output if name}
    nodes = {name: node for node in model.graph.node for name in node.output if name in made}
    try:
        told, now = (_answers(one, list(nodes), feeds, path, tapped=True) for one in (source, model))
    except UsageError:
        return ""
    return next(
        (f"{node.op_type} '{node.name}'" for name, node in nodes.items() if not _alike(told[name], now[name])), ""
    )


def external(job: Job) -> dict[str, Any]:
    """Digests of the files beside an ONNX file (setting `model`) that hold its weights."""
    from pipeline.artifact import sha256_file
    from targets import onnx_normal

    files = onnx_normal.external(Path(job.settings["model"]))
    return {"external": [sha256_file(file) for file in files if file.is_file()]}


def sized(path: Path, shapes: Sequence[str]) -> tuple[onnx.ModelProto, int]:
    """A file's network in normal form without any data, and the bytes of all its files. `shapes` of one sample of each
    input as `deploy inspect` takes them, "3x224x224" in order or "NAME=3x224x224".
    """
    from pipeline.inspection import shape
    from targets import onnx_normal

    given = [sizes for _, (sizes, _) in (shape(text, "") for text in shapes)]
    names = [text.rpartition("=")[0] for text in shapes if "=" in text]
    if names and len(names) < len(shapes):
        raise UsageError(f"--shape: name all inputs or none: {', '.join(shapes)}")
    source, beside = opened(path)
    model = onnx_normal.normal(source, path, dict(zip(names, given, strict=True)) if names else given)
    bounds.loosen(2 * activation_bytes(model, 1))
    return model, path.stat().st_size + beside


def to_file(job: Job) -> dict[str, Any]:
    """Settings: file, shapes. Writes the normal form to `out`; returns its path and digest."""
    from targets import onnx_graph
    from targets.base import sha256_files

    path = job.out / "model.onnx"
    onnx_graph.save(sized(Path(job.settings["file"]), job.settings["shapes"])[0], path)
    return {"path": str(path), "sha256": sha256_files([path])}
