"""Equalization: the same network, and channels that suit 8 bits better where it is used."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from calibration import equalization
from calibration.errors import CalibrationError
from calibration.weights import Geometry
from pipeline.compression import equalize, program
from pipeline.data import Split
from pipeline.stages.equalized import equalized
from targets.base import TensorSpec

INPUTS = (TensorSpec("x", "float32", (None, 4, 12)),)


class Blocks(nn.Module):
    """A convolution with BatchNorm before a depthwise one, a normalization read twice, one read by a layer alone."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv1d(4, 16, 3, padding=1, bias=False), nn.BatchNorm1d(16)
        self.depth, self.point = nn.Conv1d(16, 16, 3, groups=16), nn.Conv1d(16, 24, 1, groups=2)
        self.pre, self.one, self.two = nn.LayerNorm(24), nn.Linear(24, 48), nn.Linear(48, 24)
        self.post, self.head = nn.LayerNorm(24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.depth(torch.relu(self.norm(self.first(x)))))
        x = self.pre(self.point(x).transpose(1, 2))
        x = x + self.two(nn.functional.gelu(self.one(x)))
        return self.head(self.post(x)).mean(1)


def uneven(seed: int = 0) -> nn.Module:
    """Weights and normalizations whose channels differ by factors up to 30."""
    torch.manual_seed(seed)
    model = Blocks()
    with torch.no_grad():
        for name in ("norm", "pre", "post"):
            getattr(model, name).weight.mul_(torch.exp(3.4 * torch.rand_like(getattr(model, name).weight)))
        model.norm.bias.uniform_(-1, 1)
        model.norm.running_var.uniform_(0.5, 2)
    return model.eval()


def exported(model: nn.Module) -> Any:
    batch = torch.export.Dim("batch", min=1, max=64)
    return torch.export.export(model, (torch.zeros(2, 4, 12),), dynamic_shapes=({0: batch},))


def split(n: int = 32) -> Split:
    x = np.random.default_rng(0).standard_normal((n, 4, 12)).astype(np.float32)
    return Split({"x": x}, np.zeros(n, np.int64))


def test_where_channels_can_be_scaled() -> None:
    module = exported(uneven()).module(check_guards=False)
    found, _ = program.layers(module)
    places = {tuple(r.weight for r in place.readers): place.into for place in equalize.places(module, found)}
    assert places == {
        ("depth.weight",): ("norm.weight", "norm.bias"),
        ("point.weight",): ("depth.weight", "depth.bias"),
        ("one.weight",): (),  # what is added later reads it too
        ("two.weight",): (),  # GELU is not homogeneous
        ("head.weight",): ("post.weight", "post.bias"),
    }


def test_any_factors_leave_the_float_answers_as_they_were() -> None:
    original = exported(uneven())
    module = original.module(check_guards=False)
    found, _ = program.layers(module)
    places = equalize.places(module, found)
    state = {name: tensor.detach().numpy().copy() for name, tensor in original.state_dict.items()}
    rng, x = np.random.default_rng(1), torch.from_numpy(split().inputs["x"])
    before = uneven()(x)
    wide = {layer.name: state[layer.weight].shape[1] * layer.geometry.groups for layer in found}
    factors = {}
    for place in places:
        one = np.exp(rng.uniform(-2, 2, wide[place.readers[0].name]))
        factors |= {layer.name: one for layer in place.readers}
    changed = equalize.scale(module, state, places, factors)
    after = torch.func.functional_call(module, {k: torch.from_numpy(v) for k, v in changed.items()}, (x,))
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


def test_the_simulation_rounds_and_powers_of_two_change_no_code() -> None:
    module = exported(uneven()).module(check_guards=False)
    found, _ = program.layers(module)
    state = {name: tensor.detach().numpy() for name, tensor in exported(uneven()).state_dict.items()}
    x = torch.from_numpy(split().inputs["x"])
    seen = {layer.name: (layer, equalization.Inputs(layer.geometry)) for layer in found}
    program.watch(module, found, (x,), lambda layer, given: seen[layer.name][1].update(given))
    doubled = {name: np.full(len(inputs.most), 2.0) for name, (_, inputs) in seen.items()}
    with torch.no_grad():
        plain = equalize.Simulator(module, seen, state, {}).run(x)
        again = equalize.Simulator(module, seen, state, doubled).run(x)
        assert not torch.allclose(plain, module(x), atol=1e-4)
    torch.testing.assert_close(again, plain, rtol=1e-6, atol=1e-6)


def test_it_is_used_where_it_helps_and_says_what_it_brings() -> None:
    model, data = uneven(), split()
    x = torch.from_numpy(data.inputs["x"])
    before = model(x)
    made, rows = equalized(exported(model), INPUTS, data, data, 32)
    used = [row for row in rows if row["used"]]
    assert len(used) == 1
    assert used[0]["gain_db"] == max(row["gain_db"] for row in rows) >= equalization.LEAST_DB
    torch.testing.assert_close(made.module(check_guards=False)(x), before, rtol=1e-5, atol=1e-5)
    assert made.module(check_guards=False)(x[:1]).shape == (1, 5)  # the batch stays free


def test_it_is_left_where_it_does_not() -> None:
    model = nn.Sequential(nn.Conv1d(4, 8, 3), nn.Hardtanh(), nn.Conv1d(8, 8, 3), nn.Flatten(), nn.Linear(64, 5)).eval()
    original = exported(model)
    made, rows = equalized(original, INPUTS, split(), split(), 32)
    assert (made is original, rows) == (True, [])


def test_smoothing_is_xiaos_and_cross_layer_nagels() -> None:
    activation, weight = np.array([16.0, 1.0, 0.0]), np.array([1.0, 4.0, 1.0])
    found = equalization.smoothing(activation, weight, 0.5)
    np.testing.assert_allclose(found[0] / found[1], (16 / 1) ** 0.5 / (1 / 4) ** 0.5)
    np.testing.assert_allclose([found[0] * found[1], found[2]], 1.0)
    pair = equalization.cross_layer(np.array([8.0, 2.0]), np.array([2.0, 8.0]))
    np.testing.assert_allclose(np.array([8.0, 2.0]) / pair, np.array([2.0, 8.0]) * pair * 1.0)


@given(groups=st.sampled_from([1, 2, 4]), kernel=st.sampled_from([(), (3,), (2, 3)]), seed=st.integers(0, 99))
def test_scaled_weights_undo_scaled_inputs(groups: int, kernel: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = groups if kernel else 1
    weight = rng.standard_normal((8, 8 // groups, *kernel)).astype(np.float32)
    geometry = Geometry(kernel, groups=groups)
    factors = np.exp(rng.uniform(-1, 1, 8))
    back = equalization.scaled(equalization.scaled(weight, factors, geometry), 1 / factors, geometry)
    np.testing.assert_allclose(back, weight, rtol=1e-5, atol=1e-6)
    most = equalization.most_of(weight, geometry)
    np.testing.assert_allclose(
        equalization.most_of(equalization.scaled(weight, factors, geometry), geometry), most * factors, rtol=1e-5
    )


def test_an_outlier_channel_is_found_and_helped() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 32)).astype(np.float32)
    x[:, 3] *= 60
    inputs = equalization.Inputs(Geometry())
    inputs.update(x)
    weight = rng.standard_normal((16, 32)).astype(np.float32)
    factors, gain_db = equalization.smoothed([weight], inputs)
    assert gain_db > 3
    assert factors.argmax() == 3


def test_nothing_seen_is_said() -> None:
    with pytest.raises(CalibrationError, match="no input"):
        _ = equalization.Inputs(Geometry()).most


def test_factors_of_several_layers_are_those_with_the_least_mean_share_of_error() -> None:
    """A layer whose outputs are a hundred times larger must not decide alone."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal((64, 24)).astype(np.float32) * np.exp(rng.uniform(-2, 3, 24)).astype(np.float32)
    inputs = equalization.Inputs(Geometry())
    inputs.update(x)
    spread = np.exp(rng.uniform(-3, 0, 24)).astype(np.float32)
    weights = [
        100 * rng.standard_normal((16, 24)).astype(np.float32),
        rng.standard_normal((16, 24)).astype(np.float32) * spread,
    ]
    most = np.maximum(*(np.abs(weight).max(axis=0) for weight in weights))
    ones = np.ones(24)
    shares = {}
    for alpha in equalization.ALPHAS:
        tried = equalization.smoothing(inputs.most, most, alpha)
        each = [
            equalization.output_error(w, inputs, tried) / equalization.output_error(w, inputs, ones) for w in weights
        ]
        shares[alpha] = sum(each) / 2
    best = min(shares, key=shares.__getitem__)
    factors, gain_db = equalization.smoothed(weights, inputs)
    np.testing.assert_allclose(factors, equalization.smoothing(inputs.most, most, best))
    assert gain_db == pytest.approx(-10 * np.log10(shares[best]))
    assert gain_db > 0


def test_where_no_factors_help_there_are_none() -> None:
    rng = np.random.default_rng(5)
    inputs = equalization.Inputs(Geometry())
    inputs.update(rng.uniform(-1, 1, (256, 8)).astype(np.float32))
    weight = (
        np.exp(rng.uniform(-3, 3, (1, 8))).astype(np.float32) * 1e-3 * rng.choice([-1, 1], (16, 8)).astype(np.float32)
    )
    factors, gain_db = equalization.smoothed([weight.astype(np.float32)], inputs)
    shares = [
        equalization.output_error(
            weight, inputs, equalization.smoothing(inputs.most, equalization.most_of(weight, Geometry()), alpha)
        )
        / equalization.output_error(weight, inputs, np.ones(8))
        for alpha in equalization.ALPHAS
    ]
    assert (gain_db > 0) == (min(shares) < 1)
    assert gain_db >= 0
    assert np.allclose(factors, 1.0) == (min(shares) >= 1)


@pytest.mark.parametrize(
    ("kernel", "shape", "axis"), [((), (6, 5, 4), 2), ((3,), (6, 4, 9), 1), ((3, 3), (6, 4, 9, 5), 1)]
)
def test_extremes_are_those_of_each_channel_over_all_batches(kernel: Any, shape: Any, axis: int) -> None:
    batches = np.random.default_rng(6).standard_normal((3, *shape)).astype(np.float32)
    ones = (1,) * len(kernel)
    inputs = equalization.Inputs(Geometry(kernel, ones, ((0, 0),) * len(kernel), ones, spread=ones))
    for batch in batches:
        inputs.update(batch)
    others = tuple(one for one in range(batches.ndim) if one != axis + 1)
    lo, hi = inputs.ends
    np.testing.assert_array_equal(lo, batches.min(axis=others))
    np.testing.assert_array_equal(hi, batches.max(axis=others))
    np.testing.assert_array_equal(inputs.most, np.abs(batches).max(axis=others))
