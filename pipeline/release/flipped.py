"""The inputs of samples whose answer flipped, delivered beside the evidence so that a report can show them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.release.samples import Answers

Array = npt.NDArray[Any]

FILE = "flipped.npz"
MOST = 12  # of each kind, lost and gained: what a person looks at
PREFIX = "input:"


@dataclass(frozen=True)
class Flipped:
    """`index` int64 [k]: places in the gate split; `inputs`: name -> [k, ...] in the model's (PyTorch) layout."""

    index: Array
    inputs: Mapping[str, Array]


def choose(answers: Answers) -> Array:
    """The first lost and the first gained samples, as ascending int64 [k]."""
    before, after = answers.float_class == answers.labels, answers.deployed_class == answers.labels
    lost, gained = np.flatnonzero(before & ~after)[:MOST], np.flatnonzero(after & ~before)[:MOST]
    return np.sort(np.concatenate([lost, gained])).astype(np.int64)


def save(file: Path, answers: Answers, inputs: Mapping[str, Array]) -> None:
    """Write the chosen samples. `inputs`: name -> [n, ...], the whole gate split, in the order of `answers`."""
    index = choose(answers)
    chosen = {PREFIX + name: np.asarray(array[index]) for name, array in inputs.items()}
    np.savez_compressed(file, index=index, **chosen)  # type: ignore[arg-type]


def load(file: Path) -> Flipped:
    """What `save` wrote. Raises OSError, ValueError or KeyError for anything else."""
    with file.open("rb") as stream, np.load(stream) as arrays:
        inputs = {name.removeprefix(PREFIX): arrays[name] for name in arrays.files if name.startswith(PREFIX)}
        return Flipped(arrays["index"], inputs)
