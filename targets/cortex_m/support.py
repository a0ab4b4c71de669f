"""Which ops can be generated, and what each asks. One table: the check, the message and the document."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from targets.base import TargetError
from targets.cortex_m.graph import Graph, Node, Value

ACTIVATIONS = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6")  # by the schema's number; TANH and SIGN_BIT follow
SAME, VALID = 0, 1


@dataclass(frozen=True)
class Constraint:
    """What an op must be. `text` reads after "the op needs"."""

    text: str
    holds: Callable[[Node], bool]


def integers(value: Value) -> list[int]:
    """A constant of integers, flat."""
    return [] if value.data is None else [int(v) for v in value.data.ravel()]


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """(output size, padding before) of the schema's SAME."""
    out = -(-size // stride)
    return out, max((out - 1) * stride + (kernel - 1) * dilation + 1 - size, 0) // 2


def window(size: int, kernel: int, stride: int, dilation: int, padding: int) -> tuple[int, int]:
    """(output size, padding before) of a sliding window."""
    if padding == SAME:
        return same_padding(size, kernel, stride, dilation)
    return (size - (kernel - 1) * dilation - 1) // stride + 1, 0


def largest_sum(weights: Value, bias: Value | None, zero_point: int) -> int:
    """The largest magnitude that an accumulator can reach; weights [out, ...]."""
    assert weights.data is not None
    taps = np.abs(weights.data.astype(np.int64)).reshape(weights.shape[0], -1).sum(axis=1)
    start = 0 if bias is None or bias.data is None else np.abs(bias.data.astype(np.int64))
    return int((taps * max(abs(-128 - zero_point), abs(127 - zero_point)) + start).max())


def _scaled(value: Value) -> bool:
    if value.scale is None or value.zero_point is None or value.scale.size != 1 or value.zero_point.size != 1:
        return False
    return bool(np.isfinite(value.scale[0]) and value.scale[0] > 0 and -128 <= value.zero_point[0] <= 127)


def _weights(node: Node, channels: int) -> bool:
    weights = node.inputs[1]
    if weights.data is None or weights.type != "INT8" or weights.scale is None or weights.zero_point is None:
        return False
    return weights.scale.size in (1, channels) and bool((weights.zero_point == 0).all() and (weights.scale >= 0).all())


def _bias(node: Node) -> bool:
    if len(node.inputs) < 3:
        return True
    bias = node.inputs[2]
    return bias.data is not None and bias.type == "INT32" and bias.size == node.outputs[0].shape[-1]


def _fits(node: Node) -> bool:
    weights = node.inputs[1]
    if node.op == "DEPTHWISE_CONV_2D":  # [1, h, w, out]
        assert weights.data is not None
        moved = np.ascontiguousarray(np.moveaxis(weights.data, -1, 0))
        weights = Value(0, "", "INT8", moved.shape, moved, None, None)
    return largest_sum(weights, node.inputs[2] if len(node.inputs) > 2 else None, _zero(node.inputs[0])) < 2**31


def _window_fits(node: Node, kernel: tuple[int, int]) -> bool:
    before, after = node.inputs[0].shape, node.outputs[0].shape
    strides = (node.option("strideH", 1), node.option("strideW", 1))
    dilations = (node.option("dilationHFactor", 1), node.option("dilationWFactor", 1))
    if len(before) != 4 or len(after) != 4 or min(*strides, *dilations) < 1:
        return False
    sizes = [window(before[1 + i], kernel[i], strides[i], dilations[i], node.option("padding"))[0] for i in (0, 1)]
    return before[0] == after[0] and list(after[1:3]) == sizes and min(sizes) > 0


def _zero(value: Value) -> int:
    return 0 if value.zero_point is None else int(value.zero_point[0])


def _tied(node: Node) -> bool:
    scales = {(float(v.scale[0]), _zero(v)) for v in (*_data(node), node.outputs[0]) if v.scale is not None}
    return len(scales) == 1


def _data(node: Node) -> tuple[Value, ...]:
    """The inputs that carry numbers to be computed with: int8, constant or not, and no weights."""
    if node.op in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
        return node.inputs[:1]
    return tuple(v for v in node.inputs if v.type == "INT8")


def _paddings(node: Node) -> bool:
    pads = node.inputs[1]
    if pads.data is None or pads.type != "INT32" or pads.size != 2 * len(node.inputs[0].shape):
        return False
    sizes = integers(pads)
    grown = [n + a + b for n, a, b in zip(node.inputs[0].shape, sizes[::2], sizes[1::2], strict=True)]
    return min(sizes) >= 0 and tuple(grown) == node.outputs[0].shape


def _permutation(node: Node) -> bool:
    shape, order = node.inputs[0].shape, integers(node.inputs[1])
    return sorted(order) == list(range(len(shape))) and tuple(shape[i] for i in order) == node.outputs[0].shape


def reduced_axes(node: Node) -> list[int]:
    """The axes of a reduction, from 0 up."""
    rank = len(node.inputs[0].shape)
    return sorted({axis + rank if axis < 0 else axis for axis in integers(node.inputs[1])})


def _axes(node: Node) -> bool:
    rank, axes = len(node.inputs[0].shape), reduced_axes(node)
    kept = [n for i, n in enumerate(node.inputs[0].shape) if i not in axes]
    return (
        all(0 <= a < rank for a in axes) and int(np.prod(kept)) == node.outputs[0].size and node.inputs[0].size < 2**23
    )


ACTIVATION = Constraint(
    "a fused activation of NONE, RELU, RELU6 or RELU_N1_TO_1",
    lambda n: 0 <= n.option("fusedActivationFunction") < len(ACTIVATIONS),
)
ONE_INPUT = Constraint("at least one input and one output", lambda n: bool(n.inputs) and len(n.outputs) == 1)
INT8 = Constraint(
    "int8 numbers in and out (quantize the whole file to int8)",
    lambda n: bool(_data(n)) and all(v.type == "INT8" for v in (n.inputs[0], n.outputs[0])),
)
SCALED = Constraint(
    "one positive scale and one zero point for each tensor of activations",
    lambda n: all(_scaled(v) for v in (*_data(n), n.outputs[0])),
)
TIED = Constraint("one scale and zero point for input and output", _tied)
RANK = Constraint("at most four axes", lambda n: len(n.inputs[0].shape) <= 4 and len(n.outputs[0].shape) <= 4)
BIAS = Constraint("a constant int32 bias, one number a channel", _bias)
FITS = Constraint("weights whose sums fit in 32 bits", _fits)
ALIKE = Constraint(
    "two int8 operands of the output's shape (no broadcasting)",
    lambda n: len(n.inputs) == 2 and all(v.shape == n.outputs[0].shape and v.type == "INT8" for v in n.inputs),
)
COMPUTED = Constraint("an input that an op or the caller writes", lambda n: n.inputs[0].data is None)
_COMMON = (ONE_INPUT, INT8, SCALED)
_POOL = (
    *_COMMON,
    TIED,
    ACTIVATION,
    Constraint(
        "a 4-D input and an output of the size that window, stride and padding give",
        lambda n: _window_fits(n, (n.option("filterHeight"), n.option("filterWidth"))),
    ),
)

OPS: dict[str, tuple[Constraint, ...]] = {
    "CONV_2D": (
        *_COMMON,
        ACTIVATION,
        Constraint(
            "constant int8 weights with zero point 0, one scale or one a channel",
            lambda n: len(n.inputs) >= 2 and _weights(n, n.outputs[0].shape[-1]),
        ),
        Constraint("no groups", lambda n: n.inputs[1].shape[-1] == n.inputs[0].shape[-1]),
        Constraint(
            "a 4-D input and an output of the size that window, stride, dilation and padding give",
            lambda n: (
                len(n.inputs[1].shape) == 4
                and n.inputs[1].shape[0] == n.outputs[0].shape[-1]
                and _window_fits(n, (n.inputs[1].shape[1], n.inputs[1].shape[2]))
            ),
        ),
        BIAS,
        FITS,
    ),
    "DEPTHWISE_CONV_2D": (
        *_COMMON,
        ACTIVATION,
        Constraint(
            "constant int8 weights with zero point 0, one scale or one a channel",
            lambda n: len(n.inputs) >= 2 and _weights(n, n.outputs[0].shape[-1]),
        ),
        Constraint(
            "a 4-D input and an output of the size that window, stride, dilation and padding give",
            lambda n: (
                len(n.inputs[1].shape) == 4
                and n.inputs[1].shape[::3] == (1, n.outputs[0].shape[-1])
                and n.outputs[0].shape[-1] % n.inputs[0].shape[-1] == 0
                and _window_fits(n, (n.inputs[1].shape[1], n.inputs[1].shape[2]))
            ),
        ),
        BIAS,
        FITS,
    ),
    "FULLY_CONNECTED": (
        *_COMMON,
        ACTIVATION,
        Constraint(
            "constant int8 weights with zero point 0, one scale or one a channel",
            lambda n: len(n.inputs) >= 2 and _weights(n, n.outputs[0].shape[-1]),
        ),
        Constraint(
            "weights [outputs, inputs] in the default format",
            lambda n: (
                n.option("weightsFormat") == 0
                and len(n.inputs[1].shape) == 2
                and n.inputs[1].shape[0] == n.outputs[0].shape[-1]
                and n.inputs[0].size * n.inputs[1].shape[0] == n.outputs[0].size * n.inputs[1].shape[1]
            ),
        ),
        BIAS,
        FITS,
    ),
    "ADD": (*_COMMON, ACTIVATION, ALIKE),
    "MUL": (*_COMMON, ACTIVATION, ALIKE),
    "AVERAGE_POOL_2D": _POOL,
    "MAX_POOL_2D": _POOL,
    "MEAN": (*_COMMON, RANK, Constraint("constant axes, and fewer than 2^23 numbers", _axes)),
    "PAD": (*_COMMON, TIED, RANK, Constraint("constant int32 paddings that give the output's shape", _paddings)),
    "RESHAPE": (
        *_COMMON,
        TIED,
        COMPUTED,
        Constraint("as many numbers out as in", lambda n: n.inputs[0].size == n.outputs[0].size),
    ),
    "TRANSPOSE": (
        *_COMMON,
        TIED,
        COMPUTED,
        RANK,
        Constraint("a constant permutation that gives the output's shape", _permutation),
    ),
    "CONCATENATION": (
        *_COMMON,
        TIED,
        Constraint("no fused activation", lambda n: n.option("fusedActivationFunction") == 0),
        Constraint(
            "at most 10 inputs, all int8, as in TFLite Micro",
            lambda n: len(n.inputs) <= 10 and all(v.type == "INT8" for v in n.inputs),
        ),
    ),
    "SOFTMAX": (
        *_COMMON,
        Constraint("an output with scale 1/256 and zero point -128", lambda n: _output(n) == (1 / 256, -128)),
        Constraint("a last axis of at most 256", lambda n: n.outputs[0].shape[-1] <= 256),
        Constraint("beta * scale of at least 2^-25", lambda n: n.option("beta", 1.0) * _scale(n.inputs[0]) >= 2**-25),
    ),
    "RELU": _COMMON,
    "RELU6": (*_COMMON, TIED),
    "QUANTIZE": _COMMON,
}

REFUSED = {
    "GELU": "TFLite Micro has no GELU: put x * sigmoid(1.702 x) into the model before training ends",
    "RELU_0_TO_1": "TFLite Micro has no clamp to [0, 1]: use ReLU6 in the model before training ends",
    "DEQUANTIZE": "the file is partly float: make every op int8 (`deploy --target tflite` names the ones that are not)",
    "LEAKY_RELU": "ai-edge-quantizer keeps it in float: use ReLU in the model before training ends",
}


def _scale(value: Value) -> float:
    return 0.0 if value.scale is None else float(value.scale[0])


def _output(node: Node) -> tuple[float, int]:
    return _scale(node.outputs[0]), _zero(node.outputs[0])


def problem(node: Node) -> str | None:
    """Why a node cannot be generated, None where it can."""
    if node.op not in OPS:
        return REFUSED.get(node.op, f"it is not supported; supported are {', '.join(sorted(OPS))}")
    return next((f"it needs {c.text}" for c in OPS[node.op] if not c.holds(node)), None)


def check(graph: Graph, where: str) -> None:
    """Raise TargetError "unsupported" that names the first op that cannot be generated, and how many more there are."""
    found = [(node, reason) for node in graph.nodes if (reason := problem(node)) is not None]
    if found:
        node, reason = found[0]
        more = f" ({len(found) - 1} more ops cannot either)" if len(found) > 1 else ""
        raise TargetError(f"{where}: {node.label} cannot run on cortex-m: {reason}{more}", "unsupported")
    for value in (*graph.inputs, *graph.outputs):
        if value.type != "INT8" or not _scaled(value) or value.data is not None:
            raise TargetError(
                f"{where}: '{value.name}' is {value.type.lower()}: inputs and outputs must be int8 tensors with one "
                f"scale; quantize the whole file to int8",
                "unsupported",
            )


def document() -> str:
    """The table as Markdown."""
    rows = [f"| {op} | {'; '.join(c.text for c in constraints[2:])} |" for op, constraints in OPS.items()]
    rows += [f"| {op} | no: {reason} |" for op, reason in REFUSED.items()]
    return "\n".join(["| Op | Supported with |", "|---|---|", *rows])
