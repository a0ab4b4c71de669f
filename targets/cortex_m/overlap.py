"""How far an output may lie over the input that its op consumes: a sliding window leaves bytes behind that nothing
reads again (diagonal memory optimisation: Blacker, Bridges and Hadfield 2020, arXiv:2010.01668)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def lag(
    into: Sequence[int], out: Sequence[int], strides: Sequence[int], pads: Sequence[int], group: int, copied: bool
) -> int:
    """The least number of bytes by which the output must begin before the input, 0 for the same place.

    `into` and `out`: NHWC. Pixels of the output are written in `group`s, in order; `copied`: a group's input has been
    read when its first byte is written.
    """
    batches, height, width, channels = into
    _, rows, columns, filters = out
    starts = [np.maximum(0, np.arange(n) * s - p) for n, s, p in zip((rows, columns), strides, pads, strict=True)]
    frame = height * width * channels
    first = np.add.outer(starts[0] * width * channels, starts[1] * channels).ravel()
    first = np.add.outer(np.arange(batches) * frame, first).ravel()  # of the bytes that a pixel reads
    needed = np.minimum.accumulate(first[::-1])[::-1]  # by it or a later one
    begins = np.arange(0, len(first), group)
    ends = np.minimum(begins + group, len(first))
    if copied:
        begins, ends = ends[:-1], ends[:-1]  # what the next group needs; the last one may write anywhere
    return int(max(0, np.max(ends * filters - needed[begins], initial=0)))
