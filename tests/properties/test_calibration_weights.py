"""Codes chosen by moments: of no drawn layer worse than nearest codes, on the objective that they claim to lower."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calibration import weights
from calibration.weights import DAMPING, Codes, Float32, Float64
from pipeline.compression import adaround


@st.composite
def layers(draw: st.DrawFn) -> tuple[Float32, Float64]:
    """Weights [out, inputs] and second moments [groups, inputs, inputs] of a few samples, zeros among them."""
    groups, inputs = draw(st.integers(1, 2)), draw(st.integers(1, 9))
    outputs, samples = groups * draw(st.integers(1, 3)), draw(st.integers(1, 20))
    numbers = st.floats(-8, 8, width=32) | st.sampled_from([0.0, 0.5, 127.0, 1e-20])
    weight = draw(hnp.arrays(np.float32, (outputs, inputs), elements=numbers))
    seen = draw(hnp.arrays(np.float64, (groups, samples, inputs), elements=st.floats(-4, 4) | st.just(0.0)))
    return weight, np.matmul(seen.transpose(0, 2, 1), seen) / samples


def costs(weight: Float32, codes: Codes, second: Float64, largest: int) -> Float64:
    """e' S e of each output channel, in steps of its scale."""
    groups, inputs = second.shape[:2]
    error = (codes - weight / weights.scales(weight, largest)[:, None]).astype(np.float64).reshape(groups, -1, inputs)
    return np.asarray((np.matmul(error, second) * error).sum(axis=2).reshape(-1))


LARGEST = st.sampled_from((weights.LARGEST_CODE, weights.HALF_RANGE_CODE))


@given(layers(), LARGEST)
@settings(deadline=None)
def test_rounding_is_never_worse_than_nearest(layer: tuple[Float32, Float64], largest: int) -> None:
    weight, second = layer
    codes, nearest = weights.rounded(weight, second, largest), weights.nearest(weight, largest)
    mean = np.trace(second, axis1=1, axis2=2) / second.shape[1]
    damped = second + DAMPING * mean[:, None, None] * np.eye(second.shape[1])
    assert (costs(weight, codes, damped, largest) <= costs(weight, nearest, damped, largest) * (1 + 1e-9)).all()
    np.testing.assert_array_equal(np.abs(codes).max(axis=1), np.abs(nearest).max(axis=1))  # the scale stays


@given(layers(), LARGEST)
@settings(deadline=None, max_examples=25)
def test_adaround_is_never_worse_than_nearest(layer: tuple[Float32, Float64], largest: int) -> None:
    weight, second = layer
    codes, nearest = adaround.rounded(weight, second, largest, steps=40), weights.nearest(weight, largest)
    assert (costs(weight, codes, second, largest) <= costs(weight, nearest, second, largest) * (1 + 1e-6)).all()
    np.testing.assert_array_equal(np.abs(codes).max(axis=1), np.abs(nearest).max(axis=1))
