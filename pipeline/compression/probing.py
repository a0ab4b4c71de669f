"""Which channels hang together, found by trying: what else is NaN when some channels of a layer are.

For networks whose graph torch-pruning cannot trace. Each layer in turn says NaN in half of its channels, those whose
number has a certain bit, then in the other half; what a place further on sees spells the number of the one channel that
it sees. Every layer that makes channels of its own says what it said before, so each place is reached from the layers
right above it only. A place that sees several channels of one layer cannot lose one: such a layer stays whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pipeline.compression.structure import Kept, layouts, width

Slot = tuple[str, str, int]  # layer, axis, channel
Seen = dict[tuple[str, str], Tensor]  # (layer, axis) -> bool [channels]: where NaN came in
Units = tuple[str, dict[Slot, int]]  # the first layer that makes them; each channel's unit

OUTPUT = ("", "output")


def units(model: nn.Module, example: Sequence[Tensor]) -> tuple[list[Units | Kept], set[str]]:
    """The units of each group of layers, or why a layer's channels stay, and the names of all layers that ran.

    `example`: real inputs, each [n, ...]; the model is in eval mode.
    """
    probe = _Probe(model, example)
    order = {name: index for index, (name, _) in enumerate(model.named_modules())}
    makers = [name for name in probe.said if "out" in layouts(model.get_submodule(name))]
    groups: list[Units | Kept] = []
    tied = _Ties()
    for name in makers:
        slots, size = _reached(probe, name), width(model.get_submodule(name), "out")
        if isinstance(slots, str):
            groups.append(Kept(name, size, slots))
            continue
        own = {(name, "out", channel): channel for channel in range(size)}
        for slot, channel in {**own, **slots}.items():
            tied.join(slot, (name, "out", channel))
    left = sorted({layer for layer, axis, _ in tied.parent if axis == "out"}, key=order.__getitem__)
    while left:
        units_of = tied.around(left[0])
        groups.append((left[0], units_of))
        left = [name for name in left if (name, "out", 0) not in units_of]
    return groups, set(probe.said)


def _reached(probe: _Probe, name: str) -> dict[Slot, int] | str:
    """Which channel of a layer each place sees, of those that see one; or why its channels stay."""
    size = width(probe.model.get_submodule(name), "out")
    number: dict[tuple[str, str], Tensor] = {}
    sees: dict[tuple[str, str], Tensor] = {}
    for bit in range(max(1, (size - 1).bit_length())):
        halves = [[c for c in range(size) if (c >> bit & 1) == value] for value in (1, 0)]
        try:
            ones, zeros = (probe.run(name, half) if half else {} for half in halves)
        except _RefusedError as refused:
            return f"without its values the model does not run: {refused}"
        for place in {**ones, **zeros}:
            blank = torch.zeros_like(ones.get(place, zeros.get(place)))  # type: ignore[arg-type]
            one, zero = ones.get(place, blank), zeros.get(place, blank)
            if place == OUTPUT:
                return "its channels are the model's output"
            if bool((one & zero).any()):
                return f"'{place[0]}' sees several of its channels at once"
            number[place] = number.get(place, blank.long()) + (one.long() << bit)
            sees[place] = sees.get(place, blank) | one | zero
    if not any(bool(seen.any()) for seen in sees.values()):
        return "nothing that reads it was found"
    return {
        (*place, channel): int(number[place][channel])
        for place, seen in sees.items()
        for channel in seen.nonzero().flatten().tolist()
    }


class _RefusedError(Exception):
    """How the model failed on values that are no numbers."""


class _Probe:
    """A model and what each of its layers said on the example. `said`: layer -> its outputs, call by call."""

    def __init__(self, model: nn.Module, example: Sequence[Tensor]) -> None:
        self.model, self.example = model, example
        self.said: dict[str, list[Any]] = {}

        def note(name: str, given: Any, output: Any) -> Any:
            self.said.setdefault(name, []).append(output)
            return None

        with torch.no_grad(), _hooked(model, note):
            model(*example)

    def run(self, maker: str, channels: Sequence[int]) -> Seen:
        """Where NaN is seen when these channels of a layer are NaN."""
        seen: Seen = {}
        calls: Counter[str] = Counter()
        axis = _axis(self.model.get_submodule(maker))

        def look(name: str, given: Any, output: Any) -> Any:
            module = self.model.get_submodule(name)
            place = "through" if "through" in layouts(module) else "in"
            if not isinstance(given, Tensor):
                raise _RefusedError(f"'{name}' reads no tensor")
            bad = given.isnan().movedim(_axis(module), 0).flatten(1).any(1)
            seen[name, place] = seen[name, place] | bad if (name, place) in seen else bad
            if place == "through":
                return None
            if calls[name] == len(self.said.get(name, ())):
                raise _RefusedError(f"'{name}' runs more often than on the samples")
            before = self.said[name][calls[name]]
            calls[name] += 1
            if name != maker:
                return before
            spoiled: Tensor = before.clone()
            return spoiled.index_fill_(axis % spoiled.ndim, torch.tensor(channels), torch.nan)

        with torch.no_grad(), _hooked(self.model, look):
            try:
                outputs = self.model(*self.example)
            except _RefusedError:
                raise
            except Exception as error:
                if foreign(error):
                    raise _RefusedError(" ".join(str(error).split())[:160]) from error
                raise
        spoiled = [bool(one.isnan().any()) for one in tree_leaves(outputs) if isinstance(one, Tensor)]
        return {place: bad for place, bad in seen.items() if bool(bad.any())} | (
            {OUTPUT: torch.tensor([True])} if any(spoiled) else {}
        )


def foreign(error: Exception) -> bool:
    """Was it raised in other people's code, and not in this package?"""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is None or not trace.tb_frame.f_globals.get("__name__", "").startswith("pipeline.")


def _axis(module: nn.Module) -> int:
    """Where a layer's inputs and outputs have their channels."""
    return -1 if isinstance(module, nn.Linear | nn.RNNBase) else 1


@contextmanager
def _hooked(model: nn.Module, hook: Callable[[str, Any, Any], Any]) -> Iterator[None]:
    """While active, call hook(layer, its first input, its output) for all layers in the table; an answer of its own
    takes the output's place.
    """

    def of(name: str) -> Callable[..., Any]:
        return lambda _, given, named, output: hook(name, [*given, *named.values()][0], output)

    layers = [(name, one) for name, one in model.named_modules() if {"in", "through"} & set(layouts(one))]
    handles = [module.register_forward_hook(of(name), with_kwargs=True) for name, module in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Ties:
    """Channels that fall together: disjoint sets of slots."""

    def __init__(self) -> None:
        self.parent: dict[Slot, Slot] = {}

    def find(self, slot: Slot) -> Slot:
        """What stands for the set that a slot is in."""
        self.parent.setdefault(slot, slot)
        while self.parent[slot] != slot:
            self.parent[slot] = slot = self.parent[self.parent[slot]]
        return slot

    def join(self, one: Slot, other: Slot) -> None:
        """Make one set of two."""
        self.parent[self.find(one)] = self.find(other)

    def around(self, maker: str) -> dict[Slot, int]:
        """All slots of a layer's units, and of the layers that make channels of these units too; slot -> unit."""
        sets: dict[Slot, list[Slot]] = {}
        for slot in self.parent:
            sets.setdefault(self.find(slot), []).append(slot)
        makers, roots = {maker}, dict[Slot, None]()
        while more := [
            root
            for root, slots in sets.items()
            if root not in roots and any(axis == "out" and layer in makers for layer, axis, _ in slots)
        ]:
            roots |= dict.fromkeys(more)
            makers |= {layer for root in more for layer, axis, _ in sets[root] if axis == "out"}
        first = {root: min(channel for layer, axis, channel in sets[root] if axis == "out") for root in roots}
        ordered = sorted(roots, key=lambda root: (first[root], root))
        return {slot: unit for unit, root in enumerate(ordered) for slot in sets[root]}
