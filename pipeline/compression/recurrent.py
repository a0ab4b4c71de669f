"""Recurrent ops as the products that they are: which weights they hold, and what each of these is multiplied with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

PREFIXES = ("aten::gru", "aten::lstm", "aten::rnn")


class Cell(NamedTuple):
    """One product of a recurrent op: key of its weights [gates * units, inputs], and of the bias that is added to it
    (with +1, as in pipeline.compression.program.Layer)."""

    weight: str
    shift: tuple[str, int] | None


def cells(node: fx.Node, reads: Mapping[str, int]) -> tuple[list[Cell], str]:
    """The products of a node such as aten.gru.input(x, state, parameters, biased, layers, ...), or why there are none.

    `reads`: how often each key of the state is read.
    """
    groups = _groups(node, node.args[2])
    if groups is None:
        return [], "not the usual weights of a recurrent op (a projection, or a packed sequence)"
    found = []
    for group in groups:
        if any(not isinstance(one, fx.Node) or one.op != "get_attr" or reads[str(one.target)] != 1 for one in group):
            return [], "its weights are computed, or shared with another layer"
        keys = [str(one.target) for one in group]
        shifts: list[tuple[str, int] | None] = [(key, 1) for key in keys[2:]]
        found += [Cell(key, shift) for key, shift in zip(keys[:2], shifts or [None, None], strict=True)]
    return found, ""


def inputs(node: fx.Node, args: Any) -> Iterator[tuple[str, Tensor]]:
    """Of each product, in order: the key of its weights and what they are multiplied with [..., inputs].

    `args`: the values of the node's arguments. Each layer and direction is run by itself, since the op does not show
    what its inner layers say.
    """
    x, state, parameters, biased, layers, _, _, both_ways, batch_first = args
    target: Any = node.target
    names, values = _groups(node, node.args[2]), _groups(node, parameters)
    assert names is not None
    assert values is not None
    ways = 2 if both_ways else 1
    time = 1 if batch_first else 0
    for layer in range(layers):
        said = []
        for way in range(ways):
            at = ways * layer + way
            begin = [one[at : at + 1] for one in (state if isinstance(state, list | tuple) else (state,))]
            given = x.flip(time) if way else x
            first = begin if isinstance(state, list | tuple) else begin[0]
            out = target(given, first, list(values[at]), biased, 1, 0.0, False, False, batch_first)[0]
            before = torch.cat([begin[0].movedim(0, time), out.narrow(time, 0, out.shape[time] - 1)], time)
            yield str(names[at][0].target), given
            yield str(names[at][1].target), before
            said.append(out.flip(time) if way else out)
        x = torch.cat(said, -1)


def _groups(node: fx.Node, parameters: Any) -> list[Any] | None:
    """The parameters of each layer and direction; None where they are not two weights, and two biases where biased."""
    if len(node.args) != 9 or not isinstance(parameters, list | tuple):
        return None
    layers: Any = node.args[4]
    count, each = layers * (2 if node.args[7] else 1), 4 if node.args[3] else 2
    if len(parameters) != count * each:
        return None
    return [parameters[i * each : (i + 1) * each] for i in range(count)]
