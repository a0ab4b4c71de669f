"""As many layers in float as a speed-up allows: on every runtime that mixes them, without asserting a speed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pipeline.data import Data, Split, save
from pipeline.errors import StageError
from pipeline.stages import Job, keep

from .case import CALIBRATION, HELD_OUT, Case

TIMING = {"warmup_s": 0.01, "budget_s": 0.1, "min_rounds": 12, "max_rounds": 100, "processes": 6}


def job_of(case: Case, keep_speedup: float) -> Job:
    folder = case.new_folder("keep")
    calibration = {name: np.concatenate([b[name] for b in case.batches()]) for name in case.network.held_out}
    parts = {
        "calibration": Split(calibration, np.zeros(CALIBRATION, int)),
        "selection": Split(case.network.held_out, np.zeros(HELD_OUT, int)),
    }
    save(Data(parts), folder)
    case.statistics.save(folder / "statistics.npz")
    model = case.model.path.parent
    roles = {"float": model, "reference": model, "data": folder, "statistics": folder}
    asked = {"target": case.target.name, "candidate": "ours-mse", "samples": CALIBRATION, "weights": "none"}
    settings = {**asked, **TIMING, "keep_speedup": keep_speedup, "batch": 1, "threads": 1}
    return Job("keep", settings, roles, case.new_folder("kept"), 0)


@pytest.mark.parametrize("target", ["onnxruntime", "tflite"])
def test_as_many_layers_as_a_speed_allows_stay_in_float(case_of: Callable[[str, str], Case], target: str) -> None:
    case = case_of(target, "linear")
    found = keep.run(job_of(case, 1e-6))  # any speed will do: all but one layer, those that gain most
    assert len(found["keep"]) == found["layers"] - 1 >= 1
    assert found["sqnr_db"] > found["before_db"]
    with pytest.raises(StageError, match=r"keep_speedup = 1e\+06 is out of reach: .* with every layer in int8"):
        keep.run(job_of(case, 1e6))
