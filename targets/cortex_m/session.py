"""A model on a board: floats in, codes over the wire, floats back; what the board counted beside."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np

from targets.agent import decode, encode
from targets.base import Batch, Model, TargetError, to_model_layout, to_program_layout
from targets.cortex_m import cmsis_nn, emulator, program
from targets.cortex_m.emulator import Answer
from targets.cortex_m.graph import Value
from targets.cortex_m.program import Program

BAUD = 115200


@dataclass(frozen=True)
class Place:
    """Where a program runs: an emulated `machine`, or a board at a serial `port`.

    `cpi` and `clock_hz`, both or none: what an estimate of a latency assumes. `cmsis_nn`: where a CMSIS-NN lies
    whose kernels are raced against our own.
    """

    machine: str | None
    port: str | None
    baud: int
    cpi: float | None
    clock_hz: float | None
    cmsis_nn: Path | None = None

    @property
    def unit(self) -> str:
        """What a run is counted in."""
        return "instructions" if self.machine else "ticks"

    def estimate(self, instructions: int) -> dict[str, float] | None:
        """Milliseconds from instructions * CPI / clock, with both; None without them."""
        if self.cpi is None or self.clock_hz is None:
            return None
        return {"ms": 1e3 * instructions * self.cpi / self.clock_hz, "cpi": self.cpi, "clock_hz": self.clock_hz}


def place(uri: str) -> Place:
    """`qemu://MACHINE[?cpi=1.3&clock=80e6&cmsis-nn=PATH]`, `serial:///dev/ttyACM0[?baud=115200]`, `serial://socket://HOST:PORT`.

    Raises TargetError "unsupported" for anything else.
    """
    scheme, _, rest = uri.partition("://")
    where, _, query = rest.partition("?")
    given = {name: values[-1] for name, values in parse_qs(query, keep_blank_values=True).items()}
    known = {"qemu": {"cpi", "clock", "cmsis-nn"}, "serial": {"baud", "cpi", "clock"}}.get(scheme, set())
    unknown = sorted(set(given) - known)
    if unknown:
        raise TargetError(f"device '{uri}': no option '{unknown[0]}': there are {sorted(known)}", "unsupported")
    vendor = given.pop("cmsis-nn", None)
    try:
        numbers = {name: float(value) for name, value in given.items()}
    except ValueError as error:
        raise TargetError(f"device '{uri}': {error}: write ?cpi=1.3&clock=80e6", "unsupported") from error
    if ("cpi" in given) != ("clock" in given) or any(not n > 0 for n in numbers.values()):
        raise TargetError(f"device '{uri}': an estimate wants both: ?cpi=1.3&clock=80e6", "unsupported")
    baud, cpi, clock = int(numbers.get("baud", BAUD)), numbers.get("cpi"), numbers.get("clock")
    if scheme == "qemu" and where in emulator.MACHINES:
        return Place(where, None, baud, cpi, clock, Path(vendor) if vendor else None)
    if scheme == "serial" and (where.startswith("/") or urlsplit(where).scheme):
        return Place(None, where, baud, cpi, clock)
    known_machines = ", ".join(f"qemu://{machine}" for machine in emulator.MACHINES)
    raise TargetError(f"device '{uri}': boards are {known_machines} and serial:///dev/ttyACM0", "unsupported")


class BoardSession:
    """See targets/base.py `Session` (and its own context manager)."""

    def __init__(self, model: Model, uri: str) -> None:
        self._model = model
        self.runner = Runner(model.path, place(uri))

    def __enter__(self) -> BoardSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.runner.close()

    def run(self, batch: Batch) -> Batch:
        """All outputs, sample by sample, in the program's layout. Raises ValueError on what does not fit."""
        arranged = to_model_layout(batch, self._model.inputs)
        return to_program_layout(self.runner.run(arranged), self._model.outputs)

    def tap(self, batch: Batch, names: Sequence[str]) -> Batch:
        """A board shows no activations: raises TargetError."""
        raise TargetError("a board shows no activations: tap the float model", "unsupported")


class Runner:
    """A .tflite file generated, built and running. Raises TargetError for what is missing or does not fit together.

    Where two sets of kernels are raced, `kernels` is the one that takes fewer instructions, and `counted` has both.
    """

    def __init__(self, path: Path, where: Place) -> None:
        self.program = program.compile_file(path)
        self.place = where
        self.kernels, self.counted = "portable", dict[str, int]()
        self.flash_bytes: int | None = None
        self.last: Answer | None = None
        with ExitStack() as stack:
            if where.machine is not None:
                self._emulate(path, where.machine, stack)
            else:
                assert where.port is not None
                self._board = stack.enter_context(emulator.attach(where.port, self.program, where.baud))
            self._stack = stack.pop_all()

    def _emulate(self, path: Path, machine: str, stack: ExitStack) -> None:
        """Firmware of each set of kernels on an emulated board; the shortest run stays."""
        sets: dict[str, tuple[Program, Mapping[str, str] | None]] = {"portable": (self.program, None)}
        if self.place.cmsis_nn is not None:
            vendor = cmsis_nn.read(self.place.cmsis_nn)
            kernels = vendor.kernels(emulator.MACHINES[machine].core)
            sets["cmsis-nn"] = (program.compile_file(path, kernels), vendor.files)
        running = {}
        for name, (made, others) in sets.items():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="deploy-firmware-")))
            elf = emulator.build(made, machine, folder, others)
            running[name] = (made, stack.enter_context(emulator.boot(elf, made, machine)), emulator.flash_bytes(elf))
            if len(sets) > 1:
                zeros = bytes(sum(value.size for value in made.graph.inputs))
                self.counted[name] = running[name][1].run(zeros).instructions
        self.kernels = min(running, key=lambda name: self.counted.get(name, 0))
        self.program, self._board, self.flash_bytes = running[self.kernels]

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Outputs by name, float32 [n, ...], for inputs in the model's own layout; `last` keeps the last answer."""
        graph = self.program.graph
        codes = [encode(inputs[value.name], _detail(value)) for value in graph.inputs]
        outputs: dict[str, list[Any]] = {value.name: [] for value in graph.outputs}
        for i in range(len(codes[0])):
            self.last = self._board.run(b"".join(array[i : i + 1].tobytes() for array in codes))
            start = 0
            for value in graph.outputs:
                piece = self.last.outputs[start : start + value.size].reshape(value.shape)
                outputs[value.name].append(decode(piece, _detail(value)))
                start += value.size
        return {name: np.concatenate(parts) for name, parts in outputs.items()}

    def figures(self) -> dict[str, Any]:
        """Of the last run, and of the program."""
        assert self.last is not None
        return {
            "unit": self.place.unit,
            "kernels": self.kernels,
            "raced": self.counted,
            "count": self.last.instructions,
            "stack_bytes": self.last.stack_bytes,
            "arena_bytes": self.program.plan.arena_bytes,
            "flash_bytes": self.flash_bytes,
            "plan": self.program.drawn(),
            "estimate": self.place.estimate(self.last.instructions) if self.place.machine else None,
        }

    def close(self) -> None:
        """Let go of the board."""
        self._stack.close()


def _detail(value: Value) -> dict[str, Any]:
    assert value.scale is not None
    assert value.zero_point is not None
    return {"dtype": np.int8, "quantization": (float(value.scale[0]), int(value.zero_point[0]))}
