"""A form that a target refuses is refused by inspect and by the run in the same words, with its source line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import inspection, models
from pipeline.errors import UsageError
from pipeline.op_table import ALIASES, base_name, check_calls, check_ops, refused_forms
from pipeline.stages import export
from targets import registry

SOURCE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        x = self.layer(x).to(torch.float64).float()
        return torch.softmax(x, 1, dtype=torch.float64).float()


def net():
    return Net()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "doubles_net.py").write_text(SOURCE)
    return tmp_path


def exported(folder: Path) -> dict[str, Any]:
    model = models.build({"model": "doubles_net:net", "folder": str(folder), "inputs": "x"})
    (folder / "out").mkdir()
    return export.export(model, {"x": np.zeros((32, 4), np.float32)}, folder / "out")


def test_inspect_and_the_run_refuse_a_form_alike(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"aten\.softmax \(doubles_net\.py:13\): it computes in float64") as caught:
        check_calls("tflite", registry.load("tflite").capabilities, exported(folder)["calls"])
    told = inspection.examine("doubles_net:net", folder, ["x=4"])["targets"]
    assert told["tflite"]["level"] == "refused"
    assert all(reason in str(caught.value) for reason in told["tflite"]["reasons"])
    assert told["onnxruntime"]["level"] != "refused"


def test_a_call_is_told_with_its_arguments_and_shapes(folder: Path) -> None:
    calls = exported(folder)["calls"]
    (linear,) = [call for call in calls if call["op"] == "aten.linear"]
    assert linear["line"] == "doubles_net.py:12"
    assert linear["args"]["weight"] == {"shape": [3, 4], "dtype": "float32", "stored": True}
    assert linear["args"]["input"] == {"shape": [None, 4], "dtype": "float32"}
    assert linear["out"] == [{"shape": [None, 3], "dtype": "float32"}]


def test_what_only_passes_through_float64_is_no_arithmetic_in_it(folder: Path) -> None:
    calls = exported(folder)["calls"]
    able = registry.load("tflite").capabilities
    assert {op for op, _, _ in refused_forms(able, calls)} == {"aten.softmax"}


def test_a_network_that_fixes_the_number_of_samples_is_told_what_to_keep_free(folder: Path) -> None:
    (folder / "fixed_net.py").write_text(
        SOURCE.replace("return torch.softmax", "x = x.chunk(1)[0]\n        return torch.softmax")
    )
    model = models.build({"model": "fixed_net:net", "folder": str(folder), "inputs": "x"})
    with pytest.raises(UsageError, match="keep the first axis free"):
        export.export(model, {"x": np.zeros((32, 4), np.float32)}, folder)


def test_an_alias_of_an_op_is_looked_up_under_its_row() -> None:
    tables = [registry.load(name).capabilities.ops for name in registry.names()]
    assert all(any(f"aten.{row}" in table for table in tables) for row in ALIASES.values())
    assert all(torch._C._jit_get_schemas_for_operator(f"aten::{alias}") for alias in ALIASES)
    assert base_name("aten.subtract_.Tensor") == "aten.sub"
    with pytest.raises(UsageError, match=r"aten\.special_erfinv \(net\.py:3\)"):
        check_ops("tflite", registry.load("tflite").capabilities.ops, {"aten.special_erfinv": "net.py:3"})
