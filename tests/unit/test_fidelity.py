"""Every output and every channel beside float's; a channel that stands still and must not."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from calibration import fidelity
from calibration.errors import CalibrationError
from calibration.metrics import sqnr_db, worst_error

Array = npt.NDArray[np.float32]
N = 100


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def rounded(values: Array, scale: float, low: int = -128, high: int = 127) -> Array:
    return (np.clip(np.round(values / scale), low, high) * scale).astype(np.float32)


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)


def heads(places: int = 80) -> Array:
    """Boxes in pixels [..., :4] on a grid, and eight small scores [..., 4:], as of an untrained detector."""
    grid = np.arange(places)[:, None] * 8 + 4 * rng().normal(size=(N, places, 4))
    scores = 1 / (1 + np.exp(4 - 0.4 * rng().normal(size=(N, places, 8))))
    return np.concatenate([grid, scores], axis=2).astype(np.float32)


@pytest.mark.parametrize("shape", [(N,), (N, 1), (N, 10), (N, 4, 30), (N, 3, 8, 9), (1, 5), (3, 40_000)])
def test_figures_are_those_over_all_values(shape: tuple[int, ...]) -> None:
    one = rng().normal(size=shape).astype(np.float32)
    other = one + 0.01 * np.random.default_rng(1).normal(size=shape).astype(np.float32)
    found = fidelity.output("y", one, other)
    assert found.sqnr_db == pytest.approx(sqnr_db(one, other), rel=1e-9)
    assert found.worst_error == worst_error(one, other)
    assert found.dead == 0
    if len(shape) == 4:
        assert found.channels == 3 + 9
        worst = min(
            [(sqnr_db(one[:, c], other[:, c]), f"[:, {c}]") for c in range(3)]
            + [(sqnr_db(one[..., c], other[..., c]), f"[..., {c}]") for c in range(9)]
        )
        assert (found.worst[0].sqnr_db, found.worst[0].at) == (pytest.approx(worst[0]), worst[1])


def test_the_worst_output_comes_first() -> None:
    one = rng().normal(size=(N, 4)).astype(np.float32)
    found = fidelity.outputs({"near": one, "same": one, "far": one}, {"near": one + 1e-3, "same": one, "far": one + 1})
    assert [row.name for row in found] == ["far", "near", "same"]
    assert found[2].sqnr_db == np.inf


def test_what_is_zero_in_float_alone_is_not_taken_for_identical() -> None:
    found = fidelity.output("y", np.zeros((N, 3), np.float32), np.ones((N, 3), np.float32))
    assert found.sqnr_db == fidelity.LOWEST_DB


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_no_figure(bad: float) -> None:
    one = np.ones((N, 3), np.float32)
    with pytest.raises(CalibrationError, match="'y' has values that are NaN or infinite"):
        fidelity.output("y", one, np.where(np.arange(3) == 1, bad, one))


def test_scores_on_the_scale_of_pixels_stand_still() -> None:
    one = heads()
    found = fidelity.output("y", one, rounded(one, 640 / 127))
    assert found.sqnr_db > 40
    assert found.dead == 8
    assert {channel.at for channel in found.still} <= {f"[..., {c}]" for c in range(4, 12)}
    assert all(channel.moved and channel.moved > 0.008 for channel in found.still)


def test_a_grid_brings_no_dead_channel_to_life() -> None:
    one = heads()
    other = rounded(one, 0.01, -(2**20), 2**20)
    other[..., 0] = other[:1, :, 0]  # each place has its own value, whatever the sample
    found = fidelity.output("y", one, other)
    assert [channel.at for channel in found.still] == ["[..., 0]"]


@pytest.mark.parametrize("turned", [False, True])
def test_channels_are_found_first_and_last(turned: bool) -> None:
    one = rng().normal(size=(N, 5, 6, 7)).astype(np.float32)
    other = rounded(one, 0.05)
    other[:, 2] = other[0, 2, 0, 0]
    if turned:
        one, other = one.transpose(0, 2, 3, 1), other.transpose(0, 2, 3, 1)
    found = fidelity.output("y", one, other)
    assert [channel.at for channel in found.still] == ["[..., 2]" if turned else "[:, 2]"]


def test_an_output_that_stands_still_as_a_whole_is_found_once() -> None:
    one = 1e-3 * rng().random(size=(N, 5, 7)).astype(np.float32)
    found = fidelity.output("y", one, np.zeros_like(one))
    assert found.dead == 5
    assert found.still[0].at.startswith("[:, ")


def shares_of_classes_that_do_not_occur() -> Array:
    logits = 2 * rng().normal(size=(N, 1000)).astype(np.float32)
    logits[np.arange(N), rng().integers(0, 20, N)] += 12
    return softmax(logits)


def once(count: int) -> Array:
    """One-hot: the last of three classes occurs so often."""
    return np.eye(3, dtype=np.float32)[np.where(np.arange(N) < count, 2, np.arange(N) % 2)]


SOUND = {
    "classes of a softmax that do not occur": (
        shares_of_classes_that_do_not_occur(),
        rounded(shares_of_classes_that_do_not_occur(), 1 / 256, 0, 255),
    ),
    "faint scores of sigmoids": (
        (heads()[..., 4:] / 8).astype(np.float32),
        rounded(heads()[..., 4:] / 8, 1 / 256, 0, 255),
    ),
    "a class that occurs twice and flips": (once(2), once(0)),
    "a channel that is dead in float": (
        np.tile(np.float32([[1, 0]]), (N, 1)) * [[1, 0]] + np.array([[1, 0]]) * rng().normal(size=(N, 1)),
        np.tile([[1.0, 0.0]], (N, 1)) * rounded(rng().normal(size=(N, 1)), 0.05),
    ),
    "a channel that is constant but for rounding errors": (
        np.concatenate([100 * rng().normal(size=(N, 1)), 300 + 1e-4 * rng().normal(size=(N, 1))], axis=1),
        np.concatenate([100 * rng().normal(size=(N, 1)), np.full((N, 1), 300.0)], axis=1),
    ),
    "a channel below a step of the output's": (
        np.concatenate([50 * rng().normal(size=(N, 1)), 0.3 * rng().normal(size=(N, 1))], axis=1),
        np.concatenate([50 * rng().normal(size=(N, 1)), np.zeros((N, 1))], axis=1),
    ),
    "one sample": (np.ones((1, 4)), np.zeros((1, 4))),
    "a constant output": (np.ones((N, 4)), np.zeros((N, 4))),
}


@pytest.mark.parametrize("name", SOUND)
def test_what_is_no_fault_is_not_told(name: str) -> None:
    one, other = (np.asarray(array, np.float32) for array in SOUND[name])
    found = fidelity.output("y", one, other)
    assert found.dead == 0, found.still


def test_a_class_that_occurs_often_and_never_in_int8_is_dead() -> None:
    assert [channel.at for channel in fidelity.output("y", once(12), once(0)).still] == ["[:, 2]"]


def test_a_logit_that_stands_still_is_found() -> None:
    one = 4 * rng().normal(size=(N, 10)).astype(np.float32)
    other = rounded(one, 0.1)
    other[:, 7] = 0.3
    (channel,) = fidelity.output("y", one, other).still
    assert (channel.at, round(channel.sqnr_db)) == ("[:, 7]", 0)


def test_eight_bits_over_the_range_of_normal_channels_never_look_dead() -> None:
    for seed in range(60):
        drawn = np.random.default_rng(seed)
        one = drawn.normal(size=(40, 16)) * 10 ** drawn.uniform(-3, 0, 16) + drawn.normal(size=16)
        assert fidelity.output("y", one.astype(np.float32), rounded(one, np.abs(one).max() / 127)).dead == 0, seed
