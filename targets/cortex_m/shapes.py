"""Arithmetic of shapes: windows, dense steps, walks over as few axes as possible."""

from __future__ import annotations

import math
from collections.abc import Sequence

SAME, VALID = 0, 1  # the schema's paddings


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """(output size, padding before) of the schema's SAME."""
    out = -(-size // stride)
    return out, max((out - 1) * stride + (kernel - 1) * dilation + 1 - size, 0) // 2


def window(size: int, kernel: int, stride: int, dilation: int, padding: int) -> tuple[int, int]:
    """(output size, padding before) of a sliding window."""
    if padding == SAME:
        return same_padding(size, kernel, stride, dilation)
    return (size - (kernel - 1) * dilation - 1) // stride + 1, 0


def four(shape: Sequence[int]) -> tuple[int, ...]:
    """Filled up with ones in front."""
    return (1,) * (4 - len(shape)) + tuple(shape)


def steps_of(shape: Sequence[int]) -> list[int]:
    """Elements between neighbours along each axis of a dense tensor."""
    return [math.prod(shape[i + 1 :]) for i in range(len(shape))]


def runs(extents: Sequence[int], *steps: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """The same walk over as few axes as possible, but at least four: extents, and each operand's steps.

    Axes of size 1 go; two become one where a step along the first is a whole walk along the second, for every operand.
    """
    rows: list[tuple[int, ...]] = []
    for row in zip(extents, *steps, strict=True):
        if row[0] == 1:
            continue
        if rows and all(before == row[0] * step for before, step in zip(rows[-1][1:], row[1:], strict=True)):
            rows[-1] = (rows[-1][0] * row[0], *row[1:])
        else:
            rows.append(row)
    filled = [(1, *[0] * len(steps))] * (4 - len(rows)) + rows
    return tuple(zip(*filled, strict=True))
