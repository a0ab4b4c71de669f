"""The kinds of structured units that can be taken out, and where each kind is found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from pipeline.compression import channels, heads, hidden, structure
from pipeline.compression.structure import Edit, Group, Kept


@dataclass(frozen=True)
class Kind:
    """`find`: its groups and what stays whole; `prepare`: what must be rebuilt before, equal in what it says."""

    find: Callable[[nn.Module, Sequence[Tensor]], tuple[list[Group], list[Kept]]]
    prepare: Callable[[nn.Module, Sequence[Tensor]], list[Edit]] = lambda model, example: []


KINDS: dict[str, Kind] = {
    "channel": Kind(channels.groups),
    "hidden": Kind(hidden.groups),
    "head": Kind(heads.groups, heads.prepare),
}


def prepare(kinds: Sequence[str], model: nn.Module, example: Sequence[Tensor]) -> list[Edit]:
    """Rebuild, in place, what these kinds need rebuilt; the record of it."""
    edits = [edit for kind in kinds for edit in KINDS[kind].prepare(model, example)]
    structure.apply(model, edits)
    return edits


def groups(kinds: Sequence[str], model: nn.Module, example: Sequence[Tensor]) -> tuple[list[Group], list[Kept]]:
    """All groups of these kinds, and what of these kinds stays whole with the reason. `example`: inputs [n, ...]."""
    found: list[Group] = []
    kept: list[Kept] = []
    for kind in kinds:
        some, whole = KINDS[kind].find(model, example)
        found += some
        kept += whole
    known = {group.name for group in found}  # what one kind cannot cut, another may
    cut = {(member.module, member.axis) for group in found for member in group.members}
    return found, [one for one in kept if one.name not in known and (one.name, "out") not in cut]
