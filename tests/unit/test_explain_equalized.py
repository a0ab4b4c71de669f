"""Explain compares each int8 tensor with the float tensor that it stands for, whatever equalization did to channels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from calibration.schemes import SCHEMES
from calibration.statistics import Statistics, solve
from pipeline import interface, models
from pipeline.data import Data, Split, save
from pipeline.explain import causes, facts, layers
from pipeline.stages import Job, export, weights
from targets import base, registry

pytestmark = pytest.mark.slow
TARGET, N = "onnxruntime", 96
SETTINGS = {"method": "rounding", "samples": 32, "equalize": True, "beyond": []}


class Uneven(nn.Module):
    """Channels of the first layer that differ by a factor of 1,000, which the second undoes."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first = nn.Conv2d(3, 16, 3, padding=1)
            self.second = nn.Conv2d(16, 16, 3, padding=1)
            self.last = nn.Linear(16, 5)
        by = torch.logspace(-1.5, 1.5, 16)
        with torch.no_grad():
            self.first.weight.mul_(by[:, None, None, None])
            self.first.get_parameter("bias").mul_(by)
            self.second.weight.div_(by[None, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x)))).mean((2, 3))
        answer: Tensor = self.last(x)
        return answer


def uneven() -> nn.Module:
    return Uneven().eval()


@dataclass(frozen=True)
class World:
    """The float graphs of the network as it is and equalized alone, and the int8 model of the weight step's."""

    lowered: base.Model
    equalized: base.Model
    int8: base.Model
    inputs: dict[str, Any]
    passes: list[dict[str, Any]]

    def rows(self, floating: base.Model) -> list[layers.LayerRow]:
        target = registry.load(TARGET)
        pair = facts.Pair(target, floating, self.int8, base.find(target, floating, "ours-minmax"))
        gathered = facts.gather(pair, self.inputs, tapped=N)
        assert [one for one in causes.found(gathered.facts) if one.name != "it breaks here"] == []
        return list(gathered.facts.rows)


def lowered(program: Path, data: Path, folder: Path) -> base.Model:
    for name in ("onnx", "float"):
        (folder / name).mkdir(parents=True)
    export.onnx(Job("export-onnx", {}, {"program": program}, folder / "onnx", 0))
    return base.write_manifest(registry.load(TARGET).lower(export.read_program(folder / "onnx"), folder / "float"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder, rng = tmp_path_factory.mktemp("uneven"), np.random.default_rng(0)
    torch.set_num_threads(1)
    split = Split({"x": rng.standard_normal((N, 3, 8, 8)).astype(np.float32)}, np.zeros(N, np.int64))
    save(Data(dict.fromkeys(("calibration", "selection"), split)), data := folder / "data")
    owner = {"model": f"{__name__}:uneven", "folder": str(Path(__file__).parent), "inputs": "x"}
    models.save(interface.rewrite(uneven(), []), [], folder / "model")
    made: dict[str, dict[str, Any]] = {}
    for name, stage, settings, roles in (
        ("plain", export.pt2, {}, {"model": folder / "model"}),
        ("stepped", weights.run, SETTINGS, {"program": folder / "plain"}),
        ("equalized", weights.run, SETTINGS | {"method": "none"}, {"program": folder / "plain"}),
    ):
        (folder / name).mkdir()
        made[name] = stage(Job(name, settings, {**roles, "data": data}, folder / name, 0, owner))
    graphs = {name: lowered(folder / name, data, folder / f"{name}-graph") for name in made}
    target, statistics = registry.load(TARGET), Statistics(graphs["stepped"].sha256)
    candidate = base.find(target, graphs["stepped"], "ours-minmax")
    with target.open(graphs["stepped"], base.find(target, graphs["stepped"], "float")) as session:
        statistics.update(session.tap({"x": split.inputs["x"]}, graphs["stepped"].tensors))
    ranges = solve(statistics, SCHEMES[str(candidate.scheme)], "minmax")
    (folder / "int8").mkdir()
    int8 = base.write_manifest(target.quantize(graphs["stepped"], candidate, ranges, [], folder / "int8"))
    return World(graphs["plain"], graphs["equalized"], int8, split.inputs, made["equalized"]["passes"])


def test_the_step_equalized_and_the_answers_stayed(world: World) -> None:
    assert any(one["used"] for one in world.passes)
    target = registry.load(TARGET)
    answers = []
    for model in (world.lowered, world.equalized):
        with target.open(model, base.find(target, model, "float")) as session:
            answers.append(session.run(world.inputs)["output"])
    np.testing.assert_allclose(answers[0], answers[1], rtol=1e-3, atol=1e-4)


def test_no_layer_breaks_against_the_equalized_graph_and_one_does_against_the_other(world: World) -> None:
    against = {name: world.rows(graph) for name, graph in (("plain", world.lowered), ("equalized", world.equalized))}
    assert layers.first_break(against["plain"]) is not None  # what explain named before, though int8 is sound
    assert layers.first_break(against["equalized"]) is None
    assert min(row.sqnr_db or 0.0 for row in against["equalized"]) > 25
