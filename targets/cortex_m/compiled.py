"""What arm-none-eabi-gcc makes of a generated folder, before anything is flashed: its bytes, and the deepest stack.

The stack follows from `-fcallgraph-info=su` (GCC's manual, "Developer Options"): bytes of each function, and who calls
whom. There is no recursion and no call through a pointer, so the deepest path is a bound.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from targets.base import TargetError
from targets.cortex_m import emit
from targets.cortex_m.program import Program

COMPILER = "arm-none-eabi-gcc"
LIBC_BYTES = 32  # of stack for memcpy and memset, whose own figures newlib does not come with
_HARD_FLOAT = ("cortex-m55",)


@dataclass(frozen=True)
class Compiled:
    """`flash_bytes`: code and constants that stay when the linker has dropped what nothing calls. `stack`: (function,
    bytes) along the deepest path, the outermost first."""

    flash_bytes: int
    stack: tuple[tuple[str, int], ...]

    @property
    def stack_bytes(self) -> int:
        """The whole path."""
        return sum(size for _, size in self.stack)


def flags(core: str) -> list[str]:
    """Of the compiler, for a core."""
    return [f"-mcpu={core}", "-mthumb", f"-mfloat-abi={'hard' if core in _HARD_FLOAT else 'soft'}", "-O2"]


def there() -> bool:
    """Is the compiler on this machine?"""
    return shutil.which(COMPILER) is not None


def measure(program: Program, core: str, others: Mapping[str, str] | None = None) -> Compiled:
    """Compile a program as C for a core; `others` as in emit.write. Raises TargetError "failed"."""
    with tempfile.TemporaryDirectory(prefix="deploy-size-") as name:
        folder = Path(name)
        code = emit.write(program, folder / "c", others=others)
        sources = [str(p) for p in sorted(code.glob("*.c"))]
        how = [*flags(core), "-std=gnu11", "-ffunction-sections", "-fdata-sections", f"-I{code}"]
        _run([COMPILER, *how, "-fcallgraph-info=su", "-c", *sources], folder)
        objects = [str(p) for p in sorted(folder.glob("*.o"))]
        link = ["-nostartfiles", "--specs=nano.specs", "--specs=nosys.specs", "-Wl,--gc-sections,-e,model_run"]
        _run([COMPILER, *flags(core), *link, *objects, "-o", "model.elf"], folder)
        text, data = _run(["arm-none-eabi-size", "model.elf"], folder).splitlines()[1].split()[:2]
        graph = "".join(p.read_text() for p in sorted(folder.glob("*.ci")))
    return Compiled(int(text) + int(data), tuple(deepest(graph, "model_run")))


def deepest(graph: str, start: str) -> list[tuple[str, int]]:
    """The path from a function that takes most stack, in GCC's call graphs (VCG), one after the other.

    A function without a figure (libc's) counts LIBC_BYTES. Raises TargetError for a recursion, which has no bound.
    """
    sizes: dict[str, int] = {}  # a function is named in every file that calls it, and has a figure in its own
    for title, label in re.findall(r'node: \{ title: "([^"]+)" label: "([^"]*)"', graph):
        if found := re.search(r"(\d+) bytes", label):
            sizes[title] = int(found[1])
    calls: dict[str, set[str]] = {}
    for source, target in re.findall(r'edge: \{ sourcename: "([^"]+)" targetname: "([^"]+)"', graph):
        calls.setdefault(source, set()).add(target)

    def below(function: str, above: tuple[str, ...]) -> list[tuple[str, int]]:
        if function in above:
            raise TargetError(f"{function.rpartition(':')[2]} calls itself: the stack has no bound")
        paths = [below(other, (*above, function)) for other in sorted(calls.get(function, ()))]
        longest = max(paths, key=lambda path: sum(size for _, size in path), default=[])
        return [(function.rpartition(":")[2], sizes.get(function, LIBC_BYTES)), *longest]

    return below(start, ())


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        raise TargetError(f"{Path(command[0]).name} failed: {' '.join(done.stderr.split())[-300:]}")
    return done.stdout
