"""Makers of the ops that move bytes, look codes up or multiply activations, for random_graphs.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tests.mcu.random_graphs import Random

LARGEST = 3000  # numbers of a tensor: an interpreter computes them too


def constant(r: Random, numbers: object) -> int:
    listed = np.array(numbers)
    return r.w.tensor(listed.shape, None, 0, listed, "int32")


def moved(r: Random, x: int, shape: object) -> int:
    """A tensor of the same scale and zero point."""
    return r.w.tensor(tuple(int(n) for n in shape), *r.w.codes[x])  # type: ignore[attr-defined]


def grouped_convolution(r: Random) -> int:
    batch, h, w, _ = shape = (1, r.n(2, 5), r.n(2, 5), 6)
    x = r.spread(shape)
    groups = int(r.rng.choice([2, 3]))
    out = groups * r.n(1, 2)
    filters, bias = r.weights((out, 3, 2, 6 // groups), out, r.w.codes[x][0], 0)
    y = r.w.tensor((batch, h, w, out), *r.summed(x, filters, 6 * 6 // groups))
    options = {"strideH": 1, "strideW": 1, "padding": 0, "fusedActivationFunction": r.activation()}
    return r.w.op("CONV_2D", [x, filters, bias], y, "Conv2DOptions", **options)


def transpose_conv(r: Random) -> int:
    x = r.pick(4)
    batch, h, w, c = r.w.shapes[x]
    kernel, stride, padding = (r.n(1, 4), r.n(1, 4)), (r.n(1, 3), r.n(1, 2)), r.n(0, 1)
    out = r.n(1, 4)
    if padding == 0:  # SAME
        sizes = [n * s - r.n(0, s - 1) for n, s in zip((h, w), stride, strict=True)]
    else:
        sizes = [(n - 1) * s + k + r.n(0, 1) for n, s, k in zip((h, w), stride, kernel, strict=True)]
    filters, bias = r.weights((out, *kernel, c), out, r.w.codes[x][0], 0)
    y = r.w.tensor((batch, *sizes, out), *r.summed(x, filters, c * kernel[0] * kernel[1]))
    inputs = [constant(r, r.w.shapes[y]), filters, x, *([bias] if bias >= 0 else [])]
    options = {"strideH": stride[0], "strideW": stride[1], "padding": padding}
    options["fusedActivationFunction"] = r.activation()
    return r.w.op("TRANSPOSE_CONV", inputs, y, "TransposeConvOptions", **options)


def batch_matmul(r: Random) -> int:
    batches = [(), (2,), (2, 3)][r.n(0, 2)]
    other = tuple(1 if r.rng.random() < 0.3 else n for n in batches)
    rows, depth, columns = r.n(1, 5), r.n(1, 6), r.n(1, 5)
    turned = bool(r.n(0, 1)), bool(r.n(0, 1))
    a = r.spread(batches + ((depth, rows) if turned[0] else (rows, depth)))
    b = r.spread(other + ((columns, depth) if turned[1] else (depth, columns)))
    factor = r.w.codes[a][0] * r.w.codes[b][0] * 60 * depth**0.5
    y = r.w.tensor((*batches, rows, columns), *r.code(factor))
    return r.w.op("BATCH_MATMUL", [a, b], y, "BatchMatMulOptions", adjX=turned[0], adjY=turned[1])


def extreme(name: str) -> Callable[[Random], int]:
    def make(r: Random) -> int:
        a = r.pick()
        b = r.w.tensor(r.w.shapes[a][-1:], *r.w.codes[a], r.rng.integers(-128, 128, r.w.shapes[a][-1:]))
        alike = [t for t in r.pool if r.w.codes[t] == r.w.codes[a] and r.w.shapes[t] == r.w.shapes[a]]
        if r.rng.random() < 0.5:
            b = int(r.rng.choice(alike))
        return r.w.op(name, [a, b], moved(r, a, r.w.shapes[a]), "MaximumMinimumOptions")

    return make


def cut(r: Random) -> int:
    x = r.pick()
    shape = r.w.shapes[x]
    begin = [0, *(r.n(0, n - 1) for n in shape[1:])]
    size = [shape[0], *(r.n(1, n - b) for n, b in zip(shape[1:], begin[1:], strict=True))]
    listed = [-1 if b + s == n and r.rng.random() < 0.5 else s for b, s, n in zip(begin, size, shape, strict=True)]
    return r.w.op("SLICE", [x, constant(r, begin), constant(r, listed)], moved(r, x, size), "SliceOptions")


def strided_cut(r: Random) -> int:
    x = r.pick()
    shape = r.w.shapes[x]
    steps = [1, *(int(r.rng.choice([1, 2, -1, -2])) for _ in shape[1:])]
    taken = [range(n) if s > 0 else range(n - 1, -1, -1) for n, s in zip(shape, steps, strict=True)]
    begin = [0, *(int(r.rng.choice(t)) for t in taken[1:])]
    end = [shape[0], *(n if s > 0 else -n - 1 for n, s in zip(shape[1:], steps[1:], strict=True))]
    open_begin, shrunk = r.n(0, 2 ** len(shape) - 1), 0
    if len(shape) > 2 and r.rng.random() < 0.3:
        shrunk, steps[-1] = 1 << len(shape) - 1, 1
        open_begin &= ~shrunk
    sizes = []
    for i, (n, b, e, s) in enumerate(zip(shape, begin, end, steps, strict=True)):
        found = range(*slice(None if open_begin >> i & 1 else b, e, s).indices(n))
        sizes += [] if shrunk >> i & 1 else [len(found)]
    inputs = [x, *(constant(r, listed) for listed in (begin, end, steps))]
    options = {"beginMask": open_begin, "endMask": r.n(0, 2 ** len(shape) - 1), "shrinkAxisMask": shrunk}
    return r.w.op("STRIDED_SLICE", inputs, moved(r, x, sizes), "StridedSliceOptions", **options)


def split(r: Random) -> list[int]:
    x = r.pick()
    shape, axis = r.w.shapes[x], r.n(1, len(r.w.shapes[x]) - 1)
    parts = next(n for n in (2, 3, 1) if shape[axis] % n == 0)
    piece = [*shape[:axis], shape[axis] // parts, *shape[axis + 1 :]]
    outputs = [moved(r, x, piece) for _ in range(parts)]
    listed = r.w.tensor((), None, 0, np.array(axis if r.n(0, 1) else axis - len(shape)), "int32")
    r.w.op("SPLIT", [listed, x], outputs, "SplitOptions", numSplits=parts)
    return outputs


def uneven_split(r: Random) -> list[int]:
    x = r.spread((2, 3, 5))
    outputs = [moved(r, x, (2, 3, n)) for n in (1, 4)]
    listed = r.w.tensor((), None, 0, np.array(2), "int32")
    r.w.op("SPLIT_V", [x, constant(r, [1, 4]), listed], outputs, "SplitVOptions", numSplits=2)
    return outputs


def unpack(r: Random) -> list[int]:
    x = r.spread((2, 3, r.n(2, 5)))
    axis = r.n(1, 2)
    shape = r.w.shapes[x]
    outputs = [moved(r, x, shape[:axis] + shape[axis + 1 :]) for _ in range(shape[axis])]
    r.w.op("UNPACK", [x], outputs, "UnpackOptions", num=shape[axis], axis=axis if r.n(0, 1) else axis - 3)
    return outputs


def pack(r: Random) -> int:
    x = r.spread((2, r.n(1, 4), 3))
    axis, shape = r.n(1, 3), list(r.w.shapes[x])
    y = moved(r, x, [*shape[:axis], 3, *shape[axis:]])
    return r.w.op("PACK", [x, x, x], y, "PackOptions", valuesCount=3, axis=axis if r.n(0, 1) else axis - 4)


def gather(r: Random) -> int:
    x = r.pick()
    shape, axis = r.w.shapes[x], r.n(1, len(r.w.shapes[x]) - 1)
    index = r.rng.integers(0, shape[axis], r.n(1, 4))
    y = moved(r, x, [*shape[:axis], len(index), *shape[axis + 1 :]])
    listed = constant(r, index)
    return r.w.op("GATHER", [x, listed], y, "GatherOptions", axis=axis if r.n(0, 1) else axis - len(shape))


def resize(r: Random) -> int:
    x = r.pick(4)
    batch, _, _, c = r.w.shapes[x]
    sizes = [r.n(1, 12), r.n(1, 12)]
    how = [{}, {"alignCorners": True}, {"halfPixelCenters": True}][r.n(0, 2)]
    y = moved(r, x, (batch, *sizes, c))
    name = "RESIZE_NEAREST_NEIGHBOR"
    return r.w.op(name, [x, constant(r, sizes)], y, "ResizeNearestNeighborOptions", **how)


def renamed(name: str) -> Callable[[Random], int]:
    def make(r: Random) -> int:
        if name == "SQUEEZE":
            x = r.spread((2, 1, 3))
            return r.w.op(name, [x], moved(r, x, (2, 3)), "SqueezeOptions", squeezeDims=[1])
        x = r.spread((2, 3, 4))
        return r.w.op(name, [x, constant(r, [1])], moved(r, x, (2, 1, 3, 4)), "ExpandDimsOptions")

    return make


def fixed(name: str, scale: float, zero: int) -> Callable[[Random], int]:
    """Ops whose output scale is prescribed, over the whole width of their curve and beyond."""

    def make(r: Random) -> int:
        x = r.rescaled(float(np.exp2(r.rng.uniform(-8, 1))))
        return r.w.op(name, [x], r.w.tensor(r.w.shapes[x], scale, zero))

    return make


def hard_swish(r: Random) -> int:
    x = r.rescaled(float(np.exp2(r.rng.uniform(-7, -1))))
    near = r.w.codes[x][0] * float(np.exp2(r.rng.uniform(-2, 2)))
    return r.w.op("HARD_SWISH", [x], r.w.tensor(r.w.shapes[x], *r.code(near)), "HardSwishOptions")


def leaky_relu(r: Random) -> int:
    x = r.pick()
    y = r.w.tensor(r.w.shapes[x], *r.code(r.w.codes[x][0]))
    return r.w.op("LEAKY_RELU", [x], y, "LeakyReluOptions", alpha=float(r.rng.choice([0.01, 0.2, 1.0, 1.5])))


def rsqrt(r: Random) -> int:
    """TFLite Micro stops at numbers below zero: the lowest code is zero here."""
    x = r.rescaled(float(np.exp2(r.rng.uniform(-12, 1))), -128)
    spread = float(np.exp2(r.rng.uniform(-2, 2)))
    y = r.w.tensor(r.w.shapes[x], *r.code(spread / (100 * r.w.codes[x][0] ** 0.5 * 10)))
    return r.w.op("RSQRT", [x], y)


MAKE: dict[str, Callable[[Random], int | list[int]]] = {
    "TRANSPOSE_CONV": transpose_conv,
    "BATCH_MATMUL": batch_matmul,
    "SUB": lambda r: r.binary("SUB", "SubOptions"),
    "SQUARED_DIFFERENCE": lambda r: r.binary("SQUARED_DIFFERENCE", "SquaredDifferenceOptions"),
    "MAXIMUM": extreme("MAXIMUM"),
    "MINIMUM": extreme("MINIMUM"),
    "SUM": lambda r: r.mean("SUM"),
    "SLICE": cut,
    "STRIDED_SLICE": strided_cut,
    "SPLIT": split,
    "SPLIT_V": uneven_split,
    "UNPACK": unpack,
    "PACK": pack,
    "GATHER": gather,
    "RESIZE_NEAREST_NEIGHBOR": resize,
    "EXPAND_DIMS": renamed("EXPAND_DIMS"),
    "SQUEEZE": renamed("SQUEEZE"),
    "LOGISTIC": fixed("LOGISTIC", 1 / 256, -128),
    "TANH": fixed("TANH", 1 / 128, 0),
    "HARD_SWISH": hard_swish,
    "LEAKY_RELU": leaky_relu,
    "RSQRT": rsqrt,
}
