"""What a network in memory takes on a target: exported, lowered, quantized where int8 is asked for, and timed there.

For choices before anything is trained: weights and ranges may be anything, since they change no latency.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.schemes import SCHEMES
from calibration.statistics import Statistics, solve
from pipeline.errors import UsageError
from pipeline.stages import export, measure
from targets import base, onnx_graph, registry

if TYPE_CHECKING:
    from torch import nn

SAMPLES = 8  # for the ranges of a probe
PRECISIONS = {"float": "f32", "int8": "int8"}  # as the recipe says it -> as a candidate does


@contextmanager
def probing(settings: Mapping[str, Any], inputs: base.Batch, seed: int = 0) -> Iterator[Probe]:
    """A probe that keeps its files for so long. `settings`: target, threads, batch, optional device, and the timing's
    warmup_s, budget_s, min_rounds, max_rounds. `inputs`: samples by name, [n, ...] each.
    """
    with tempfile.TemporaryDirectory(prefix="deploy-") as folder:
        yield Probe(settings, inputs, Path(folder), seed)


class Probe:
    """Times networks on one target and device."""

    def __init__(self, settings: Mapping[str, Any], inputs: base.Batch, folder: Path, seed: int) -> None:
        self.settings, self.inputs, self.folder, self.seed = settings, inputs, folder, seed
        self.target = registry.load(settings["target"])
        self.made = 0

    def make(self, model: nn.Module, precision: str) -> measure.Entrant:
        """The network as the target runs it at "float" or "int8".

        Raises UsageError for a target that has none of that precision.
        """
        floating, home = self._lower(model, self.inputs)
        made = self._at(precision, floating, home, self.inputs)
        if made is None:
            raise UsageError(f"prune.precision = '{precision}': {self.target.name} has no candidate of that precision")
        return made

    def every(self, model: nn.Module, inputs: base.Batch) -> dict[str, measure.Entrant]:
        """The network on inputs of its own at each precision that the target has."""
        floating, home = self._lower(model, inputs)
        found = {precision: self._at(precision, floating, home, inputs) for precision in PRECISIONS}
        return {precision: made for precision, made in found.items() if made is not None}

    def _lower(self, model: nn.Module, inputs: base.Batch) -> tuple[base.Model, Path]:
        self.made += 1
        home = self.folder / str(self.made)
        for name in ("program", "onnx", "float", "int8"):
            (home / name).mkdir(parents=True)
        export.export(model, inputs, home / "program")
        program = export.read_program(home / "program")
        if self.target.capabilities.program == "onnx":
            program = onnx_graph.export(program, home / "onnx")
        return base.write_manifest(self.target.lower(program, home / "float")), home

    def _at(self, precision: str, floating: base.Model, home: Path, inputs: base.Batch) -> measure.Entrant | None:
        rows = [one for one in self.target.candidates(floating) if one.precision == PRECISIONS[precision]]
        if not rows:
            return None
        name = f"{self.made}-{precision}"
        candidate = next((one for one in rows if one.quantizer == "ours"), rows[0])
        if candidate.quantizer == "none":
            return measure.Entrant(name, floating, candidate)
        step = floating.inputs[0].shape[0] or 1
        samples = [
            {name: np.ascontiguousarray(array[start : start + step]) for name, array in inputs.items()}
            for start in range(0, min(SAMPLES, len(next(iter(inputs.values())))) - step + 1, step)
        ]
        ranges = None
        if candidate.quantizer == "ours":
            assert candidate.scheme is not None
            statistics = Statistics(floating.sha256)
            with self.target.open(floating, self.target.candidates(floating)[0]) as session:
                for batch in samples:
                    statistics.update(session.tap(batch, floating.tensors))
            ranges = solve(statistics, SCHEMES[candidate.scheme], "minmax")
        made = self.target.quantize(floating, candidate, ranges, samples, home / "int8")
        return measure.Entrant(name, base.write_manifest(made), candidate)

    def latency_ms(self, entrants: list[measure.Entrant]) -> list[float]:
        """Median of each, timed interleaved on inputs drawn for its shapes."""
        with tempfile.TemporaryDirectory(prefix="deploy-") as name:
            task = {
                "do": "time",
                "models": [one.id for one in entrants],
                "inputs": None,
                **{key: self.settings[key] for key in ("warmup_s", "budget_s", "min_rounds", "max_rounds")},
                "seed": self.seed,
                "samples": "samples.npz",
            }
            whole = measure.request(self.target, entrants, [task], self.settings["batch"], self.settings["threads"])
            measure.device(self.settings).run(whole, Path(name))
            with np.load(Path(name) / "samples.npz") as arrays:
                return [float(np.median(arrays[one.id])) / 1e6 for one in entrants]
