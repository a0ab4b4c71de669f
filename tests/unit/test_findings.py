"""Each named check catches its broken model, and is silent on a sound one."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from calibration.metrics import sqnr_db
from pipeline import scales
from pipeline.data import SPLITS, Data, Split
from pipeline.errors import UsageError
from pipeline.release.findings import FINDINGS, differs, findings
from targets import agent, base, codes, registry
from targets.channels import open_device

SOUND = {"absurd": {}, "constant": [], "half_range": [], "far": [], "islands": [], "older_cpus": {}}
BROKEN = {
    "constants out of range": ({"absurd": {"mask": 12, "scores": 3}}, "15 values beyond +-1e30 or infinite (a mask?)"),
    "zero-variance tensors": ({"constant": list("abcde")}, "'a', 'b', 'c' and 2 more tensors had one value"),
    "half-range weights": ({"half_range": ["conv"]}, "weights of 'conv' use half"),
    "saturation": ({"older_cpus": {"x86 without VNNI": 8.53}}, "x86 without VNNI (8.5 dB from here)"),
    "output far from float": (
        {"far": ["'aux' 9.4 dB, its worst channel [:, 2] 3.1 dB"]},
        "'aux' 9.4 dB, its worst channel",
    ),
    "in float": ({"islands": ["Gelu act (f32)"]}, "Gelu act (f32)"),
}


@pytest.mark.parametrize("check", FINDINGS)
def test_each_check_speaks_of_its_own_fault(check: str) -> None:
    harm, says = BROKEN[check]
    (found,) = findings(SOUND | harm)
    assert found.check == check
    assert says in found.text


def test_a_sound_model_has_no_findings() -> None:
    assert findings(SOUND) == []
    assert findings({}) == []


def stored(tmp_path: Path, largest: int) -> Path:
    """An ONNX file with one int8 weight whose codes reach `largest`."""
    weight = np.random.default_rng(0).integers(-largest, largest + 1, (4, 3, 3, 3)).astype(np.int8)
    weight[0, 0, 0, 0] = largest
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.mark.parametrize(("largest", "found"), [(127, []), (65, []), (64, ["w"]), (63, ["w"])])
def test_half_range_is_read_from_the_stored_codes(tmp_path: Path, largest: int, found: list[str]) -> None:
    read = codes.read(stored(tmp_path, largest))
    assert read["w"].shape == (4, 27)
    assert codes.half_range(read) == found


@pytest.mark.parametrize(("largest", "saturates"), [(127, True), (64, False)])
def test_saturation_without_wide_accumulators_shows_on_this_machine(
    tmp_path: Path, largest: int, saturates: bool
) -> None:
    """Large codes side by side overflow 16 bits where the kernels add pairs; codes of half the range cannot."""
    ov = pytest.importorskip("openvino")
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("x86 kernels")
    from openvino import opset13 as op

    rng = np.random.default_rng(0)
    x = op.parameter([-1, 64, 8, 8], np.float32, name="x")
    levels = [np.float32(end) for end in (0, 255)]
    codes_in = op.fake_quantize(x, *levels, *levels, 256)
    weight = rng.choice([-largest, largest], (16, 64, 3, 3)).astype(np.float32)
    ends = [np.float32(end) for end in (-127, 127)]
    made = op.convolution(codes_in, op.fake_quantize(weight, *ends, *ends, 255), [1, 1], [1, 1], [1, 1], [1, 1])
    graph = ov.Model([op.result(made, name="y")], [x])
    graph.inputs[0].get_tensor().set_names({"x"})
    graph.outputs[0].get_tensor().set_names({"y"})
    ov.save_model(graph, tmp_path / "model.xml", compress_to_fp16=False)
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    np.save(inputs / "x.npy", rng.integers(128, 256, (4, 64, 8, 8)).astype(np.float32))
    ((name, older),) = registry.load("openvino").capabilities.older_cpus.items()
    exact = {"low_precision": False}  # what an older CPU, which overflows in both, differs from
    digest = base.sha256_files(base.model_files(tmp_path / "model.xml"))
    outputs = []
    for options in ({}, older, exact):
        row = {"id": "m", "runtime": "openvino", "path": str(tmp_path / "model.xml"), "sha256": digest}
        task = {"do": "run", "model": "m", "inputs": "inputs", "outputs": "out.npz"}
        request = {
            "protocol": 1,
            "models": [row | {"options": {"batch": 4, **options}}],
            "tasks": [task],
            "result": "r.json",
        }
        open_device("local://").run(request, tmp_path)
        with np.load(tmp_path / "out.npz") as arrays:
            outputs.append(arrays["y"])
    assert name == "x86 without VNNI"
    here, there, exactly = outputs
    assert (differs(sqnr_db(here, there)) or differs(sqnr_db(exactly, here))) == saturates
    assert differs(sqnr_db(here, there)) == (saturates and not agent.saturates())


def splits(**changed: np.ndarray) -> Data:
    rng = np.random.default_rng(0)
    parts = {name: rng.normal(0.5, 0.25, (64, 6)).astype(np.float32) for name in SPLITS} | changed
    return Data({name: Split({"x": array}, np.zeros(len(array), np.int64)) for name, array in parts.items()})


RNG = np.random.default_rng(1)


@pytest.mark.parametrize(
    "harm",
    [
        {"calibration": RNG.normal(127, 64, (64, 6))},  # 0..255 where the others have 0..1
        {"gate": RNG.normal(0.5, 0.01, (64, 6))},
        {"selection": RNG.normal(9, 0.25, (64, 6))},  # the mean was not taken off
        {"calibration": np.zeros((64, 6))},
    ],
)
def test_another_scale_than_trainings_is_refused(harm: dict[str, np.ndarray]) -> None:
    (name,) = harm
    with pytest.raises(UsageError, match=f"another scale in split '{name}'.*prepare all splits alike"):
        scales.check(splits(**{name: harm[name].astype(np.float32)}), "data:splits")


SCENE = np.linspace(0, 1, 8)[:, None] * np.linspace(1, 0.2, 8) + np.array([0.0, 0.3, 0.9])[:, None, None]  # [3, 8, 8]
LAYOUTS = {
    "a forgotten transpose of rows and columns": (lambda x: x.swapaxes(2, 3), r"with axes \[1, 3, 2\]"),
    "a reshape in place of a transpose": (lambda x: x.transpose(0, 2, 3, 1).reshape(x.shape), r"with axes \[2, 3, 1\]"),
    "blue, green, red": (lambda x: x[:, ::-1], "turned round along axis 1"),
    "upside down": (lambda x: x[:, :, ::-1], "turned round along axis 2"),
}


def scenes(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    light = rng.uniform(0.5, 1.5, (n, 1, 1, 1))
    return np.asarray(SCENE * light + rng.normal(0, 0.3, (n, *SCENE.shape)), np.float32)


@pytest.mark.parametrize("how", LAYOUTS)
def test_another_layout_than_trainings_is_refused(how: str) -> None:
    turn, says = LAYOUTS[how]
    sound = {name: scenes(64, seed) for seed, name in enumerate(SPLITS)}
    scales.check(splits(**sound), "data:splits")
    for split in ("calibration", "gate"):
        broken = sound | {split: np.ascontiguousarray(turn(sound[split]))}
        with pytest.raises(UsageError, match=f"another layout in split '{split}'.*{says}: prepare all splits alike"):
            scales.check(splits(**broken), "data:splits")


@pytest.mark.parametrize("seed", range(20))
def test_layouts_without_a_sign_are_let_pass(seed: int) -> None:
    """Noise, pictures that look the same from all sides, and other light on another day."""
    rng = np.random.default_rng(seed)
    noise = {name: rng.normal(size=(64, 2, 2, 2)).astype(np.float32) for name in SPLITS}
    scales.check(splits(**noise), "data:splits")
    day = {name: scenes(64, seed) + np.float32(rng.normal(0, 0.3)) for name in SPLITS}
    scales.check(splits(**day), "data:splits")


def test_ordinary_splits_pass() -> None:
    scales.check(splits(), "data:splits")
    wider = RNG.normal(0.7, 1.0, (64, 6)).astype(np.float32)  # another day's light
    scales.check(splits(gate=wider), "data:splits")
    scales.check(splits(calibration=np.full((4, 6), 9, np.float32)), "data:splits")  # too few to say
    tokens = {name: np.arange(640).reshape(64, 10) * (1 if name == "train" else 50) for name in SPLITS}
    scales.check(splits(**tokens), "data:splits")
