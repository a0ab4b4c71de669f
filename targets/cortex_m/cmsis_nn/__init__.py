"""The kernel set `cmsis-nn`: convolutions by CMSIS-NN, all other ops by our own kernels.

Its sources come from the user's checkout, or the folder `cmsis_nn` in the wheel bakenn 1.0.0; none is part of this
package. Scratch is what arm_*_get_buffer_size asks for, by core.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from targets.base import TargetError
from targets.cortex_m import lower
from targets.cortex_m.call import Call, code_range, zero
from targets.cortex_m.graph import Node

ADAPTERS = Path(__file__).parent
FOLDERS = ("ConvolutionFunctions", "NNSupportFunctions")
_MVE_CHANNELS = 124  # CH_IN_BLOCK_MVE


def calls(node: Node, mve: bool) -> list[Call]:
    """As lower.calls, with CMSIS-NN where it has the op; `mve`: the core has the vector extension (Cortex-M55)."""
    if node.op == "CONV_2D":
        return [_conv(node, lower.sizes(node), lower.channel_factors(node))]
    if node.op == "DEPTHWISE_CONV_2D":
        return [_depthwise(node, mve)]
    return lower.calls(node)


def _conv(node: Node, sizes: tuple[int, ...], factors: list[float]) -> Call:
    x = node.inputs[0]
    scratch = 4 * (-(-x.shape[3] * sizes[7] * sizes[8] // 8) * 8)
    return _call("nn_cmsis_conv_2d", node, sizes, factors, scratch)


def _depthwise(node: Node, mve: bool) -> Call:
    sizes = lower.sizes(node)
    taps = sizes[7] * sizes[8]
    scratch = 4 * _MVE_CHANNELS * taps if mve else 2 * sizes[6] * taps
    return _call("nn_cmsis_depthwise_conv_2d", node, sizes, lower.channel_factors(node), scratch)


def _call(kernel: str, node: Node, sizes: tuple[int, ...], factors: list[float], scratch: int) -> Call:
    x, y = node.inputs[0], node.outputs[0]
    constants = lower.weights(node, factors)
    shift = constants["shift"]
    assert shift is not None
    bias = constants["bias"] if constants["bias"] is not None else np.zeros(y.shape[-1], np.int32)
    numbers = (*sizes, -zero(x), zero(y), *code_range(node), scratch)
    tables = {**constants, "bias": bias, "shift": shift.astype(np.int32)}
    return Call(kernel, "nn_cmsis_params", numbers, (x,), y, tables, scratch)


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
