"""Our arithmetic against TFLite's reference kernels QUANTIZE and DEQUANTIZE, bit for bit, over drawn scales and codes.

TFLite rounds ties away from zero where ONNX and we round them to even: only there may a code differ, by one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.qparams import QParams, dequantize, quantize
from calibration.schemes import SCHEMES

S8 = SCHEMES["s8s8"].activation
RELAXED = settings(deadline=None, max_examples=60)

scales = st.floats(2.0**-100, 2.0**100, width=32)
zeros = st.integers(-128, 127)


def kernel(op: str, x: np.ndarray, scale: float, zero_point: int) -> np.ndarray:
    """One op of TFLite's, alone in a file, by its reference kernel."""
    flatbuffers = pytest.importorskip("flatbuffers")
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    from ai_edge_litert import schema_py_generated as schema

    def tensor(name: str, kind: int, quantized: bool) -> Any:
        made = schema.TensorT()
        made.name, made.type, made.shape, made.buffer = name, kind, [x.size], 0
        if quantized:
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale, made.quantization.zeroPoint = [scale], [zero_point]
        return made

    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, op)
    code.version = 2
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0], [1]
    graph = schema.SubGraphT()
    kinds = [(schema.TensorType.FLOAT32, False), (schema.TensorType.INT8, True)]
    first, second = kinds if op == "QUANTIZE" else kinds[::-1]
    graph.tensors = [tensor("x", *first), tensor("y", *second)]
    graph.inputs, graph.outputs, graph.operators = [0], [1], [operator]
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [graph], [schema.BufferT()]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    session = interpreter.Interpreter(
        model_content=bytes(builder.Output()),
        experimental_op_resolver_type=interpreter.OpResolverType.BUILTIN_REF,
    )
    session.allocate_tensors()
    session.set_tensor(0, x)
    session.invoke()
    return session.get_tensor(1)


@given(scales, zeros)
@RELAXED
def test_dequantize(scale: float, zero_point: int) -> None:
    codes = np.arange(-128, 128, dtype=np.int8)
    ours = dequantize(codes, QParams(np.float32(scale), np.array(zero_point), S8))
    np.testing.assert_array_equal(ours, kernel("DEQUANTIZE", codes, scale, zero_point))


@given(scales, zeros, st.integers(0, 2**32 - 1))
@RELAXED
def test_quantize(scale: float, zero_point: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    steps = np.concatenate([rng.uniform(-300, 300, 500), np.arange(-300, 301), np.arange(-300, 300) + 0.5])
    with np.errstate(over="ignore"):
        x = (steps * scale).astype(np.float32)
    ours = quantize(x, QParams(np.float32(scale), np.array(zero_point), S8)).astype(int)
    theirs = kernel("QUANTIZE", x, scale, zero_point).astype(int)
    tie = np.abs((x / np.float32(scale)) % 1) == 0.5
    np.testing.assert_array_equal(ours[~tie], theirs[~tie])
    assert np.abs(ours - theirs).max() <= 1
