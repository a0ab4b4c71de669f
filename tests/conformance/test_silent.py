"""What fails in silence: each named check beside a broken network that it catches, and a sound one on which it is mute.

Elsewhere, on broken files and data: saturation, another scale, another layout (tests/unit/test_findings.py), outputs
that depend on the batch (tests/unit/test_explain.py).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration.errors import CalibrationError
from pipeline import models
from pipeline.data import Data, Split, save
from pipeline.release.evidence import Chance
from pipeline.release.findings import findings
from pipeline.stages import Job, observe, quantize, reference
from targets.base import Target

from .broken import FEATURES
from .case import CALIBRATION, Case, Network, hand_over
from .elsewhere import float_ops

BUILT_IN = ("onnxruntime", "openvino", "tflite")
SPARING = ("openvino",)  # rounds what a layer reads and nothing between: what is not rounded is not observed either
FOLDER = str(Path(__file__).parent)


@pytest.fixture(scope="module")
def case_of(installed: Callable[[str], Target], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Case]:
    made: dict[str, Network] = {}

    def draw(rng: np.random.Generator, n: int) -> dict[str, Any]:
        return {"input": rng.standard_normal((n, FEATURES)).astype(np.float32)}

    def case(target: str, fault: str) -> Case:
        folder = tmp_path_factory.mktemp(fault)
        if fault not in made:
            made[fault] = hand_over(fault, {"model": f"broken:{fault}", "folder": FOLDER}, draw, folder)
        return Case(installed(target), made[fault], folder / target)

    return case


def found(case: Case, candidate: str = "ours-minmax") -> dict[str, str]:
    """What the observe and quantize stages see, as the checks put it: name -> text."""
    settings = {"target": case.target.name, "candidate": candidate, "samples": CALIBRATION, "weights": "none"}
    inputs = {"float": case.model.path.parent, "data": case.network.data}
    out = {name: case.new_folder(name) for name in ("statistics", "made")}
    seen = observe.run(Job("observe", settings, inputs, out["statistics"], 0))
    shipped = quantize.run(Job("quantize", settings, inputs | {"statistics": out["statistics"]}, out["made"], 0))
    return {one.check: one.text for one in findings({**seen, **shipped, "islands": shipped["float_ops"]})}


@pytest.mark.parametrize("target", BUILT_IN)
def test_a_sound_network_has_no_findings(case_of: Callable[..., Case], target: str) -> None:
    assert set(found(case_of(target, "sound"))) <= {"in float"}


@pytest.mark.parametrize("target", BUILT_IN)
def test_constants_out_of_range(case_of: Callable[..., Case], target: str) -> None:
    values = CALIBRATION * 64 // 8
    says = found(case_of(target, "masked")).get("constants out of range", "")
    if target in SPARING:
        assert says == ""
    else:
        assert f"{values:,} values beyond +-1e30" in says


@pytest.mark.parametrize("target", BUILT_IN)
def test_zero_variance_tensors(case_of: Callable[..., Case], target: str) -> None:
    assert "had one value for all calibration samples" in found(case_of(target, "dead"))["zero-variance tensors"]


@pytest.mark.parametrize("target", BUILT_IN)
def test_float_islands(case_of: Callable[..., Case], target: str) -> None:
    """On every CPU: where its kernels take a softmax along with the products around it, it is float all the same."""
    case = case_of(target, "masked")
    says = {"here": found(case).get("in float", "")}
    for cpu, options in case.target.capabilities.older_cpus.items():
        says[cpu] = ", ".join(float_ops(target, case.folder / "made-0", "ours-minmax", options))
    assert {cpu: "oftmax" in text for cpu, text in says.items()} == dict.fromkeys(says, target != "tflite"), says


@pytest.mark.parametrize("target", BUILT_IN[:2])
def test_half_range_weights(case_of: Callable[..., Case], target: str) -> None:
    case = case_of(target, "sound")
    assert "use half of the int8 range" in found(case, "ours-minmax-half_range")["half-range weights"]


@pytest.mark.parametrize("target", [name for name in BUILT_IN if name not in SPARING])
def test_nan_inside(case_of: Callable[..., Case], target: str) -> None:
    with pytest.raises(
        CalibrationError, match=r"^tensor '.+': \d+ of \d+ values are NaN: look at the calibration data"
    ):
        found(case_of(target, "undefined"))


def at(tmp_path: Path, turned: bool) -> dict[str, Any]:
    """What the reference stage says of a network on pictures whose rows and columns are as it knows them, or turned."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 200)
    x = rng.normal(0, 0.1, (200, 3, 4, 4)).astype(np.float32)
    x[np.arange(200), :, labels] += 1
    x = np.ascontiguousarray(x.swapaxes(2, 3)) if turned else x
    save(Data({name: Split({"x": x}, labels) for name in ("selection", "gate")}), tmp_path / "data")
    owner = {"model": "broken:rows", "folder": FOLDER, "inputs": "x"}
    models.save(models.build(owner), [], tmp_path / "model")
    (tmp_path / "out").mkdir()
    roles = {"model": tmp_path / "model", "data": tmp_path / "data"}
    return reference.run(Job("reference", {}, roles, tmp_path / "out", 0, owner))


@pytest.mark.parametrize("turned", [False, True])
def test_wrong_layout_of_all_splits_leaves_the_float_model_at_chance(tmp_path: Path, turned: bool) -> None:
    gate = at(tmp_path, turned)["gate"]
    seen = Chance(**gate["chance"])
    assert seen.constant == pytest.approx(0.25, abs=0.06)
    assert seen.shown != turned
    assert turned or gate["metric"] == 1
