"""A quantized .tflite file as a plain graph: values, nodes, options. Says nothing about what can be generated."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from targets.base import TargetError
from targets.tflite import flatbuffer

_DTYPES = {"INT8": np.int8, "INT32": np.int32, "INT16": np.int16, "INT64": np.int64, "FLOAT32": np.float32}


@dataclass(frozen=True, eq=False)
class Value:
    """One tensor. `data` (in its own dtype and shape) for a constant, None for an activation.

    `scale` float32 [1] or [channels], None without quantization; `zero_point` int64, as many.
    """

    index: int
    name: str
    type: str
    shape: tuple[int, ...]
    data: npt.NDArray[Any] | None
    scale: npt.NDArray[np.float32] | None
    zero_point: npt.NDArray[np.int64] | None

    @property
    def size(self) -> int:
        """Elements; bytes for int8."""
        return math.prod(self.shape)


@dataclass(frozen=True, eq=False)
class Node:
    """One op. `inputs` without optional ones left out; `options` is the schema's object, None where there is none."""

    position: int
    op: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    options: Any
    macs: int

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"op {self.position} {self.op} ('{self.outputs[0].name if self.outputs else '?'}')"

    def option(self, name: str, default: Any = 0) -> Any:
        """An option by its name in the schema's object API, or its default."""
        return getattr(self.options, name, default)


@dataclass(frozen=True, eq=False)
class Graph:
    """The main subgraph in execution order. `sha256` is the file's."""

    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    sha256: str


def read(path: Path) -> Graph:
    """The graph in a file. Raises TargetError "unsupported" for what is no single-graph TFLite file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TargetError(f"cannot read {path}: {error.strerror}", "unsupported") from error
    return parse(content, str(path))


def parse(content: bytes, where: str = "the model") -> Graph:
    """See `read`; `where` names the file in messages."""
    if content[4:8] != b"TFL3":
        raise TargetError(f"{where} is no TFLite file (it lacks the mark TFL3)", "unsupported")
    try:
        model = flatbuffer.parse(content)
        if len(model.subgraphs) != 1:
            raise TargetError(f"it has {len(model.subgraphs)} subgraphs: control flow is not supported")
        return _graph(model, hashlib.sha256(content).hexdigest())
    except TargetError as error:
        raise TargetError(f"{where}: {error}", "unsupported") from error
    except Exception as error:  # a damaged flatbuffer breaks its reader in any way
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        raise TargetError(f"{where} is damaged ({reason}): export it again", "unsupported") from error


def _graph(model: Any, sha256: str) -> Graph:
    main = model.subgraphs[0]
    values: dict[int, Value] = {}

    def keep(indices: Any, tensors: Any) -> tuple[Value, ...]:
        present = [int(i) for i in (indices if indices is not None else ()) if i >= 0]
        for index, tensor in zip(present, tensors, strict=True):
            values.setdefault(index, _value(index, tensor))
        return tuple(values[index] for index in present)

    nodes = tuple(
        Node(n, op.type, keep(raw.inputs, op.inputs), keep(raw.outputs, op.outputs), raw.builtinOptions, op.macs)
        for n, (raw, op) in enumerate(zip(main.operators, flatbuffer.ops(model), strict=True))
    )
    for index in main.inputs:
        raw = main.tensors[index]
        free = [int(n) for n in raw.shapeSignature] if raw.shapeSignature is not None else []
        if -1 in free[1:]:
            raise TargetError(f"the input '{raw.name.decode()}' has the free shape {free}: export with fixed sizes")
    inputs, outputs = flatbuffer.interface(model)
    graph = Graph(nodes, keep(main.inputs, inputs), keep(main.outputs, outputs), sha256)
    written = {value.index for value in graph.inputs}
    for node in nodes:
        for value in node.inputs:
            if value.data is None and value.index not in written:
                raise TargetError(f"{node.label} reads '{value.name}', which nothing has written: export it again")
        written.update(value.index for value in node.outputs)
    for value in graph.outputs:
        if value.index not in written:
            raise TargetError(f"no op writes the output '{value.name}': export it again")
    return graph


def interior(graph: Graph) -> Graph:
    """Without the QUANTIZE and DEQUANTIZE at float inputs and outputs, and without ops that nothing needs.

    Such a model takes and gives the codes beneath its floats: the generated helpers convert. A shape that is computed
    is not needed, because every shape is fixed.
    """
    writers = {value.index: node for node in graph.nodes for value in node.outputs}
    readers: dict[int, list[Node]] = {}
    for node in graph.nodes:
        for value in node.inputs:
            readers.setdefault(value.index, []).append(node)

    def coded(value: Value) -> Value:
        reading = readers.get(value.index, [])
        only = value.type == "FLOAT32" and len(reading) == 1 and reading[0].op == "QUANTIZE"
        return reading[0].outputs[0] if only else value

    def uncoded(value: Value) -> Value:
        node = writers.get(value.index)
        known = (
            node is not None and node.op == "DEQUANTIZE" and value.type == "FLOAT32" and not readers.get(value.index)
        )
        return node.inputs[0] if node is not None and known else value

    inputs, outputs = tuple(map(coded, graph.inputs)), tuple(map(uncoded, graph.outputs))
    needed, given, nodes = {value.index for value in outputs}, {value.index for value in inputs}, []
    for node in reversed(graph.nodes):
        if any(value.index in needed for value in node.outputs) and node.outputs[0].index not in given:
            nodes.append(node)
            needed |= {value.index for value in (node.inputs[:1] if node.op == "RESHAPE" else node.inputs)}
    return replace(graph, nodes=tuple(reversed(nodes)), inputs=inputs, outputs=outputs)


def _value(index: int, tensor: flatbuffer.Tensor) -> Value:
    data = None
    if tensor.data is not None:
        if tensor.type not in _DTYPES:
            raise TargetError(f"the constant '{tensor.name}' is {tensor.type}, which is not supported")
        data = tensor.data.view(_DTYPES[tensor.type]).reshape(tensor.shape)
    elif math.prod(tensor.shape) <= 0:
        raise TargetError(f"the tensor '{tensor.name}' has the shape {list(tensor.shape)}: export with fixed sizes")
    return Value(index, tensor.name, tensor.type, tensor.shape, data, tensor.scale, tensor.zero_point)
