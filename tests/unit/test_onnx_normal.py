"""An ONNX file that comes in: one network is one network, however it is written; what cannot be taken is one line."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.metrics import sqnr_db
from pipeline import foreign
from pipeline.errors import UsageError
from pipeline.stages.quantize import shares
from targets import agent, onnx_graph, onnx_normal, onnx_weights, registry
from targets.base import Program, TargetError, TensorSpec
from tests.unit import onnx_forms

RNG = np.random.default_rng(1)
SAMPLES = {"image": RNG.normal(size=(32, *onnx_forms.SIZE)).astype(np.float32)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return onnx_forms.forms(tmp_path_factory.mktemp("forms"))


def answers(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    return agent.onnxruntime_session(model.SerializeToString(), {}).run(None, feeds)


def test_every_form_is_the_same_network_with_the_same_figures(files):
    expected = answers(onnx.load(files["opset 18"]), {"x.1": SAMPLES["image"]})[0]
    for name, path in files.items():
        model = foreign.brought(path, SAMPLES)
        batch = 1 if "batch 1" in name else 32
        told = answers(model, {"image": SAMPLES["image"][:batch]})[0]
        np.testing.assert_allclose(told, expected[:batch], rtol=1e-4, atol=1e-4, err_msg=name)
        assert sum(onnx_graph.macs(model).values()) == onnx_forms.MACS, name
        assert onnx_weights.parameters(model) == onnx_forms.PARAMS, name
        assert [value.name for value in model.graph.input] == ["image"], name
        assert len({node.name for node in model.graph.node} - {""}) == len(model.graph.node) == 9, name
        assert model.ir_version >= 8, name
        assert {one.domain for one in model.opset_import if one.domain != "local"} == {""}, name
        output = model.graph.output[0].type.tensor_type.shape.dim
        assert [output[0].dim_param or output[0].dim_value, output[1].dim_value] == ["batch" if batch > 1 else 1, 5], (
            name
        )


def taken(path: Path, folder: Path) -> Program:
    model = foreign.brought(path, SAMPLES)
    folder.mkdir()
    onnx_graph.save(model, folder / "program.onnx")
    ends = [tuple(TensorSpec(one.name, "", ()) for one in end) for end in (model.graph.input, model.graph.output)]
    return Program(folder / "program.onnx", "onnx", *(onnx_graph.specs(model, end) for end in ends))


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_every_form_ends_right_on_every_target_that_takes_onnx(files, tmp_path, name):
    target = registry.load(name)
    vendor = {"onnxruntime": "ort-minmax-u8s8", "openvino": "nncf"}[name]
    expected = answers(onnx.load(files["opset 18"]), {"x.1": SAMPLES["image"]})[0]
    found = {}
    for form in ("opset 18", "opset 8, IR 3, batch 1", "opset 9, initializers as inputs", "free height", "constants"):
        model = target.lower(taken(files[form], tmp_path / form), tmp_path / form)
        batch = model.inputs[0].shape[0] or 8
        candidate = next(one for one in target.candidates(model) if one.id == vendor)
        floating = target.candidates(model)[0]
        with target.open(model, floating) as session:
            told = session.run({"image": SAMPLES["image"][:batch]})["27"]
        assert sqnr_db(expected[:batch], told) > 60, form
        (tmp_path / form / "int8").mkdir()
        batches = [{"image": SAMPLES["image"][i : i + batch]} for i in range(0, 16, batch)]
        int8 = target.quantize(model, candidate, None, batches, tmp_path / form / "int8")
        ops = target.inspect(int8, candidate)
        found[form] = (sum(op.macs for op in ops), shares(ops)["int8_mac_share"])
        with target.open(int8, candidate) as session:
            assert sqnr_db(expected[:batch], session.run({"image": SAMPLES["image"][:batch]})["27"]) > 15, form
    assert set(found.values()) == {(onnx_forms.MACS, 1.0)}, found


def one_op(opset: int, kind: str, stored: dict[str, np.ndarray], **attributes: object) -> onnx.ModelProto:
    node = helper.make_node(kind, ["x", *stored], ["y"], **attributes)
    ends = [
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 6, 6])],
        [helper.make_empty_tensor_value_info("y")],
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    graph = helper.make_graph([node], "g", *ends, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=6)


TWICE = {"s": np.array([1, 1, 2, 2], np.float32)}
HALF = {"s": np.array([1, 1, 0.5, 0.5], np.float32)}
OLD = {  # what old opsets say otherwise: converter faults that were seen, and the forms that changed most
    "Upsample, linear": one_op(9, "Upsample", TWICE, mode="linear"),
    "Upsample, nearest": one_op(9, "Upsample", TWICE, mode="nearest"),
    "Upsample, scales as attribute": one_op(8, "Upsample", {}, mode="linear", scales=[1.0, 1.0, 1.5, 1.5]),
    "Resize, linear": one_op(10, "Resize", TWICE, mode="linear"),
    "Resize, nearest, smaller": one_op(10, "Resize", HALF, mode="nearest"),
    "Softmax over the rest": one_op(11, "Softmax", {}, axis=1),
    "Slice": one_op(9, "Slice", {}, axes=[2, 3], starts=[1, 1], ends=[-1, 99]),
    "Dropout": one_op(7, "Dropout", {}, ratio=0.3),
    "Pad": one_op(9, "Pad", {}, mode="constant", value=1.5, pads=[0, 0, 1, 1, 0, 0, 2, 2]),
    "ReduceSum": one_op(9, "ReduceSum", {}, axes=[2], keepdims=0),
    "Squeeze": one_op(9, "Unsqueeze", {}, axes=[0, 3]),
}


@pytest.mark.parametrize("name", OLD)
def test_an_old_opset_is_raised_truly(name):
    x = RNG.normal(size=(2, 4, 6, 6)).astype(np.float32)
    made = onnx_normal.normal(OLD[name], Path("old.onnx"))
    assert made.opset_import[0].version == onnx_normal.LOWEST
    np.testing.assert_allclose(answers(made, {"x": x})[0], answers(OLD[name], {"x": x})[0], rtol=1e-5, atol=1e-6)


def test_what_is_raised_falsely_is_refused_by_its_op(tmp_path, monkeypatch):
    onnx.save(OLD["Resize, linear"], tmp_path / "old.onnx")
    monkeypatch.setattr(onnx_normal, "_old_resizes", lambda model, names: None)
    with pytest.raises(UsageError, match=r"raised from opset 10, Resize 'y' answers otherwise: export it anew"):
        foreign.brought(tmp_path / "old.onnx", {"x": RNG.normal(size=(4, 4, 6, 6)).astype(np.float32)})


def spoiled(change) -> onnx.ModelProto:
    model = onnx_forms.network()
    change(model)
    return model


def _bomb(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([2**17, 2**17]), "huge"))
    nodes = [helper.make_node("ConstantOfShape", ["huge"], ["zeros"]), *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


REFUSED = {
    "of before 2018": (lambda m: setattr(m.opset_import[0], "version", 6), "is of opset 6; runtimes read 7 and later"),
    "of no opset": (lambda m: m.ClearField("opset_import"), "its shapes cannot be inferred: .*No opset import"),
    "a bomb": (_bomb, r"ConstantOfShape 'zeros' makes 'zeros' of \[131072, 131072\], 64.0 GiB a sample"),
    "quantized": (lambda m: setattr(m.graph.node[3], "op_type", "QuantizeLinear"), "holds integer arithmetic already"),
    "a hole": (lambda m: m.graph.node[1].input.__setitem__(0, "nowhere"), "is no valid ONNX model: .*nowhere"),
    "no output": (lambda m: m.graph.ClearField("output"), "a network has inputs and outputs"),
    "other samples": (
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 1),
        r"takes samples of \[1, 16, 16\], not \[3, 16, 16\]",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_taken_is_one_line(name, tmp_path):
    change, words = REFUSED[name]
    onnx.save(spoiled(change), tmp_path / "m.onnx")
    with pytest.raises((UsageError, TargetError), match=words) as caught:
        foreign.brought(tmp_path / "m.onnx", SAMPLES)
    assert "\n" not in str(caught.value)
    assert getattr(caught.value, "kind", "unsupported") == "unsupported"


def test_open_axes_are_sized_or_refused(files):
    model = onnx_normal.read(files["free height"])
    with pytest.raises(TargetError, match=r"its input 'x.1' leaves H \(axis 2\) open: say the shape of one sample"):
        onnx_normal.normal(model, files["free height"])
    made = onnx_normal.normal(model, files["free height"], {"x.1": onnx_forms.SIZE})
    assert sum(onnx_graph.macs(made).values()) == onnx_forms.MACS


def test_weights_beside_the_file_are_checked_before_they_are_read(files, tmp_path):
    source = onnx.load(files["all external"], load_external_data=False)

    def placed(location: str, offset: str = "") -> Path:
        model = onnx.ModelProto()
        model.CopyFrom(source)
        for tensor in model.graph.initializer:
            for one in tensor.external_data:
                told = {"location": location, "offset": offset or one.value}
                one.value = told.get(one.key, one.value)
        (tmp_path / "in").mkdir(exist_ok=True)
        path = tmp_path / "in" / "m.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    (tmp_path / "out.bin").write_bytes(b"0" * 100_000)
    with pytest.raises(TargetError, match=r"outside of the model's folder"):
        onnx_normal.read(placed("../out.bin"))
    (tmp_path / "in" / "in.bin").write_bytes(b"0" * 100_000)
    with pytest.raises(TargetError, match=r"in .*in.bin: invalid literal for int.. with base 10: 'far'"):
        onnx_normal.read(placed("in.bin", offset="far"))
    with pytest.raises(TargetError, match="which is no file: put it beside the model"):
        onnx_normal.read(placed("lost.bin"))
    (tmp_path / "in" / "short.bin").write_bytes(b"0" * 10)
    with pytest.raises(TargetError, match="which is shorter than the model says"):
        onnx_normal.read(placed("short.bin"))
    os.mkfifo(tmp_path / "in" / "pipe")
    with pytest.raises(TargetError, match="which is no file"):
        onnx_normal.read(placed("pipe"))
    assert [file.name for file in onnx_normal.external(files["all external"])] == ["weights0.bin"]


def test_inputs_of_the_datas_names_are_taken_by_name(tmp_path):
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in ("b", "a")]
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])
    graph = helper.make_graph([helper.make_node("Sub", ["a", "b"], ["y"])], "g", ends, [out])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    samples = {name: np.full((3, 2), value, np.float32) for name, value in (("a", 5), ("b", 1))}
    assert (answers(foreign.brought(tmp_path / "m.onnx", samples), samples)[0] == 4).all()


def einsum(equation: str, *shapes: tuple[int, ...]) -> tuple[onnx.ModelProto, list[np.ndarray]]:
    arrays = [RNG.normal(size=shape).astype(np.float32) for shape in shapes]
    names = [f"a{index}" for index in range(len(shapes))]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in zip(names, shapes, strict=True)]
    node = helper.make_node("Einsum", names, ["y"], equation=equation)
    graph = helper.make_graph([node], "g", values, [helper.make_empty_tensor_value_info("y")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), arrays


@pytest.mark.parametrize(
    ("equation", "shapes", "macs"),
    [
        ("bij,bjk->bik", [(1, 3, 4), (1, 4, 5)], 3 * 4 * 5),
        ("...ij,...jk->...ik", [(2, 3, 4), (1, 4, 5)], 2 * 3 * 4 * 5),
        ("bhid,bhjd->bhij", [(1, 2, 3, 4), (1, 2, 5, 4)], 2 * 3 * 5 * 4),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)], 2 * 3 * 4 + 2 * 4 * 5),
        ("ii->i", [(3, 3)], 0),
    ],
)
def test_the_macs_of_an_einsum_are_those_that_torch_counts(equation, shapes, macs):
    import torch

    from pipeline.compression import products

    model, arrays = einsum(equation, *shapes)
    counted, _ = products.counted(lambda *xs: torch.einsum(equation, *xs), [torch.from_numpy(x) for x in arrays])
    assert sum(onnx_graph.macs(model).values()) == counted == macs


def test_macs_are_a_samples_where_the_batch_is_fixed():
    one, eight = (
        sum(onnx_graph.macs(onnx_normal.normal(onnx_forms.network(batch=n), Path("m"))).values()) for n in (1, 8)
    )
    assert one == eight == onnx_forms.MACS


def test_a_shape_that_nobody_infers_is_that_of_an_inference(monkeypatch):
    model = onnx_normal.normal(onnx_forms.network(), Path("m"))
    monkeypatch.setattr(onnx_graph, "shapes", lambda model: {"x.1": (1, *onnx_forms.SIZE), "27": (1, 5)})
    assert sum(onnx_graph.macs(model).values()) == onnx_forms.MACS


def test_half_precision_and_codes_are_parameters_too():
    model = onnx_weights.half_weights(onnx_normal.normal(onnx_forms.network(), Path("m")))
    assert onnx_weights.parameters(model) == onnx_forms.PARAMS
