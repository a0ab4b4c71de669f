"""Does a model fit a board: flash and RAM by cause, before anything is compiled or flashed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from targets.base import TargetError
from targets.cortex_m.boards import BOARDS
from targets.cortex_m.call import Number
from targets.cortex_m.compiled import Compiled
from targets.cortex_m.program import Program

# Bytes of code of each kernel: the largest of Cortex-M0+, M3, M4, M7 and M55 with arm-none-eabi-gcc 12.2 -O2 (a test
# measures them again).
KERNEL_CODE_BYTES = {
    "nn_add": 916,
    "nn_add_broadcast": 612,
    "nn_average_pool_2d": 380,
    "nn_concat": 48,
    "nn_conv_2d_grouped": 660,
    "nn_conv_2d_packed": 2308,
    "nn_copy": 188,
    "nn_depthwise_conv_2d": 592,
    "nn_depthwise_conv_2d_fours": 1692,
    "nn_extreme": 208,
    "nn_fully_connected_packed": 872,
    "nn_lookup": 36,
    "nn_matmul": 592,
    "nn_max_pool_2d": 352,
    "nn_mean": 528,
    "nn_mul": 204,
    "nn_mul_broadcast": 392,
    "nn_pad": 148,
    "nn_pick": 128,
    "nn_rescale": 188,
    "nn_softmax": 1160,
    "nn_squared_difference": 608,
    "nn_sub": 616,
    "nn_transpose_conv": 712,
}
# The same of the pinned CMSIS-NN's convolutions, with all that they call.
VENDOR_CODE_BYTES = {"nn_cmsis_conv_2d": 5182, "nn_cmsis_depthwise_conv_2d": 5757}
RUN_CODE_BYTES, CALL_CODE_BYTES = 64, 24  # of NAME_run: once, and for each kernel call
STACK_BYTES = 4096  # assumed where none is given


@dataclass(frozen=True)
class Room:
    """One kind of memory: what takes it, by cause, and what there is."""

    used: dict[str, int]
    available_bytes: int

    @property
    def used_bytes(self) -> int:
        """All causes together."""
        return sum(self.used.values())

    @property
    def headroom_bytes(self) -> int:
        """Negative where it does not fit."""
        return self.available_bytes - self.used_bytes


@dataclass(frozen=True)
class Fit:
    """`shrink` names the layer to make smaller first, for each kind of memory that is too small. `scratch_bytes`: how
    much of the arena is scratch, at most. `compiled`: a compiler gave the code's and the stack's figures."""

    board: str | None
    core: str | None
    flash: Room
    ram: Room
    scratch_bytes: int
    compiled: bool
    shrink: dict[str, str]

    @property
    def fits(self) -> bool:
        """Both kinds of memory suffice."""
        return self.flash.headroom_bytes >= 0 and self.ram.headroom_bytes >= 0

    def record(self) -> dict[str, Any]:
        """As JSON."""
        rooms = {
            name: {
                "used_bytes": room.used_bytes,
                "available_bytes": room.available_bytes,
                "headroom_bytes": room.headroom_bytes,
                "by_cause": room.used,
            }
            for name, room in (("flash", self.flash), ("ram", self.ram))
        }
        facts = {"board": self.board, "core": self.core, "compiled": self.compiled, "scratch_bytes": self.scratch_bytes}
        return {**facts, "fits": self.fits, **rooms, "shrink": self.shrink}


def size(text: str, what: str = "a size") -> int:
    """Bytes of "256K", "1M", "65536". Raises TargetError."""
    found = re.fullmatch(r"(\d+)([KM]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not found:
        raise TargetError(f"{what} '{text}' is not a number of bytes: write 65536, 64K or 1M", "unsupported")
    return int(found[1]) * {"": 1, "K": 1024, "M": 1024**2}[found[2].upper()]


def memory(board: str | None, flash: str | None, ram: str | None) -> tuple[int, int]:
    """(flash, RAM) in bytes of a board; what is given beside it overrules the board. Raises TargetError."""
    if board is not None and board not in BOARDS:
        raise TargetError(
            f"no board '{board}': there are {', '.join(BOARDS)}; or give --flash and --ram", "unsupported"
        )
    if board is None and (flash is None or ram is None):
        raise TargetError("say what there is: --board NAME, or --flash 256K --ram 64K", "unsupported")
    known = BOARDS.get(board or "")
    return (
        size(flash, "--flash") if flash is not None else known.flash_bytes if known else 0,
        size(ram, "--ram") if ram is not None else known.ram_bytes if known else 0,
    )


def _count(number: Number) -> int:
    return 1 if isinstance(number, int) else sum(map(_count, number))


def fit(
    program: Program,
    flash_bytes: int,
    ram_bytes: int,
    stack_bytes: int = STACK_BYTES,
    board: str | None = None,
    compiled: Compiled | None = None,
) -> Fit:
    """Constants and parameters are exact, the arena is the plan's.

    Code is what the kernels' sizes add up to, or what the compiler made of it. `stack_bytes` are reserved for the whole
    firmware; with a compiler the model's part of them is known, and where it is larger, it counts.
    """
    constants, parameters = program.constant_bytes, _parameter_bytes(program)
    if compiled is None:
        kernels = sum((KERNEL_CODE_BYTES | VENDOR_CODE_BYTES)[kernel] for kernel in program.kernels)
        code = {"code (estimate)": kernels + RUN_CODE_BYTES + CALL_CODE_BYTES * len(program.calls)}
        stack = {"stack (reserved)": stack_bytes}
    else:
        code = {"code (compiled)": compiled.flash_bytes - constants - parameters}
        path = " > ".join(name for name, _ in compiled.stack)
        stack = {
            f"stack, the model's ({path})": compiled.stack_bytes,
            "stack, all else (reserved)": max(0, stack_bytes - compiled.stack_bytes),
        }
    flash = Room({"weights and tables": constants, "parameters": parameters, **code}, flash_bytes)
    ram = Room({"arena": program.plan.arena_bytes, **stack}, ram_bytes)
    shrink = {}
    if flash.headroom_bytes < 0:
        heaviest = max(
            program.steps, key=lambda s: sum(a.nbytes for c in s.calls for a in c.constants.values() if a is not None)
        )
        shrink["flash"] = f"{heaviest.node.label} has the most weights"
    if ram.headroom_bytes < 0:
        widest = max(program.steps, key=lambda s: program.live_bytes(s.node.position))
        shrink["ram"] = f"{widest.node.label} needs {program.live_bytes(widest.node.position)} bytes of the arena"
    scratch = max((call.scratch_bytes for call in program.calls), default=0)
    core = BOARDS[board].core if board in BOARDS else None
    return Fit(board, core, flash, ram, scratch, compiled is not None, shrink)


def _parameter_bytes(program: Program) -> int:
    return 4 * sum(_count(call.numbers) + len(call.constants) for call in program.calls)
