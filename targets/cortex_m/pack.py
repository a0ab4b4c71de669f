"""Weights as the packed kernels read them (c/nn_columns.h): words of two channels and two taps, the input's offset in
the bias."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from targets.cortex_m.fixed_point import quantize_multiplier

PIXELS = 4  # NN_PIXELS
LIMIT = 2**30  # of the sums' magnitude


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
) -> Packed | None:
    """`rows` int8 [channels, taps] and a rescaling factor a channel; `offset` is minus the input's zero point.

    None where the short arithmetic would not be exact: a factor of 1/2 or more, or sums of 2^30 or more.
    """
    channels, taps = rows.shape
    wide = rows.astype(np.int64)
    folded = wide.sum(axis=1) * offset + (0 if bias is None else bias.astype(np.int64))
    pairs = [quantize_multiplier(factor) for factor in factors]
    if any(multiplier and shift > -1 for multiplier, shift in pairs):
        return None
    if (np.abs(folded) + 128 * np.abs(wide).sum(axis=1)).max() >= LIMIT:
        return None
    padded = np.zeros((channels + channels % 2, -(-taps // 4) * 4), np.int8)
    padded[:channels, :taps] = rows
    fours = padded.reshape(len(padded) // 2, 2, -1, 2, 2)  # [pair, channel, four, late, odd]: taps a b c d
    weights = np.ascontiguousarray(fours.transpose(0, 2, 4, 3, 1)).reshape(-1).view("<u4").astype(np.uint32)
    return Packed(
        padded.shape[1] // 2,
        weights,
        np.append(folded, [0] * (channels % 2)).astype(np.int32),
        np.array([multiplier for multiplier, _ in pairs], np.int32),
        np.array([max(0, -shift - 1) for _, shift in pairs], np.int8),
    )
