"""What a target really makes of rows of its capability table: all of their networks in one file, read one at a time.

Each row's op lies between a convolution and a product, which are int8 on every target, so what is float in its part of
the file is its own doing.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import interface
from pipeline.data import Data, Split, save
from pipeline.stages import Job, export
from pipeline.stages.quantize import shares
from targets import tflite
from targets.base import Batch, Candidate, Model, Target, TargetError, TensorSpec
from targets.cortex_m import CortexM
from targets.cortex_m.program import compile_file

from . import ops
from .case import CALIBRATION, Case, Network

PLAIN = "plain"  # the network without an op


def network(names: Sequence[str], kind: str, folder: Path) -> Network:
    """The rows' networks as one program of that kind, with an output each; noise for samples."""
    rng = np.random.default_rng(0)
    inputs: Batch = {"input": rng.standard_normal((CALIBRATION, *ops.SHAPE)).astype(np.float32)}
    if not ops.TOKENS.isdisjoint(names):
        inputs["ids"] = rng.integers(0, ops.TABLE, (CALIBRATION, ops.STEPS))
    split = Split(inputs, np.zeros(CALIBRATION, np.int64))
    save(Data({"calibration": split, "gate": split}), folder / "data")
    programs = {"pt2": folder / "pt2", "onnx": folder / "onnx"}
    for path in programs.values():
        path.mkdir()
    module = interface.adapt(ops.made(PLAIN, *names, end=True), tuple(inputs))
    found = export.export(module, inputs, programs["pt2"])
    if kind == "onnx":
        export.onnx(Job("export", {}, {"program": programs["pt2"]}, programs["onnx"], 0))
    return Network("rows", folder / "data", programs, np.empty(0), 0, 0, found["ops"])


def generated(made: Network, folder: Path) -> dict[str, str]:
    """Row -> why its part of the file cannot become C, empty where it can. Quantized as the tflite target does it."""

    class Unchecked(CortexM):
        """Hands on what cannot become C as a whole."""

        def quantize(self, *arguments: Any) -> Model:
            return tflite.TARGET.quantize(*arguments)

    case = Case(Unchecked(), made, folder)
    whole, found = case.artifact(case.ours[0]), {}
    for spec in whole.outputs:
        (place := folder / f"row-{spec.name}").mkdir()
        try:
            compile_file(_part(whole, spec, place).path)
        except TargetError as error:
            found[spec.name] = str(error)
        else:
            found[spec.name] = ""
    return found


def levels(target: Target, made: Network, folder: Path) -> dict[str, str]:
    """Row -> "int8", or "float: " and the types of the ops that the file of our own candidate leaves in float."""
    case = Case(target, made, folder)
    candidate = case.ours[0]
    whole = case.artifact(candidate)
    floats = {}
    for spec in whole.outputs:
        (place := folder / f"row-{spec.name}").mkdir()
        floats[spec.name] = _floats(target, _part(whole, spec, place), candidate)
    everywhere = floats.pop(PLAIN)
    left = {name: sorted((found - everywhere).elements()) for name, found in floats.items()}
    return {name: f"float: {', '.join(found)}" if found else "int8" for name, found in left.items()}


def _floats(target: Target, model: Model, candidate: Candidate) -> Counter[str]:
    return Counter(op.partition(" ")[0] for op in shares(target.inspect(model, candidate))["float_ops"])


def _part(whole: Model, output: TensorSpec, folder: Path) -> Model:
    """What makes one output, as a file of its own."""
    path = folder / whole.path.name
    _CUT[path.suffix](whole.path, output.name, path)
    return replace(whole, path=path, outputs=(output,), tensors=())


def _of_onnx(source: Path, output: str, path: Path) -> None:
    import onnx

    graph = onnx.load(source)
    inside = onnx.utils.Extractor(graph).extract_model([value.name for value in graph.graph.input], [output])
    onnx.save(inside, path)


def _of_openvino(source: Path, output: str, path: Path) -> None:
    from targets import agent

    ov = agent.import_openvino()
    graph = ov.Core().read_model(str(source))
    (result,) = (port.get_node() for port in graph.outputs if output in port.get_names())
    ov.save_model(ov.Model([result], graph.get_parameters()), str(path), compress_to_fp16=False)


def _of_tflite(source: Path, output: str, path: Path) -> None:
    from targets.tflite import flatbuffer

    content = copy.copy(_tree(source))
    (whole,) = content.subgraphs
    (end,) = (index for index in whole.outputs if whole.tensors[index].name.decode() == output)
    needed = {end}
    kept: list[Any] = []
    for op in reversed(whole.operators):
        if needed.intersection(op.outputs):
            needed.update(op.inputs, op.outputs)
            kept.insert(0, copy.copy(op))
    place = {old: new for new, old in enumerate(sorted(needed - {-1}))} | {-1: -1}
    graph = copy.copy(whole)
    graph.tensors = [copy.copy(whole.tensors[index]) for index in place if index >= 0]
    content.buffers = [content.buffers[0], *(content.buffers[tensor.buffer] for tensor in graph.tensors)]
    for number, tensor in enumerate(graph.tensors, 1):
        tensor.buffer = number
    for op in kept:
        op.inputs, op.outputs = ([place[index] for index in list_] for list_ in (op.inputs, op.outputs))
    graph.operators, graph.outputs = kept, [place[end]]
    graph.inputs = [place[index] for index in whole.inputs if index in needed]
    content.subgraphs, content.signatureDefs, content.metadata = [graph], None, None
    path.write_bytes(flatbuffer.pack(content))


@cache
def _tree(source: Path) -> Any:
    """A file's tree, read once: no part may change what it holds."""
    from targets.tflite import flatbuffer

    return flatbuffer.read(source)


_CUT: dict[str, Callable[[Path, str, Path], None]] = {
    ".onnx": _of_onnx,
    ".xml": _of_openvino,
    ".tflite": _of_tflite,
}
