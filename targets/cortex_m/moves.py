"""Ops that only move bytes: slices, splits, joins, permutations and picked rows.

Sources: tensorflow/lite/micro/kernels/ and tensorflow/lite/kernels/internal/reference/ (slice, strided_slice, split,
pack, unpack, gather, transpose, concatenation, pad, resize_nearest_neighbor).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from targets.cortex_m.call import Call, Number, zero
from targets.cortex_m.constraints import integers, ranges, split_axis
from targets.cortex_m.graph import Node, Value
from targets.cortex_m.shapes import four, runs, steps_of


def _copy(source: Value, output: Value, start: int, extents: Sequence[int], steps: Sequence[int]) -> list[Call]:
    """`output`, dense, from numbers of `source`: the first at `start`, then `steps` apart along each axis."""
    walk = runs(extents, steps)
    return [Call("nn_copy", "nn_copy_params", (start, *walk), (source,), output)]


def _pad(node: Node) -> list[Call]:
    x, y = node.inputs[0], node.outputs[0]
    before = integers(node.inputs[1])[::2]
    numbers = (four(x.shape), four(y.shape), (0,) * (4 - len(before)) + tuple(before), zero(y))
    return [Call("nn_pad", "nn_pad_params", numbers, (x,), y)]


def _transpose(node: Node) -> list[Call]:
    x, y = node.inputs[0], node.outputs[0]
    order = integers(node.inputs[1])
    moved = [n for n in order if x.shape[n] > 1]
    if moved == sorted(moved):
        return []  # only axes of size 1 move: the bytes stay where they are
    return _copy(x, y, 0, y.shape, [steps_of(x.shape)[i] for i in order])


def _slice(node: Node) -> list[Call]:
    x, y, found = node.inputs[0], node.outputs[0], ranges(node)
    steps = steps_of(x.shape)
    start = sum(r.start * step for r, step in zip(found, steps, strict=True))
    taken = [r.step * step for r, step in zip(found, steps, strict=True)]
    return _copy(x, y, start, [len(r) for r in found], taken)


def _pieces(node: Node) -> list[Call]:
    """The outputs, one after the other along an axis of the input."""
    x, axis = next(v for v in node.inputs if v.type == "INT8"), split_axis(node)
    assert axis is not None
    rows, made, at = math.prod(x.shape[:axis]), [], 0
    for y in node.outputs:
        width = y.size // rows
        made += _copy(x, y, at, (rows, width), (x.size // rows, 1))
        at += width
    return made


def _join(node: Node) -> list[Call]:
    """CONCATENATION, and PACK, which is one along a new axis."""
    y, axis = node.outputs[0], node.option("axis") % len(node.outputs[0].shape)
    rows, pitch = math.prod(y.shape[:axis]), math.prod(y.shape[axis:])
    widths = [x.size // rows for x in node.inputs]
    return [
        Call("nn_concat", "nn_concat_params", (rows, width, pitch, sum(widths[:i])), (x,), y)
        for i, (x, width) in enumerate(zip(node.inputs, widths, strict=True))
    ]


def _picked(node: Node, planes: int, row: int, column: int, rows: Sequence[int], columns: Sequence[int]) -> list[Call]:
    """Of each plane (rows of `row` columns of `column` bytes): the rows and columns that are listed."""
    x, y = node.inputs[0], node.outputs[0]
    numbers: tuple[Number, ...] = (planes, x.size // planes, row * column, column, len(rows), len(columns))
    picked = {"rows": np.array(rows, np.int32), "columns": np.array(columns, np.int32)}
    return [Call("nn_pick", "nn_pick_params", numbers, (x,), y, {**picked})]


def _gather(node: Node) -> list[Call]:
    x, axis = node.inputs[0], node.option("axis") % len(node.inputs[0].shape)
    return _picked(node, math.prod(x.shape[:axis]), 1, math.prod(x.shape[axis + 1 :]), integers(node.inputs[1]), [0])


def nearest(size: int, wanted: int, corners: bool, centers: bool) -> list[int]:
    """Which of `size` numbers stands for each of `wanted`: GetNearestNeighbor, in float32."""
    whole = (size - 1, wanted - 1) if corners and wanted > 1 else (size, wanted)
    step = np.float32(whole[0]) / np.float32(whole[1])
    at = (np.arange(wanted, dtype=np.float32) + np.float32(0.5 if centers else 0)) * step
    found = np.floor(at + np.float32(0.5)) if corners else np.floor(at)
    return [max(0, min(int(i), size - 1)) for i in found]


def _resize(node: Node) -> list[Call]:
    x, y = node.inputs[0], node.outputs[0]
    how = bool(node.option("alignCorners")), bool(node.option("halfPixelCenters"))
    rows, columns = (nearest(x.shape[i], y.shape[i], *how) for i in (1, 2))
    return _picked(node, x.shape[0], x.shape[2], x.shape[3], rows, columns)


LOWER: dict[str, Callable[[Node], list[Call]]] = {
    "PAD": _pad,
    "RESHAPE": lambda node: [],
    "EXPAND_DIMS": lambda node: [],
    "SQUEEZE": lambda node: [],
    "TRANSPOSE": _transpose,
    "SLICE": _slice,
    "STRIDED_SLICE": _slice,
    "SPLIT": _pieces,
    "SPLIT_V": _pieces,
    "UNPACK": _pieces,
    "PACK": _join,
    "CONCATENATION": _join,
    "GATHER": _gather,
    "RESIZE_NEAREST_NEIGHBOR": _resize,
}
