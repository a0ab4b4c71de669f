"""Our arithmetic against TFLite's reference kernels QUANTIZE and DEQUANTIZE, bit for bit, over drawn scales and codes.

TFLite rounds ties away from zero where ONNX and we round them to even: at a tie, theirs is held to that rule instead.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.qparams import QParams, dequantize, quantize
from calibration.schemes import SCHEMES, Granularity, TensorScheme

TYPES = {
    "INT8": SCHEMES["s8s8"].activation,
    "UINT8": SCHEMES["u8s8"].activation,
    "INT16": TensorScheme(16, True, True, Granularity.PER_TENSOR),  # its kernels use the lowest code too
}
RELAXED = settings(deadline=None, max_examples=60)
FARTHEST = 2.0**30  # steps: its kernels cast to int32 before they saturate, so that 2**31 has no defined code

scales = st.floats(2.0**-126, 2.0**100, width=32)


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, QParams]:
    """A type of codes with a scale and a zero point; TFLite knows 16 bits with the zero point 0 only."""
    name = draw(st.sampled_from(sorted(TYPES)))
    scheme = TYPES[name]
    zero = 0 if scheme.bits == 16 else draw(st.integers(scheme.qmin, scheme.qmax))
    return name, QParams(np.float32(draw(scales)), np.array(zero), scheme)


def kernel(op: str, kind: str, x: np.ndarray, qparams: QParams) -> np.ndarray:
    """One op of TFLite's, alone in a file, by its reference kernel."""
    flatbuffers = pytest.importorskip("flatbuffers")
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    from ai_edge_litert import schema_py_generated as schema

    def tensor(name: str, kind: int, quantized: bool) -> Any:
        made = schema.TensorT()
        made.name, made.type, made.shape, made.buffer = name, kind, [x.size], 0
        if quantized:
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale = [float(qparams.scale)]
            made.quantization.zeroPoint = [int(qparams.zero_point)]
        return made

    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, op)
    code.version = 2
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0], [1]
    graph = schema.SubGraphT()
    kinds = [(schema.TensorType.FLOAT32, False), (getattr(schema.TensorType, kind), True)]
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


@given(cases())
@RELAXED
def test_dequantize(case: tuple[str, QParams]) -> None:
    name, qparams = case
    scheme = qparams.scheme
    codes = np.arange(scheme.qmin, scheme.qmax + 1).astype(name.lower())
    theirs = kernel("DEQUANTIZE", name, codes, qparams)
    assert dequantize(codes, qparams).tobytes() == theirs.tobytes()


@given(cases(), st.integers(0, 2**32 - 1))
@RELAXED
def test_quantize(case: tuple[str, QParams], seed: int) -> None:
    name, qparams = case
    scheme, zero = qparams.scheme, int(qparams.zero_point)
    rng, wide = np.random.default_rng(seed), 1.2 * (scheme.qmax - scheme.qmin)
    steps = np.rint(rng.uniform(-wide, wide, 300))
    steps = np.concatenate([rng.uniform(-wide, wide, 500), steps, steps + 0.5, np.arange(-9, 9) / 2])
    with np.errstate(over="ignore"):
        x = (steps * float(qparams.scale)).astype(np.float32)
    x = np.concatenate([x, np.nextafter(x, np.float32(np.inf)), np.nextafter(x, np.float32(-np.inf))])
    ours = quantize(x, qparams).astype(int)
    theirs = kernel("QUANTIZE", name, x, qparams).astype(int)
    quotient = (x / qparams.scale).astype(np.float64)
    tie = np.abs(quotient % 1) == 0.5
    np.testing.assert_array_equal(ours[~tie], theirs[~tie])
    away = np.trunc(quotient[tie] + np.copysign(0.5, quotient[tie])) + zero
    np.testing.assert_array_equal(theirs[tie], np.clip(away, scheme.qmin, scheme.qmax))


@given(cases())
@RELAXED
def test_extremes_saturate(case: tuple[str, QParams]) -> None:
    name, qparams = case
    with np.errstate(over="ignore"):
        x = (np.array([-FARTHEST, -1e6, -0.0, 0.0, 1e6, FARTHEST]) * float(qparams.scale)).astype(np.float32)
    x = x[np.isfinite(x)]
    np.testing.assert_array_equal(quantize(x, qparams), kernel("QUANTIZE", name, x, qparams))
