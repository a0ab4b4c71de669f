"""What a .tflite file says: ops, tensor types, constants, MACs; and two edits that keep its arithmetic as it is.

Field names are those of the TFLite schema (tensorflow/lite/schema/schema.fbs).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

# Op -> MACs of one output element (or, transposed: input element), from the filter's shape. Layouts of the schema:
# CONV_2D [out, h, w, in], DEPTHWISE [1, h, w, out], FULLY_CONNECTED [out, in], TRANSPOSE_CONV [out, h, w, in],
# CONV_3D [d, h, w, in, out].
_PER_OUTPUT: dict[str, Callable[[tuple[int, ...]], int]] = {
    "CONV_2D": lambda w: math.prod(w[1:]),
    "DEPTHWISE_CONV_2D": lambda w: math.prod(w[1:3]),
    "FULLY_CONNECTED": lambda w: w[-1],
    "CONV_3D": lambda w: math.prod(w[:4]),
}
_SIZES = {"RESHAPE": 1, "SLICE": 2}  # op -> which input says how large its output is
_FLOATS = {"FLOAT32": "f32", "FLOAT16": "f16", "BFLOAT16": "bf16"}


@dataclass(frozen=True)
class Tensor:
    """One tensor of a subgraph. `shape` as exported; `data` is None for an activation, else the constant's bytes."""

    name: str
    type: str
    shape: tuple[int, ...]
    buffer: int
    data: npt.NDArray[np.uint8] | None
    scale: npt.NDArray[np.float32] | None
    zero_point: npt.NDArray[np.int64] | None


@dataclass(frozen=True)
class Op:
    """One op: its builtin (or custom) name and its tensors; an optional input that is left out is not listed."""

    type: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def precision(self) -> str:
        """ "int8" where every number it takes and gives is int8 (int32 for biases), "int16" where activations are,
        "f32" where any is float, else the type of its first output (shape and index arithmetic).

        A product of float activations with int8 weights is "int8" too: its kernel rounds the activations as they come.
        """
        touched = [tensor.type for tensor in (*self.inputs, *self.outputs)]
        floats = [kind for kind in touched if kind in _FLOATS]
        if floats and self.macs and any(t.type == "INT8" and t.data is not None for t in self.inputs[:2]):
            return "int8"
        if floats:
            return _FLOATS[floats[0]]
        if "INT16" in touched:
            return "int16"
        return "int8" if "INT8" in touched else touched[-1].lower()

    @property
    def macs(self) -> int:
        """Multiply-accumulates, whole batch; 0 for ops that are not matrix products."""
        if self.type in _PER_OUTPUT:
            return math.prod(self.outputs[0].shape) * _PER_OUTPUT[self.type](self.inputs[1].shape)
        if self.type == "TRANSPOSE_CONV":  # inputs: output shape, filter, activation
            return math.prod(self.inputs[2].shape[:-1]) * math.prod(self.inputs[1].shape)
        if self.type == "BATCH_MATMUL":  # either operand may be transposed: (m k) (k n) / (m n) = k^2 in any case
            left, right, out = (t.shape for t in (*self.inputs[:2], self.outputs[0]))
            inner = math.isqrt(math.prod(left[-2:]) * math.prod(right[-2:]) // math.prod(out[-2:]))
            return math.prod(out) * inner
        return 0


def read(path: Path) -> Any:
    """The file as the schema's object tree (ModelT), in memory: not mapped, so the file may be replaced."""
    return parse(path.read_bytes())


def parse(content: bytes) -> Any:
    """A file's bytes as the schema's object tree (ModelT)."""
    from ai_edge_litert.tools import flatbuffer_utils

    return flatbuffer_utils.read_model_from_bytearray(content)


def pack(model: Any) -> bytes:
    """The object tree as the bytes of a file. Constants that are no arrays would be written byte by byte: minutes."""
    from ai_edge_litert.tools import flatbuffer_utils

    for buffer in model.buffers:
        if isinstance(buffer.data, bytes | bytearray | memoryview):
            buffer.data = np.frombuffer(buffer.data, np.uint8)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def ops(model: Any) -> list[Op]:
    """All ops in execution order, those of called subgraphs after those of the main one."""
    return [
        Op(op_name(model, raw), _pick(table, raw.inputs), _pick(table, raw.outputs))
        for graph, table in _subgraphs(model)
        for raw in graph.operators
    ]


def interface(model: Any) -> tuple[list[Tensor], list[Tensor]]:
    """The main subgraph's inputs and outputs."""
    graph, table = next(_subgraphs(model))
    return [table[i] for i in graph.inputs], [table[i] for i in graph.outputs]


def activations(model: Any) -> list[Tensor]:
    """The main subgraph's float activations in execution order, inputs first: what a quantizer wants ranges for."""
    graph, table = next(_subgraphs(model))
    order = [*graph.inputs, *(i for raw in graph.operators for i in raw.outputs)]
    unique = dict.fromkeys(int(i) for i in order if i >= 0)
    return [table[i] for i in unique if table[i].type == "FLOAT32" and table[i].data is None]


def layers(model: Any) -> list[str]:
    """Outputs of the main subgraph's convolutions and products with stored weights, in execution order."""
    graph, table = next(_subgraphs(model))
    found = [Op(op_name(model, raw), _pick(table, raw.inputs), _pick(table, raw.outputs)) for raw in graph.operators]
    return [op.outputs[0].name for op in found if op.macs and any(t.data is not None for t in op.inputs[:2])]


def same_names(model: Any, wanted: Sequence[str]) -> tuple[str, ...]:
    """Those of the wanted activations that the file has, in execution order."""
    graph, table = next(_subgraphs(model))
    order = [*graph.inputs, *(i for raw in graph.operators for i in raw.outputs)]
    unique = dict.fromkeys(int(i) for i in order if i >= 0)
    return tuple(dict.fromkeys(table[i].name for i in unique if table[i].name in wanted and table[i].data is None))


def weight_bytes(model: Any) -> int:
    """Bytes of the constants that carry weights and biases, each buffer once: float ones and quantized ones.

    Integers without a scale are shapes, axes and indices.
    """
    found = {
        (tensor.buffer, tensor.data.size)
        for op in ops(model)
        for tensor in op.inputs
        if tensor.data is not None and (tensor.type in _FLOATS or tensor.scale is not None)
    }
    return sum(size for _, size in found)


def rename(model: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Give inputs and outputs the program's names, in the signature as well, and all other tensors short unique ones.

    The converter's names are long (they hold Python paths) and are a fair part of a small model's file. A short name
    is the PyTorch module's path, with the tensor's index: "Sequential_body/Conv2d_0:12".
    Raises ValueError when the numbers of inputs or outputs differ.
    """
    for number, graph in enumerate(model.subgraphs):
        for index, tensor in enumerate(graph.tensors):
            where = f"{number}.{index}" if number else str(index)
            tensor.name = f"{_label(tensor.name.decode())}:{where}".encode()
    (signature,) = model.signatureDefs
    main = model.subgraphs[signature.subgraphIndex]
    named: set[int] = set()
    for maps, names in ((signature.inputs, inputs), (signature.outputs, outputs)):
        if len(maps) != len(names):
            found = [entry.name.decode() for entry in maps]
            raise ValueError(f"the converter made {found} of {list(names)}: is an input not used, or an output twice?")
        # "args_10" comes after "args_9": the number is the position in the program
        for entry, name in zip(sorted(maps, key=lambda m: _number(m.name.decode())), names, strict=True):
            entry.name = name.encode()
            if entry.tensorIndex not in named:  # an output that is an input, or another output too, has its name
                main.tensors[entry.tensorIndex].name = name.encode()
            named.add(int(entry.tensorIndex))


def sign_outputs(model: Any, before: Any) -> None:
    """Let a quantized file's signature name the outputs that its graph has, in the order of those of the float file.

    Where a float op reads an output too, the quantizer puts another tensor in its place, and leaves the signature with
    the old one, which no interpreter keeps.
    """
    (signature,), (earlier,) = model.signatureDefs, before.signatureDefs
    order = [int(index) for index in before.subgraphs[earlier.subgraphIndex].outputs]
    place = {entry.name: order.index(int(entry.tensorIndex)) for entry in earlier.outputs}
    for entry in signature.outputs:
        entry.tensorIndex = int(model.subgraphs[signature.subgraphIndex].outputs[place[entry.name]])


def free_batch(model: Any) -> None:
    """Declare the inputs' first axis free, and let RESHAPE and SLICE follow: -1 ("whatever is left") for the first axis
    of their constant sizes.

    At the exported batch that is the same number, so nothing changes there. At another it is right where the batch is
    (part of) the first axis on both sides; whether it is, a trial run says.
    """
    for index in model.subgraphs[0].inputs:
        tensor = model.subgraphs[0].tensors[index]
        tensor.shapeSignature = [-1, *tensor.shape[1:]]
    for graph in model.subgraphs:
        movers = [
            (raw, int(raw.inputs[_SIZES[name]]))
            for raw in graph.operators
            if (name := op_name(model, raw)) in _SIZES and len(raw.inputs) > _SIZES[name] and _whole(model, graph, raw)
        ]
        users = Counter(int(i) for raw in graph.operators for i in raw.inputs)
        fitting = Counter(index for _, index in movers)
        for raw, index in movers:
            buffer = model.buffers[graph.tensors[index].buffer]
            if buffer.data is None or not len(buffer.data) or users[index] != fitting[index]:
                continue  # computed, or something else reads it too
            sizes = np.frombuffer(bytes(buffer.data), np.int32).copy()
            if sizes.size and (sizes[1:] > 0).all():
                sizes[0] = -1
                buffer.data = sizes.view(np.uint8)
                if op_name(model, raw) == "RESHAPE":
                    raw.builtinOptions, raw.builtinOptionsType = None, 0  # a second copy of the shape
                else:  # SLICE's kernel compares with the output's shape, unless that says that it may vary
                    output = graph.tensors[raw.outputs[0]]
                    output.shapeSignature = [-1, *output.shape[1:]]


def _whole(model: Any, graph: Any, raw: Any) -> bool:
    """A RESHAPE, or a SLICE (input, begin, size) that takes all of the first axis."""
    if len(raw.inputs) != 3:
        return True
    begin, tensor = model.buffers[graph.tensors[raw.inputs[1]].buffer].data, graph.tensors[raw.inputs[0]]
    starts = np.frombuffer(bytes(begin), np.int32) if begin is not None and len(begin) else np.ones(1, np.int32)
    return bool(starts[0] == 0 and graph.tensors[raw.outputs[0]].shape[0] == tensor.shape[0])


def _label(name: str) -> str:
    """ "net.Net/torch.nn.Sequential_body/torch.nn.Conv2d_0;1" -> "Sequential_body/Conv2d_0"."""
    parts = [part.split("/") for part in name.split(";") if part and not part.isdigit()]
    path = max(parts, key=len, default=["tensor"])
    return "/".join(piece.rsplit(".", 1)[-1] for piece in (path[1:] or path))


def _number(name: str) -> int:
    digits = name.rsplit("_", 1)[-1]
    return int(digits) if digits.isdigit() else 0


def op_name(model: Any, raw: Any) -> str:
    """The builtin (or custom) name of an op of the object tree."""
    from ai_edge_litert.tools import flatbuffer_utils

    code = model.operatorCodes[raw.opcodeIndex]
    if code.customCode:
        return str(code.customCode.decode())
    return str(flatbuffer_utils.opcode_to_name(model, raw.opcodeIndex))


def _pick(table: Sequence[Tensor], indices: Sequence[int] | None) -> tuple[Tensor, ...]:
    return tuple(table[i] for i in (indices if indices is not None else ()) if i >= 0)


def _subgraphs(model: Any) -> Iterator[tuple[Any, list[Tensor]]]:
    from ai_edge_litert.tools import flatbuffer_utils

    for graph in model.subgraphs:
        table = []
        for raw in graph.tensors:
            data, quant = model.buffers[raw.buffer].data, raw.quantization
            scaled = quant is not None and quant.scale is not None and len(quant.scale) > 0
            table.append(
                Tensor(
                    raw.name.decode(),
                    flatbuffer_utils.type_to_name(raw.type),
                    tuple(int(n) for n in (raw.shape if raw.shape is not None else ())),
                    int(raw.buffer),
                    np.frombuffer(bytes(data), np.uint8) if data is not None and len(data) else None,
                    np.asarray(quant.scale, np.float32) if scaled else None,
                    np.asarray(quant.zeroPoint, np.int64) if scaled else None,
                )
            )
        yield graph, table
