"""Firmware around a generated model, built with arm-none-eabi-gcc and run on QEMU's emulated boards."""

from __future__ import annotations

import re
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from targets.base import TargetError
from targets.cortex_m import emit, protocol
from targets.cortex_m.program import Program

SOURCES = Path(__file__).parent / "firmware_src"
SECONDS = 60.0  # to wait for an answer
FIRST_SECONDS = 3.0  # for the first one from a port, behind which an earlier session may have broken off


@dataclass(frozen=True)
class Machine:
    """`ticks_per_instruction`: SysTick's clock times the nanoseconds that `-icount shift` gives an instruction."""

    core: str
    flags: tuple[str, ...]
    uart: int
    icount_shift: int
    ticks_per_instruction: float


MACHINES = {
    "mps2-an385": Machine("cortex-m3", ("-mfloat-abi=soft",), 0x40004000, 6, 1.6),
    "mps2-an386": Machine("cortex-m4", ("-mfloat-abi=soft",), 0x40004000, 6, 1.6),
    "mps2-an500": Machine("cortex-m7", ("-mfloat-abi=soft",), 0x40004000, 6, 1.6),
    "mps3-an547": Machine("cortex-m55", ("-mfloat-abi=hard",), 0x59303000, 5, 1.024),
}


PROGRAMS = {  # program -> the packages that bring it
    "arm-none-eabi-gcc": "gcc-arm-none-eabi libnewlib-arm-none-eabi",
    "qemu-system-arm": "qemu-system-arm",
}


def needed(program: str) -> str:
    """Where a program lies. Raises TargetError "missing"."""
    found = shutil.which(program)
    if found is None:
        raise TargetError(f"{program} is missing: apt-get install {PROGRAMS[program]}", "missing")
    return found


@dataclass(frozen=True)
class Answer:
    """`outputs`: int8, all outputs one after the other. `instructions` are emulated instructions, not cycles."""

    outputs: npt.NDArray[np.int8]
    instructions: int
    stack_bytes: int


def build(program: Program, machine: str, folder: Path, others: Mapping[str, str] | None = None) -> Path:
    """`folder/firmware.elf`; `others` as in emit.write. Raises TargetError "missing" without the compiler."""
    board = MACHINES[machine]
    compiler = needed("arm-none-eabi-gcc")
    code = emit.write(program, folder / "c", others=others)
    (code / "ports.h").write_text(_ports(program))
    flags = [
        f"-mcpu={board.core}",
        "-mthumb",
        *board.flags,
        "-O2",
        "-std=gnu11",
        "-fno-strict-aliasing",
        "-ffunction-sections",
    ]
    link = ["-T", str(SOURCES / "link.ld"), "-nostartfiles", "--specs=nano.specs", "--specs=nosys.specs"]
    link += ["-Wl,--gc-sections"]
    sources = [str(SOURCES / "main.c"), *sorted(str(p) for p in code.glob("*.c"))]
    elf = folder / "firmware.elf"
    command = [compiler, *flags, *link, f"-DUART={board.uart:#x}u", f"-I{code}", *sources, "-o", str(elf)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if over := re.search(r"region `(\w+)' overflowed by (\d+) bytes", done.stderr):
        raise TargetError(
            f"the firmware does not fit {machine}: {over[1]} is {int(over[2]):,} bytes too small: prune the model; "
            "`deploy fit` says what takes the room",
            "unsupported",
        )
    if done.returncode:
        raise TargetError(f"arm-none-eabi-gcc failed: {' '.join(done.stderr.split())[-300:]}")
    return elf


def flash_bytes(elf: Path) -> int:
    """Code, constants and initial data of a firmware, with what is around the model."""
    done = subprocess.run(["arm-none-eabi-size", str(elf)], capture_output=True, text=True, check=True)
    text, data = done.stdout.splitlines()[1].split()[:2]
    return int(text) + int(data)


class Board:
    """The other end of an open port."""

    def __init__(self, port: Any, program: Program, ticks_per_instruction: float) -> None:
        self._port, self._program, self._ratio = port, program, ticks_per_instruction

    def ask(self, kind: bytes, payload: bytes = b"") -> bytes:
        """One request, the payload of its reply. Raises TargetError."""
        self._port.write(protocol.frame(kind, payload))
        answered, reply = protocol.read_frame(self._port.read)
        if answered != kind.lower():
            raise TargetError(f"the board answered {answered!r} to {kind!r}: is another program at the port?")
        return reply

    def check(self) -> None:
        """Raise TargetError where the firmware was built for another model."""
        found, wanted = sha256(self), self._program.graph.sha256
        if found != wanted:
            raise TargetError(
                f"the board runs the model {found[:12]}, not {wanted[:12]}: build and flash the firmware of this one"
            )

    def find_again(self) -> None:
        """Fill up a request that an earlier session broke off, and throw away what comes back."""
        self._port.write(bytes(sum(value.size for value in self._program.graph.inputs) + 16))
        while self._port.read(4096):
            pass

    def run(self, inputs: bytes) -> Answer:
        """One run on the codes of all inputs, one after the other."""
        reply = self.ask(b"R", inputs)
        ticks, stack = struct.unpack("<II", reply[:8])
        return Answer(np.frombuffer(reply[8:], np.int8), round(ticks / self._ratio), stack)


def sha256(board: Board) -> str:
    """Of the .tflite that the firmware on a board was built from. Raises TargetError."""
    return board.ask(b"I")[:64].decode("ascii", "replace")


@contextmanager
def attach(url: str, program: Program, baud: int) -> Iterator[Board]:
    """A board at a serial port (a device, a pty, or a URL that pyserial knows), checked to run this program.

    Its ticks count as they come. Raises TargetError where the port is gone or busy.
    """
    import serial

    try:
        port = serial.serial_for_url(url, baudrate=baud, timeout=SECONDS, exclusive=True)
    except TypeError:  # a socket is nobody else's
        port = serial.serial_for_url(url, baudrate=baud, timeout=SECONDS)
    except (serial.SerialException, ValueError) as error:
        words = " ".join(str(error).split())
        raise TargetError(f"cannot open the port {url}: {words}: check the cable, and who else uses it") from error
    with port:
        try:
            port.reset_input_buffer()
            board = Board(port, program, 1.0)
            port.timeout = FIRST_SECONDS
            try:
                sha256(board)
            except TargetError:
                board.find_again()
            port.timeout = SECONDS
            board.check()
            yield board
        except serial.SerialException as error:
            words = " ".join(str(error).split())
            raise TargetError(f"the port {url} is gone: {words}: check the cable") from error


def options(elf: Path, machine: str) -> list[str]:
    """QEMU's, but for the serial port. With -icount a tick is a fixed number of instructions."""
    shift = MACHINES[machine].icount_shift
    return [
        *("-M", machine, "-kernel", str(elf), "-display", "none", "-monitor", "none"),
        *("-semihosting-config", "enable=on,target=native", "-icount", f"shift={shift}"),
    ]


@contextmanager
def boot(elf: Path, program: Program, machine: str) -> Iterator[Board]:
    """The firmware on an emulated board, checked to be this program's. Raises TargetError."""
    import serial

    emulator = needed("qemu-system-arm")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    command = [emulator, *options(elf, machine), "-serial", f"tcp:127.0.0.1:{number},server=on,wait=on"]
    null = subprocess.DEVNULL
    process = subprocess.Popen([*ends_with_parent(), *command], stdin=null, stdout=null, stderr=null)
    try:
        with _connect(serial, number, process) as port:
            board = Board(port, program, MACHINES[machine].ticks_per_instruction)
            board.check()
            yield board
    finally:
        process.kill()
        process.wait()


def ends_with_parent() -> list[str]:
    """Words before a command, by which the kernel kills it when the thread that started it ends, however that ended: an
    emulator reads nothing that would tell it. Linux's util-linux has the program; empty without it.
    """
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


def _connect(serial: Any, number: int, process: subprocess.Popen[bytes]) -> Any:
    for _ in range(200):
        try:
            return serial.serial_for_url(f"socket://127.0.0.1:{number}", timeout=SECONDS)
        except serial.SerialException:
            if process.poll() is not None:
                break
            time.sleep(0.05)
    raise TargetError("qemu-system-arm did not open its serial port")


def _ports(program: Program) -> str:
    sides = (("input", program.graph.inputs), ("output", program.graph.outputs))
    lines = ["#include <stdint.h>", "typedef struct { uint32_t offset, bytes; } port;"]
    for name, values in sides:
        rows = ", ".join(f"{{{program.offset(v)}, {v.size}}}" for v in values)
        lines += [
            f"#define {name.upper()}S {len(values)}u",
            f"#define {name.upper()}_BYTES {sum(v.size for v in values)}u",
        ]
        lines += [f"static const port {name}s[] = {{{rows}}};"]
    return "\n".join([*lines, ""])
