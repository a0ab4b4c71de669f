"""What `deploy inspect` says of a model and a target is what becomes of it there."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from pipeline import fits, foreign, inspection
from pipeline.errors import UsageError
from pipeline.op_table import check_ops
from pipeline.stages import bring, export
from targets import onnx_graph, registry
from targets.base import Program, TargetError, TensorSpec
from tests.unit import onnx_forms

NETS = """
import torch
from torch import nn

class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)
    def inside(self, x):
        return torch.relu(x)
    def forward(self, x):
        return self.head(self.inside(self.conv(x)).mean((2, 3)))

class Leaky(Plain):
    def inside(self, x):
        return nn.functional.leaky_relu(x)

class Singular(Plain):
    def inside(self, x):
        return x * torch.linalg.svdvals(x)[..., :1, None]
"""


@pytest.mark.parametrize("net", ["Plain", "Leaky", "Singular"])
def test_a_modules_promise_is_kept_by_its_program(net, tmp_path, monkeypatch):
    """Refused where the run refuses its ops before any work; else the run goes on from there."""
    (tmp_path / "promised.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    rows = inspection.examine(f"promised:{net}", tmp_path, ["3x8x8"])["targets"]
    from pipeline import user

    model = user.call(f"promised:{net}", str(tmp_path))
    made = export.export(model, {"x": np.zeros((4, 3, 8, 8), np.float32)}, tmp_path)
    for name in registry.names():
        table = registry.load(name).capabilities.ops
        if rows[name]["level"] == "refused":
            with pytest.raises(UsageError, match=f"{name} cannot run"):
                check_ops(name, table, made["ops"])
        else:
            check_ops(name, table, made["ops"])
    assert (rows["cortex-m"]["level"] == "refused") == (net != "Plain")
    assert (rows["onnxruntime"]["level"] == "refused") == (net == "Singular")
    if net != "Singular":
        program = export.read_program(tmp_path)
        for name in ("onnxruntime", "openvino"):
            (tmp_path / name).mkdir()
            registry.load(name).lower(program, tmp_path / name)


def quantized(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.node[3].op_type = "QuantizeLinear"
    return model


@pytest.mark.parametrize("form", ["opset 8, IR 3, batch 1", "constants", "double"])
def test_an_onnx_files_promise_is_kept_by_the_run(form, tmp_path):
    """A target that takes the file lowers what `bring` makes of it; a target that does not fails there too."""
    samples = {"x": np.random.default_rng(0).normal(size=(4, *onnx_forms.SIZE)).astype(np.float32)}
    path = tmp_path / "m.onnx"
    onnx.save(written(form), path)
    told = inspection.of_file(bring.Job("inspect", {"file": str(path), "shapes": []}, {}, tmp_path, 0))
    rows, (given,) = told["targets"], told["inputs"].values()
    assert given == f"float{64 if form == 'double' else 32} [{1 if 'batch 1' in form else 'n'}, 3, 16, 16]"
    if form == "double":
        samples = {"x": samples["x"].astype(np.float64)}
    model = foreign.brought(path, samples)
    (tmp_path / "program").mkdir()
    file = tmp_path / "program" / "program.onnx"
    onnx_graph.save(model, file)
    specs = [tuple(TensorSpec(v.name, "", ()) for v in end) for end in (model.graph.input, model.graph.output)]
    program = Program(file, "onnx", *(onnx_graph.specs(model, end) for end in specs))
    for name in ("onnxruntime", "openvino"):
        target, taken = registry.load(name), rows[name]["level"] == "takes it"
        (tmp_path / name).mkdir()
        try:
            lowered = program.inputs[0].dtype in target.capabilities.dtypes
            target.lower(program, tmp_path / name)
        except TargetError:
            lowered = False
        assert taken == lowered, rows[name]
        assert taken == (form != "double"), rows[name]
    assert all("no road from .onnx" in rows[name]["reasons"][0] for name in ("tflite", "cortex-m"))


def written(form: str) -> onnx.ModelProto:
    from onnx import TensorProto, helper

    if form == "constants":
        return onnx_forms.as_constants(onnx_forms.network())
    if form.startswith("opset 8"):
        return onnx_forms.network(8, 3, batch=1, as_inputs=True)
    ends = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["n", *onnx_forms.SIZE]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_quantized_file_is_refused_by_both(tmp_path):
    onnx.save(quantized(onnx_forms.network()), tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="holds integer arithmetic already"):
        foreign.brought(tmp_path / "m.onnx", {"x": np.zeros((2, *onnx_forms.SIZE), np.float32)})
    assert "integer arithmetic" in foreign.refused(quantized(onnx_forms.network()))


def test_a_program_of_a_fixed_batch_is_refused_by_both(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(nn.Linear(3, 2), (torch.zeros(2, 3),)), tmp_path / "fixed.pt2")
    rows = inspection.examine("fixed.pt2", tmp_path)["targets"]
    words = "its batch is fixed at 2: export it with a torch.export.Dim for axis 0"
    assert {(row["level"], row["reasons"][0]) for row in rows.values()} == {("refused", words)}
    with pytest.raises(UsageError, match=words):
        bring._pt2(tmp_path / "fixed.pt2", {"x": np.zeros((2, 3), np.float32)}, tmp_path)


@pytest.mark.parametrize("kind", ["int8", "float"])
def test_a_tflite_files_promise_of_a_board_is_kept_by_fit(kind, tmp_path):
    made = {"int8": int8_file, "float": float_file}[kind](tmp_path)
    rows = inspection.examine(made.name, tmp_path)["targets"]
    assert rows["tflite"]["level"] == "runs it"
    if kind == "int8":
        assert rows["cortex-m"]["level"] == "takes it"
        assert fits.fit(made, None, "1M", "1M")["fits"]
    else:
        assert rows["cortex-m"]["level"] == "refused"
        with pytest.raises(UsageError) as caught:
            fits.fit(made, None, "1M", "1M")
        assert rows["cortex-m"]["reasons"][0] == str(caught.value)


def lowered(folder: Path):
    export.export(nn.Sequential(nn.Linear(4, 3)), {"x": np.zeros((4, 4), np.float32)}, folder)
    (folder / "float").mkdir()
    target = registry.load("tflite")
    return target, target.lower(export.read_program(folder), folder / "float")


def float_file(folder: Path) -> Path:
    return moved(lowered(folder)[1].path, folder)


def int8_file(folder: Path) -> Path:
    target, model = lowered(folder)
    candidate = next(one for one in target.candidates(model) if one.precision == "int8" and one.quantizer != "ours")
    (folder / "int8").mkdir()
    batches = [{"x": np.random.default_rng(i).normal(size=(1, 4)).astype(np.float32)} for i in range(4)]
    return moved(target.quantize(model, candidate, None, batches, folder / "int8").path, folder)


def moved(path: Path, folder: Path) -> Path:
    return path.rename(folder / "net.tflite")
