"""TFLite files for LiteRT and tflite-runtime: litert-torch lowers, ai-edge-quantizer quantizes, LiteRT runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibration.schemes import SCHEMES
from targets.base import Batch, Candidate, Model, OpInfo, Program, Session, TargetError, TensorSpec, kept
from targets.tflite.support import CAPABILITIES, INT8_OPS

if TYPE_CHECKING:
    from calibration.qparams import Ranges

FILE = "model.tflite"
SCHEME = "s8s8"
WHOLE = "whole"  # the option of a candidate whose every op must be of integers


class Tflite:
    """See targets/base.py `Target`."""

    name = "tflite"
    version = "1"
    packages = ("litert-torch", "litert-converter", "ai-edge-quantizer", "ai-edge-litert", "jax", "torch")
    extra = "tflite"
    runtime = "tflite"
    capabilities = CAPABILITIES

    def lower(self, program: Program, out: Path) -> Model:
        """`out/model.tflite`, float32. 4-D inputs and outputs are channels-last (TensorSpec.permutation).

        A free batch stays free (shape[0] None) where a trial run shows that the file can be resized; else the model's
        batch is 1. Raises TargetError naming op and source line.
        """
        from targets.tflite import flatbuffer, lowering, session

        content = flatbuffer.parse(lowering.convert(program))
        try:
            flatbuffer.rename(content, [s.name for s in program.inputs], [s.name for s in program.outputs])
        except ValueError as error:
            raise TargetError(f"tflite: {error}", "unsupported") from error
        path, exported = out / FILE, flatbuffer.pack(content)
        tensors = tuple(tensor.name for tensor in flatbuffer.activations(content))

        def written(file: bytes, batch: int | None) -> Model:
            path.write_bytes(file)
            inputs, outputs = (tuple(_in_file(s, batch) for s in specs) for specs in (program.inputs, program.outputs))
            return Model(path, inputs, outputs, tensors)

        fixed = written(exported, lowering.static(program.inputs[0])[0])
        session.check(fixed)
        if any(spec.shape[0] is not None for spec in program.inputs):
            return fixed
        flatbuffer.free_batch(content)
        resizable = written(flatbuffer.pack(content), None)
        return resizable if session.resizes(resizable) else written(exported, 1)

    def candidates(self, model: Model) -> Sequence[Candidate]:
        """Float; ai-edge-quantizer with its own calibration; ai-edge-quantizer with our ranges."""
        return (
            Candidate("float", "none", "f32"),
            Candidate("aeq", "ai-edge-quantizer", "int8", SCHEME),
            Candidate("ours-minmax", "ours", "int8", SCHEME, "minmax"),
            Candidate("ours-mse", "ours", "int8", SCHEME, "mse"),
        )

    def layers(self, model: Model) -> Sequence[str]:
        """Outputs of convolutions and products with stored weights."""
        from targets.tflite import flatbuffer

        return flatbuffer.layers(flatbuffer.read(model.path))

    def quantize(
        self, model: Model, candidate: Candidate, ranges: Ranges | None, batches: Iterable[Batch], out: Path
    ) -> Model:
        """`out/model.tflite`, integers in and out but where weights alone are stored smaller, and where an output joins
        tensors of very different ranges: real numbers, unless the candidate's options say WHOLE.

        Raises TargetError "unsupported" for a scheme that is not declared.
        """
        from targets.tflite import flatbuffer, quantization

        path = out / FILE
        if how := candidate.options.get("recipe"):
            path.write_bytes(quantization.weights_alone(model, how, kept(candidate)))
            return Model(path, model.inputs, model.outputs, model.tensors)
        ours = candidate.quantizer == "ours"
        takes = sorted(self.capabilities.schemes) if ours else [SCHEME]
        if candidate.scheme not in takes:
            raise TargetError(f"tflite takes {', '.join(takes)}, not '{candidate.scheme}'", "unsupported")
        if ours and ranges is None:
            raise TargetError(f"tflite: candidate '{candidate.id}' needs ranges from calibration, and got none")
        scheme = SCHEMES[candidate.scheme]
        whole = bool(candidate.options.get(WHOLE))
        made = quantization.quantize(model, ranges if ours else None, batches, scheme, kept(candidate), whole)
        path.write_bytes(made)
        return Model(path, model.inputs, model.outputs, flatbuffer.same_names(flatbuffer.parse(made), model.tensors))

    def inspect(self, model: Model, candidate: Candidate) -> Sequence[OpInfo]:
        """The ops of the file with the precision of their tensors: LiteRT's kernels follow the tensors' types.

        How XNNPACK partitions and fuses these ops is not visible from Python (the package has no per-op profiler); it
        changes no tensor's type.
        """
        from targets.tflite import flatbuffer

        content = flatbuffer.read(model.path)
        batch = flatbuffer.interface(content)[0][0].shape[0]
        return [
            OpInfo(
                name=op.outputs[0].name if op.outputs else op.type,
                type=op.type,
                precision=op.precision,
                macs=op.macs // batch,
                int8_capable=op.type in INT8_OPS and op.precision in ("int8", "f32"),  # not where it counts indices
            )
            for op in flatbuffer.ops(content)
        ]

    def weight_bytes(self, model: Model) -> int:
        """Bytes of the constants that carry weights and biases (not of shapes and indices)."""
        from targets.tflite import flatbuffer

        return flatbuffer.weight_bytes(flatbuffer.read(model.path))

    def options(self, candidate: Candidate) -> dict[str, Any]:
        """For the agent's adapter. "resolver": "auto" (XNNPACK and optimised kernels), "builtin" or "reference"."""
        return {"threads": 1, "precision": candidate.precision, "resolver": "auto", **candidate.runtime}

    @contextmanager
    def open(self, model: Model, candidate: Candidate) -> Iterator[Session]:
        """Load in this process."""
        from targets.tflite.session import TfliteSession

        session = TfliteSession(model, self.options(candidate))
        try:
            yield session
        finally:
            session.close()


def _in_file(spec: TensorSpec, batch: int | None) -> TensorSpec:
    """A tensor of the program as it lies in the file."""
    from targets.tflite import lowering

    permutation = lowering.layout(spec)
    shape = lowering.in_layout(lowering.static(spec), permutation)
    return TensorSpec(spec.name, spec.dtype, (batch, *shape[1:]), permutation)


TARGET = Tflite()
