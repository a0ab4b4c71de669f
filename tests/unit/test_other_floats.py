"""Modules in bfloat16, float16, float64, or several: float32 from the start, casts in their forward included."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import interface, models
from pipeline.stages import export

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, kind, part):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.register_buffer("scale", torch.tensor(0.5, dtype=torch.float64))
        self.kind = kind
        (self.second if part else self).to(kind)

    def forward(self, x):
        x = self.first(x.to(self.first.weight.dtype))
        x = self.second(x.to(self.kind).relu()) + torch.zeros(6, dtype=self.kind)
        x = x.bfloat16() if self.kind == torch.bfloat16 else x.half() if self.kind == torch.float16 else x.double()
        return (self.last(x.to(dtype=self.last.weight.dtype)) * self.scale.to(x.dtype)).float()

def build(kind, part):
    torch.manual_seed(0)
    return Net(kind, part)

bf16 = lambda: build(torch.bfloat16, False)
f16 = lambda: build(torch.float16, False)
f64 = lambda: build(torch.float64, False)
mixed = lambda: build(torch.bfloat16, True)
plain = lambda: nn.Linear(4, 3)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "floats_net.py").write_text(SOURCE)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "came"),
    [("bf16", "bfloat16"), ("f16", "float16"), ("f64", "float64"), ("mixed", "bfloat16 and float64")],
)
def test_a_module_of_another_floating_type_becomes_one_of_float32_with_a_note(name, came, folder) -> None:
    model = models.build({"model": f"floats_net:{name}", "folder": str(folder), "inputs": "x"}).eval()
    assert interface.came_as(model).startswith(f"the model's weights are {came}: they are made float32")
    assert models.other_floats(model) == {}
    x = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    export.export(model, {"x": x}, folder)
    program = torch.export.load(folder / "program.pt2")
    kinds = {node.meta["val"].dtype for node in program.graph.nodes if hasattr(node.meta.get("val"), "dtype")}
    assert kinds == {torch.float32}  # what every runtime here computes in
    with torch.no_grad():
        np.testing.assert_allclose(
            program.module()(torch.from_numpy(x)).numpy(), model(torch.from_numpy(x)).numpy(), atol=1e-6
        )


def test_a_module_of_float32_is_left_as_it_is(folder) -> None:
    model = models.build({"model": "floats_net:plain", "folder": str(folder)})
    assert interface.came_as(model) == ""
    assert model(torch.ones(1, 4, dtype=torch.float32).to(torch.float64).to(torch.float32)).dtype == torch.float32
