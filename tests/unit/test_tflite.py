"""The tflite target on small nets: parity, exact scales, int8 share, layouts, batches, errors, equal bytes."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("litert_torch")
import torch
from torch import nn
from torch.nn import functional

from calibration.metrics import sqnr_db
from calibration.qparams import QParams, from_range, limits, quantize
from calibration.schemes import SCHEMES
from pipeline.recipes.fashion.net import FashionNet
from targets import agent
from targets.base import Candidate, Model, Program, TargetError, TensorSpec
from targets.tflite import TARGET, flatbuffer, lowering, quantization, support

# torch.export and jax deprecate their own calls; litert-torch, which makes them, is silenced by the target itself
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

ACTIVATION = SCHEMES["s8s8"].activation
CANDIDATES = {candidate.id: candidate for candidate in TARGET.candidates(Model(Path("x"), (), ()))}


class Residual(nn.Module):
    """Convolution, BatchNorm, a branch that is added, pooling; returns logits."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.body = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.Conv2d(8, 8, 3, padding=1),
        )
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = functional.relu(self.norm(self.stem(x)))
        x = functional.max_pool2d(functional.relu(x + self.body(x)), 2)
        return self.head(functional.adaptive_avg_pool2d(x, 1).flatten(1))


class TwoInputs(nn.Module):
    """An image and a vector in, two tensors out: logits and an image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(6, 4)

    def forward(self, image, vector):
        image = self.conv(image)
        return self.head(vector) + image.mean((2, 3)), functional.relu(image)


class Last(nn.Module):
    """Normalises over the last axis; at batch 1 the converter takes the mean over the batch as well."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)

    def forward(self, x):
        return self.norm(x)


def block(conv: nn.Module, norm: nn.Module) -> list[nn.Module]:
    return [conv, norm, nn.ReLU(inplace=True)]


def depthwise() -> nn.Module:
    first = block(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8))
    second = block(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8))
    return nn.Sequential(*first, *second, nn.Conv2d(8, 16, 1), nn.ReLU6(), nn.Flatten(), nn.Linear(1024, 5))


def one_dimensional() -> nn.Module:
    first = block(nn.Conv1d(6, 16, 5, padding=2), nn.BatchNorm1d(16))
    second = block(nn.Conv1d(16, 24, 5, stride=2, padding=2), nn.BatchNorm1d(24))
    return nn.Sequential(*first, *second, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(24, 7))


NETS = {
    # name: (builder, shape of one sample, MACs counted by hand)
    "residual": (Residual, (3, 16, 16), 256 * 27 * 8 + 256 * 72 * 8 + 40),
    "depthwise": (depthwise, (3, 16, 16), 64 * 27 * 8 + 64 * 9 * 8 + 64 * 8 * 16 + 1024 * 5),
    "linear": (lambda: nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 5)), (20,), 20 * 32 + 32 * 5),
    "conv1d": (one_dimensional, (6, 100), 100 * 30 * 16 + 50 * 80 * 24 + 24 * 7),
}


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    net = NETS[name][0]()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            for tensor in (module.running_mean, module.weight, module.bias):
                nn.init.normal_(tensor, 0.5, 0.3)
    return net.eval()


def program(net: nn.Module, inputs: dict[str, np.ndarray], folder: Path, batch: int | None = None) -> Program:
    """Export with a free batch, or at a fixed one."""
    example = tuple(torch.from_numpy(np.resize(x, (batch or 2, *x.shape[1:]))) for x in inputs.values())
    free = torch.export.Dim("batch", min=1, max=65536)
    shapes = None if batch else tuple({0: free} for _ in example)
    torch.export.save(torch.export.export(net.eval(), example, dynamic_shapes=shapes), folder / "program.pt2")
    results = net(*example)
    outputs = results if isinstance(results, tuple) else (results,)
    return Program(
        folder / "program.pt2",
        "pt2",
        tuple(TensorSpec(name, str(x.dtype), (batch, *x.shape[1:])) for name, x in inputs.items()),
        tuple(TensorSpec(f"output{i}", "float32", (batch, *y.shape[1:])) for i, y in enumerate(outputs)),
    )


@dataclasses.dataclass
class Lowered:
    """One net all the way: its data, PyTorch's own answer, the float file, its activations and their ranges."""

    net: nn.Module
    macs: int
    program: Program
    model: Model
    data: dict[str, np.ndarray]
    expected: np.ndarray
    tapped: dict[str, np.ndarray]
    ranges: dict[str, QParams]


@pytest.fixture(scope="module", params=sorted(NETS))
def lowered(request, tmp_path_factory) -> Lowered:
    folder = tmp_path_factory.mktemp(request.param)
    net, (_, shape, macs) = build(request.param), NETS[request.param]
    data = {"signal": np.random.default_rng(1).standard_normal((32, *shape)).astype(np.float32)}
    exported = program(net, data, folder)
    model = TARGET.lower(exported, folder)
    with TARGET.open(model, CANDIDATES["float"]) as session:
        tapped = session.tap(data, model.tensors)
    ranges = {name: from_range(x.min(), x.max(), ACTIVATION, name=name) for name, x in tapped.items()}
    expected = net(torch.from_numpy(data["signal"])).detach().numpy()
    return Lowered(net, macs, exported, model, data, expected, tapped, ranges)


@pytest.fixture
def quantized(lowered, tmp_path) -> Model:
    return TARGET.quantize(lowered.model, CANDIDATES["ours-minmax"], lowered.ranges, [], tmp_path)


def test_float_is_the_program_and_is_float(lowered):
    with TARGET.open(lowered.model, CANDIDATES["float"]) as session:
        outputs = session.run(lowered.data)
    assert list(outputs) == ["output0"]
    assert sqnr_db(lowered.expected, outputs["output0"]) >= 100
    ops = TARGET.inspect(lowered.model, CANDIDATES["float"])
    assert {op.precision for op in ops} == {"f32"}
    assert sum(op.macs for op in ops) == lowered.macs


def test_names_and_layout_are_described(lowered):
    (spec,) = lowered.model.inputs
    assert spec.name == "signal"
    assert spec.permutation == ((0, 2, 3, 1) if len(spec.shape) == 4 else None)
    assert spec.shape[0] is None
    assert lowered.model.tensors[0] == "signal"
    assert lowered.model.tensors[-1] == "output0"
    assert len(set(lowered.model.tensors)) == len(lowered.model.tensors)


def test_batch_norm_is_folded_and_layout_changes_stay_outside(lowered):
    """In 1-D nets a BatchNorm that is left alone costs MUL, ADD and four layout ops around each convolution."""
    types = [op.type for op in TARGET.inspect(lowered.model, CANDIDATES["float"])]
    assert "MUL" not in types
    inner = types[types.index("CONV_2D") : len(types) - types[::-1].index("CONV_2D")] if "CONV_2D" in types else []
    assert not {"RESHAPE", "TRANSPOSE"} & set(inner)


def test_ours_is_int8_with_the_scales_that_were_asked_for(lowered, quantized):
    ops = TARGET.inspect(quantized, CANDIDATES["ours-minmax"])
    assert sum(op.macs for op in ops if op.precision == "int8") == lowered.macs
    assert all(op.precision == "int8" for op in ops if op.int8_capable)
    content = flatbuffer.read(quantized.path)
    tied = {t.name for op in flatbuffer.ops(content) if op.type in support.TIED for t in (*op.inputs, *op.outputs)}
    compared = 0
    for tensor in {t.name: t for op in flatbuffer.ops(content) for t in (*op.inputs, *op.outputs)}.values():
        if tensor.name in lowered.ranges and tensor.name not in tied:
            want = lowered.ranges[tensor.name]
            assert (tensor.scale, tensor.zero_point) == (want.scale, want.zero_point)
            compared += 1
    assert compared >= 2
    inputs, outputs = flatbuffer.interface(content)
    assert {tensor.type for tensor in (*inputs, *outputs)} == {"INT8"}


def test_ours_is_near_and_small(lowered, quantized):
    with TARGET.open(quantized, CANDIDATES["ours-minmax"]) as session:
        assert sqnr_db(lowered.expected, session.run(lowered.data)["output0"]) >= 20
    assert TARGET.weight_bytes(quantized) <= 0.35 * TARGET.weight_bytes(lowered.model)
    weights = sum(p.numel() for n, p in lowered.net.named_parameters() if p.ndim > 1)
    assert 4 * weights < TARGET.weight_bytes(lowered.model) < 1.5 * 4 * weights


def test_vendor_calibrates_itself(lowered, tmp_path):
    batches = [{"signal": lowered.data["signal"][i : i + 4]} for i in range(0, 32, 4)]
    model = TARGET.quantize(lowered.model, CANDIDATES["aeq"], None, iter(batches), tmp_path)
    with TARGET.open(model, CANDIDATES["aeq"]) as session:
        result = session.run(lowered.data)["output0"]
    assert result.shape == lowered.expected.shape
    assert sqnr_db(lowered.expected, result) >= 5  # its moving average of extremes clips: about 9 dB on the linear net
    assert {op.precision for op in TARGET.inspect(model, CANDIDATES["aeq"]) if op.macs} == {"int8"}


def test_large_batch_gives_what_single_samples_give(lowered, quantized):
    for model, floor in ((lowered.model, 100), (quantized, 40)):
        data = {name: x.transpose(model.inputs[0].permutation or range(x.ndim)) for name, x in lowered.data.items()}
        alone, together = (agent.open_model("tflite", str(model.path), {"batch": n}) for n in (1, 32))
        rows = [alone.run({"signal": data["signal"][i : i + 1]})["output0"] for i in range(32)]
        assert sqnr_db(np.concatenate(rows), together.run(data)["output0"]) >= floor


def test_taps_are_the_graphs_own_values(lowered):
    assert np.array_equal(
        lowered.tapped["signal"],
        lowered.data["signal"].transpose(lowered.model.inputs[0].permutation or range(lowered.data["signal"].ndim)),
    )
    assert sqnr_db(lowered.expected, lowered.tapped["output0"]) >= 100
    with TARGET.open(lowered.model, CANDIDATES["float"]) as session, pytest.raises(ValueError, match="no activation"):
        session.tap(lowered.data, ["nowhere"])


def test_reference_kernels_agree(lowered, quantized):
    data = {name: x.transpose(lowered.model.inputs[0].permutation or range(x.ndim)) for name, x in lowered.data.items()}
    fast, plain = (agent.open_model("tflite", str(quantized.path), {"resolver": r}) for r in ("auto", "reference"))
    first = {"signal": data["signal"][:1]}
    scale = float(lowered.ranges["output0"].scale)
    assert np.abs(fast.run(first)["output0"] - plain.run(first)["output0"]).max() <= 4 * scale


def test_a_scale_that_did_not_come_through_is_an_error(lowered, quantized):
    name = "output0"  # of a linear layer: tied to nothing
    for changed in ({"scale": lowered.ranges[name].scale * 2}, {"zero_point": lowered.ranges[name].zero_point + 1}):
        asked = {**lowered.ranges, name: dataclasses.replace(lowered.ranges[name], **changed)}
        with pytest.raises(TargetError, match=f"gave '{name}' the scale"):
            quantization.check(flatbuffer.read(quantized.path), asked)


def test_refusals_are_one_line(lowered, tmp_path):
    illegal = Candidate("x", "ours", "int8", "u8s8", "minmax")
    with pytest.raises(TargetError, match=r"tflite takes s8s8, .*, not ") as raised:
        TARGET.quantize(lowered.model, illegal, lowered.ranges, [], tmp_path)
    assert raised.value.kind == "unsupported"
    with pytest.raises(TargetError, match="got none"):
        TARGET.quantize(lowered.model, CANDIDATES["ours-mse"], None, [], tmp_path)
    some = {name: q for name, q in lowered.ranges.items() if name != "signal"}
    with pytest.raises(TargetError, match="'signal' is one"):
        TARGET.quantize(lowered.model, CANDIDATES["ours-mse"], some, [], tmp_path)
    assert not list(tmp_path.iterdir())
    with TARGET.open(lowered.model, CANDIDATES["float"]) as session:
        for bad in ({"other": lowered.data["signal"]}, {"signal": lowered.data["signal"].astype(np.float64)}):
            with pytest.raises(ValueError, match="signal"):
                session.run(bad)


def test_several_inputs_and_outputs_keep_their_order_and_layouts(tmp_path):
    rng = np.random.default_rng(2)
    data = {
        "zebra": rng.standard_normal((4, 3, 6, 8)).astype(np.float32),
        "aardvark": rng.standard_normal((4, 6)).astype(np.float32),
    }
    net = TwoInputs().eval()
    model = TARGET.lower(program(net, data, tmp_path), tmp_path)
    assert [spec.name for spec in model.inputs] == ["zebra", "aardvark"]
    assert model.inputs[0].shape == (None, 6, 8, 3)
    assert model.outputs[1].permutation == (0, 2, 3, 1)
    with TARGET.open(model, CANDIDATES["float"]) as session:
        outputs = session.run(data)
    for name, expected in zip(("output0", "output1"), net(*map(torch.from_numpy, data.values())), strict=True):
        assert outputs[name].shape == tuple(expected.shape)
        assert sqnr_db(expected.detach().numpy(), outputs[name]) >= 100


@pytest.mark.filterwarnings("ignore:No complete tensor found in the group:UserWarning")  # torch.export.save's own
def test_weights_may_lie_channels_last(tmp_path):
    torch.manual_seed(0)
    samples = np.random.default_rng(0).standard_normal((4, 1, 28, 28), np.float32)
    net = FashionNet().eval().to(memory_format=torch.channels_last)
    model = TARGET.lower(program(net, {"x": samples}, tmp_path), tmp_path)
    with torch.no_grad(), TARGET.open(model, CANDIDATES["float"]) as session:
        assert sqnr_db(net(torch.from_numpy(samples)).numpy(), session.run({"x": samples})["output0"]) >= 100


def test_integer_inputs_are_cast(tmp_path):
    tokens = np.random.default_rng(3).integers(0, 10, (6, 7))
    net = nn.Sequential(nn.Embedding(10, 8), nn.Flatten(), nn.Linear(56, 3)).eval()
    model = TARGET.lower(program(net, {"tokens": tokens}, tmp_path), tmp_path)
    with TARGET.open(model, CANDIDATES["float"]) as session:
        result = session.run({"tokens": tokens})["output0"]
    assert sqnr_db(net(torch.from_numpy(tokens)).detach().numpy(), result) >= 100


def test_a_batch_that_cannot_be_resized_is_fixed_and_says_so(tmp_path):
    data = {"x": np.random.default_rng(4).standard_normal((3, 6, 16)).astype(np.float32)}
    net = Last().eval()
    model = TARGET.lower(program(net, data, tmp_path), tmp_path)
    assert model.inputs[0].shape[0] == 1
    with TARGET.open(model, CANDIDATES["float"]) as session:
        result = session.run(data)["output0"]
    assert sqnr_db(net(torch.from_numpy(data["x"])).detach().numpy(), result) >= 100
    with pytest.raises(ValueError, match="batch of this model is fixed at 1, asked for 2"):
        agent.open_model("tflite", str(model.path), {"batch": 2})


def test_a_declared_batch_is_kept(tmp_path):
    data = {"x": np.random.default_rng(5).standard_normal((6, 20)).astype(np.float32)}
    net = build("linear")
    model = TARGET.lower(program(net, data, tmp_path, batch=3), tmp_path)
    assert (model.inputs[0].shape, model.outputs[0].shape) == ((3, 20), (3, 5))
    assert sum(op.macs for op in TARGET.inspect(model, CANDIDATES["float"])) == NETS["linear"][2]
    with TARGET.open(model, CANDIDATES["float"]) as session:
        assert sqnr_db(net(torch.from_numpy(data["x"])).detach().numpy(), session.run(data)["output0"]) >= 100
        with pytest.raises(ValueError, match="fixed at 3"):
            session.run({"x": data["x"][:4]})


class Wrong(nn.Module):
    """Calls one op."""

    def __init__(self, op) -> None:
        super().__init__()
        self.op = op

    def forward(self, x):
        return self.op(x)


@pytest.mark.parametrize(
    ("op", "name"), [(torch.lgamma, "lgamma"), (lambda x: torch.sort(x)[0], "sort"), (torch.nonzero, "nonzero")]
)
def test_an_op_that_cannot_be_lowered_is_named(op, name, tmp_path):
    data = {"x": np.ones((2, 4), np.float32)}
    if name == "nonzero":
        op = lambda x: x * torch.nonzero(x).sum()  # noqa: E731
    with pytest.raises(TargetError, match=f"(?i){name}") as raised:
        TARGET.lower(program(Wrong(op), data, tmp_path), tmp_path)
    assert "\n" not in str(raised.value)
    assert support.CAPABILITIES.ops[f"aten.{name}"].level == "refused"
    if name != "sort":  # found by the converter, which knows the line; the runtime does not
        assert "test_tflite.py:" in str(raised.value)


@pytest.mark.parametrize("op", [functional.leaky_relu, torch.exp, torch.abs])
def test_float_islands_are_named(op, tmp_path):
    data = {"x": np.random.default_rng(6).standard_normal((4, 8)).astype(np.float32)}
    model = TARGET.lower(program(nn.Sequential(nn.Linear(8, 8), Wrong(op)), data, tmp_path), tmp_path)
    with TARGET.open(model, CANDIDATES["float"]) as session:
        tapped = session.tap(data, model.tensors)
    ranges = {name: from_range(x.min(), x.max(), ACTIVATION) for name, x in tapped.items()}
    (tmp_path / "q").mkdir()
    ops = TARGET.inspect(
        TARGET.quantize(model, CANDIDATES["ours-minmax"], ranges, [], tmp_path / "q"), CANDIDATES["aeq"]
    )
    islands = [found for found in ops if found.precision == "f32" and found.type not in ("QUANTIZE", "DEQUANTIZE")]
    assert [found.int8_capable for found in islands] == [False]
    assert islands[0].type.replace("_", "") == op.__name__.replace("_", "").upper()
    assert support.CAPABILITIES.ops[f"aten.{op.__name__}"].level == "float"


def test_tables_agree_with_the_vendors_policy():
    import json

    from ai_edge_quantizer import default_policy

    vendor = set(json.loads(default_policy.DEFAULT_JSON_POLICY)["ops_per_config"]["static_wi8_ai8"])
    vendor = vendor - {"INPUT", "OUTPUT", "CONV_2D_TRANSPOSE"} | {"TRANSPOSE_CONV"}
    assert vendor == support.INT8_OPS
    assert support.TIED.union(*support.FIXED.values()) <= support.INT8_OPS
    rows = support.CAPABILITIES.ops
    assert len(rows) == len(support._INT8) + len(support._FLOAT) + len(support._REFUSED)  # no op in two tables
    assert all(row.reason for row in rows.values() if row.level != "int8")


def test_codes_are_those_of_calibration():
    """The agent stands alone, so it has its own arithmetic for integer inputs: the same bits as `calibration`'s."""
    rng = np.random.default_rng(7)
    qparams = from_range(-1.3, 2.1, ACTIVATION)
    ends = np.array([*limits(qparams), 0, -np.inf, np.inf], np.float32)
    x = np.concatenate([rng.normal(0, 2, 4096).astype(np.float32), ends])
    detail = {"dtype": np.int8, "quantization": (float(qparams.scale), int(qparams.zero_point))}
    codes = agent.encode(x, detail)
    assert np.array_equal(codes, quantize(x, qparams))
    assert np.array_equal(agent.encode(agent.decode(codes, detail), detail), codes)


def test_folding_leaves_what_it_must_not_touch():
    """A convolution that two layers read keeps its own output."""

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)

        def forward(self, x):
            x = self.conv(x)
            return self.norm(x) + x

    x = torch.randn(2, 3, 8)
    for net, folded in ((Shared(), 0), (nn.Sequential(nn.Conv1d(3, 4, 3, bias=False), nn.BatchNorm1d(4)), 1)):
        net.eval()(x)
        module = torch.export.export(net, (x,)).module(check_guards=False)
        assert lowering.fold_batch_norm(module) == folded
        torch.testing.assert_close(module(x), net(x))


SCRIPT = """
import sys
from pathlib import Path
from targets.base import Program, TensorSpec
from targets.tflite import TARGET
folder = Path(sys.argv[1])
specs = (TensorSpec("signal", "float32", (None, 6, 100)),), (TensorSpec("output0", "float32", (None, 7)),)
TARGET.lower(Program(folder / "program.pt2", "pt2", *specs), Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_a_fresh_process_writes_the_same_bytes_and_nothing_else(tmp_path):
    data = {"signal": np.zeros((2, 6, 100), np.float32)}
    here = TARGET.lower(program(build("conv1d"), data, tmp_path), tmp_path)
    (tmp_path / "there").mkdir()
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(tmp_path / "there")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
    assert (tmp_path / "there" / here.path.name).read_bytes() == here.path.read_bytes()


def test_importing_the_target_imports_nothing_heavy():
    heavy = ["torch", "jax", "litert_torch", "ai_edge_litert", "ai_edge_quantizer"]
    code = f"import sys, targets.tflite; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (torch.nn.Conv1d(4, 6, 3, padding="same"), (2, 4, 11)),
        (torch.nn.Conv1d(4, 4, 4, padding="same", dilation=3, groups=4), (2, 4, 11)),  # one more behind than before
        (torch.nn.Conv2d(3, 4, (3, 4), padding="same", dilation=(2, 1), bias=False), (2, 3, 9, 8)),
        (torch.nn.Conv2d(3, 4, 3, padding="valid", stride=2), (2, 3, 9, 8)),
    ],
)
@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
def test_padding_by_name_is_padding_by_numbers(layer, shape):
    samples = torch.randn(shape)
    module = torch.export.export(torch.nn.Sequential(layer), (samples,)).module(check_guards=False)
    lowering.number_padding(module)
    assert "padding" not in {getattr(node.target, "_overloadname", "") for node in module.graph.nodes}
    torch.testing.assert_close(module(samples), layer(samples))


def test_constants_of_any_kind_are_packed_to_the_same_bytes(lowered):
    """A file that was quantized keeps its constants behind the tree, where they are read as bytes and not as arrays."""
    from ai_edge_litert.tools import flatbuffer_utils

    def content(kind):
        tree = flatbuffer.read(lowered.model.path)
        for buffer in tree.buffers:
            buffer.data = None if buffer.data is None else kind(bytearray(buffer.data))
        return tree

    plain = bytes(flatbuffer_utils.convert_object_to_bytearray(content(list)))
    assert flatbuffer.pack(content(bytes)) == flatbuffer.pack(content(memoryview)) == plain


class Forms(nn.Module):
    """Arguments as PyTorch takes them: one number for all axes, lists of one, words, defaults; sizes by no factor."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = nn.ParameterList(
            [nn.Parameter(torch.randn(4, 3, *[size] * rank) * 0.3) for rank in (1, 2, 3) for size in (3, 2)]
        )
        self.up = nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1)
        self.up_row = nn.ConvTranspose1d(3, 4, 3, stride=2, padding=1, output_padding=1)

    def forward(self, row, image, volume):
        found = []
        for at, kernel in enumerate(self.kernels):
            x, conv = ((row, functional.conv1d), (image, functional.conv2d), (volume, functional.conv3d))[at // 2]
            found += [
                conv(x, kernel, padding="same"),
                conv(x, kernel, None, 1, "same", [2]),
                conv(x, kernel, None, [2], 1),
            ]
        found += [self.up(image), self.up_row(row)]
        found += [functional.max_pool2d(image, [2]), functional.avg_pool2d(image, 2, 1)]
        found += [functional.interpolate(image, scale_factor=1.5, mode="nearest")]
        found += [functional.interpolate(image, size=(9, 16), mode="nearest-exact")]
        found += [functional.interpolate(row, size=14, mode="nearest"), functional.interpolate(row, size=18)]
        return tuple(found)


@pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel")
def test_every_way_to_write_an_argument_gives_pytorchs_numbers(tmp_path) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    shapes = {"row": (2, 3, 9), "image": (2, 3, 9, 8), "volume": (2, 3, 6, 7, 5)}
    data = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    net = Forms()
    model = TARGET.lower(program(net, data, tmp_path), tmp_path)
    with TARGET.open(model, CANDIDATES["float"]) as session:
        found = session.run(data)
    told = [one.detach().numpy() for one in net(*map(torch.from_numpy, data.values()))]
    parity = {name: sqnr_db(one, array) for one, (name, array) in zip(told, found.items(), strict=True)}
    assert {name: db for name, db in parity.items() if db < 100} == {}


class Stride(nn.Module):
    def forward(self, image):
        return functional.conv2d(image, torch.ones(4, 3, 3, 3), None, [2])


def test_a_conversion_that_fails_shows_the_converters_cause_op_and_line(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(lowering, "plain", lambda graph: None)
    data = {"image": np.zeros((2, 3, 9, 8), np.float32)}
    line = Stride.forward.__code__.co_firstlineno + 1
    with pytest.raises(TargetError) as caught:
        TARGET.lower(program(Stride(), data, tmp_path), tmp_path)
    assert f"aten.conv2d cannot be converted (test_tflite.py:{line}): " in str(caught.value)
    assert "Verification failed: error: " in str(caught.value)
    assert "expects window-strides" in str(caught.value)


class OddEnds(nn.Module):
    """Outputs that are an input, another output, a constant, read by a float op; an input that nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, image, unused):
        inside = functional.relu(self.conv(image))
        logits = self.head(inside.mean((2, 3)))
        return logits, logits, inside, image, torch.full((image.shape[0], 2), 0.25), logits.argmax(1).float()


class Detector(nn.Module):
    """Pixels and scores, joined for each of two scales, then for both: as a detector's head does."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, padding=1)
        self.boxes, self.scores = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 6, 1)

    def forward(self, image):
        found = functional.relu(self.body(image))
        rows = []
        for x in (found, functional.max_pool2d(found, 2)):
            boxes, scores = self.boxes(x).flatten(2).sigmoid() * 640, (self.scores(x).flatten(2) * 2 - 3).sigmoid()
            rows.append(torch.cat([boxes, scores], 1))
        return torch.cat(rows, 2).transpose(1, 2)


def int8(net: nn.Module, data: dict[str, np.ndarray], folder: Path):
    """The float outputs, ours in int8, and the candidate's ops."""
    model = TARGET.lower(program(net, data, folder), folder)
    with TARGET.open(model, CANDIDATES["float"]) as session:
        tapped, wanted = session.tap(data, model.tensors), session.run(data)
    ranges = {name: from_range(x.min(), x.max(), ACTIVATION, name=name) for name, x in tapped.items()}
    (folder / "ours").mkdir()
    ours = TARGET.quantize(model, CANDIDATES["ours-minmax"], ranges, [], folder / "ours")
    with TARGET.open(ours, CANDIDATES["ours-minmax"]) as session:
        return wanted, session.run(data), TARGET.inspect(ours, CANDIDATES["ours-minmax"])


def test_outputs_that_are_no_tensors_of_their_own_are_right_in_int8_too(tmp_path) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    data = {"image": rng.standard_normal((8, 3, 12, 10)).astype(np.float32), "unused": np.zeros((8, 2), np.float32)}
    wanted, found, _ = int8(OddEnds(), data, tmp_path)
    np.testing.assert_array_equal(found["output0"], found["output1"])
    for name in wanted:
        assert sqnr_db(wanted[name], found[name]) > 30, name
    np.testing.assert_array_equal(wanted["output3"], data["image"])


def test_scores_beside_pixels_keep_a_scale_of_their_own(tmp_path) -> None:
    torch.manual_seed(0)
    data = {"image": np.random.default_rng(0).standard_normal((8, 3, 12, 10)).astype(np.float32)}
    wanted, found, ops = int8(Detector(), data, tmp_path)
    each = [sqnr_db(wanted["output0"][..., c], found["output0"][..., c]) for c in range(10)]
    assert min(each) > 25, each  # in one tensor of 8 bits every score is 0: 0 dB
    assert {op.precision for op in ops if op.type == "CONV_2D"} == {"int8"}
