"""One target on one network: everything that the checks look at, made once, when first asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.qparams import Ranges
from calibration.schemes import SCHEMES
from calibration.statistics import Statistics, solve
from pipeline import interface, models
from pipeline.compression.macs import count
from pipeline.data import Data, Split, load_split, save
from pipeline.interface import first
from pipeline.lengths import Lengths
from pipeline.stages import Job, export
from pipeline.stages.quantize import calibration_batches
from targets import agent, base
from targets.base import Batch, Candidate, Model, Program, Target
from targets.channels.local import run_agent

from . import networks

Array = npt.NDArray[Any]

CALIBRATION, HELD_OUT = 48, 32  # samples
OWNER = {"model": "networks:{}", "folder": str(Path(__file__).parent), "inputs": "input"}


@dataclass(frozen=True)
class Network:
    """A network as the pipeline's own stages hand it over, with what PyTorch says of the held-out samples."""

    name: str
    data: Path  # splits "calibration" and "gate" (held out), as pipeline/data.py stores them
    programs: dict[str, Path]  # kind -> folder
    reference: Array  # logits [n, classes]
    macs: int
    weights: int  # of convolutions and linear layers, without biases
    ops: dict[str, str]  # core ATen op -> source line
    lengths: Lengths | None = None
    shorter: dict[int, Array] = field(default_factory=dict)  # length -> what PyTorch says at it

    @property
    def held_out(self) -> Batch:
        return {name: np.asarray(array) for name, array in load_split(self.data, "gate").inputs.items()}

    def program(self, kind: str) -> Program:
        return export.read_program(self.programs[kind])


def make_network(name: str, folder: Path) -> Network:
    """A network of networks.py, handed over with noise for samples."""
    _, shape = networks.NETWORKS[name]
    owner = {key: value.format(name) for key, value in OWNER.items()}

    def draw(rng: np.random.Generator, n: int) -> Batch:
        return {"input": rng.standard_normal((n, *shape)).astype(np.float32)}

    return hand_over(name, owner, draw, folder)


def hand_over(
    name: str,
    owner: dict[str, str],
    draw: Callable[[np.random.Generator, int], Batch],
    folder: Path,
    lengths: Lengths | None = None,
    rewrites: Sequence[str] = (),
) -> Network:
    """Weights, splits and programs below `folder`, through the pipeline's stages. `draw`: (rng, n) -> n samples.

    Where a length varies, the .pt2 has the upper bound and the ONNX leaves it free. `rewrites`: passes of
    pipeline/rewrites.py that the network goes through.
    """
    import torch

    torch.set_num_threads(1)
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big"))

    def split(n: int) -> Split:
        return Split(draw(rng, n), np.zeros(n, np.int64))

    data = folder / "data"
    save(Data({"calibration": split(CALIBRATION), "gate": split(HELD_OUT)}, lengths=lengths), data)
    inputs = load_split(data, "gate").inputs
    owner = owner | {"inputs": ",".join(inputs)}
    module = interface.rewrite(models.build(owner).eval(), rewrites)
    models.save(module, [], folder / "model")
    programs = {"pt2": folder / "pt2", "onnx": folder / "onnx"} | ({"free": folder / "free"} if lengths else {})
    made: dict[str, Any] = {}
    stages: dict[str, Callable[[Job], dict[str, Any]]] = {"pt2": export.pt2, "free": export.pt2, "onnx": export.onnx}
    for kind, stage in stages.items():
        if kind not in programs:
            continue
        programs[kind].mkdir()
        roles = {"model": folder / "model", "data": data, "program": programs["free" if lengths else "pt2"]}
        settings = {"lengths": "free"} if kind == "free" else {}
        made[kind] = stage(Job("export", settings, roles, programs[kind], 0, owner))
    held_out = [torch.from_numpy(np.array(array)) for array in inputs.values()]
    with torch.no_grad():
        reference = first(module(*held_out)).numpy()
        arrays = {key: np.array(array) for key, array in inputs.items()}
        cut = {length: lengths.cut(arrays, length) for length in lengths.compared} if lengths else {}
        shorter = {
            length: first(module(*map(torch.from_numpy, batch.values()))).numpy() for length, batch in cut.items()
        }
    weights = sum(parameter.numel() for parameter in module.parameters() if parameter.ndim > 1)
    macs, ops = count(module, held_out).macs, made["pt2"]["ops"]
    return Network(name, data, programs, reference, macs, weights, ops, lengths, shorter)


class Case:
    """A target on a network. `folder` is its own and empty."""

    def __init__(self, target: Target, network: Network, folder: Path) -> None:
        self.target, self.network, self.folder = target, network, folder
        self._models: dict[str, Model] = {}
        self._outputs: dict[str, Batch] = {}

    def new_folder(self, stem: str) -> Path:
        """An empty folder of this case."""
        path = self.folder / f"{stem}-{len(list(self.folder.glob(f'{stem}-*')))}"
        path.mkdir(parents=True)
        return path

    @cached_property
    def program(self) -> Program:
        return self.network.program(self.target.capabilities.program)

    @cached_property
    def model(self) -> Model:
        """The float model, lowered once; its digest at that time is `lowered_sha256`."""
        model = base.write_manifest(self.target.lower(self.program, self.new_folder("float")))
        self.lowered_sha256 = model.sha256
        return model

    @cached_property
    def candidates(self) -> list[Candidate]:
        return list(self.target.candidates(self.model))

    @property
    def floating(self) -> Candidate:
        return next(c for c in self.candidates if c.precision == "f32")

    @property
    def int8(self) -> list[Candidate]:
        return [self.suited(c) for c in self.candidates if c.precision == "int8"]

    @property
    def ours(self) -> list[Candidate]:
        return [c for c in self.int8 if c.quantizer == "ours"]

    def suited(self, candidate: Candidate) -> Candidate:
        """A candidate of ours under the strategy that the target names for the CPU that runs this."""
        strategy = self.target.capabilities.saturating[0] if agent.saturates() else "default"
        if candidate.quantizer != "ours" or strategy == "default":
            return candidate
        return base.find(self.target, self.model, f"{candidate.id}-{strategy}")

    def batches(self) -> Iterator[Batch]:
        """The calibration set, a sample at a time (or as many as the model's batch is fixed at)."""
        return calibration_batches(self.network.data, CALIBRATION, self.model)

    @cached_property
    def statistics(self) -> Statistics:
        statistics = Statistics(self.model.sha256)
        with self.target.open(self.model, self.floating) as session:
            for batch in self.batches():
                statistics.update(session.tap(batch, self.model.tensors))
        return statistics

    def ranges(self, candidate: Candidate) -> Ranges | None:
        """What a candidate of ours asks for; None for the vendors'."""
        if candidate.quantizer != "ours":
            return None
        assert candidate.scheme is not None
        assert candidate.observer is not None
        return solve(self.statistics, SCHEMES[candidate.scheme], candidate.observer)

    def artifact(self, candidate: Candidate) -> Model:
        """The candidate's model, made once; a float candidate's is the float model."""
        if candidate.quantizer == "none":
            return self.model
        if candidate.id not in self._models:
            self._models[candidate.id] = self.quantize(candidate, self.ranges(candidate))
        return self._models[candidate.id]

    def quantize(self, candidate: Candidate, ranges: Ranges | None) -> Model:
        """A new model in a folder of its own."""
        out = self.new_folder(candidate.id)
        return base.write_manifest(self.target.quantize(self.model, candidate, ranges, self.batches(), out))

    def outputs(self, candidate: Candidate) -> Batch:
        """All outputs for the held-out samples at once, in this process."""
        if candidate.id not in self._outputs:
            self._outputs[candidate.id] = self.run(self.artifact(candidate), candidate, self.network.held_out)
        return self._outputs[candidate.id]

    def logits(self, candidate: Candidate) -> Array:
        """The first output."""
        return self.outputs(candidate)[self.program.outputs[0].name]

    def run(self, model: Model, candidate: Candidate, inputs: Batch) -> Batch:
        with self.target.open(model, candidate) as session:
            return session.run(inputs)

    def agent(self, model: Model, candidate: Candidate, batch: int, sha256: str | None = None) -> Batch:
        """All outputs for the held-out samples, from the agent in a fresh process. Raises TargetError."""
        folder = self.new_folder("agent")
        (folder / "inputs").mkdir()
        for name, array in base.to_model_layout(self.network.held_out, model.inputs).items():
            np.save(folder / "inputs" / f"{name}.npy", array)
        row = {
            "id": candidate.id,
            "runtime": self.target.runtime,
            "path": str(model.path),
            "sha256": sha256 or model.sha256,
            "options": {**self.target.options(candidate), "batch": batch},
        }
        task = {"do": "run", "model": candidate.id, "inputs": "inputs", "outputs": "outputs.npz"}
        request = {"protocol": 1, "models": [row], "tasks": [task], "result": "result.json"}
        run_agent(request, folder, timeout_s=120)
        with np.load(folder / "outputs.npz") as arrays:
            return base.to_program_layout({name: arrays[name] for name in arrays.files}, model.outputs)
