"""Weights as the packed kernels read them (c/nn_columns.h): words of two channels and two taps, the input's offset in
the bias."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from targets.cortex_m.fixed_point import quantize_multiplier

PIXELS = 4  # NN_PIXELS
LIMIT = 2**30  # of the sums' magnitude, for the short rescaling


@dataclass(frozen=True)
class Packed:
    """`weights` uint32 [pairs of channels * words]; `bias` int32, an even number of them; the others one a channel."""

    words: int
    weights: npt.NDArray[np.uint32]
    bias: npt.NDArray[np.int32]
    multiplier: npt.NDArray[np.int32]
    halvings: npt.NDArray[np.int8]


def pack(
    rows: npt.NDArray[np.int8], bias: npt.NDArray[np.int32] | None, offset: int, factors: Sequence[float]
) -> Packed:
    """`rows` int8 [channels, taps] and a rescaling factor a channel; `offset` is minus the input's zero point.

    Sums wrap on the way, so a folded bias may; the whole sum must fit in 32 bits (support.py sees to it).
    """
    channels, taps = rows.shape
    wide = rows.astype(np.int64)
    plain = np.zeros(channels, np.int64) if bias is None else bias.astype(np.int64)
    folded = np.append(wide.sum(axis=1) * offset + plain, [0] * (channels % 2)).astype(np.uint32).view(np.int32)
    largest = np.abs(plain) + np.abs(wide).sum(axis=1) * max(abs(offset - 128), abs(offset + 127))
    pairs = [quantize_multiplier(factor) for factor in factors]
    padded = np.zeros((channels + channels % 2, -(-taps // 4) * 4), np.int8)
    padded[:channels, :taps] = rows
    fours = padded.reshape(len(padded) // 2, 2, -1, 2, 2)  # [pair, channel, four, late, odd]: taps a b c d
    weights = np.ascontiguousarray(fours.transpose(0, 2, 4, 3, 1)).reshape(-1).view("<u4").astype(np.uint32)
    return Packed(
        padded.shape[1] // 2,
        weights,
        folded,
        np.array([multiplier for multiplier, _ in pairs], np.int32),
        np.array([halvings(*pair, int(top)) for pair, top in zip(pairs, largest, strict=True)], np.int8),
    )


def halvings(multiplier: int, shift: int, largest: int) -> int:
    """As nn_requantize_packed wants it: short where that is exact."""
    if multiplier == 0:
        return 0
    return -shift - 1 if shift <= -1 and largest < LIMIT else shift - 64
