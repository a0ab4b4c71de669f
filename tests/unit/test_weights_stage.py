"""The weight step on exported programs: what it finds, what it changes, and that every runtime keeps its codes."""

from __future__ import annotations

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
from targets import codes as codes_in
from targets import registry
from targets.base import Program, TensorSpec

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


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def made(model: nn.Module, shape: tuple[int, ...], **settings: Any) -> tuple[dict[str, Any], Path]:
        rng = np.random.default_rng(0)
        parts = {}
        for name in ("calibration", "selection"):
            x = rng.standard_normal((64, *shape)).astype(np.float32) + np.float32(0.5)
            parts[name] = Split({"input": x}, np.zeros(64, np.int64))
        save(Data(parts), tmp_path / "data")
        exported = torch.export.export(
            settle(model, shape),
            (torch.zeros(2, *shape),),
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},),
        )
        for folder in ("program", "out"):
            (tmp_path / folder).mkdir()
        shapes = {"input": shape, "output": tuple(model(torch.zeros(1, *shape)).shape[1:])}
        given, answer = (TensorSpec(name, "float32", (None, *shapes[name])) for name in shapes)
        described = Program(tmp_path / "program" / "program.pt2", "pt2", (given,), (answer,))
        answers = model(torch.zeros(1, *shape)).detach().numpy()
        export.save_pt2(exported, described, {"output": answers}, tmp_path / "program")
        inputs = {"program": tmp_path / "program", "data": tmp_path / "data"}
        job = Job(
            "weights", {"method": "rounding", "samples": 64, "equalize": False, **settings}, inputs, tmp_path / "out", 0
        )
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
    again = stage.run(
        Job("weights", {"method": "rounding", "samples": 64, "equalize": False}, inputs, folder / "again", 0)
    )
    assert again["layers"] == facts["layers"]
    assert all(np.array_equal(array, whole[name]) for name, array in state(folder / "again").items())


@pytest.mark.slow
@pytest.mark.parametrize(("model", "shape"), [(Plain(), (3, 12, 10)), (Mixer(), (6, 24))], ids=["plain", "equalized"])
@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "tflite"])
def test_every_runtime_stores_the_very_codes(run: Run, name: str, model: nn.Module, shape: tuple[int, ...]) -> None:
    """The integers in the exported file are the intended ones, one by one."""
    facts, folder = run(model, shape, equalize=True)
    assert any(row["used"] for row in facts["passes"])
    stepped = state(folder / "out")
    wanted = {key: weights.nearest(array) for key, array in stepped.items() if array.ndim > 1}
    plain = {key: weights.nearest(array) for key, array in state(folder / "program").items() if array.ndim > 1}
    assert sum((wanted[key] != plain[key]).sum() for key in wanted) > 20  # rounding moved some
    target = registry.load(name)
    (folder / "float").mkdir()
    (folder / "int8").mkdir()
    floats = target.lower(export.read_program(folder / "out"), folder / "float")
    candidate = next(c for c in target.candidates(floats) if c.id == "ours-minmax")
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
