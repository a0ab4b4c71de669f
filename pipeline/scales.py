"""Do the splits' inputs have one scale? Ranges from inputs of 0..255 mean nothing for a model that gets 0..1."""

from __future__ import annotations

import numpy as np

from pipeline.data import SPLITS, Array, Data
from pipeline.errors import UsageError

FACTOR = 8.0  # real splits of one source differ by far less, a forgotten normalisation by more
FEWEST = 16  # samples, below which two splits may differ this much by chance
LOOKED_AT = 512  # samples of each split


def check(data: Data, where: str) -> None:
    """Raise UsageError where a float input's spread, or its mean in units of that, differs from training's."""
    for name, array in data.splits["train"].inputs.items():
        if array.dtype.kind != "f":
            continue
        mean, spread = _of(array)
        for split in SPLITS[1:]:
            other = data.splits[split].inputs[name]
            if min(len(array), len(other)) < FEWEST or spread == 0:
                continue
            its_mean, its_spread = _of(other)
            apart = abs(its_mean - mean) > FACTOR * max(spread, its_spread)
            if apart or not 1 / FACTOR <= its_spread / spread <= FACTOR:
                raise UsageError(
                    f"{where}: input '{name}' has another scale in split '{split}' (mean {its_mean:.3g}, standard "
                    f"deviation {its_spread:.3g}) than in 'train' ({mean:.3g}, {spread:.3g}): prepare all splits alike"
                )


def _of(array: Array) -> tuple[float, float]:
    """Mean and standard deviation over some samples, evenly taken."""
    seen = np.asarray(array[:: max(1, len(array) // LOOKED_AT)], np.float64)
    return float(seen.mean()), float(seen.std())
