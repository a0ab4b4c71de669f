"""The affine map against ONNX's own reference implementation and ONNX Runtime, bit for bit."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from calibration.qparams import QParams, dequantize, fake_quantize, from_range, limits, quantize
from calibration.schemes import Granularity, TensorScheme

RELAXED = settings(deadline=None)  # time is the machine's affair
TYPES = {
    (8, True): TensorProto.INT8,
    (8, False): TensorProto.UINT8,
    (16, True): TensorProto.INT16,
    (16, False): TensorProto.UINT16,
}
SCHEMES = [
    TensorScheme(bits, signed, symmetric, Granularity.PER_TENSOR, narrow)
    for bits, signed in TYPES
    for symmetric in (False, True)
    for narrow in (False, True)
]
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
schemes = st.sampled_from(SCHEMES)
full_schemes = st.sampled_from([scheme for scheme in SCHEMES if not scheme.narrow])  # ONNX uses all codes
scales = st.floats(2.0**-126, 2.0**100, width=32)


@functools.cache
def onnx_model(op: str, bits: int, signed: bool, axis: int | None) -> onnx.ModelProto:
    code = TYPES[bits, signed]
    node = helper.make_node(op, ["x", "scale", "zero"], ["y"], **({} if axis is None else {"axis": axis}))
    given_type, made_type = (TensorProto.FLOAT, code) if op == "QuantizeLinear" else (code, TensorProto.FLOAT)
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info("x", given_type, None),
            helper.make_tensor_value_info("scale", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("zero", code, None),
        ],
        [helper.make_tensor_value_info("y", made_type, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@functools.cache
def evaluator(runtime: str, op: str, bits: int, signed: bool, axis: int | None) -> Any:
    model = onnx_model(op, bits, signed, axis)
    if runtime == "reference":
        return ReferenceEvaluator(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def by_onnx(runtime: str, op: str, x: np.ndarray, qparams: QParams) -> np.ndarray:
    scheme = qparams.scheme
    zero = qparams.zero_point.astype(np.dtype(f"{'int' if scheme.signed else 'uint'}{scheme.bits}"))
    session = evaluator(runtime, op, scheme.bits, scheme.signed, qparams.axis)
    return np.asarray(session.run(None, {"x": x, "scale": np.array(qparams.scale), "zero": zero})[0])


@st.composite
def cases(draw: st.DrawFn, quotient: float) -> tuple[np.ndarray, QParams]:
    """A tensor and QParams, per tensor or per axis; half of the values at or next to a tie between two codes."""
    scheme = draw(full_schemes)
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, max_side=4))
    axis = draw(st.none() | st.integers(0, len(shape) - 1))
    size = () if axis is None else (shape[axis],)
    scale = draw(hnp.arrays(np.float32, size, elements=scales))
    zero = draw(hnp.arrays(np.int64, size, elements=st.integers(scheme.qmin, scheme.qmax)))
    qparams = QParams(scale, zero, scheme, axis)
    spread = scale if axis is None else scale.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    ties = draw(hnp.arrays(np.float32, shape, elements=st.integers(-300, 300).map(lambda i: i / 2)))
    ties = np.asarray(ties * spread, np.float32)
    ties = np.nextafter(ties, np.float32(draw(st.sampled_from([-1, 1])))) if draw(st.booleans()) else ties
    free = draw(hnp.arrays(np.float32, shape, elements=FLOATS))
    x = np.where(draw(hnp.arrays(np.bool_, shape)), ties, free)
    most = quotient * spread.astype(np.float64)
    return np.clip(x, -most, most).astype(np.float32), qparams


@given(cases(quotient=2.0**30))  # the reference casts to int32 before it saturates
@RELAXED
def test_quantize_is_onnx_reference(case: tuple[np.ndarray, QParams]) -> None:
    x, qparams = case
    made = quantize(x, qparams)
    expected = by_onnx("reference", "QuantizeLinear", x, qparams)
    assert made.dtype == expected.dtype
    np.testing.assert_array_equal(made, expected)


@given(cases(quotient=2.0**30))
@RELAXED
def test_dequantize_and_fake_quantize_are_onnx_reference(case: tuple[np.ndarray, QParams]) -> None:
    x, qparams = case
    codes = quantize(x, qparams)
    expected = by_onnx("reference", "DequantizeLinear", codes, qparams)
    assert dequantize(codes, qparams).tobytes() == expected.astype(np.float32).tobytes()
    assert fake_quantize(x, qparams).tobytes() == dequantize(codes, qparams).tobytes()


@given(cases(quotient=2.0**30))
@RELAXED
def test_quantize_is_onnxruntime(case: tuple[np.ndarray, QParams]) -> None:
    x, qparams = case
    np.testing.assert_array_equal(quantize(x, qparams), by_onnx("onnxruntime", "QuantizeLinear", x, qparams))


@given(schemes, scales, st.data())
@RELAXED
def test_extremes_saturate(scheme: TensorScheme, scale: float, data: st.DataObject) -> None:
    zero = data.draw(st.integers(scheme.qmin, scheme.qmax))
    qparams = QParams(np.float32(scale), np.int64(zero), scheme)
    largest = np.finfo(np.float32).max
    x = np.array([-np.inf, -largest, largest, np.inf], np.float32)
    assert quantize(x, qparams).tolist() == [scheme.qmin] * 2 + [scheme.qmax] * 2
    lo, hi = limits(qparams)
    assert fake_quantize(x, qparams).astype(np.float64).tolist() == [np.float32(lo)] * 2 + [np.float32(hi)] * 2


@given(schemes, st.lists(st.floats(-(2.0**120), 2.0**120, width=32), min_size=2, max_size=2).map(sorted))
@RELAXED
def test_from_range_covers_the_range_and_zero(scheme: TensorScheme, ends: list[float]) -> None:
    qparams = from_range(ends[0], ends[1], scheme)
    step, (lo, hi) = float(qparams.scale), limits(qparams)
    assert fake_quantize(np.zeros(1), qparams).tolist() == [0.0]
    slack = 0.500001 * step + 1e-6 * max(-ends[0], ends[1])  # the nudged zero point, and float32
    assert lo <= ends[0] + slack
    assert hi >= ends[1] - slack
    if ends[0] < ends[1] and step > 2e-38:
        wide = max(ends[1], 0.0) - min(ends[0], 0.0)
        widest = 2 * max(abs(e) for e in ends) if scheme.symmetric else wide
        assert step * (scheme.qmax - scheme.qmin - 1) <= widest * 1.000001


@given(schemes, st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=2, max_size=2).map(sorted))
@RELAXED
def test_limits_give_the_same_qparams_again(scheme: TensorScheme, ends: list[float]) -> None:
    first = from_range(ends[0], ends[1], scheme)
    assume(not scheme.symmetric or scheme.narrow)  # a symmetric range with the odd lowest code is no fixed point
    lo, hi = limits(first)
    again = from_range(lo, hi, scheme)
    assert again.zero_point == first.zero_point
    assert float(again.scale) == pytest.approx(float(first.scale), rel=1e-6)


@given(schemes, hnp.arrays(np.float32, st.integers(1, 6), elements=st.floats(-1e6, 1e6, width=32)))
@RELAXED
def test_channels_are_solved_one_by_one(scheme: TensorScheme, ends: np.ndarray) -> None:
    lo, hi = np.minimum(ends, ends[::-1]), np.maximum(ends, ends[::-1])
    together = from_range(lo, hi, scheme, axis=0)
    for index in range(len(ends)):
        alone = from_range(lo[index], hi[index], scheme)
        assert together.scale[index] == alone.scale
        assert together.zero_point[index] == alone.zero_point
