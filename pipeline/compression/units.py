"""The kinds of structured units that can be taken out, and where each kind is found."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from pipeline.compression import channels, hidden
from pipeline.compression.structure import Group, Kept

Find = Callable[[nn.Module, Sequence[Tensor]], tuple[list[Group], list[Kept]]]

KINDS: dict[str, Find] = {"channel": channels.groups, "hidden": hidden.groups}


def groups(kinds: Sequence[str], model: nn.Module, example: Sequence[Tensor]) -> tuple[list[Group], list[Kept]]:
    """All groups of these kinds, and what of these kinds stays whole with the reason. `example`: inputs [n, ...]."""
    found: list[Group] = []
    kept: list[Kept] = []
    for kind in kinds:
        some, whole = KINDS[kind](model, example)
        found += some
        kept += whole
    known = {group.name for group in found}  # what one kind cannot cut, another may
    return found, [one for one in kept if one.name not in known]
