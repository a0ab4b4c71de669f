"""Named rewrites: what they compute, that they travel with a model, and what they refuse in one line."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from pipeline import data, interface, models, rewrites
from pipeline.errors import UsageError
from pipeline.stages import Job, prune, rewrite, silent

NET = """
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.act, self.head = nn.GRU(3, 8, 2, batch_first=True), nn.GELU(), nn.Linear(8, 3)

    def forward(self, x):
        h = self.act(self.cell(x)[0][:, -1])
        return self.head(F.gelu(h).clamp(-0.1, 0.2) + torch.clamp(h, min=0.05))
"""
PASSES = ["gelu", "clamp", "rnn_head"]


class Recurrent(nn.Module):
    def __init__(self, **options: bool) -> None:
        super().__init__()
        self.cell, self.batch_first = nn.LSTM(3, 4, **options), bool(options.get("batch_first"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.cell(x)[0]
        return out[:, -1] if self.batch_first else out[-1]


@pytest.fixture
def owner(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "rewritten_net.py").write_text(NET)
    return {"model": "rewritten_net:Net", "folder": str(tmp_path), "inputs": "x"}


@pytest.fixture
def job(owner: dict[str, str], tmp_path: Path) -> Job:
    rng = np.random.default_rng(0)

    def split(n: int) -> data.Split:
        return data.Split({"x": rng.normal(size=(n, 12, 3)).astype(np.float32)}, rng.integers(0, 3, n))

    names = ("train", "calibration", "selection", "gate")
    data.save(data.Data({name: split(20) for name in names}), tmp_path / "data")
    torch.manual_seed(0)
    models.save(models.build(owner), [], tmp_path / "model")
    inputs = {"data": tmp_path / "data", "model": tmp_path / "model"}
    settings = {"passes": PASSES, "task": {"metric": "accuracy", "loss": "auto"}}
    return Job("rewrite", settings, inputs, tmp_path / "out", 0, owner, silent)


def calls(model: nn.Module, x: torch.Tensor) -> set[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export's own, of a GRU's weights
        exported = torch.export.export(model, (x,))
    return {node.target._schema.name for node in exported.graph.nodes if hasattr(node.target, "_schema")}


def test_a_rewritten_model_stays_so_and_says_almost_the_same(job: Job, tmp_path: Path) -> None:
    told = rewrite.run(job)
    assert told["calls"] == {"gelu": 2, "clamp": 2, "rnn_head": 1}
    assert {"metric", "metric_before", "params", "macs"} <= set(told)
    before, after = models.load(job.user, tmp_path / "model"), models.load(job.user, tmp_path / "out")
    x = torch.randn(4, 12, 3)
    assert {"aten::gelu", "aten::clamp"} <= calls(before, x)
    assert not {"aten::gelu", "aten::clamp"} & calls(after, x)
    models.save(after, [], tmp_path / "again")  # as pruning and distillation do
    assert not {"aten::gelu", "aten::clamp"} & calls(models.load(job.user, tmp_path / "again"), x)
    with torch.no_grad():
        apart = (before(x) - after(x)).abs().max()
    assert 0 < apart < 0.03  # x sigmoid(1.702 x) is at most 0.0203 from GELU
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    after(x).sum().backward()
    assert all(p.grad is not None for p in after.parameters())


@pytest.mark.parametrize("bounds", [(-0.3, 0.4), (0.0, 1.0), (0.25, None), (None, 0.5), (0.0, 6.0), (0.0, None)])
def test_a_clamp_is_what_it_was(bounds: tuple[float | None, float | None]) -> None:
    x = torch.linspace(-3, 9, 500)
    with rewrites.Rewriting(["clamp"]):
        got = torch.clamp(x, *bounds), x.clamp(min=bounds[0], max=bounds[1])
    assert all(torch.allclose(one, torch.clamp(x, *bounds), atol=2e-6) for one in got)


@pytest.mark.parametrize("module", [nn.Hardtanh(), nn.Hardtanh(-2.0, 3.0), nn.Hardtanh(0.0, 6.0), nn.ReLU6()])
def test_modules_that_clamp(module: nn.Module) -> None:
    x = torch.linspace(-9, 9, 500)
    with rewrites.Rewriting(["clamp"]):
        got = module(x)
    assert torch.allclose(got, module(x), atol=2e-6)


@pytest.mark.parametrize("slope", [0.01, 0.3])
def test_a_leaky_relu_is_what_it_was(slope: float) -> None:
    x, module = torch.linspace(-9, 9, 500), nn.LeakyReLU(slope)
    with rewrites.Rewriting(["leaky_relu"]) as mode:
        got = module(x)
    assert mode.done["leaky_relu"] == 1
    assert torch.allclose(got, module(x), atol=2e-6)


@pytest.mark.parametrize("batch_first", [True, False])
def test_the_last_step_is_the_final_state(batch_first: bool) -> None:
    net, x = Recurrent(batch_first=batch_first).eval(), torch.randn(5, 7, 3)
    with torch.no_grad(), rewrites.Rewriting(["rnn_head"]) as mode:
        got = net(x)
    assert mode.done["rnn_head"] == 1
    assert torch.equal(got, net(x))


@pytest.mark.parametrize(
    ("net", "passes", "words"),
    [
        (nn.Linear(3, 3), ["gelu"], "rewrite: 'gelu' finds nothing in this network"),
        (
            Recurrent(bidirectional=True),
            ["rnn_head"],
            "rewrite: 'rnn_head' cannot be applied: the last step of a bidir",
        ),
    ],
)
def test_what_cannot_be_rewritten_is_one_line(net: nn.Module, passes: list[str], words: str) -> None:
    with rewrites.Rewriting(passes) as mode:
        net(torch.randn(5, 7, 3))
    with pytest.raises(UsageError) as caught:
        rewrites.check(mode)
    assert str(caught.value).startswith(words)
    assert "\n" not in str(caught.value)


def test_an_adapted_model_without_passes_is_as_it_was() -> None:
    assert interface.rewrites_of(interface.adapt(nn.Linear(2, 2))) == ()


def test_pruning_keeps_the_rewrites(job: Job, tmp_path: Path) -> None:
    rewrite.run(job)
    inputs = {"data": job.inputs["data"], "model": tmp_path / "out", "float": job.inputs["model"]}
    settings = {"macs": 0.8, "criterion": "l1", "align": 1, "granularity": ["hidden"], "task": job.settings["task"]}
    told = prune.run(replace(job, stage="prune", settings=settings, inputs=inputs, out=tmp_path / "pruned"))
    assert told["macs"] <= 0.8 * told["float_macs"]
    assert interface.rewrites_of(models.load(job.user, tmp_path / "pruned")) == tuple(PASSES)
