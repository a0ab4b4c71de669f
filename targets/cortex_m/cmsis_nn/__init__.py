"""The kernel set `cmsis-nn`: convolutions by CMSIS-NN, all other ops by our own kernels.

Its sources come from the user's checkout or out of the wheel that requirements.txt pins; none is part of this package.
Scratch is the most that arm_*_get_buffer_size of CMSIS-NN 4 to 7 asks for, by core. A convolution is called band by
band, so that its output may lie over the input that is used up (overlap.py) whatever CMSIS-NN does within one.
"""

from __future__ import annotations

import hashlib
import math
import re
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from targets.base import TargetError
from targets.cortex_m import lower, overlap
from targets.cortex_m.call import Call, code_range, zero
from targets.cortex_m.graph import Node

ADAPTERS = Path(__file__).parent
PINNED = ADAPTERS / "requirements.txt"
_IN_WHEEL = "bakenn/backend/cmsis_nn/vendor/cmsis_nn"
FOLDERS = ("ConvolutionFunctions", "NNSupportFunctions")
_MVE_CHANNELS = 124  # CH_IN_BLOCK_MVE
_BAND_PIXELS = 64


@dataclass(frozen=True)
class Checkout:
    """CMSIS-NN as it goes into a generated folder: path below it -> text. `sha256` is of all of it."""

    files: Mapping[str, str]

    @property
    def sha256(self) -> str:
        """One digest over names and texts."""
        whole = "".join(f"{name}\0{len(text)}\0{text}" for name, text in sorted(self.files.items()))
        return hashlib.sha256(whole.encode()).hexdigest()

    def kernels(self, core: str | None) -> partial[list[Call]]:
        """`program.compile_file` takes it: the calls of a node for a core ("cortex-m55"), None: for any."""
        return partial(calls, mve=None if core is None else core == "cortex-m55")


def read(path: Path) -> Checkout:
    """A checkout's folder, or the pinned wheel. Raises TargetError "missing" for what is neither."""
    if path.is_dir():
        return Checkout(sources(path))
    known = re.findall(r"sha256:([0-9a-f]{64})", PINNED.read_text())
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise TargetError(f"cannot read CMSIS-NN at {path}: {error.strerror}", "missing") from error
    if found not in known:
        raise TargetError(
            f"{path} is no folder with a CMSIS-NN, nor the wheel that {PINNED.name} pins (its sha256 is {found[:12]}): "
            f"pip download --no-deps --require-hashes -r {PINNED}",
            "missing",
        )
    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(path) as wheel:
        wheel.extractall(scratch, [name for name in wheel.namelist() if "/vendor/cmsis_" in name])
        return Checkout(sources(Path(scratch) / _IN_WHEEL))


def calls(node: Node, mve: bool | None) -> list[Call]:
    """As lower.calls, with CMSIS-NN where it has the op.

    `mve`: the core has the vector extension (Cortex-M55); None: it is not known, and the scratch is enough for both.
    """
    if node.op not in _SCRATCH:
        return lower.calls(node)
    kernel, scratch = _SCRATCH[node.op]
    needed = max(
        scratch(lower.sizes(node), with_vectors) for with_vectors in ((True, False) if mve is None else (mve,))
    )
    return [_call(kernel, node, needed)]


def _conv_scratch(sizes: tuple[int, ...], mve: bool) -> int:
    channels, taps = sizes[3], sizes[3] * sizes[7] * sizes[8]
    if sizes[7:15] == (1, 1, *sizes[9:11], 1, 1, 0, 0):
        return 0 if mve else 4 * channels
    lanes = 16 if mve else 4
    return 4 * lanes * -(-taps // lanes)


def _depthwise_scratch(sizes: tuple[int, ...], mve: bool) -> int:
    """Only one batch, undilated, with a filter a channel goes through a buffer."""
    if sizes[0] != 1 or sizes[3] != sizes[6] or sizes[11:13] != (1, 1):
        return 0
    taps = sizes[7] * sizes[8]
    return 4 * _MVE_CHANNELS * taps if mve else 2 * sizes[6] * taps


_SCRATCH = {
    "CONV_2D": ("nn_cmsis_conv_2d", _conv_scratch),
    "DEPTHWISE_CONV_2D": ("nn_cmsis_depthwise_conv_2d", _depthwise_scratch),
}


def _band(sizes: tuple[int, ...]) -> int:
    """Rows of the output a call: enough pixels to be worth it, and whole fours, which is what the kernels take."""
    batches, rows, columns = sizes[0], sizes[4], sizes[5]
    even = 4 // math.gcd(columns, 4)
    band = -(-_BAND_PIXELS // (columns * even)) * even
    return rows if batches > 1 else min(rows, band)


def _call(kernel: str, node: Node, scratch: int) -> Call:
    x, y, sizes = node.inputs[0], node.outputs[0], lower.sizes(node)
    scratch = max(scratch, 4)  # the argument is there where nothing is asked for
    constants = lower.weights(node, lower.channel_factors(node))
    shift = constants["shift"]
    assert shift is not None
    bias = constants["bias"] if constants["bias"] is not None else np.zeros(y.shape[-1], np.int32)
    band = _band(sizes)
    numbers = (*sizes, -zero(x), zero(y), *code_range(node), band, scratch)
    tables = {**constants, "bias": bias, "shift": shift.astype(np.int32)}
    lag = None
    if sizes[0] == 1:
        lag = overlap.lag(x.shape, y.shape, sizes[9:11], sizes[13:15], band * sizes[5], copied=False)
    return Call(kernel, "nn_cmsis_params", numbers, (x,), y, tables, scratch, lag)


def sources(checkout: Path) -> dict[str, str]:
    """Path below the generated folder -> text: what the kernels need of a checkout, with its licence.

    Raises TargetError "missing" where the folder is none.
    """
    headers = [checkout / "Include", checkout.parent / "cmsis_core" / "Include"]
    files = [p for folder in FOLDERS for p in sorted((checkout / "Source" / folder).glob("*_s8*.c"))]
    files += [p for folder in FOLDERS for p in sorted((checkout / "Source" / folder).glob("*.c")) if p not in files]
    if not files or not (checkout / "Include" / "arm_nnfunctions.h").is_file():
        raise TargetError(f"{checkout} is no CMSIS-NN: it lacks Include/arm_nnfunctions.h and Source", "missing")
    found = {p.name: p.read_text() for p in files}
    for folder in headers:
        found |= {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*.h"))}
    found |= {f"CMSIS_NN_{p.name}": p.read_text() for p in checkout.iterdir() if re.match("LICENSE", p.name)}
    return found
