"""Hidden units of GRU, LSTM and RNN layers, and who reads each: found by watching where a spoiled unit turns up.

Stacked layers and directions of one recurrent layer have the same width by construction, so a unit of the group is one
state of each: those of equal rank by magnitude, the strongest beside the strongest. Readers are found by making some
units NaN at a time, each unit following the bits of its number: what a channel of a reader sees spells that number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.compression import structure
from pipeline.compression.structure import Group, Kept, Member, layouts
from pipeline.interface import by_name

Seen = dict[tuple[str, str], Tensor]  # (layer, axis) -> which of its channels were spoiled


class _RefusedError(Exception):
    """Why a layer's hidden units stay whole."""


def groups(model: nn.Module, example: Sequence[Tensor]) -> tuple[list[Group], list[Kept]]:
    """The recurrent layers whose hidden units can be cut, and those that stay whole with the reason.

    `example`: real inputs, each [n, ...]. Leaves the model as it was.
    """
    found, kept = [], []
    shared = structure.shared(model)
    with structure.judging(model), torch.no_grad():
        reference = model(*example)
        for name, layer in model.named_modules():
            if not isinstance(layer, nn.RNNBase):
                continue
            try:
                group = _group(model, name, layer, example, shared)
                if reason := structure.problem(model, group, example, reference):
                    raise _RefusedError(reason)
                found.append(group)
            except _RefusedError as refused:
                kept.append(Kept(name, layer.hidden_size, str(refused)))
    return found, kept


def _group(model: nn.Module, name: str, layer: nn.RNNBase, example: Sequence[Tensor], shared: set[int]) -> Group:
    if type(layer) not in (nn.GRU, nn.LSTM, nn.RNN):
        raise _RefusedError(f"it is a {type(layer).__name__}, whose inside is unknown")
    if layer.proj_size:
        raise _RefusedError("it projects its hidden state (proj_size)")
    if any(id(parameter) in shared for parameter in layer.parameters()):
        raise _RefusedError("it shares a parameter with another layer")
    size, directions = layer.hidden_size, 1 + layer.bidirectional
    places = [f"l{number}{way}" for number in range(layer.num_layers) for way in ("", "_reverse")[:directions]]
    rank = [_rank(layer, place) for place in places]  # [place][unit] -> the unit's number in the group
    gates = structure.width(layer, "gates l0") // size
    members = []
    for index, place in enumerate(places):
        rows = [gate * size + unit for gate in range(gates) for unit in range(size)]
        members.append(Member(name, f"gates {place}", tuple(rows), tuple(rank[index] * gates)))
        members.append(Member(name, f"state {place}", tuple(range(size)), tuple(rank[index])))
    for number in range(1, layer.num_layers):
        below = rank[(number - 1) * directions : number * directions]
        roots = tuple(root for direction in below for root in direction)
        members.append(Member(name, f"in l{number}", tuple(range(len(roots))), roots))
    for (reader, axis), units in _readers(model, layer, example, len(places)).items():
        if structure.grouped(model.get_submodule(reader)):
            raise _RefusedError(f"'{reader}' reads it in groups")
        if any(id(parameter) in shared for parameter in model.get_submodule(reader).parameters(recurse=False)):
            raise _RefusedError(f"it reaches '{reader}', which shares a parameter with another layer")
        roots = tuple(rank[unit // size][unit % size] for unit in units.values())
        members.append(Member(reader, axis, tuple(units), roots))
    return Group(name, size, tuple(members))


def _rank(layer: nn.RNNBase, place: str) -> list[int]:
    """Of each unit of one layer and direction: how many are weaker, by the norm of what makes it and of its loop."""
    size = layer.hidden_size
    made = getattr(layer, f"weight_ih_{place}").square().sum(1) + getattr(layer, f"weight_hh_{place}").square().sum(1)
    norms = made.view(-1, size).sum(0) + getattr(layer, f"weight_hh_{place}").square().sum(0)
    return [int(one) for one in norms.argsort(stable=True).argsort()]


def _readers(
    model: nn.Module, layer: nn.RNNBase, example: Sequence[Tensor], places: int
) -> dict[tuple[str, str], dict[int, int]]:
    """(layer, axis) -> {its channel: number of the unit that it reads}, place x width + unit."""
    number = torch.arange(places * layer.hidden_size)
    bits = max(1, math.ceil(math.log2(len(number))))
    ones, zeros = (
        [_spoil(model, layer, example, (number >> bit & 1) == value, places) for bit in range(bits)] for value in (1, 0)
    )
    found = {}
    for key in ones[0]:
        one, zero = (torch.stack([seen[key] for seen in passes]) for passes in (ones, zeros))
        reached = one.any(0) | zero.any(0)
        if not bool((one ^ zero)[:, reached].all()):
            raise _RefusedError(f"its units are mixed with each other before '{key[0]}' reads them")
        spelled = (one.long() * (2 ** torch.arange(bits))[:, None]).sum(0)
        if bool(reached.any()):
            found[key] = {int(channel): int(spelled[channel]) for channel in reached.nonzero().flatten()}
    return found


def _spoil(model: nn.Module, layer: nn.RNNBase, example: Sequence[Tensor], which: Tensor, places: int) -> Seen:
    """Run the model with some units NaN, everywhere that the layer gives them away. A reader gets zeros instead."""
    which = which.view(places, layer.hidden_size)
    last = which[-(1 + layer.bidirectional) :].flatten()
    seen: Seen = {}
    ran = False

    def give(module: nn.Module, args: Any, given: Any) -> Any:
        nonlocal ran
        output, states = given
        if not isinstance(output, Tensor):
            raise _RefusedError("it runs on packed sequences")
        ran = True

        def spoiled(state: Tensor) -> Tensor:  # [places, n, hidden], or without n
            return state.masked_fill(which if state.ndim == 2 else which[:, None], torch.nan)

        states = tuple(map(spoiled, states)) if isinstance(states, tuple) else spoiled(states)
        return output.masked_fill(last, torch.nan), states

    def watch(name: str, axis: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> Any:
            if not args or not isinstance(args[0], Tensor):
                return None
            channels = args[0].movedim(-1 if isinstance(module, (nn.Linear, nn.RNNBase)) else 1, 0)
            spoiled = channels.isnan().flatten(1).any(1)
            seen[name, axis] = spoiled | seen.get((name, axis), torch.tensor(False))
            return (args[0].nan_to_num(nan=0.0), *args[1:]) if axis == "in" else args

        return hook

    hooks = [layer.register_forward_hook(give)]
    for name, module in model.named_modules():
        axis = next((axis for axis in ("in", "through") if axis in layouts(module)), None)
        if axis:
            hooks.append(module.register_forward_pre_hook(watch(name, axis)))
    try:
        output = model(*example)
    finally:
        for hook in hooks:
            hook.remove()
    if not ran:
        raise _RefusedError("it is not run")
    if any(bool(values.isnan().any()) for values in by_name(output).values()):
        raise _RefusedError("its units reach the model's output")
    return seen
