"""ONNX Runtime's target and the ONNX graph it shares: what reaches the file, what is counted, what is refused."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from calibration.metrics import sqnr_db
from calibration.qparams import from_range
from calibration.schemes import SCHEMES
from calibration.statistics import Statistics, solve
from targets import onnx_graph
from targets.base import Program, TargetError, TensorSpec
from targets.onnxruntime import CANDIDATES, OPS, SCHEME, TARGET

FLOAT, VENDOR, OURS = (next(c for c in CANDIDATES if c.id == i) for i in ("float", "ort-minmax-u8s8", "ours-mse"))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.ConvTranspose1d(4, 8, 4, stride=2)
        self.down = nn.Conv1d(8, 8, 3, groups=4)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(torch.relu(self.down(torch.relu(self.up(x)))).mean(-1))


def exported(module: nn.Module, shape: tuple[int, ...], folder: Path) -> Program:
    torch.set_num_threads(1)
    x = torch.zeros(2, *shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export's own deprecations
        program = torch.export.export(module.eval(), (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
        torch.export.save(program, folder / "program.pt2")
    wide = tuple(module(x).shape[1:])
    return Program(
        folder / "program.pt2",
        "pt2",
        (TensorSpec("input", "float32", (None, *shape)),),
        (TensorSpec("output", "float32", (None, *wide)),),
    )


@pytest.fixture(scope="module")
def lowered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("net")
    torch.manual_seed(0)
    net = Net()
    return net, TARGET.lower(exported(net, (4, 20), folder), folder)


@pytest.fixture(scope="module")
def data():
    return np.random.default_rng(0).standard_normal((24, 4, 20)).astype(np.float32)


@pytest.fixture(scope="module")
def ranges(lowered, data):
    statistics = Statistics(lowered[1].sha256)
    with TARGET.open(lowered[1], FLOAT) as session:
        statistics.update(session.tap({"input": data}, lowered[1].tensors))
    return solve(statistics, SCHEMES[SCHEME], "mse")


def test_a_tap_is_the_modules_own_activation(lowered, data):
    net, model = lowered
    with TARGET.open(model, FLOAT) as session:
        tapped = session.tap({"input": data}, model.tensors)
    with torch.no_grad():
        up = net.up(torch.from_numpy(data))
        down = net.down(torch.relu(up))
        wanted = {"relu": torch.relu(up), "relu of down": torch.relu(down), "mean": torch.relu(down).mean(-1)}
    for name, tensor in wanted.items():
        near = [k for k, v in tapped.items() if v.shape == tensor.shape and np.allclose(v, tensor, atol=1e-5)]
        assert near, f"no tapped tensor is {name}"
    for tensor in (up, down):  # what only a Relu reads has the range of what is left of it
        assert not [k for k, v in tapped.items() if v.shape == tensor.shape and np.allclose(v, tensor, atol=1e-5)]


def test_float_is_the_module_at_every_batch(lowered, data):
    net, model = lowered
    with torch.no_grad():
        wanted = net(torch.from_numpy(data)).numpy()
    with TARGET.open(model, FLOAT) as session:
        for n in (1, 5, 24):
            np.testing.assert_allclose(session.run({"input": data[:n]})["output"], wanted[:n], atol=1e-6)


def test_our_scales_reach_the_file_and_logits_stay_float(lowered, ranges, tmp_path):
    model = TARGET.quantize(lowered[1], OURS, ranges, [], tmp_path)
    graph = onnx.load(model.path).graph
    values = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    quantized = {n.input[0]: n for n in graph.node if n.op_type == "QuantizeLinear"}
    assert "input" in quantized
    assert len(quantized) >= 3
    for name, node in quantized.items():
        wanted = ranges[name]
        np.testing.assert_allclose(values[node.input[1]], wanted.scale, rtol=1e-6)
        assert values[node.input[2]] == wanted.zero_point
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    assert made_by["output"] == "Gemm"


def test_weights_are_max_over_127_per_channel(lowered, ranges, tmp_path):
    net, model = lowered[0], TARGET.quantize(lowered[1], OURS, ranges, [], tmp_path)
    values = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(model.path).graph.initializer}
    weight = net.down.weight.detach().numpy()
    scale = np.abs(weight).max(axis=(1, 2), keepdims=True) / 127
    np.testing.assert_allclose(values["down.weight_scale"], scale.ravel(), rtol=1e-6)
    assert np.abs(values["down.weight_quantized"] - weight / scale).max() <= 0.5 + 1e-4


def test_the_vendors_way_is_fed_raw_batches_once(lowered, data, tmp_path):
    taken = []

    def batches():
        for row in data:
            taken.append(1)
            yield {"input": row[None]}

    model = TARGET.quantize(lowered[1], VENDOR, None, batches(), tmp_path)
    assert len(taken) == len(data)
    graph = onnx.load(model.path).graph
    values = {i.name: onnx.numpy_helper.to_array(i) for i in graph.initializer}
    node = next(n for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] == "input")
    wanted = from_range(data.min(), data.max(), SCHEMES[SCHEME].activation)  # its calibrator is plain min-max
    np.testing.assert_allclose(values[node.input[1]], wanted.scale, rtol=1e-6)


def test_inspect_names_float_islands_and_loses_no_work(lowered, ranges, tmp_path):
    model = TARGET.quantize(lowered[1], OURS, ranges, [], tmp_path)
    total = sum(onnx_graph.macs(onnx.load(lowered[1].path)).values())
    ops = TARGET.inspect(model, OURS)
    assert sum(op.macs for op in ops) == total
    assert {op.type: op.precision for op in ops if op.macs} == {"ConvTranspose": "f32", "Conv": "int8", "Gemm": "int8"}
    float_ops = TARGET.inspect(lowered[1], OURS)  # a float file that is called int8
    assert sum(op.macs for op in float_ops) == total
    assert {op.precision for op in float_ops} == {"f32"}


def test_ranges_that_lack_a_tensor_or_are_of_another_scheme_are_refused(lowered, ranges, tmp_path):
    name = lowered[1].tensors[1]
    with pytest.raises(TargetError, match=f"no ranges for .*{name}"):
        TARGET.quantize(lowered[1], OURS, {k: v for k, v in ranges.items() if k != name}, [], tmp_path)
    signed = {k: from_range(-1, 1, SCHEMES["s8s8"].activation) for k in ranges}
    with pytest.raises(TargetError, match="not of u8s8") as caught:
        TARGET.quantize(lowered[1], OURS, signed, [], tmp_path)
    assert caught.value.kind == "unsupported"
    with pytest.raises(TargetError, match="needs ranges"):
        TARGET.quantize(lowered[1], OURS, None, [], tmp_path)
    with pytest.raises(TargetError, match=r"takes u8s8.*; candidate 'ours-mse' asks s8s8"):
        TARGET.quantize(lowered[1], replace(OURS, scheme="s8s8"), ranges, [], tmp_path)
    assert not list(tmp_path.iterdir())


def test_arithmetic_that_the_runtime_lacks_is_refused(lowered):
    with pytest.raises(TargetError, match="no bf16 arithmetic"):
        TARGET.open(lowered[1], replace(FLOAT, precision="bf16"))


def test_a_file_that_is_no_model_is_one_line(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"\x00garbage\xff" * 9)
    with pytest.raises(TargetError, match=r"model\.onnx is no ONNX model"):
        onnx_graph.load(tmp_path / "model.onnx")


class Singular(nn.Module):
    def forward(self, x):
        return torch.linalg.svdvals(x)


def test_an_op_without_onnx_is_named_with_its_source_line(tmp_path):
    line = next(i for i, text in enumerate(Path(__file__).read_text().splitlines(), 1) if "svdvals(x)" in text)
    with pytest.raises(TargetError, match=rf"linalg_svd.*\(test_onnxruntime\.py:{line}\)") as caught:
        onnx_graph.export(exported(Singular(), (4, 4), tmp_path), tmp_path)
    assert caught.value.kind == "unsupported"
    assert "\n" not in str(caught.value)
    assert OPS["aten.linalg_svd"].level == "refused"


def test_exported_files_hold_no_paths_and_a_free_batch(lowered):
    folder = lowered[1].path.parent
    for name in ("program.onnx", "model.onnx"):
        assert str(folder).encode() not in (folder / name).read_bytes()
        assert b"test_onnxruntime" not in (folder / name).read_bytes()
    model = onnx.load(folder / "program.onnx")
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


def node_macs(kind: str, data: tuple[int, ...], weight: tuple[int, ...], out: list, **attributes) -> int:
    node = helper.make_node(kind, ["x", "w"], ["y"], **attributes)
    tensors = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", data), ("w", weight), ("y", out))
    ]
    model = helper.make_model(helper.make_graph([node], "g", tensors[:2], tensors[2:]))
    return onnx_graph.macs(model)["y"]


@pytest.mark.parametrize(
    ("kind", "data", "weight", "attributes", "macs"),
    [
        ("Conv", (1, 3, 8, 8), (16, 3, 3, 3), {}, 16 * 6 * 6 * 27),
        ("Conv", (1, 16, 8, 8), (16, 1, 3, 3), {"group": 16, "pads": [1, 1, 1, 1]}, 16 * 8 * 8 * 9),
        ("Conv", (1, 4, 10), (6, 4, 3), {"strides": [2]}, 6 * 4 * 12),
        ("ConvTranspose", (1, 4, 5), (4, 7, 3), {"strides": [2]}, 4 * 5 * 7 * 3),
        ("Gemm", (1, 9), (9, 4), {}, 36),
        ("Gemm", (1, 9), (4, 9), {"transB": 1}, 36),
        ("MatMul", (1, 7, 9), (9, 4), {}, 7 * 9 * 4),
        ("MatMul", (1, 2, 7, 9), (1, 2, 9, 5), {}, 2 * 7 * 9 * 5),
    ],
)
def test_macs_are_those_counted_by_hand(kind, data, weight, attributes, macs):
    assert node_macs(kind, data, weight, [None] * len(data), **attributes) == macs


def test_a_recurrent_layer_uses_all_its_weights_at_each_step():
    steps, width, inside = 20, 6, 16
    shapes = {"x": (steps, 1, width), "w": (1, 3 * inside, width), "r": (1, 3 * inside, inside), "h": (1, 1, inside)}
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()}
    node = helper.make_node("GRU", ["x", "w", "r"], ["", "h"], hidden_size=inside)
    graph = helper.make_graph([node], "g", [values[name] for name in "xwr"], [values["h"]])
    assert onnx_graph.macs(helper.make_model(graph)) == {"h": steps * 3 * inside * (width + inside)}


class Repeats(nn.Module):
    """A class token before the steps, one layer for all depths, and states that begin at zero."""

    def __init__(self):
        super().__init__()
        self.first, self.token = nn.Linear(20, 8), nn.Parameter(torch.randn(1, 1, 8))
        self.mix, self.cell, self.end = nn.Linear(8, 8), nn.RNN(8, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), self.first(x)], 1)
        return self.end(self.cell(self.mix(torch.relu(self.mix(x))))[0].flatten(1)[:, :8])


def test_shared_weights_and_what_is_made_of_a_shape_alone_are_quantized(data, tmp_path):
    """With exact kernels on CPUs without VNNI shared int8 weights do not load; a class token has a range."""
    torch.manual_seed(0)
    net = Repeats()
    model = TARGET.lower(exported(net, (4, 20), tmp_path), tmp_path)
    statistics = Statistics(model.sha256)
    with TARGET.open(model, FLOAT) as session:
        statistics.update(session.tap({"input": data}, model.tensors))
    seen = {"ours": solve(statistics, SCHEMES[SCHEME], "mse"), "vendor": None}
    for name, candidate in {"ours": OURS, "vendor": VENDOR}.items():
        (place := tmp_path / name).mkdir()
        made = TARGET.quantize(model, candidate, seen[name], [{"input": data}], place)
        ops = TARGET.inspect(made, candidate)  # it loads
        assert sum(op.precision == "int8" for op in ops if op.macs) >= 4
        with torch.no_grad(), TARGET.open(made, candidate) as session:
            assert sqnr_db(net(torch.from_numpy(data)).numpy(), session.run({"input": data})["output"]) > 20
