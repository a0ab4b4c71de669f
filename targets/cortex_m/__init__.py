"""Cortex-M: an int8 .tflite becomes a folder of C99 that computes what TFLite Micro computes, byte for byte.

The tflite target lowers and quantizes; here the file becomes C, is built into firmware, and runs on a board.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from targets.base import Batch, Candidate, Model, OpInfo, Program, Session, TargetError
from targets.cortex_m.capabilities import rows
from targets.tflite import SCHEME, WHOLE
from targets.tflite import TARGET as MAKER

if TYPE_CHECKING:
    from calibration.qparams import Ranges

DEVICE = "qemu://mps2-an386"


class CortexM:
    """See targets/base.py `Target`. The batch is fixed at one sample; float runs on this machine, and never ships."""

    name = "cortex-m"
    version = "2"
    packages = (*MAKER.packages, "pyserial")
    extra = "mcu"
    runtime = str(Path(__file__).with_name("adapter.py"))
    programs = ("arm-none-eabi-gcc", "qemu-system-arm")
    device = DEVICE  # where it runs when no other is named
    capabilities = replace(
        MAKER.capabilities,
        batch="fixed",
        schemes=frozenset({SCHEME}),
        ops=rows(MAKER.capabilities.ops),
    )

    def lower(self, program: Program, out: Path) -> Model:
        """The tflite target's float file, at a batch of one, and no more joined at once than TFLite Micro can."""
        from targets.cortex_m import nest
        from targets.tflite import flatbuffer

        made = MAKER.lower(program, out)
        content = flatbuffer.read(made.path)
        if nest.concatenations(content):
            made.path.write_bytes(flatbuffer.pack(content))
            made = replace(made, tensors=tuple(tensor.name for tensor in flatbuffer.activations(content)))
        inputs, outputs = (
            tuple(replace(spec, shape=(spec.shape[0] or 1, *spec.shape[1:])) for spec in specs)
            for specs in (made.inputs, made.outputs)
        )
        return replace(made, inputs=inputs, outputs=outputs)

    def candidates(self, model: Model) -> Sequence[Candidate]:
        """The tflite target's: float (to compare with), ai-edge-quantizer's own way, and our ranges."""
        return [c for c in MAKER.candidates(model) if c.scheme in (None, SCHEME)]

    def layers(self, model: Model) -> Sequence[str]:
        """The tflite target's; none can stay in float, for the kernels are int8."""
        return MAKER.layers(model)

    def quantize(
        self, model: Model, candidate: Candidate, ranges: Ranges | None, batches: Iterable[Batch], out: Path
    ) -> Model:
        """An int8 file whose ops can all be generated. Raises TargetError "unsupported" naming one that cannot."""
        from targets.cortex_m import program

        if candidate.scheme != SCHEME:
            raise TargetError(f"cortex-m takes {SCHEME}, not '{candidate.scheme}'", "unsupported")
        integers = replace(candidate, options={**candidate.options, WHOLE: True})
        made = MAKER.quantize(model, integers, ranges, batches, out)
        program.compile_file(made.path)
        return replace(made, tensors=())  # a board shows no activations

    def inspect(self, model: Model, candidate: Candidate) -> Sequence[OpInfo]:
        """The ops of the file: each becomes kernel calls of the same precision."""
        return MAKER.inspect(model, candidate)

    def weight_bytes(self, model: Model) -> int:
        """Of the file; the C keeps as many, filled up to pairs of channels and fours of taps."""
        return MAKER.weight_bytes(model)

    def options(self, candidate: Candidate) -> dict[str, Any]:
        """For the adapter: where int8 runs."""
        return {**MAKER.options(candidate), "device": DEVICE}

    @contextmanager
    def open(self, model: Model, candidate: Candidate) -> Iterator[Session]:
        """Float in this process, int8 on an emulated Cortex-M4."""
        if candidate.precision == "f32":
            with MAKER.open(model, candidate) as session:
                yield session
            return
        from targets.cortex_m.session import BoardSession

        with BoardSession(model, DEVICE) as board:
            yield board


TARGET = CortexM()
