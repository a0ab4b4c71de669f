"""What reading a file of somebody else's may take: kinds, bytes, memory, time. Beyond it the answer is one line."""

from __future__ import annotations

import contextlib
import math
import os
import resource
import signal
import stat
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pipeline.errors import UsageError

GIB = 2**30
LARGEST = {".onnx": 2 * GIB, ".tflite": 2 * GIB, ".xml": GIB // 4}  # formats' own limits; an .xml has no weights
BASE, TIMES = 3 * GIB // 2, 8  # memory for the runtimes themselves, and for each byte of a file
CORE = GIB // 32  # for each core: the stack and buffers of its thread in each runtime's pool
CPU_S = 600  # seconds of all cores together to read a model; what then runs on data has no limit


_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


@dataclass(frozen=True)
class Limits:
    """For a process that reads a foreign file: `memory` in bytes that it may write to, `cpu_s` of computing."""

    memory: int
    cpu_s: int = CPU_S

    def broken(self, ended_by: int = 0) -> str:
        """What to tell of a process that went beyond them. `ended_by`: the signal that ended it."""
        if ended_by == signal.SIGXCPU:
            return f"reading the model takes more than {self.cpu_s} s of computing: is it one?"
        how = f", or breaks its runtime (signal {ended_by})" if ended_by else ""
        return f"reading the model takes more than {self.memory / GIB:.1f} GiB of memory{how}: is it one?"


def regular(path: Path, what: str = "") -> Path:
    """The path, where it is a file with bytes of its own. Raises UsageError for a pipe, a device, a folder, nothing."""
    start = f"{what}: " if what else ""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise UsageError(f"{start}no file at {path}: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise UsageError(f"{start}{path} is {_KINDS.get(stat.S_IFMT(mode), 'a socket')}: name a file")
    return path


def of_model(path: Path) -> Limits:
    """For the process that reads a model's file. Raises UsageError for one too large, unread."""
    size = regular(path).stat().st_size
    largest = LARGEST.get(path.suffix, memory())
    if size > largest:
        raise UsageError(
            f"{path} has {size / GIB:.1f} GiB, more than the {largest / GIB:.1f} that can be read of a model"
        )
    weights = path.with_suffix(".bin")
    beside = regular(weights).stat().st_size if path.suffix == ".xml" and weights.exists() else 0
    base = BASE + CORE * (os.cpu_count() or 1)
    return Limits(min(base + TIMES * (size + beside), max(base, memory())))


def arrays(path: Path) -> dict[str, Any]:
    """The arrays of an .npz by name, none of them pickled.

    Raises UsageError, before an array is made, for one that says it is larger than what is stored of it or than this
    machine's memory, and for a file that is damaged.
    """
    import numpy as np

    try:
        with zipfile.ZipFile(regular(path)) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            total = sum(member.file_size for member in members)
            if total > memory():
                raise UsageError(f"{path} unpacks to {total / GIB:,.0f} GiB, this machine has {memory() / GIB:.0f}")
            for member in members:
                with archive.open(member) as stream:
                    _check_header(stream, member.file_size, f"{path}: '{member.filename.removesuffix('.npy')}'")
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except UsageError:
        raise
    except Exception as error:  # zlib, zipfile, struct and NumPy each have their own
        words = " ".join(str(error).split())[:200] or type(error).__name__
        raise UsageError(f"{path} cannot be read: {words}") from error


def _check_header(stream: IO[bytes], size: int, where: str) -> None:
    from numpy.lib import format as npy

    version = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(stream)
    if dtype.hasobject:
        raise UsageError(f"{where} holds Python objects, which are not read: store numbers or text")
    if any(axis < 0 for axis in shape) or math.prod(shape) * dtype.itemsize > size:
        raise UsageError(f"{where} is of {list(shape)} {dtype} by its header, and {size:,} bytes are there")


def memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def hold(limits: Limits) -> None:
    """Hold this process to limits, as far as the system knows how."""
    _set(resource.RLIMIT_DATA, limits.memory)
    _set(resource.RLIMIT_CPU, limits.cpu_s)


def loosen(more: int) -> None:
    """The file is read and found sound: what it says of itself takes `more` bytes. Nothing where nothing is held."""
    now, _ = resource.getrlimit(resource.RLIMIT_DATA)
    if now != resource.RLIM_INFINITY:
        _set(resource.RLIMIT_DATA, now + more)


def lift() -> None:
    """What follows computes on the user's own data, as long and as large as that is."""
    for kind in (resource.RLIMIT_DATA, resource.RLIMIT_CPU):
        _set(kind, resource.getrlimit(kind)[1])


def _set(kind: int, value: int) -> None:
    """The soft limit, which is never above the hard one."""
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY and value != resource.RLIM_INFINITY:
        value = min(value, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(kind, (value, hard))
