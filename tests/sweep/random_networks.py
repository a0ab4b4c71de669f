"""Drawn networks on a target: float is PyTorch's, int8 near what a simulation says, pruned equal to masked."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Interpreter

from calibration.metrics import sqnr_db
from calibration.qparams import fake_quantize, from_range
from calibration.schemes import SCHEMES
from pipeline import interface
from pipeline.compression import structure, units
from pipeline.data import Data, Split, save
from pipeline.interface import by_name
from pipeline.stages import Job, export
from targets.base import Target
from tests.conformance.case import Case, Network

from .blocks import Drawn, Plan

CALIBRATION, HELD_OUT = 24, 12
FLOAT_DB, BELOW_SIMULATION_DB = 60.0, 6.0
PRUNED_APART = 1e-4  # of the largest output: float noise
SCHEME = SCHEMES["s8s8"]
_LAYERS = ("conv", "linear", "matmul", "addmm")


class Drawing:
    """A plan's network, handed over as the pipeline's stages do; made once for all targets."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        torch.set_num_threads(1)
        self.plan, self.folder = plan, folder
        with torch.random.fork_rng(), torch.no_grad():
            self.module = Drawn(plan).eval()
        rng = np.random.default_rng(0)
        self.splits = {
            name: {key: rng.standard_normal((n, *shape)).astype(np.float32) for key, shape in plan.shapes.items()}
            for name, n in (("calibration", CALIBRATION), ("gate", HELD_OUT))
        }
        splits = {name: Split(inputs, np.zeros(len(inputs["x"]), np.int64)) for name, inputs in self.splits.items()}
        save(Data(splits), folder / "data")

    def answers(self, module: nn.Module, split: str = "gate") -> dict[str, Tensor]:
        with torch.no_grad():
            return by_name(module(*(torch.from_numpy(array) for array in self.splits[split].values())))

    @cached_property
    def wanted(self) -> dict[str, Any]:
        return {name: one.numpy() for name, one in self.answers(self.module).items()}

    @cached_property
    def network(self) -> Network:
        programs = {"pt2": self.folder / "pt2", "onnx": self.folder / "onnx"}
        for path in programs.values():
            path.mkdir()
        module = interface.adapt(copy.deepcopy(self.module), tuple(self.plan.shapes))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = export.export(module, self.splits["calibration"], programs["pt2"])
            export.onnx(Job("export", {}, {"program": programs["pt2"]}, programs["onnx"], 0))
        return Network("drawn", self.folder / "data", programs, np.empty(0), 0, 0, made["ops"])

    @cached_property
    def simulated_db(self) -> dict[str, float]:
        """Of each output: SQNR in dB where every activation and every layer's weights have 8 bits, by their ends."""
        path = self.network.programs["pt2"] / "program.pt2"
        program: Any = torch.export.load(path).module(check_guards=False)
        simulation = _Simulation(program)
        for split in ("calibration", "gate"):
            simulation.seen = split == "calibration"
            with torch.no_grad():
                told = by_name(simulation.run(*(torch.from_numpy(a) for a in self.splits[split].values())))
        return {
            name: float(sqnr_db(wanted, found.numpy()))
            for (name, wanted), found in zip(self.wanted.items(), told.values(), strict=True)
        }


class _Simulation(Interpreter):
    """First it takes each float tensor's ends (`seen`), then it rounds each to the 256 codes between them."""

    def __init__(self, module: Any) -> None:
        super().__init__(module)
        self.ends: dict[str, tuple[float, float]] = {}
        self.seen = True

    def run_node(self, node: Any) -> Any:
        value = super().run_node(node)
        if isinstance(value, Tensor) and value.is_floating_point() and node.op in ("placeholder", "call_function"):
            if self.seen:
                self.ends[node.name] = float(value.min()), float(value.max())
            else:
                value = _rounded(value, from_range(*self.ends[node.name], SCHEME.activation))
        weights = node.op == "get_attr" and any(
            user.args[1:2] == (node,) and any(kind in str(user.target) for kind in _LAYERS) for user in node.users
        )
        if weights and not self.seen:
            axes = tuple(range(1, value.ndim))
            largest = value.detach().abs().amax(axes).numpy()
            value = _rounded(value.detach(), from_range(-largest, largest, SCHEME.weight, 0))
        return value


def _rounded(value: Tensor, qparams: Any) -> Tensor:
    return torch.from_numpy(np.array(fake_quantize(value.numpy(), qparams)))


def float_parity(drawing: Drawing, case: Case) -> dict[str, float]:
    """Of each output, dB."""
    return _levels(drawing.wanted, case.outputs(case.floating))


def int8_parity(drawing: Drawing, case: Case) -> dict[str, float]:
    """Of each output of our own candidate with the whole range, dB."""
    return _levels(drawing.wanted, case.outputs(case.ours[0]))


def _levels(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(sqnr_db(array, found[name])) for name, array in wanted.items()}


def case_of(drawing: Drawing, target: Target) -> Case:
    (folder := drawing.folder / target.name).mkdir()
    return Case(target, drawing.network, folder)


def pruned_apart(drawing: Drawing) -> tuple[float, int]:
    """How far the network without a third of each group's units is from the one that reads none of them, as a share
    of the largest output; and how many groups there are."""
    model = interface.adapt(copy.deepcopy(drawing.module), tuple(drawing.plan.shapes))
    example = tuple(torch.from_numpy(array[:2]) for array in drawing.splits["gate"].values())
    kinds = ("channel", "hidden", "head")
    units.prepare(kinds, model, example)
    groups, _ = units.groups(kinds, model, example)
    taken: set[tuple[str, str]] = set()
    alone = []
    for group in groups:  # two kinds may find one layer: it is cut once
        places = {(member.module, member.axis) for member in group.members}
        if taken.isdisjoint(places):
            taken |= places
            alone.append(group)
    generator = torch.Generator().manual_seed(1)
    gone = [(g, torch.randperm(g.width, generator=generator)[: g.width // 3].tolist()) for g in alone]
    edits = structure.edits_for(model, gone)
    cut, masked = copy.deepcopy(model), copy.deepcopy(model)
    structure.apply(cut, edits)
    structure.zero(masked, edits)
    return structure.difference(drawing.answers(cut), drawing.answers(masked)), len(alone)
