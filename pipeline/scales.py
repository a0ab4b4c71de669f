"""Do the splits' inputs have one scale and one layout? Ranges of 0..255 mean nothing for a model that gets 0..1, and
those of pictures in NHWC nothing for one that gets NCHW, though all of it fits where sizes are equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import numpy as np

from pipeline.data import SPLITS, Array, Data
from pipeline.errors import UsageError

FACTOR = 8.0  # real splits of one source differ by far less, a forgotten normalisation by more
FEWEST = 16  # samples, below which two splits may differ this much by chance
LOOKED_AT = 512  # samples of each split
CLOSER = 4.0  # how much nearer another layout must bring the mean sample to training's (squared), and be beyond noise


def check(data: Data, where: str) -> None:
    """Raise UsageError where a float input's spread, or its mean in units of that, differs from training's, or where
    its mean sample becomes training's by another order of the axes.
    """
    for name, array in data.splits["train"].inputs.items():
        if array.dtype.kind != "f":
            continue
        mean, spread = _of(array)
        sample, noise = _mean_sample(array)
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

            other_sample, other_noise = _mean_sample(other)
            if layout := _layout(sample, other_sample, noise + other_noise):
                raise UsageError(
                    f"{where}: input '{name}' has another layout in split '{split}' than in 'train': its mean sample "
                    f"is that of 'train' {layout}: prepare all splits alike"
                )


def _layout(wanted: Array, found: Array, noise: float) -> str | None:
    """In which order of its axes, or turned round along which, a mean sample is the wanted one; None: as it is.

    A permuted one is looked for as it comes of a forgotten transpose (where sizes are equal) and of a reshape in place
    of one. `noise`: the squared distance that two means of so many samples have by chance.
    """
    apart = float(np.square(found - wanted).sum())
    if apart <= CLOSER * noise:
        return None
    distances = {how: float(np.square(other - wanted).sum()) for how, other in _others(found)}
    best = min(distances, key=distances.__getitem__, default=None)
    return best if best is not None and CLOSER * distances[best] < apart else None


def _others(sample: Array) -> Iterator[tuple[str, Array]]:
    axes = tuple(range(sample.ndim))
    for order in permutations(axes) if 1 < len(axes) < 5 else ():
        if order != axes:
            shape = [sample.shape[axis] for axis in order]
            yield f"with axes {[axis + 1 for axis in order]}", sample.reshape(shape).transpose(np.argsort(order))
    for axis in axes if len(axes) > 1 else ():
        yield f"turned round along axis {axis + 1}", np.flip(sample, axis)


def _mean_sample(array: Array) -> tuple[Array, float]:
    """The mean of some samples, float64, and the sum of its squared standard errors."""
    seen = array[:: max(1, len(array) // LOOKED_AT)]
    mean = np.asarray(np.mean(seen, axis=0, dtype=np.float64))
    return mean, sum(float(np.square(one - mean).sum()) for one in seen) / len(seen) ** 2


def _of(array: Array) -> tuple[float, float]:
    """Mean and standard deviation over some samples, evenly taken."""
    seen = np.asarray(array[:: max(1, len(array) // LOOKED_AT)], np.float64)
    return float(seen.mean()), float(seen.std())
