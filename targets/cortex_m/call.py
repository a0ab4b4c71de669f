"""What one kernel call is, and the arithmetic of shapes that every lowering needs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from targets.cortex_m import fixed_point
from targets.cortex_m.constraints import ACTIVATIONS
from targets.cortex_m.graph import Node, Value

Number = int | tuple["Number", ...]
Constant = npt.NDArray[np.int8] | npt.NDArray[np.int32] | npt.NDArray[np.uint32]


@dataclass(frozen=True)
class Call:
    """One kernel call. `numbers` and `constants` (None: NULL) fill the parameter struct in its order (c/nn.h).

    `scratch_bytes`: what the kernel needs beside, its last argument; 0 for a kernel that has no such argument.
    `lag`: where the output may overwrite the only input, the least number of bytes by which it begins before it.
    """

    kernel: str
    params: str
    numbers: tuple[Number, ...]
    inputs: tuple[Value, ...]
    output: Value
    constants: dict[str, Constant | None] = field(default_factory=dict)
    scratch_bytes: int = 0
    lag: int | None = None


def scale(value: Value) -> np.float32:
    """The scale of a tensor that has one."""
    assert value.scale is not None
    return np.float32(value.scale[0])


def zero(value: Value) -> int:
    """The zero point."""
    assert value.zero_point is not None
    return int(value.zero_point[0])


def code_range(node: Node) -> tuple[int, int]:
    """The codes between which the fused activation keeps the output."""
    activation = ACTIVATIONS[node.option("fusedActivationFunction")]
    return fixed_point.activation_range(activation, scale(node.outputs[0]), zero(node.outputs[0]))
