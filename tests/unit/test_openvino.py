"""OpenVINO's target: where it quantizes, what it stores, what it sees of the compiled graph."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from calibration.metrics import sqnr_db
from calibration.qparams import from_range, limits
from calibration.schemes import SCHEMES
from calibration.statistics import Statistics, solve
from pipeline.stages import faithful
from targets import agent, onnx_graph, openvino_graph
from targets import openvino as subject
from targets.base import Model, Program, TargetError, TensorSpec
from targets.openvino import SCHEME, TARGET

FLOAT = subject.FLOAT
NNCF, MIXED, MINMAX, MSE = subject.INTEGER


class Net(nn.Module):
    """Transposed, grouped and depthwise convolutions, pooling before a convolution, a residual, a product."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.pool(torch.relu(self.stem(x)))
        x = torch.relu(self.grouped(x) + self.depthwise(x))
        return self.head(torch.relu(self.up(x)).mean((2, 3)))


def exported(module: nn.Module, folder: Path, outputs: tuple[str, ...] = ("output",)) -> Program:
    torch.set_num_threads(1)
    x = torch.zeros(2, 3, 12, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export's own deprecations
        program = torch.export.export(module.eval(), (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
        torch.export.save(program, folder / "program.pt2")
    told = tuple(TensorSpec(name, "float32", (None, 5)) for name in outputs)
    ends = (TensorSpec("input", "float32", (None, 3, 12, 10)),), told
    return onnx_graph.export(Program(folder / "program.pt2", "pt2", *ends), folder)


@pytest.fixture(scope="module")
def data():
    return np.random.default_rng(0).standard_normal((24, 3, 12, 10)).astype(np.float32)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    torch.manual_seed(0)
    net = Net()
    return net, exported(net, tmp_path_factory.mktemp("net"))


@pytest.fixture(scope="module")
def model(program, tmp_path_factory):
    return TARGET.lower(program[1], tmp_path_factory.mktemp("ir"))


@pytest.fixture(scope="module")
def ranges(model, data):
    statistics = Statistics(model.sha256)
    with TARGET.open(model, FLOAT) as session:
        statistics.update(session.tap({"input": data}, model.tensors))
    return solve(statistics, SCHEMES[SCHEME], "mse")


@pytest.fixture(scope="module")
def ours(model, ranges, tmp_path_factory):
    return TARGET.quantize(model, MSE, ranges, [], tmp_path_factory.mktemp("ours"))


def ir(path: Path):
    return agent.import_openvino().Core().read_model(str(path))


def test_converting_again_in_one_process_gives_the_same_bytes(program, model, tmp_path):
    assert TARGET.lower(program[1], tmp_path).sha256 == model.sha256


def test_float_is_the_module_and_not_bf16(program, model, data):
    with torch.no_grad():
        wanted = program[0](torch.from_numpy(data)).numpy()
    with TARGET.open(model, FLOAT) as session:
        assert sqnr_db(wanted, session.run({"input": data})["output"]) > 100
    if subject.BFLOAT in TARGET.candidates(model):
        assert {op.precision for op in TARGET.inspect(model, subject.BFLOAT) if op.macs} == {"bf16"}
    assert {op.precision for op in TARGET.inspect(model, FLOAT) if op.macs} == {"f32"}


def test_taps_are_the_modules_own_activations(program, model, data):
    net = program[0]
    with TARGET.open(model, FLOAT) as session:
        tapped = session.tap({"input": data}, model.tensors)
    with torch.no_grad():
        stem = torch.relu(net.stem(torch.from_numpy(data)))
        grouped, depthwise = net.grouped(net.pool(stem)), net.depthwise(net.pool(stem))
        wanted = [stem, grouped, depthwise, torch.relu(grouped + depthwise)]
    np.testing.assert_array_equal(tapped["input"], data)
    for tensor in wanted:
        assert any(v.shape == tensor.shape and np.allclose(v, tensor, atol=1e-5) for v in tapped.values())


def test_every_float_tensor_has_exactly_one_name(model):
    names = [
        port.get_names()
        for node in ir(model.path).get_ordered_ops()
        if node.get_type_name() not in ("Constant", "Result")
        for port in node.outputs()
    ]
    assert all(len(one) == 1 for one in names)
    assert len(set.union(*names)) == len(names)


def test_quantization_moves_before_pooling(ours):
    pools = [node for node in ir(ours.path).get_ordered_ops() if node.get_type_name() == "MaxPool"]
    assert [node.input_value(0).get_node().get_type_name() for node in pools] == ["FakeQuantize"]


def test_limits_are_ours_and_both_ends_of_a_residual_have_them(ours, ranges):
    nodes = ir(ours.path).get_ordered_ops()
    activations = [node for node in nodes if node.get_type_name() == "FakeQuantize"]
    assert len(activations) == len({min(node.input_value(0).get_names()) for node in activations})  # one a tensor
    for node in activations:
        wanted = limits(ranges[min(node.input_value(0).get_names())])
        found = [float(node.input_value(i).get_node().data.item()) for i in (1, 2, 3, 4)]
        np.testing.assert_allclose(found, wanted * 2, rtol=1e-6)
    added = [
        [port.get_node().get_type_name() for port in n.input_values()] for n in nodes if n.get_type_name() == "Add"
    ]
    assert ["FakeQuantize"] * 2 in added


def test_weights_are_stored_as_int8_at_max_over_127_per_output_channel(program, ours):
    stored = {}
    for node in ir(ours.path).get_ordered_ops():
        if node.get_type_name() in openvino_graph.WORK:
            constant = openvino_graph.stored(node.input_value(1))
            stored[constant.data.size] = constant
    layers = {"stem": (1, 2, 3), "grouped": (1, 2, 3), "depthwise": (1, 2, 3), "up": (0, 2, 3), "head": (1,)}
    for name, others in layers.items():
        weight = getattr(program[0], name).weight.detach().numpy()
        codes = stored[weight.size].data
        assert codes.dtype == np.int8
        most = np.abs(weight).max(axis=others, keepdims=True)
        assert np.abs(codes.reshape(weight.shape) - weight * 127 / most).max() <= 0.5 + 1e-3, name
    net = program[0]
    biases = sum(4 * getattr(net, name).bias.numel() for name in layers)
    assert TARGET.weight_bytes(ours) == sum(getattr(net, name).weight.numel() for name in layers) + biases


def test_inspect_counts_what_the_onnx_graph_counts(program, model, ours):
    wanted = sorted(onnx_graph.macs(onnx_graph.load(program[1].path)).values())
    for one, candidate in ((model, FLOAT), (ours, MSE)):
        ops = TARGET.inspect(one, candidate)
        assert sorted(op.macs for op in ops if op.macs) == wanted
        assert not [op for op in ops if op.precision == "unknown"]
    assert {op.precision for op in TARGET.inspect(ours, MSE) if op.macs} == {"int8"}
    assert {op.precision for op in TARGET.inspect(model, MSE) if op.macs} == {"f32"}  # float that is called int8


@pytest.mark.parametrize("candidate", [NNCF, MIXED], ids=lambda c: c.id)
def test_nncf_is_quiet_and_gives_int8(model, data, candidate, tmp_path, capfd):
    quantized = TARGET.quantize(model, candidate, None, ({"input": row[None]} for row in data), tmp_path)
    assert capfd.readouterr() == ("", "")
    ops = [op for op in TARGET.inspect(quantized, candidate) if op.macs]
    assert sum(op.macs for op in ops if op.precision == "int8") >= 0.9 * sum(op.macs for op in ops)


def test_what_cannot_be_done_is_refused_before_work(model, ranges, tmp_path):
    with pytest.raises(TargetError, match=r"takes u8s8.*; candidate 'ours-mse' asks s8s8") as caught:
        TARGET.quantize(model, replace(MSE, scheme="s8s8"), ranges, [], tmp_path)
    assert caught.value.kind == "unsupported"
    with pytest.raises(TargetError, match="needs ranges"):
        TARGET.quantize(model, MSE, None, [], tmp_path)
    signed = {name: from_range(-1, 1, SCHEMES["s8s8"].activation) for name in ranges}
    with pytest.raises(TargetError, match="not of u8s8"):
        TARGET.quantize(model, MSE, signed, [], tmp_path)
    name = model.tensors[2]
    with pytest.raises(TargetError, match=f"no range for tensor '{name}'"):
        TARGET.quantize(model, MSE, {k: v for k, v in ranges.items() if k != name}, [], tmp_path)
    with pytest.raises(TargetError, match="needs calibration batches"):
        TARGET.quantize(model, NNCF, None, [], tmp_path)
    assert not list(tmp_path.iterdir())


EXTREMES = {  # of a convolution's answer, then a product: as they are, through ops on single values, beside means
    "greatest": lambda y: torch.relu(y).amax((2, 3)),
    "least": lambda y: y.amin((2, 3)),
    "both": lambda y: y.amax(3).amin(2),
    "scaled": lambda y: torch.relu(0.5 * y.amax((2, 3)) + 0.1),
    "gated": lambda y: torch.sigmoid(y.amax((2, 3))),
    "joined": lambda y: torch.cat([y.amax((2, 3)), y.mean((2, 3))], 1),
    "spatial": lambda y: torch.cat([y.amax(1, keepdim=True), y.mean(1, keepdim=True)], 1),
}


class Extremes(nn.Module):
    """Each with a convolution of its own: what two read is not fused."""

    def __init__(self):
        super().__init__()
        self.stems = nn.ModuleDict({name: nn.Conv2d(3, 16, 3, padding=1) for name in EXTREMES})
        widths = {"joined": 32, "spatial": 120}
        self.heads = nn.ModuleDict({name: nn.Linear(widths.get(name, 16), 5) for name in EXTREMES})
        self.mix = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x):
        seen = {name: form(self.stems[name](x)) for name, form in EXTREMES.items()}
        seen["spatial"] = self.mix(seen["spatial"]).flatten(1)
        return tuple(self.heads[name](one) for name, one in seen.items())


def test_what_is_rounded_behind_a_greatest_or_least_value_is_right(data, tmp_path):
    torch.manual_seed(0)
    half = replace(MSE, scheme="u8s8-half_range")  # no CPU's products overflow: what is wrong here is fused wrongly
    (tmp_path / "ours").mkdir()
    model = TARGET.lower(exported(Extremes(), tmp_path, tuple(EXTREMES)), tmp_path)
    statistics = Statistics(model.sha256)
    with TARGET.open(model, FLOAT) as session:
        statistics.update(session.tap({"input": data}, model.tensors))
        wanted = session.run({"input": data})
    ranges = solve(statistics, SCHEMES["u8s8-half_range"], "mse")
    with TARGET.open(TARGET.quantize(model, half, ranges, [], tmp_path / "ours"), half) as session:
        found = session.run({"input": data})
    assert {
        name: sqnr_db(wanted[name], found[name]) for name in wanted if sqnr_db(wanted[name], found[name]) < 24
    } == {}
    places = openvino_graph.placement(ir(model.path))
    kinds = [node.get_type_name() for node, _, _ in places]
    assert (kinds.count("ReduceMax"), kinds.count("ReduceMin")) == (2, 1)  # rounded above, and moved as codes


def test_a_compiled_graph_that_differs_from_its_file_is_told_with_the_tensor(data, tmp_path, monkeypatch):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), Least(), nn.Linear(16, 5))
    half = replace(MSE, scheme="u8s8-half_range")
    monkeypatch.setattr(openvino_graph, "_MOVES", openvino_graph._MOVES - openvino_graph._EXTREMES)
    monkeypatch.setattr(openvino_graph, "_EXTREMES", frozenset())  # as if nothing were known of the plugin's fault
    model = TARGET.lower(exported(net, tmp_path), tmp_path)
    statistics = Statistics(model.sha256)
    with TARGET.open(model, FLOAT) as session:
        statistics.update(session.tap({"input": data}, model.tensors))
    (tmp_path / "ours").mkdir()
    made = TARGET.quantize(model, half, solve(statistics, SCHEMES[half.scheme], "minmax"), [], tmp_path / "ours")
    told = faithful.differs(TARGET, model, made, half, {"input": data[:8]})
    assert f"'{made.tensors[-2]}' is the first tensor that is computed otherwise here" in told, told
    sound = TARGET.quantize(model, NNCF, None, ({"input": row[None]} for row in data), tmp_path / "ours")
    assert faithful.differs(TARGET, model, sound, NNCF, {"input": data[:8]}) == ""


class Least(nn.Module):
    def forward(self, x):
        return (x - 1).amin((2, 3))


def test_a_broken_file_is_one_line(tmp_path):
    (tmp_path / "model.xml").write_text("<net>")
    with pytest.raises(TargetError, match=r"model\.xml") as caught:
        TARGET.weight_bytes(Model(tmp_path / "model.xml", (), ()))
    assert "\n" not in str(caught.value)
