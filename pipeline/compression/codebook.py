"""Weights on few levels (lossy): a k-means codebook, and powers of two. Zeros stay zeros.

Han et al. 2016, "Deep Compression" (shared weights, linear initialisation); Zhou et al. 2017, "Incremental Network
Quantization" (powers of two). What comes out has at most 2^bits distinct values, which the storage format "codebook"
writes in `bits` bits each.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
ROUNDS = 1000


def kmeans(weights: Array, bits: int) -> Array:
    """Each nonzero weight by the mean of its cluster, of at most 2^bits values with zero; same shape and dtype.

    Lloyd's algorithm in one dimension: sorted values, clusters are intervals. Starts from evenly spaced centres.
    """
    flat = weights.ravel()
    values = np.sort(flat[flat != 0].astype(np.float64))
    if len(np.unique(values)) < 2**bits:
        return weights.copy()
    centres = np.linspace(values[0], values[-1], 2**bits - 1)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    for _ in range(ROUNDS):
        edges = np.searchsorted(values, (centres[1:] + centres[:-1]) / 2)
        low, high = np.concatenate([[0], edges]), np.concatenate([edges, [len(values)]])
        means = np.where(high > low, (sums[high] - sums[low]) / np.maximum(1, high - low), centres)
        if np.array_equal(means, centres):
            break
        centres = means
    nearest = np.searchsorted((centres[1:] + centres[:-1]) / 2, flat.astype(np.float64))
    return np.where(flat == 0, 0, centres[nearest]).astype(weights.dtype).reshape(weights.shape)


def powers_of_two(weights: Array, bits: int) -> Array:
    """Each weight by the nearest of 0 and +-2^e, 2^(bits-1) - 1 exponents down from the largest weight's.

    A product with such a weight is a shift. Same shape and dtype.
    """
    largest = float(np.abs(weights).max(initial=0.0))
    if largest == 0:
        return weights.copy()
    top = round(math.log2(largest))
    levels = 2.0 ** np.arange(top - (2 ** (bits - 1) - 1) + 1, top + 1)
    levels = np.concatenate([-levels[::-1], [0.0], levels])
    nearest = np.searchsorted((levels[1:] + levels[:-1]) / 2, weights.ravel().astype(np.float64))
    return levels[nearest].astype(weights.dtype).reshape(weights.shape)
