"""Writes int8 .tflite files op by op with the schema's own object API: no converter between a test and its graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

TYPES = {
    "int8": schema.TensorType.INT8,
    "int32": schema.TensorType.INT32,
    "float32": schema.TensorType.FLOAT32,
    "int16": schema.TensorType.INT16,
}


class Writer:
    """Tensors are numbers. `shapes` and `codes` (scale, zero point) remember what each was given."""

    def __init__(self) -> None:
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators, self.graph.inputs, self.graph.outputs = [], [], [], []
        self.buffers = [schema.BufferT()]
        self.ops: list[str] = []
        self.shapes: list[tuple[int, ...]] = []
        self.codes: list[tuple[float, int]] = []

    def tensor(
        self,
        shape: Sequence[int],
        scale: Any = None,
        zero_point: int = 0,
        data: np.ndarray | None = None,
        kind: str = "int8",
        axis: int = 0,
    ) -> int:
        """A constant where there is data, else an activation."""
        made = schema.TensorT()
        made.shape, made.type, made.buffer = list(shape), TYPES[kind], 0
        made.name = f"t{len(self.graph.tensors)}".encode()
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.astype(kind).tobytes(), np.uint8)
            made.buffer = len(self.buffers)
            self.buffers.append(buffer)
        if scale is not None:
            scales = np.atleast_1d(np.asarray(scale, np.float32))
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale = [float(s) for s in scales]
            made.quantization.zeroPoint = [zero_point] * len(scales)
            made.quantization.quantizedDimension = axis
        self.graph.tensors.append(made)
        self.shapes.append(tuple(shape))
        self.codes.append((float(np.ravel(scale)[0]) if scale is not None else 0.0, zero_point))
        return len(self.graph.tensors) - 1

    def op(self, name: str, inputs: Sequence[int], output: Any, options: str | None = None, **values: Any) -> Any:
        """An op; `options` is the schema's table ("Conv2DOptions"), `values` its fields. Returns the output or list of
        outputs as it was given."""
        made = schema.OperatorT()
        made.inputs, made.outputs = list(inputs), output if isinstance(output, list) else [output]
        made.opcodeIndex = len(self.ops)
        self.ops.append(name)
        if options is not None:
            made.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            made.builtinOptions = getattr(schema, f"{options}T")()
            for key, value in values.items():
                assert hasattr(made.builtinOptions, key), key
                setattr(made.builtinOptions, key, value)
        self.graph.operators.append(made)
        return output

    def file(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        """The finished file."""
        model = schema.ModelT()
        model.version, model.subgraphs, model.buffers, model.operatorCodes = 3, [self.graph], self.buffers, []
        self.graph.inputs, self.graph.outputs = list(inputs), list(outputs)
        for name in self.ops:
            code = schema.OperatorCodeT()
            code.builtinCode = getattr(schema.BuiltinOperator, name)
            code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), 1
            model.operatorCodes.append(code)
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())
