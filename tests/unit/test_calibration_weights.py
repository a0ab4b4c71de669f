"""The weight step's arithmetic, against PyTorch's convolutions and against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from calibration import weights
from calibration.errors import CalibrationError
from calibration.weights import DAMPING, Geometry, Moments

# Name -> (input shape, weight shape, geometry, arguments of PyTorch's convolution).
CASES = {
    "conv1d": ((3, 4, 11), (6, 4, 3), Geometry((3,), (2,), ((1, 1),), (1,)), {"stride": 2, "padding": 1}),
    "dilated": ((2, 4, 13), (5, 4, 4), Geometry((4,), (1,), ((2, 2),), (3,)), {"dilation": 3, "padding": 2}),
    "same": ((2, 4, 9), (5, 4, 4), Geometry((4,), (1,), ((1, 2),), (1,)), {"padding": "same"}),
    "conv2d": (
        (2, 3, 9, 7),
        (8, 3, 3, 2),
        Geometry((3, 2), (2, 1), ((1, 1), (0, 0)), (1, 2)),
        {"stride": (2, 1), "padding": (1, 0), "dilation": (1, 2)},
    ),
    "grouped": (
        (2, 6, 8, 7),
        (9, 2, 3, 3),
        Geometry((3, 3), (1, 1), ((1, 1),) * 2, (1, 1), 3),
        {"padding": 1, "groups": 3},
    ),
    "depthwise": ((2, 5, 8, 7), (10, 1, 3, 3), Geometry((3, 3), (1, 1), ((0, 0),) * 2, (1, 1), 5), {"groups": 5}),
    "conv3d": ((2, 2, 5, 4, 6), (3, 2, 2, 1, 3), Geometry((2, 1, 3), (1,) * 3, ((0, 0),) * 3, (1,) * 3), {}),
    "linear": ((7, 12), (5, 12), Geometry(), None),
    "linear over time": ((3, 6, 12), (5, 12), Geometry(), None),
}


def layer(x: np.ndarray, weight: np.ndarray, arguments: dict | None) -> np.ndarray:
    """The layer's outputs by PyTorch in float64: [patches, out]."""
    tensors = torch.from_numpy(x.astype(np.float64)), torch.from_numpy(weight.astype(np.float64))
    if arguments is None:
        return F.linear(*tensors).reshape(-1, len(weight)).numpy()
    convolution = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[weight.ndim]
    return convolution(*tensors, **arguments).movedim(1, -1).reshape(-1, len(weight)).numpy()


def drawn(name: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray, Geometry, dict | None]:
    shape, kernel, geometry, arguments = CASES[name]
    rng = np.random.default_rng(seed)
    x = rng.gamma(1.0, 1.0, shape) * rng.uniform(0.2, 3, (1, *shape[1:]))  # positive: the means matter
    return x.astype(np.float32), rng.normal(0, 1, kernel).astype(np.float32), geometry, arguments


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:Using padding=.same.:UserWarning")
def test_patches_are_what_the_kernel_sees(name: str) -> None:
    x, weight, geometry, arguments = drawn(name)
    seen = weights.patches(x, geometry)
    kernels = weight.reshape(geometry.groups, -1, seen.shape[1])
    made = np.matmul(kernels, seen).reshape(len(weight), -1).T
    np.testing.assert_allclose(made, layer(x, weight, arguments), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:Using padding=.same.:UserWarning")
def test_the_bias_takes_the_mean_error_away(name: str) -> None:
    x, weight, geometry, arguments = drawn(name)
    coarse = np.round(weight * 2) / 2
    moments = Moments(geometry, second=False)
    for sample in np.split(x, len(x)):
        moments.update(sample)
    lost = layer(x, weight, arguments) - layer(x, coarse, arguments)
    shift = weights.bias_shift(weight, coarse, moments.mean)
    assert np.abs(lost.mean(axis=0)).max() > 0.05
    np.testing.assert_allclose(lost.mean(axis=0), shift, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore:Using padding=.same.:UserWarning")
def test_the_objective_is_the_error_variance(name: str) -> None:
    x, weight, geometry, arguments = drawn(name)
    moments = Moments(geometry)
    moments.update(x)
    coarse = np.round(weight * 2) / 2
    lost = layer(x, weight, arguments) - layer(x, coarse, arguments)
    assert weights.error_power(weight, coarse, moments.covariance) == pytest.approx(lost.var(axis=0).sum(), rel=1e-3)
    assert weights.error_power(weight, coarse, moments.raw) == pytest.approx((lost**2).mean(axis=0).sum(), rel=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_a_converter_finds_the_same_codes(name: str) -> None:
    _, weight, geometry, _ = drawn(name)
    moments = Moments(geometry)
    moments.update(drawn(name)[0])
    weight[0] = 0.0  # a dead channel
    codes = weights.rounded(weight, moments.covariance)
    stepped = weights.dequantized(codes, weights.scales(weight))
    factor = np.random.default_rng(1).uniform(0.01, 90.0, len(weight)).astype(np.float32)  # a BatchNorm folded into it
    folded = stepped * factor.reshape(-1, *[1] * (weight.ndim - 1))
    np.testing.assert_array_equal(weights.nearest(stepped), codes)
    np.testing.assert_array_equal(weights.nearest(folded), codes)
    assert (np.abs(codes).reshape(len(codes), -1).max(axis=1)[1:] == 127).all()


@pytest.mark.parametrize("seed", range(6))
def test_rounding_against_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    inputs = rng.normal(0, 1, (9, 4)) @ rng.normal(0, 1, (4, 9)) + rng.normal(0, 0.1, (9, 9))
    second = (inputs.T @ inputs)[None]
    damped = second[0] + DAMPING * np.trace(second[0]) / 9 * np.eye(9)
    weight = rng.normal(0, 1, (3, 9)).astype(np.float32)
    exact = (weight / weights.scales(weight)[:, None]).astype(np.float64)
    codes = weights.rounded(weight, second)

    def cost(of: np.ndarray, row: int) -> float:
        error = of - exact[row]
        return float(error @ damped @ error)

    for row in range(3):
        free = np.flatnonzero(np.abs(np.rint(exact[row])) < 127)
        lower = np.floor(exact[row])
        tries = []
        for up in itertools.product((0.0, 1.0), repeat=len(free)):
            one = np.rint(exact[row])
            one[free] = lower[free] + up
            tries.append(cost(one, row))
        found = cost(codes[row].astype(np.float64), row)
        start = cost(np.rint(exact[row]), row)
        assert min(tries) * (1 - 1e-9) <= found <= start
        assert np.abs(codes[row] - exact[row]).max() < 1.0
        for j in free:  # no single move to the other neighbour helps
            moved = codes[row].astype(np.float64)
            moved[j] = 2 * lower[j] + 1 - moved[j]
            assert abs(moved[j]) == 127 or cost(moved, row) >= found * (1 - 1e-9)
    total = weights.error_power(weight, weights.dequantized(codes, weights.scales(weight)), second)
    plain = weights.error_power(weight, weights.dequantized(weights.nearest(weight), weights.scales(weight)), second)
    assert total < plain


def test_uncorrelated_inputs_leave_the_nearest_codes() -> None:
    weight = np.random.default_rng(0).normal(0, 1, (4, 30)).astype(np.float32)
    np.testing.assert_array_equal(weights.rounded(weight, np.eye(30)[None]), weights.nearest(weight))


def test_inputs_that_are_always_zero_are_left_alone() -> None:
    weight = np.random.default_rng(0).normal(0, 1, (4, 6)).astype(np.float32)
    np.testing.assert_array_equal(weights.rounded(weight, np.zeros((1, 6, 6))), weights.nearest(weight))


def test_bad_numbers_are_refused() -> None:
    moments = Moments(Geometry())
    with pytest.raises(CalibrationError, match="no input of this layer"):
        _ = moments.mean
    with pytest.raises(CalibrationError, match="1 of 4 values"):
        moments.update(np.array([[1.0, np.nan, 0.0, 2.0]], np.float32))
    with pytest.raises(CalibrationError, match="1 of 2 weights"):
        weights.scales(np.array([[np.inf, 1.0]], np.float32))
    with pytest.raises(CalibrationError, match="do not fit"):
        weights.rounded(np.ones((2, 3), np.float32), np.eye(4)[None])
    first = Moments(Geometry(), second=False)
    first.update(np.ones((1, 4), np.float32))
    with pytest.raises(CalibrationError, match="only first moments"):
        _ = first.covariance
