"""Random graphs of supported ops: shapes, strides, dilations, paddings, scales with extremes, shared tensors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.mcu import random_ops
from tests.mcu.random_ops import constant, moved
from tests.mcu.writer import Writer

SAME, VALID = 0, 1


class Random:
    """Grows one graph. Every op takes its operands from all tensors so far, so that tensors are shared."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.w = Writer()
        batch = int(self.rng.integers(1, 3))
        shape = (batch, self.n(3, 9), self.n(3, 9), int(self.rng.choice([1, 2, 3, 4, 4, 5, 6, 8])))
        self.input = self.w.tensor(shape, *self.code())
        self.pool = [self.input]

    def n(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def code(self, near: float = 0.05) -> tuple[float, int]:
        """A scale and zero point: usually one that spreads the numbers over the codes, sometimes far out."""
        spread = self.rng.choice([0.5, 0.5, 0.5, 0.5, 0.5, 3.0])
        scale = near * float(np.exp2(self.rng.uniform(-spread, spread)))
        zero = int(self.rng.choice([-128, 0, 127, self.n(-100, 100), self.n(-100, 100)]))
        return float(np.float32(scale)), zero

    def summed(self, x: int, filters: int, taps: int) -> tuple[float, int]:
        """A code for sums of so many products; now and then so fine that the rescaling factor is above 1/2."""
        product = self.w.codes[x][0] * self.w.codes[filters][0]
        return self.code(product if self.rng.random() < 0.2 else product * 60 * taps**0.5)

    def activation(self) -> int:
        return int(self.rng.integers(0, 4))

    def pick(self, rank: int | None = None) -> int:
        fitting = [t for t in self.pool if rank is None or len(self.w.shapes[t]) == rank]
        return int(self.rng.choice(fitting))

    def weights(self, shape: tuple[int, ...], channels: int, scale_in: float, axis: int) -> tuple[int, int]:
        """Filter and bias (or -1), per tensor or per channel; whole channels of zeros and tiny scales occur."""
        count = channels if self.rng.random() < 0.7 else 1
        scales = np.float32(0.02 * np.exp2(self.rng.uniform(-3, 3, count)))
        data = self.rng.integers(-127, 128, shape)
        if self.rng.random() < 0.2:
            scales[-1] = np.float32(1e-12) if count > 1 else scales[-1]
        filters = self.w.tensor(shape, scales, 0, data, "int8", axis)
        if axis == 0 and self.rng.random() < 0.2:  # TFLite Micro crashes on a depthwise convolution without a bias
            return filters, -1
        bias = self.rng.integers(-20000, 20000, channels)
        return filters, self.w.tensor((channels,), scales * np.float32(scale_in), 0, bias, "int32")

    def window(self, size: int, kernel: int, stride: int, dilation: int, padding: int) -> int:
        return -(-size // stride) if padding == SAME else (size - (kernel - 1) * dilation - 1) // stride + 1

    def conv(self, depthwise: bool) -> int:
        x = self.pick(4)
        batch, h, w, c = self.w.shapes[x]
        kernel, stride, dilation = ([self.n(1, top), self.n(1, top)] for top in (3, 2, 2))
        padding = self.n(0, 1)
        if any((k - 1) * d + 1 > n for k, d, n in zip(kernel, dilation, (h, w), strict=True)):
            padding = SAME
        out = (1 if self.rng.random() < 0.5 else self.n(1, 3)) * c if depthwise else self.n(1, 8)
        shape = (1, *kernel, out) if depthwise else (out, *kernel, c)
        filters, bias = self.weights(shape, out, self.w.codes[x][0], 3 if depthwise else 0)
        sizes = [self.window(*row, padding) for row in zip((h, w), kernel, stride, dilation, strict=True)]
        y = self.w.tensor((batch, *sizes, out), *self.summed(x, filters, int(np.prod(shape)) // out))
        more = {"depthMultiplier": out // c} if depthwise else {}
        return self.w.op(
            "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D",
            [x, filters, bias],
            y,
            "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions",
            strideH=stride[0],
            strideW=stride[1],
            dilationHFactor=dilation[0],
            dilationWFactor=dilation[1],
            padding=padding,
            fusedActivationFunction=self.activation(),
            **more,
        )

    def fully_connected(self) -> int:
        x = self.pick()
        shape = self.w.shapes[x]
        flat, out = int(np.prod(shape[1:])), self.n(1, 12)
        filters, bias = self.weights((out, flat), out, self.w.codes[x][0], 0)
        y = self.w.tensor((shape[0], out), *self.summed(x, filters, flat))
        activation = self.activation()
        return self.w.op(
            "FULLY_CONNECTED", [x, filters, bias], y, "FullyConnectedOptions", fusedActivationFunction=activation
        )

    def binary(self, name: str, options: str) -> int:
        a = self.pick()
        alike = [t for t in self.pool if self.w.shapes[t] == self.w.shapes[a]]
        b = int(self.rng.choice(alike))
        if self.rng.random() < 0.2:
            b = self.constant(self.w.shapes[a])
        elif self.rng.random() < 0.5:
            b = self.partner(a)
        a, b = (b, a) if self.rng.random() < 0.5 else (a, b)
        first, second = self.w.codes[a][0], self.w.codes[b][0]
        near = {"MUL": first * second * 40, "SQUARED_DIFFERENCE": max(first, second) ** 2 * 40}
        shape = np.broadcast_shapes(self.w.shapes[a], self.w.shapes[b])
        y = self.w.tensor(shape, *self.code(near.get(name, max(first, second))))
        values = {} if name == "SQUARED_DIFFERENCE" else {"fusedActivationFunction": self.activation()}
        return self.w.op(name, [a, b], y, options, **values)

    def constant(self, shape: tuple[int, ...]) -> int:
        return self.w.tensor(shape, *self.code(), self.rng.integers(-128, 128, shape))

    def partner(self, a: int) -> int:
        """A tensor of another shape that can be broadcast with this one: a constant, or one of the graph's."""
        shape = self.w.shapes[a]
        if self.rng.random() < 0.5:
            return self.constant([(), shape[-1:], tuple(n if self.n(0, 1) else 1 for n in shape)][self.n(0, 2)])
        part = tuple(n if i == 0 or self.n(0, 1) else 1 for i, n in enumerate(shape))
        return self.spread(part)

    def spread(self, shape: tuple[int, ...]) -> int:
        """An activation of a shape that is asked for: picked numbers of the graph's input."""
        given = self.w.shapes[self.input]
        flat = moved(self, self.input, (int(np.prod(given)),))
        reshaped = self.w.op("RESHAPE", [self.input, constant(self, [int(np.prod(given))])], flat, "ReshapeOptions")
        index = self.rng.integers(0, int(np.prod(given)), int(np.prod(shape)))
        row = moved(self, self.input, (len(index),))
        row = self.w.op("GATHER", [reshaped, constant(self, index)], row, "GatherOptions", axis=0)
        return self.w.op("RESHAPE", [row, constant(self, list(shape))], moved(self, row, shape), "ReshapeOptions")

    def rescaled(self, scale: float, zero: int | None = None) -> int:
        """An activation of such a scale."""
        x = self.pick()
        code = float(np.float32(scale)), self.code()[1] if zero is None else zero
        return self.w.op("QUANTIZE", [x], self.w.tensor(self.w.shapes[x], *code), "QuantizeOptions")

    def pooling(self, name: str) -> int:
        x = self.pick(4)
        batch, h, w, c = self.w.shapes[x]
        kernel = [self.n(1, min(3, h)), self.n(1, min(3, w))]
        stride, padding = [self.n(1, 2), self.n(1, 2)], self.n(0, 1)
        sizes = [self.window(n, k, s, 1, padding) for n, k, s in zip((h, w), kernel, stride, strict=True)]
        y = self.w.tensor((batch, *sizes, c), *self.w.codes[x])
        return self.w.op(
            name,
            [x],
            y,
            "Pool2DOptions",
            strideH=stride[0],
            strideW=stride[1],
            filterHeight=kernel[0],
            filterWidth=kernel[1],
            padding=padding,
            fusedActivationFunction=self.activation(),
        )

    def mean(self, name: str = "MEAN") -> int:
        x = self.pick(4)
        shape = self.w.shapes[x]
        axes = sorted(self.rng.choice(4, self.n(1, 3), replace=False).tolist())
        if axes[0] == 0 and shape[0] > 1:  # keep the batch, which later ops want first
            axes = [2]
        keep = bool(self.rng.random() < 0.5)
        result = tuple(1 if i in axes else n for i, n in enumerate(shape) if keep or i not in axes)
        listed = np.array([a - 4 if self.rng.random() < 0.3 else a for a in axes])
        axis = self.w.tensor(listed.shape, None, 0, listed, "int32")
        count = float(np.prod([shape[a] for a in axes])) ** 0.5
        y = self.w.tensor(result, *self.code(self.w.codes[x][0] * (0.5 if name == "MEAN" else count)))
        return self.w.op(name, [x, axis], y, "ReducerOptions", keepDims=keep)

    def pad(self) -> int:
        x = self.pick()
        shape = self.w.shapes[x]
        pads = self.rng.integers(0, 3, (len(shape), 2))
        pads[0] = 0
        sizes = self.w.tensor(pads.shape, None, 0, pads, "int32")
        y = self.w.tensor(np.add(shape, pads.sum(axis=1)).tolist(), *self.w.codes[x])
        return self.w.op("PAD", [x, sizes], y, "PadOptions")

    def reshape(self) -> int:
        x = self.pick()
        shape = self.w.shapes[x]
        result = (shape[0], *reversed(shape[1:]))
        sizes = self.w.tensor((len(result),), None, 0, np.array(result), "int32")
        return self.w.op("RESHAPE", [x, sizes], self.w.tensor(result, *self.w.codes[x]), "ReshapeOptions")

    def transpose(self) -> int:
        x = self.pick()
        shape = self.w.shapes[x]
        order = np.concatenate([[0], 1 + self.rng.permutation(len(shape) - 1)]).astype(int)
        listed = self.w.tensor(order.shape, None, 0, order, "int32")
        y = self.w.tensor([shape[i] for i in order], *self.w.codes[x])
        return self.w.op("TRANSPOSE", [x, listed], y, "TransposeOptions")

    def concatenation(self) -> int:
        x = self.pick()
        shape, axis = self.w.shapes[x], len(self.w.shapes[x]) - 1
        y = self.w.tensor((*shape[:-1], 2 * shape[-1]), *self.w.codes[x])
        return self.w.op("CONCATENATION", [x, x], y, "ConcatenationOptions", axis=axis if self.n(0, 1) else -1)

    def softmax(self) -> int:
        x = self.pick()
        y = self.w.tensor(self.w.shapes[x], 1 / 256, -128)
        return self.w.op("SOFTMAX", [x], y, "SoftmaxOptions", beta=float(self.rng.choice([1.0, 0.3, 4.0])))

    def elementwise(self, name: str, options: str | None = None) -> int:
        x = self.pick()
        code = self.w.codes[x] if name == "RELU6" else self.code(self.w.codes[x][0])
        return self.w.op(name, [x], self.w.tensor(self.w.shapes[x], *code), options)

    def grow(self, names: list[str]) -> bytes:
        """The named ops in order; every tensor that nothing reads is an output, and some of the others are."""
        for name in names:
            made = MAKE[name](self)
            self.pool += made if isinstance(made, list) else [made]
        read = {i for op in self.w.graph.operators for i in op.inputs}
        ends = [t for t in self.pool[1:] if t not in read]
        outputs = ends + [t for t in self.pool[1:] if t in read and self.rng.random() < 0.3]
        return self.w.file([self.input], outputs)


MAKE: dict[str, Callable[[Random], int | list[int]]] = {
    "CONV_2D": lambda r: random_ops.grouped_convolution(r) if r.rng.random() < 0.3 else r.conv(False),
    "DEPTHWISE_CONV_2D": lambda r: r.conv(True),
    "FULLY_CONNECTED": Random.fully_connected,
    "ADD": lambda r: r.binary("ADD", "AddOptions"),
    "MUL": lambda r: r.binary("MUL", "MulOptions"),
    "AVERAGE_POOL_2D": lambda r: r.pooling("AVERAGE_POOL_2D"),
    "MAX_POOL_2D": lambda r: r.pooling("MAX_POOL_2D"),
    "MEAN": Random.mean,
    "PAD": Random.pad,
    "RESHAPE": Random.reshape,
    "TRANSPOSE": Random.transpose,
    "CONCATENATION": Random.concatenation,
    "SOFTMAX": Random.softmax,
    "RELU": lambda r: r.elementwise("RELU"),
    "RELU6": lambda r: r.elementwise("RELU6"),
    "QUANTIZE": lambda r: r.elementwise("QUANTIZE", "QuantizeOptions"),
    **random_ops.MAKE,
}


EXTRA = ("ADD", "MUL", "SUB", "ADD")  # once more: same shapes, broadcast and constant operands are different kernels


def graph(seed: int) -> bytes:
    """One file: all op kinds in random order, so that every seed covers every op."""
    random = Random(seed)
    names = [*MAKE, *EXTRA]
    random.rng.shuffle(names)
    return random.grow(names)
