"""Which op a target lowers wrongly, or not at all, is found by programs that end earlier."""

from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.data import save_named
from pipeline.errors import StageError
from pipeline.stages import Job, blame, export, lower
from targets import registry
from targets.base import Candidate, Model, TargetError


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x):
        x = torch.tanh(self.first(x))
        x = torch.nn.functional.gelu(x)  # LINE
        return self.last(x.sigmoid())


LINE = next(n for n, text in enumerate(Path(__file__).read_text().splitlines(), 1) if text.endswith("# LINE"))


class Lowered:
    """PyTorch as a target that computes one op otherwise, and has no lowering for another."""

    name, packages = "torchlike", ("torch",)

    def __init__(self, otherwise: str = "", lacks: str = "") -> None:
        self.otherwise, self.lacks = otherwise, lacks

    def lower(self, program: Any, out: Path) -> Model:
        graph = torch.export.load(program.path).graph
        if self.lacks and any(self.lacks in str(node.target) for node in graph.nodes):
            raise TargetError("it does not convert", "unsupported")
        return Model(program.path, program.inputs, program.outputs)

    def candidates(self, model: Model) -> list[Candidate]:
        return [Candidate("float", "none", "f32")]

    def weight_bytes(self, model: Model) -> int:
        return 0

    @contextmanager
    def open(self, model: Model, candidate: Candidate) -> Any:
        module = torch.export.load(model.path).module(check_guards=False)
        for node in module.graph.nodes:
            if self.otherwise and self.otherwise in str(node.target):
                node.target = torch.relu
        module.recompile()

        def run(batch: Any) -> Any:
            answer = module(*map(torch.from_numpy, batch.values()))
            answers = answer if isinstance(answer, tuple) else (answer,)
            return {spec.name: one.detach().numpy() for spec, one in zip(model.outputs, answers, strict=True)}

        yield SimpleNamespace(run=run)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, data = tmp_path_factory.mktemp("program"), tmp_path_factory.mktemp("data")
    torch.manual_seed(0)
    x = np.random.default_rng(0).standard_normal((16, 6)).astype(np.float32)
    export.export(Net(), {"x": x}, folder)
    (data / "calibration").mkdir(parents=True)
    save_named(data / "x.npz", {"x": x})
    return {"program": folder, "expected": folder, "data": data}


def lowering(target: Lowered, inputs: dict[str, Path], folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    split = SimpleNamespace(inputs={"x": np.load(inputs["data"] / "x.npz")["x"]})
    monkeypatch.setattr(registry, "load", lambda name: target)
    monkeypatch.setattr(lower, "load_split", lambda folder, name: split)
    monkeypatch.setattr(lower, "_lengths", lambda *of: {})
    return lower.run(Job("lower", {"target": "torchlike"}, inputs, folder, 0))


def test_an_op_that_is_lowered_wrongly_is_named_with_its_line(inputs, tmp_path, monkeypatch) -> None:
    with pytest.raises(StageError, match=rf"aten\.gelu \(test_blame\.py:{LINE}\) is lowered wrongly; write it otherw"):
        lowering(Lowered(otherwise="gelu"), inputs, tmp_path, monkeypatch)
    monkeypatch.setattr(blame, "AT_ONCE", 2)  # several looks, each closer
    with pytest.raises(StageError, match=r"aten\.tanh"):
        lowering(Lowered(otherwise="tanh"), inputs, tmp_path, monkeypatch)


def test_an_op_for_which_a_converter_has_no_words_is_named(inputs, tmp_path, monkeypatch) -> None:
    with pytest.raises(TargetError, match=rf"it does not convert: it ends at aten\.gelu \(test_blame\.py:{LINE}\)"):
        lowering(Lowered(lacks="gelu"), inputs, tmp_path, monkeypatch)
