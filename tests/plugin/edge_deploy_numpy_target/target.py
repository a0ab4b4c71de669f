"""The target. It lowers and quantizes as the built-in ONNX Runtime target does, and computes with NumPy instead."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from calibration.qparams import Ranges
from targets import onnx_graph
from targets.base import Batch, Candidate, Model, OpInfo, Program
from targets.onnxruntime import TARGET as MAKER
from targets.session import AdapterSession, Tap

# In a QDQ graph an op computes on integers' values when all its data comes from DequantizeLinear.
INT8_OPS = frozenset({"Conv", "Gemm", "MatMul"})


class NumpyTarget:
    """See `Target` in targets/base.py."""

    name = "numpy"
    version = "1"
    packages = ("onnx", "onnxscript", "onnxruntime")
    extra = "onnxruntime"
    runtime = str(Path(__file__).with_name("adapter.py"))
    capabilities = replace(MAKER.capabilities, dtypes=frozenset({"float32"}))

    def lower(self, program: Program, out: Path) -> Model:
        """The float graph that ONNX Runtime's quantizer wants."""
        return MAKER.lower(program, out)

    def candidates(self, model: Model) -> Sequence[Candidate]:
        """As the maker's, but for dynamic int8: its scales are not in the file, and the interpreter has no kernels."""
        return [candidate for candidate in MAKER.candidates(model) if candidate.scheme != "u8s8-dynamic"]

    def layers(self, model: Model) -> Sequence[str]:
        """As the maker's."""
        return MAKER.layers(model)

    def quantize(
        self, model: Model, candidate: Candidate, ranges: Ranges | None, batches: Iterable[Batch], out: Path
    ) -> Model:
        """A QDQ file."""
        return MAKER.quantize(model, candidate, ranges, batches, out)

    def inspect(self, model: Model, candidate: Candidate) -> Sequence[OpInfo]:
        """The ops of the file: nothing is compiled, and the values are exactly those of integer arithmetic."""
        graph = onnx_graph.load(model.path)
        work = onnx_graph.macs(graph)
        exact = {name for node in graph.graph.node if node.op_type == "DequantizeLinear" for name in node.output}
        return [
            OpInfo(
                name=node.name,
                type=node.op_type,
                precision="int8" if exact.issuperset(node.input) else "f32",
                macs=work.get(node.output[0], 0),
                int8_capable=node.op_type in INT8_OPS,
            )
            for node in graph.graph.node
            if node.op_type not in ("QuantizeLinear", "DequantizeLinear")
        ]

    def weight_bytes(self, model: Model) -> int:
        """Weights, biases and scales."""
        return MAKER.weight_bytes(model)

    def options(self, candidate: Candidate) -> dict[str, Any]:
        """The file decides the precision."""
        return {"threads": 1, "precision": candidate.precision}

    def open(self, model: Model, candidate: Candidate) -> AdapterSession:
        """Load in this process."""
        return AdapterSession(model, self.runtime, self.options(candidate), lambda: _tap(model))


def _tap(model: Model) -> Tap:
    import onnx
    from onnx.reference import ReferenceEvaluator

    graph = onnx_graph.load(model.path)
    stands_for = onnx_graph.dequantized(graph)  # none in a float graph
    inputs = {value.name for value in graph.graph.input} - stands_for.keys()
    made = [name for name in model.tensors if name not in inputs]
    graph.graph.ClearField("output")
    graph.graph.output.extend(onnx.ValueInfoProto(name=stands_for.get(name, name)) for name in made)
    evaluator = ReferenceEvaluator(graph)

    def tap(batch: Batch, names: Sequence[str]) -> Batch:
        values = {**batch, **dict(zip(made, evaluator.run(None, batch), strict=True))}
        return {name: values[name] for name in names}

    return tap


TARGET = NumpyTarget()
