"""What may be asked of a node: the predicates of support.py's table, and what they read out of its constants."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from targets.cortex_m.graph import Node, Value
from targets.cortex_m.shapes import SAME, runs, steps_of, window

ACTIVATIONS = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6")  # by the schema's number; TANH and SIGN_BIT follow
_WEIGHTED = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 0, "FULLY_CONNECTED": 0, "TRANSPOSE_CONV": 2}  # op -> its activation


@dataclass(frozen=True)
class Constraint:
    """What an op must be. `text` reads after "the op needs"."""

    text: str
    holds: Callable[[Node], bool]


def integers(value: Value) -> list[int]:
    """A constant of integers, flat."""
    return [] if value.data is None else [int(v) for v in value.data.ravel()]


def zero(value: Value) -> int:
    """The zero point, 0 where there is none."""
    return 0 if value.zero_point is None else int(value.zero_point[0])


def scale(value: Value) -> float:
    """The scale, 0 where there is none."""
    return 0.0 if value.scale is None else float(value.scale[0])


def data(node: Node) -> tuple[Value, ...]:
    """The inputs that carry numbers to be computed with: int8, constant or not, and no weights."""
    if node.op in _WEIGHTED:
        return node.inputs[_WEIGHTED[node.op] :][:1]
    return tuple(v for v in node.inputs if v.type == "INT8")


def scaled(value: Value) -> bool:
    """One positive scale, and one zero point that is a code."""
    if value.scale is None or value.zero_point is None or value.scale.size != 1 or value.zero_point.size != 1:
        return False
    return bool(np.isfinite(value.scale[0]) and value.scale[0] > 0 and -128 <= value.zero_point[0] <= 127)


def tied(node: Node) -> bool:
    """One scale and zero point for all."""
    return len({(scale(v), zero(v)) for v in (*data(node), *node.outputs)}) == 1


def weights(node: Node, channels: int) -> bool:
    """Constant int8 weights at input 1, one scale or one a channel, zero points 0."""
    if len(node.inputs) <= max(1, _WEIGHTED[node.op]):
        return False
    found = node.inputs[1]
    if found.data is None or found.type != "INT8" or found.scale is None or found.zero_point is None:
        return False
    return found.scale.size in (1, channels) and bool((found.zero_point == 0).all() and (found.scale >= 0).all())


def bias_of(node: Node) -> Value | None:
    """The bias of an op with weights."""
    at = max(1, _WEIGHTED[node.op]) + 1
    return node.inputs[at] if len(node.inputs) > at else None


def bias(node: Node) -> bool:
    """None, or one constant int32 a channel."""
    found = bias_of(node)
    return found is None or (
        found.data is not None and found.type == "INT32" and found.size == node.outputs[0].shape[-1]
    )


def sums_fit(node: Node) -> bool:
    """No accumulator can leave 32 bits; weights [out, ...], those of a depthwise convolution [1, h, w, out]."""
    found, start = node.inputs[1].data, bias_of(node)
    assert found is not None
    rows = np.moveaxis(found, -1, 0) if node.op == "DEPTHWISE_CONV_2D" else found
    taps = np.abs(rows.astype(np.int64)).reshape(rows.shape[0], -1).sum(axis=1)
    at = 0 if start is None or start.data is None else np.abs(start.data.astype(np.int64))
    point = zero(data(node)[0])
    return int((taps * max(abs(-128 - point), abs(127 - point)) + at).max()) < 2**31


def window_fits(node: Node, kernel: tuple[int, int]) -> bool:
    """4-D, and as large as window, stride, dilation and padding say."""
    before, after = node.inputs[0].shape, node.outputs[0].shape
    strides = (node.option("strideH", 1), node.option("strideW", 1))
    dilations = (node.option("dilationHFactor", 1), node.option("dilationWFactor", 1))
    if len(before) != 4 or len(after) != 4 or min(*strides, *dilations) < 1:
        return False
    sizes = [window(before[1 + i], kernel[i], strides[i], dilations[i], node.option("padding"))[0] for i in (0, 1)]
    return before[0] == after[0] and list(after[1:3]) == sizes and min(sizes) > 0


def turned_window_fits(node: Node) -> bool:
    """A convolution of the output would have the size of the input, and every input its place."""
    x, y, kernel = data(node)[0].shape, node.outputs[0].shape, node.inputs[1].shape
    strides = (node.option("strideH"), node.option("strideW"))
    if not (len(x) == len(y) == len(kernel) == 4) or min(strides) < 1 or (x[0], x[3], y[3]) != (y[0], *kernel[3::-3]):
        return False
    if node.option("padding") == SAME:
        return all(-(-y[1 + i] // strides[i]) == x[1 + i] for i in (0, 1))
    return all((x[1 + i] - 1) * strides[i] + kernel[1 + i] <= y[1 + i] for i in (0, 1))


def paddings(node: Node) -> bool:
    """Constant sizes that give the output's shape."""
    pads = node.inputs[1]
    if pads.data is None or pads.type != "INT32" or pads.size != 2 * len(node.inputs[0].shape):
        return False
    sizes = integers(pads)
    grown = [n + a + b for n, a, b in zip(node.inputs[0].shape, sizes[::2], sizes[1::2], strict=True)]
    return min(sizes) >= 0 and tuple(grown) == node.outputs[0].shape


def permutation(node: Node) -> bool:
    """Constant, and gives the output's shape."""
    shape, order = node.inputs[0].shape, integers(node.inputs[1])
    return sorted(order) == list(range(len(shape))) and tuple(shape[i] for i in order) == node.outputs[0].shape


def moves_apart(node: Node) -> bool:
    """A permutation that comes to at most four axes where neighbours stay together."""
    steps, order = steps_of(node.inputs[0].shape), integers(node.inputs[1])
    return len(runs(node.outputs[0].shape, [steps[i] for i in order])[0]) == 4


def reduced_axes(node: Node) -> list[int]:
    """The axes of a reduction, from 0 up."""
    rank = len(node.inputs[0].shape)
    return sorted({axis + rank if axis < 0 else axis for axis in integers(node.inputs[1])})


def axes(node: Node) -> bool:
    """Constant axes that give the output's size; sums fit."""
    rank, found = len(node.inputs[0].shape), reduced_axes(node)
    kept = [n for i, n in enumerate(node.inputs[0].shape) if i not in found]
    return (
        all(0 <= a < rank for a in found) and int(np.prod(kept)) == node.outputs[0].size and node.inputs[0].size < 2**23
    )


def broadcast(node: Node) -> bool:
    """Two int8 operands whose shapes give the output's."""
    if len(node.inputs) != 2 or any(v.type != "INT8" for v in node.inputs):
        return False
    try:
        return np.broadcast_shapes(*(v.shape for v in node.inputs)) == node.outputs[0].shape
    except ValueError:
        return False


def ranges(node: Node) -> list[range]:
    """What a SLICE or STRIDED_SLICE takes along each axis."""
    shape, (begin, end) = node.inputs[0].shape, map(integers, node.inputs[1:3])
    if node.op == "SLICE":
        return [range(b, n if s < 0 else b + s) for b, s, n in zip(begin, end, shape, strict=True)]
    steps, found = integers(node.inputs[3]), []
    for i, size in enumerate(shape):
        open_begin, open_end, shrunk = (node.option(f"{name}Mask") >> i & 1 for name in ("begin", "end", "shrinkAxis"))
        if shrunk:
            at = begin[i] + size if begin[i] < 0 else begin[i]
            found.append(range(at, at + 1))
        else:
            taken = slice(None if open_begin else begin[i], None if open_end else end[i], steps[i])
            found.append(range(*taken.indices(size)))
    return found


def slices(node: Node) -> bool:
    """Constant ranges inside the input that give the output's size."""
    wanted = 3 if node.op == "SLICE" else 4
    rank = len(node.inputs[0].shape)
    if len(node.inputs) != wanted or any(v.type != "INT32" or v.size != rank for v in node.inputs[1:]):
        return False
    if any(v.data is None for v in node.inputs[1:]) or (wanted == 4 and 0 in integers(node.inputs[3])):
        return False
    if node.option("ellipsisMask") or node.option("newAxisMask") or node.option("offset"):
        return False
    found = ranges(node)
    inside = all(r and min(r) >= 0 and max(r) < n for r, n in zip(found, node.inputs[0].shape, strict=True))
    return inside and math.prod(map(len, found)) == node.outputs[0].size


def few_cuts(node: Node) -> bool:
    """At most four axes are left where those that are taken whole join their neighbours."""
    if not slices(node):
        return True  # said by its own constraint
    found, steps = ranges(node), steps_of(node.inputs[0].shape)
    taken = [r.step * step for r, step in zip(found, steps, strict=True)]
    return len(runs([len(r) for r in found], taken)[0]) == 4


def split_axis(node: Node) -> int | None:
    """Along which axis outputs lie in the input, None where no constant says it."""
    x = next((v for v in node.inputs if v.type == "INT8"), None)
    if x is None or not x.shape:
        return None
    if node.op == "UNPACK":
        axis = [int(node.option("axis"))]
    else:
        at = 0 if node.op == "SPLIT" else 2
        axis = integers(node.inputs[at]) if len(node.inputs) > at else []
    return axis[0] % len(x.shape) if len(axis) == 1 and -len(x.shape) <= axis[0] < len(x.shape) else None


def pieces(node: Node) -> bool:
    """Outputs that together are the input, along a constant axis."""
    x, axis = next((v for v in node.inputs if v.type == "INT8"), None), split_axis(node)
    if x is None or axis is None or sum(y.size for y in node.outputs) != x.size:
        return False
    rest = x.shape[:axis] + x.shape[axis + 1 :]
    return all((y.shape if node.op == "UNPACK" else y.shape[:axis] + y.shape[axis + 1 :]) == rest for y in node.outputs)


def picked(node: Node) -> bool:
    """Constant int32 indices inside the input, that give the output's size."""
    shape, index = node.inputs[0].shape, node.inputs[1] if len(node.inputs) > 1 else None
    axis = int(node.option("axis"))
    if index is None or index.data is None or index.type != "INT32" or not -len(shape) <= axis < len(shape):
        return False
    size = shape[axis]
    if node.option("batchDims") or not all(0 <= i < size for i in integers(index)):
        return False
    return node.inputs[0].size // size * index.size == node.outputs[0].size


def joined(node: Node) -> bool:
    """Inputs of one shape, as many as the new axis is long."""
    y, axis = node.outputs[0].shape, int(node.option("axis"))
    if not -len(y) <= axis < len(y):
        return False
    axis %= len(y)
    return y[axis] == len(node.inputs) and all(v.shape == y[:axis] + y[axis + 1 :] for v in node.inputs)


def resized(node: Node) -> bool:
    """4-D, to a constant size."""
    x, y = node.inputs[0].shape, node.outputs[0].shape
    wanted = integers(node.inputs[1]) if len(node.inputs) > 1 else []
    corners = node.option("alignCorners") and node.option("halfPixelCenters")
    return len(x) == len(y) == 4 and (x[0], x[3], *wanted) == (y[0], y[3], *y[1:3]) and not corners


def matrices(node: Node) -> bool:
    """Two int8 operands whose matrices and batches give the output's shape; sums fit."""
    if len(node.inputs) != 2 or any(v.type != "INT8" or not 2 <= len(v.shape) <= 5 for v in node.inputs):
        return False
    turned = node.option("adjX"), node.option("adjY")
    (rows, depth), (deep, columns) = (
        v.shape[-2:][::-1] if t else v.shape[-2:] for v, t in zip(node.inputs, turned, strict=True)
    )
    try:
        batches = np.broadcast_shapes(*(v.shape[:-2] for v in node.inputs))
    except ValueError:
        return False
    return depth == deep and (*batches, rows, columns) == node.outputs[0].shape and depth * 255 * 255 < 2**31
