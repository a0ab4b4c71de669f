"""The weight step on exported programs: what it finds, what it changes, and that every runtime keeps its codes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from calibration import weights
from calibration.schemes import SCHEMES
from calibration.statistics import Statistics, solve
from pipeline.compression import adaround, program
from pipeline.data import Data, Split, save
from pipeline.stages import Job, export
from pipeline.stages import weights as stage
from targets import base, registry
from targets import codes as codes_in
from targets.base import Program, TensorSpec

SETTINGS: dict[str, Any] = {"method": "rounding", "samples": 64, "equalize": False, "beyond": []}
Run = Callable[..., tuple[dict[str, Any], Path]]


class Mixed(nn.Module):
    """Convolutions of all kinds with and without bias and BatchNorm, a tied pair, a layer over time."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv1d(4, 16, 3, padding=1, bias=False), nn.BatchNorm1d(16)
        self.depth = nn.Conv1d(16, 16, 3, padding="same", groups=16)
        self.bare = nn.Conv1d(16, 8, 1, bias=False)
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)
        self.two.weight = self.one.weight
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = self.bare(torch.relu(self.depth(x))).transpose(1, 2)
        return self.head(self.two(torch.relu(self.one(x))).mean(1))


class Plain(nn.Module):
    """What every runtime quantizes: 2-D convolutions, depthwise too, with BatchNorm or bias, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16)
        self.depth, self.norm2 = nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False), nn.BatchNorm2d(16)
        self.point = nn.Conv2d(16, 24, 1)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(self.point(torch.relu(self.norm2(self.depth(x)))))
        return self.head(x.mean((2, 3)))


class Series(nn.Module):
    """1-D convolutions, depthwise and dilated too, and attention whose projections are one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.depth = nn.Conv1d(6, 16, 5, 2, 2), nn.Conv1d(16, 16, 3, 1, 2, dilation=2, groups=16)
        self.point, self.head = nn.Conv1d(16, 24, 1), nn.Linear(24, 5)
        self.mix = nn.MultiheadAttention(24, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.point(torch.relu(self.depth(torch.relu(self.first(x)))))).transpose(1, 2)
        return self.head(self.mix(x, x, x, need_weights=False)[0].mean(1))


class Across(nn.Module):
    """Attention to something else than oneself: query, key and value have a third of one matrix each."""

    def __init__(self) -> None:
        super().__init__()
        self.key, self.value, self.head = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 5)
        self.mix = nn.MultiheadAttention(12, 2, batch_first=True)
        nn.init.uniform_(self.mix.in_proj_bias, -1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(x, torch.relu(self.key(x)), self.value(x), need_weights=False)[0].mean(1))


class Up(nn.Module):
    """A transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.up = nn.Conv2d(3, 16, 3, 2, 1), nn.ConvTranspose2d(16, 8, 4, 2, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.up(torch.relu(self.first(x)))).mean((2, 3)))


class Cells(nn.Module):
    """A GRU and an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.GRU(12, 16, batch_first=True), nn.LSTM(16, 10, batch_first=True)
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.one(x)[0])[0][:, -1])


class Loud(nn.LayerNorm):
    """A normalization whose channels differ a hundredfold."""

    def reset_parameters(self) -> None:
        super().reset_parameters()
        with torch.no_grad():
            self.weight.copy_((torch.arange(24) % 7 - 2.0).exp())


class Quiet(nn.Linear):
    """A layer with small weights for its large inputs, as training would make them."""

    def reset_parameters(self) -> None:
        super().reset_parameters()
        with torch.no_grad():
            self.weight.mul_((2.0 - torch.arange(24) % 7).exp())


class Mixer(nn.Module):
    """Layers behind a normalization with outlier channels: what equalization is for.

    A gate reads it too, since TFLite's converter multiplies a normalization's gain into layers that alone read it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.one, self.two, self.head = Loud(24), Quiet(24, 48), nn.Linear(48, 24), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return self.head((torch.sigmoid(x) * self.two(nn.functional.gelu(self.one(x)))).mean(1))


# Network, shape of a sample, settings of the step, and the runtimes that keep all of its weights in int8.
ANY = ("onnxruntime", "openvino", "tflite")
STORED: dict[str, tuple[nn.Module, tuple[int, ...], dict[str, Any], tuple[str, ...]]] = {
    "plain": (Plain(), (3, 12, 10), {"equalize": True}, ANY),
    "equalized": (Mixer(), (6, 24), {"equalize": True}, ANY),
    "half range": (Plain(), (3, 12, 10), {"largest_code": weights.HALF_RANGE_CODE}, ("onnxruntime", "openvino")),
    "series": (Series(), (6, 20), {}, ANY),
    "across": (Across(), (6, 12), {}, ANY),
    "transposed": (Up(), (3, 12, 10), {"beyond": ["aten.conv_transpose2d"]}, ANY[1:]),
    "recurrent": (Cells(), (5, 12), {"beyond": ["aten.gru", "aten.lstm"]}, ANY[2:]),
}


def settle(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """Seeded weights, gains of both signs, statistics that have seen data."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for module in model.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                nn.init.uniform_(module.weight, -1.5, 1.5)
                nn.init.uniform_(module.bias, -0.5, 0.5)
        with torch.no_grad():
            for _ in range(30):
                model(torch.randn(32, *shape) + 0.5)
    return model.eval()


def program_of(model: nn.Module, shape: tuple[int, ...]) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1, max=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export's own, about recurrent cells
        return torch.export.export(model, (torch.zeros(2, *shape),), dynamic_shapes=({0: batch},))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def made(model: nn.Module, shape: tuple[int, ...], **settings: Any) -> tuple[dict[str, Any], Path]:
        rng = np.random.default_rng(0)
        parts = {}
        for name in ("calibration", "selection"):
            x = rng.standard_normal((64, *shape)).astype(np.float32) + np.float32(0.5)
            parts[name] = Split({"input": x}, np.zeros(64, np.int64))
        save(Data(parts), tmp_path / "data")
        exported = program_of(settle(model, shape), shape)
        for folder in ("program", "out"):
            (tmp_path / folder).mkdir()
        shapes = {"input": shape, "output": tuple(model(torch.zeros(1, *shape)).shape[1:])}
        given, answer = (TensorSpec(name, "float32", (None, *shapes[name])) for name in shapes)
        described = Program(tmp_path / "program" / "program.pt2", "pt2", (given,), (answer,))
        answers = model(torch.zeros(1, *shape)).detach().numpy()
        export.save_pt2(exported, described, {"output": answers}, tmp_path / "program")
        inputs = {"program": tmp_path / "program", "data": tmp_path / "data"}
        job = Job("weights", SETTINGS | settings, inputs, tmp_path / "out", 0)
        return stage.run(job), tmp_path

    return made


def state(folder: Path) -> dict[str, np.ndarray]:
    loaded = torch.export.load(export.read_program(folder).path)
    return {name: tensor.detach().numpy() for name, tensor in loaded.state_dict.items()}


def test_what_is_found_and_what_is_left() -> None:
    exported = torch.export.export(Mixed().eval(), (torch.zeros(2, 4, 10),))
    found, left = program.layers(exported.module(check_guards=False))
    assert [(layer.weight, layer.shift) for layer in found] == [
        ("first.weight", ("norm.running_mean", -1)),
        ("depth.weight", ("depth.bias", 1)),
        ("bare.weight", None),
        ("head.weight", ("head.bias", 1)),
    ]
    assert set(left.values()) == {"shares 'two.weight' with another layer"}
    assert len(left) == 2


def test_a_part_of_a_matrix_is_a_layer(run: Run) -> None:
    facts, folder = run(Across(), (6, 12))
    names = [row["name"] for row in facts["layers"] if "in_proj" in row["name"]]
    assert names == [f"mix.in_proj_weight[{start}:{start + 12}]" for start in (0, 12, 24)]
    assert facts["left"] == {}
    before, after = state(folder / "program"), state(folder / "out")
    scale = weights.scales(before["mix.in_proj_weight"])
    np.testing.assert_allclose(weights.scales(after["mix.in_proj_weight"]), scale, rtol=1e-6)
    for part in np.split(after["mix.in_proj_bias"] - before["mix.in_proj_bias"], 3):
        assert np.abs(part).max() > 0


def inputs_of(module: Any, found: list[program.Layer], x: Tensor) -> dict[str, np.ndarray]:
    seen: dict[str, np.ndarray] = {}
    program.watch(module, found, (x,), lambda layer, array: seen.setdefault(layer.name, array))
    return seen


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"stride": 2, "padding": 1},
        {"stride": (3, 2), "padding": (0, 1), "output_padding": (2, 1), "dilation": (1, 2), "bias": False},
        {"stride": 2, "groups": 3},
    ],
)
def test_a_transposed_convolution_is_a_plain_one_of_inputs_spread_apart(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = nn.ConvTranspose2d(6, 9, (4, 3), **settings).eval()
    module = program_of(model, (6, 5, 7)).module(check_guards=False)
    (layer,), left = program.layers(module, ["aten.conv_transpose2d"])
    x = torch.randn(2, 6, 5, 7)
    patches = weights.patches(inputs_of(module, [layer], x)[layer.name], layer.geometry)
    weight = model.weight.detach().numpy()
    kernel = layer.kernel(weight)
    np.testing.assert_array_equal(layer.put(weight, kernel), weight)
    made = np.matmul(kernel.reshape(layer.geometry.groups, -1, patches.shape[1]), patches).reshape(9, -1)
    wanted = (model(x) - (0 if model.bias is None else model.bias.reshape(-1, 1, 1))).detach()
    np.testing.assert_allclose(made, wanted.movedim(1, 0).reshape(9, -1), rtol=1e-4, atol=1e-5)
    assert (layer.shift is None, left) == (model.bias is None, {})
    assert program.layers(module) == ([], {layer.name: "conv_transpose2d stays in float here"})


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
@pytest.mark.parametrize(
    "settings",
    [{"batch_first": True}, {"num_layers": 2, "bidirectional": True}, {"num_layers": 2, "bias": False}],
    ids=["one", "both ways", "bare"],
)
def test_what_the_products_of_a_recurrent_op_get(kind: type[nn.RNNBase], settings: dict[str, Any]) -> None:
    """States are the op's own outputs one step before; a layer's inputs what the layer below says."""
    torch.manual_seed(0)
    cell = kind(4, 5, **settings).eval()
    time = 1 if settings.get("batch_first") else 0
    x = torch.randn(2, 6, 4) if time else torch.randn(6, 2, 4)

    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = cell

        def forward(self, x: Tensor) -> Tensor:
            return self.cell(x)[0]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.export.export(Alone(), (x,)).module(check_guards=False)
    found, left = program.layers(module, ["aten.gru", "aten.lstm", "aten.rnn_tanh"])
    assert left == {}
    assert {layer.weight for layer in found} == {
        f"cell.{name}" for name in dict(cell.named_parameters()) if "weight" in name
    }
    assert all((layer.shift is None) == (settings.get("bias") is False) for layer in found)
    seen = {layer.weight: array for layer in found for array in [inputs_of(module, found, x)[layer.name]]}
    np.testing.assert_array_equal(seen["cell.weight_ih_l0"], x)
    out, top = cell(x)[0].detach(), cell.num_layers - 1
    ways = ["", "_reverse"] if cell.bidirectional else [""]
    for way, part in zip(ways, out.split(5, -1), strict=True):
        part = part.flip(time) if way else part
        state = torch.from_numpy(seen[f"cell.weight_hh_l{top}{way}"])
        torch.testing.assert_close(state.narrow(time, 1, 5), part.narrow(time, 0, 5))
        assert not state.narrow(time, 0, 1).any()
    if top:
        below = kind(4, 5, **settings | {"num_layers": 1}).eval()
        below.load_state_dict({k: v for k, v in cell.state_dict().items() if "_l0" in k})
        wanted = below(x)[0].detach()
        np.testing.assert_allclose(seen["cell.weight_ih_l1"], wanted, atol=1e-6)
        if cell.bidirectional:
            np.testing.assert_allclose(seen["cell.weight_ih_l1_reverse"], wanted.flip(0), atol=1e-6)


@pytest.mark.parametrize("key", ["across", "transposed", "recurrent"])
def test_rounding_helps_beyond_convolutions(run: Run, key: str) -> None:
    model, shape, settings, _ = STORED[key]
    facts, _ = run(model, shape, **settings)
    assert facts["weight_sqnr_db"]["rounding"] > facts["weight_sqnr_db"]["nearest"] + 1
    assert all(row["gain_db"] > 0 for row in facts["layers"])


def test_rounding_and_bias_help_and_nothing_else_changes(run: Run) -> None:
    facts, folder = run(Mixed(), (4, 20))
    assert facts["weight_sqnr_db"]["rounding"] > facts["weight_sqnr_db"]["nearest"] + 3
    assert all(row["gain_db"] > 0 for row in facts["layers"])
    before, after = state(folder / "program"), state(folder / "out")
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {
        *("first.weight", "norm.running_mean", "depth.weight", "depth.bias", "bare.weight", "head.weight", "head.bias")
    }


def test_bias_alone_keeps_the_nearest_codes(run: Run) -> None:
    facts, folder = run(Plain(), (3, 12, 10), method="bias")
    assert facts["weight_sqnr_db"]["bias"] > facts["weight_sqnr_db"]["nearest"]
    before, after = state(folder / "program"), state(folder / "out")
    for name in ("first.weight", "depth.weight", "point.weight", "head.weight"):
        codes = weights.nearest(before[name])
        np.testing.assert_array_equal(after[name], weights.dequantized(codes, weights.scales(before[name])))


def test_the_layers_mean_outputs_are_those_of_the_float_model(run: Run) -> None:
    """On the calibration samples, each layer by itself: its stepped weights and bias against its own."""
    _, folder = run(Plain(), (3, 12, 10))
    before, after = state(folder / "program"), state(folder / "out")
    x = torch.from_numpy(np.load(folder / "data" / "calibration" / "inputs" / "input.npy"))

    def first(values: dict[str, np.ndarray]) -> Tensor:
        out = torch.nn.functional.conv2d(x, torch.from_numpy(values["first.weight"]), None, 2, 1)
        return (out - torch.from_numpy(values["norm.running_mean"]).reshape(1, -1, 1, 1)).mean((0, 2, 3))

    torch.testing.assert_close(first(after), first(before), rtol=0, atol=1e-5)


def test_layers_with_very_many_inputs_keep_their_nearest_codes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "LARGEST_INPUT", 20)  # the head's 24 inputs and the first kernel's 27 are above
    facts, folder = run(Plain(), (3, 12, 10))
    gains = {row["name"]: row["gain_db"] for row in facts["layers"]}
    assert [name for name, gain in gains.items() if gain is None] == ["first.weight", "head.weight"]
    before, after = state(folder / "program"), state(folder / "out")
    np.testing.assert_array_equal(weights.nearest(after["head.weight"]), weights.nearest(before["head.weight"]))
    assert not np.array_equal(after["head.bias"], before["head.bias"])


def test_passes_hold_few_moments_at_a_time_and_change_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    facts, folder = run(Plain(), (3, 12, 10))
    whole = state(folder / "out")
    monkeypatch.setattr(stage, "MOMENTS_BYTES", 1)
    inputs = {"program": folder / "program", "data": folder / "data"}
    (folder / "again").mkdir()
    again = stage.run(Job("weights", SETTINGS, inputs, folder / "again", 0))
    assert again["layers"] == facts["layers"]
    assert all(np.array_equal(array, whole[name]) for name, array in state(folder / "again").items())


@pytest.mark.slow
@pytest.mark.parametrize(("key", "name"), [(key, name) for key, row in STORED.items() for name in row[3]])
def test_every_runtime_stores_the_very_codes(run: Run, key: str, name: str) -> None:
    """The integers in the exported file are the intended ones, one by one."""
    model, shape, settings, _ = STORED[key]
    facts, folder = run(model, shape, **settings)
    assert any(row["used"] for row in facts["passes"]) == bool(settings.get("equalize"))
    assert facts["left"] == {}
    stepped, largest = state(folder / "out"), settings.get("largest_code", weights.LARGEST_CODE)

    def codes_of(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = {key: array for key, array in arrays.items() if array.ndim > 1}
        if key == "across":
            found |= {f"part {i}": part for i, part in enumerate(np.split(found.pop("mix.in_proj_weight"), 3))}
        return {k: weights.nearest(a.swapaxes(0, 1) if k == "up.weight" else a, largest) for k, a in found.items()}

    wanted, plain = codes_of(stepped), codes_of(state(folder / "program"))
    assert sum((wanted[key] != plain[key]).sum() for key in wanted) > 20  # rounding moved some
    target = registry.load(name)
    (folder / "float").mkdir()
    (folder / "int8").mkdir()
    floats = target.lower(export.read_program(folder / "out"), folder / "float")
    half = largest == weights.HALF_RANGE_CODE
    candidate = base.find(target, floats, "ours-minmax-half_range" if half else "ours-minmax")
    assert candidate.scheme is not None
    statistics = Statistics(floats.sha256)
    x = np.load(folder / "data" / "calibration" / "inputs" / "input.npy")
    floating = next(c for c in target.candidates(floats) if c.precision == "f32")
    with target.open(floats, floating) as session:
        for sample in np.split(x[:8], 8):
            statistics.update(session.tap({"input": sample}, floats.tensors))
    ranges = solve(statistics, SCHEMES[candidate.scheme], "minmax")
    made = target.quantize(floats, candidate, ranges, iter([]), folder / "int8")
    stored = list(codes_in.read(made.path).values())
    assert len(stored) == len(wanted)
    folded = (("norm", "first.weight"), ("norm2", "depth.weight")) if isinstance(model, Plain) else ()
    for norm, key in folded:  # a negative gain turns the signs
        wanted[key] = wanted[key] * np.sign(stepped[f"{norm}.weight"]).astype(np.int8).reshape(-1, 1, 1, 1)
    for key, codes in wanted.items():
        rows = codes.reshape(len(codes), -1)
        assert any(np.array_equal(rows, one) for one in stored), key


@pytest.mark.parametrize(("groups", "shape"), [(1, (12, 40)), (4, (12, 3, 2, 2))])
def test_adaround_is_of_no_channel_worse_than_nearest_and_mostly_better(groups: int, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal(shape).astype(np.float32)
    inputs = kernel[0].size
    mixed = rng.standard_normal((groups, 200, inputs)) @ rng.standard_normal((groups, inputs, inputs))
    second = np.matmul(mixed.transpose(0, 2, 1), mixed) / 200
    scale, plain = weights.scales(kernel), weights.nearest(kernel)
    codes = adaround.rounded(kernel, second, steps=300)
    shares = []
    for channel in range(len(kernel)):
        group = second[[channel * groups // len(kernel)]]
        one = slice(channel, channel + 1)
        costs = [
            weights.error_power(kernel[one], weights.dequantized(c[one], scale[one]), group) for c in (codes, plain)
        ]
        assert costs[0] <= costs[1] * (1 + 1e-6)
        shares.append(costs[0] / costs[1])
    assert np.median(shares) < 0.9
    assert np.abs(codes - np.asarray(kernel / scale.reshape(-1, *[1] * (kernel.ndim - 1)))).max() < 1
    np.testing.assert_array_equal(np.abs(codes).reshape(len(kernel), -1).max(axis=1), 127)


def test_adaround_in_the_stage(run: Run) -> None:
    facts, _ = run(Plain(), (3, 12, 10), method="adaround")
    assert facts["weight_sqnr_db"]["adaround"] > facts["weight_sqnr_db"]["nearest"] + 3
