"""Nodes to kernel calls: what stands in `model.c`. The arithmetic is TFLite Micro's (fixed_point.py)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from targets.cortex_m import elementwise, fixed_point, lookup, moves, overlap, products
from targets.cortex_m import pack as packing
from targets.cortex_m.call import Call, Constant, code_range, scale, zero
from targets.cortex_m.constraints import reduced_axes
from targets.cortex_m.fixed_point import INT8_MAX, INT8_MIN, quantize_multiplier
from targets.cortex_m.graph import Node
from targets.cortex_m.shapes import four, steps_of, window


def calls(node: Node) -> list[Call]:
    """The calls that compute a node that support.py accepts; none for one that only renames its input."""
    return _LOWER[node.op](node)


def _packed(node: Node, factors: Sequence[float]) -> packing.Packed:
    weights, bias = node.inputs[1], node.inputs[2].data if len(node.inputs) > 2 else None
    assert weights.data is not None
    rows = weights.data.reshape(weights.shape[0], -1)
    return packing.pack(rows, None if bias is None else bias.ravel(), -zero(node.inputs[0]), factors)


def _tables(packed: packing.Packed) -> dict[str, Constant | None]:
    return {key: getattr(packed, key) for key in ("weights", "bias", "multiplier", "halvings")}


def weights(node: Node, factors: Sequence[float]) -> dict[str, Constant | None]:
    """Constants of a convolution: weights as they are, bias (or None), multiplier int32, shift int8."""
    pairs = [quantize_multiplier(factor) for factor in factors]
    weights, bias = node.inputs[1].data, node.inputs[2].data if len(node.inputs) > 2 else None
    assert weights is not None
    return {
        "weights": weights.ravel(),
        "bias": None if bias is None else bias.ravel(),
        "multiplier": np.array([multiplier for multiplier, _ in pairs], np.int32),
        "shift": np.array([shift for _, shift in pairs], np.int8),
    }


def _factors(node: Node) -> list[float]:
    """One a channel of the weights' scales: input scale * weight scale / output scale, in float64."""
    weights = node.inputs[1].scale
    assert weights is not None
    return [float(scale(node.inputs[0])) * float(s) / float(scale(node.outputs[0])) for s in weights]


def sizes(node: Node) -> tuple[int, ...]:
    """batches, in_h ... pad_w of a convolution."""
    x, y, weights = node.inputs[0], node.outputs[0], node.inputs[1]
    strides = (node.option("strideH"), node.option("strideW"))
    dilations = (node.option("dilationHFactor", 1), node.option("dilationWFactor", 1))
    pads = [
        window(x.shape[1 + i], weights.shape[1 + i], strides[i], dilations[i], node.option("padding"))[1]
        for i in (0, 1)
    ]
    return (*x.shape, *y.shape[1:], *weights.shape[1:3], *strides, *dilations, *pads)


def channel_factors(node: Node) -> list[float]:
    """A rescaling factor for each channel of the output."""
    factors = _factors(node)
    return factors * (node.outputs[0].shape[-1] // len(factors))


def _lag(node: Node, group: int, copied: bool) -> int:
    found = sizes(node)
    return overlap.lag(node.inputs[0].shape, node.outputs[0].shape, found[9:11], found[13:15], group, copied)


def _conv(node: Node) -> list[Call]:
    x, y = node.inputs[0], node.outputs[0]
    if node.inputs[1].shape[3] != x.shape[3]:
        return products.grouped(node, sizes(node))
    packed = _packed(node, channel_factors(node))
    scratch = 4 * packing.PIXELS * packed.words + (0 if x.shape[3] % 4 == 0 else 2 * packed.words)
    numbers = (*sizes(node), zero(x), zero(y), *code_range(node), packed.words)
    lag = _lag(node, packing.PIXELS, copied=True)
    return [Call("nn_conv_2d_packed", "nn_packed_conv_params", numbers, (x,), y, _tables(packed), scratch, lag)]


def _depthwise(node: Node) -> list[Call]:
    x, y = node.inputs[0], node.outputs[0]
    numbers = (*sizes(node), -zero(x), zero(y), *code_range(node))
    tables = weights(node, channel_factors(node))
    lag = _lag(node, 1, copied=False)
    if x.shape[3] % 4 or x.shape[3] != y.shape[3]:
        return [Call("nn_depthwise_conv_2d", "nn_conv_params", numbers, (x,), y, tables, lag=lag)]
    taps, bias, multiplier, shift = tables.values()
    assert taps is not None
    assert multiplier is not None
    assert shift is not None
    bias = np.zeros(y.shape[3], np.int32) if bias is None else bias
    rows = np.abs(taps.astype(np.int64)).reshape(-1, y.shape[3]).sum(axis=0)
    largest = rows * max(abs(zero(x) + 128), abs(zero(x) - 127)) + np.abs(bias.astype(np.int64))
    halvings = [
        packing.halvings(*row) for row in zip(multiplier.tolist(), shift.tolist(), largest.tolist(), strict=True)
    ]
    tables = {"weights": taps, "bias": bias, "multiplier": multiplier, "halvings": np.array(halvings, np.int8)}
    return [Call("nn_depthwise_conv_2d_fours", "nn_depthwise_params", numbers, (x,), y, tables, lag=lag)]


def _fully_connected(node: Node) -> list[Call]:
    x, y, weights = node.inputs[0], node.outputs[0], node.inputs[1]
    out, into = weights.shape
    factors = _factors(node)
    if len(factors) == 1:  # the product of the two scales is float32 here
        assert weights.scale is not None
        factors = [float(scale(x) * np.float32(weights.scale[0])) / float(scale(y))]
    packed = _packed(node, factors * (out // len(factors)))
    numbers = (x.size // into, into, out, zero(y), *code_range(node), packed.words)
    params, scratch = "nn_packed_fully_connected_params", 4 * packed.words
    lag = overlap.lag((1, numbers[0], 1, into), (1, numbers[0], 1, out), (1, 1), (0, 0), 1, copied=True)
    return [Call("nn_fully_connected_packed", params, numbers, (x,), y, _tables(packed), scratch, lag)]


def _pool(kernel: str) -> Callable[[Node], list[Call]]:
    def lower(node: Node) -> list[Call]:
        x, y = node.inputs[0], node.outputs[0]
        sizes = (node.option("filterHeight"), node.option("filterWidth"))
        strides = (node.option("strideH"), node.option("strideW"))
        pads = [window(x.shape[1 + i], sizes[i], strides[i], 1, node.option("padding"))[1] for i in (0, 1)]
        numbers = (*x.shape, *y.shape[1:3], *sizes, *strides, *pads, *code_range(node))
        lag = overlap.lag(x.shape, y.shape, strides, pads, 1, copied=False)
        return [Call(kernel, "nn_pool_params", numbers, (x,), y, lag=lag)]

    return lower


def _mean(node: Node) -> list[Call]:
    x, y = node.inputs[0], node.outputs[0]
    lead, axes = 4 - len(x.shape), reduced_axes(node)
    extents = [(1, n) if i - lead in axes else (n, 1) for i, n in enumerate(four(x.shape))]
    kept, reduced = (tuple(pair[i] for pair in extents) for i in (0, 1))
    count = math.prod(reduced)
    factor = quantize_multiplier(float(scale(x)) / float(scale(y)))
    scaled = fixed_point.mean_multiplier(*factor, count) if node.op == "MEAN" else factor
    numbers = (
        kept,
        reduced,
        tuple(steps_of(four(x.shape))),
        -zero(x) * count,
        *scaled,
        zero(y),
    )
    return [Call("nn_mean", "nn_mean_params", numbers, (x,), y)]


def _softmax(node: Node) -> list[Call]:
    x, y = node.inputs[0], node.outputs[0]
    numbers = (x.size // x.shape[-1], x.shape[-1])
    scaling = fixed_point.softmax_scaling(float(np.float32(node.option("beta", 1.0))), float(scale(x)))
    return [Call("nn_softmax", "nn_softmax_params", (*numbers, *scaling), (x,), y)]


def _rescale(node: Node, factor: float, low: int, high: int) -> list[Call]:
    x, y = node.inputs[0], node.outputs[0]
    numbers = (y.size, -zero(x), *quantize_multiplier(factor), zero(y), low, high)
    return [Call("nn_rescale", "nn_rescale_params", numbers, (x,), y)]


def _relu(node: Node) -> list[Call]:
    x, y = node.inputs[0], node.outputs[0]
    return _rescale(node, float(scale(x) / scale(y)), max(INT8_MIN, zero(y)), INT8_MAX)  # float32 division


def _relu6(node: Node) -> list[Call]:
    low, high = fixed_point.activation_range("RELU6", scale(node.inputs[0]), zero(node.inputs[0]))
    return _rescale(node, 1.0, low, high)


def _quantize(node: Node) -> list[Call]:
    factor = float(scale(node.inputs[0])) / float(scale(node.outputs[0]))
    return _rescale(node, factor, INT8_MIN, INT8_MAX)


_LOWER: dict[str, Callable[[Node], list[Call]]] = {
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _fully_connected,
    "AVERAGE_POOL_2D": _pool("nn_average_pool_2d"),
    "MAX_POOL_2D": _pool("nn_max_pool_2d"),
    "MEAN": _mean,
    "SUM": _mean,
    "SOFTMAX": _softmax,
    "RELU": _relu,
    "RELU6": _relu6,
    "QUANTIZE": _quantize,
    **products.LOWER,
    **elementwise.LOWER,
    **lookup.LOWER,
    **moves.LOWER,
}

IN_PLACE = frozenset(
    {"nn_add", "nn_mul", "nn_rescale", "nn_softmax", "nn_lookup"}
    | {"nn_add_broadcast", "nn_mul_broadcast", "nn_sub", "nn_squared_difference", "nn_extreme"}
)  # kernels whose output may be an input of its size
