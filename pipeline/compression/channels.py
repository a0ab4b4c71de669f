"""Channels of convolutions and linear layers that can only go together, by torch-pruning's dependency graph.

The graph says which slices of which layers fall when one channel goes; where it cannot be made, they are found by
trying (`probing`). The slicing is ours (`structure`): a group that reaches anything that its table does not know stays
whole and is named. Each group is then tried on real inputs, so a graph that was misread cannot do harm.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from pipeline.compression import heads, probing, structure
from pipeline.compression.structure import Group, Kept, Member, layouts, width

Lost = dict[tuple[str, str], dict[int, int]]  # (layer, axis) -> its channel: the unit that takes it along


def groups(model: nn.Module, example: Sequence[Tensor]) -> tuple[list[Group], list[Kept]]:
    """The groups that can be cut, and those that cannot with the reason. `example`: real inputs, each [n, ...].

    Leaves the model as it was.
    """
    with structure.judging(model):
        found, kept = [], []
        with torch.no_grad():
            reference = model(*example)
        # Between heads, a channel is not free: where the scores are nearly even, no trial on inputs would notice.
        headed = {(one.module, one.axis): of.name for of in heads.groups(model, example)[0] for one in of.members}
        dependent, seen = _dependencies(model, example)
        for group in dependent:
            if isinstance(group, Group):
                owners = (headed.get((one.module, one.axis)) for one in group.members if one.axis == "out")
                owner = next((name for name in owners if name is not None), None)
                reason = structure.problem(model, group, example, reference)
                if owner is not None:
                    reason = f"its channels are those of heads of '{owner}': granularity \"head\" takes these"
                if not reason:
                    found.append(group)
                    continue
                group = Kept(group.name, group.width, reason)
            kept.append(group)
        return found, kept + _unseen(model, example, seen)


def _unseen(model: nn.Module, example: Sequence[Tensor], seen: Container[str]) -> list[Kept]:
    """Layers whose outputs could be cut and that the graph does not hold."""
    ran: set[str] = set()
    layers = {name: module for name, module in model.named_modules() if "out" in layouts(module) and name not in seen}

    def note(name: str) -> Callable[..., None]:
        return lambda *_: ran.add(name)

    handles = [module.register_forward_hook(note(name)) for name, module in layers.items()]
    try:
        with torch.no_grad():
            model(*example)
    finally:
        for handle in handles:
            handle.remove()
    why = {True: "no gradient runs through it to the model's outputs", False: "it was not run on the first samples"}
    return [Kept(name, width(module, "out"), why[name in ran]) for name, module in layers.items()]


def _dependencies(model: nn.Module, example: Sequence[Tensor]) -> tuple[list[Group | Kept], set[str]]:
    """The groups in the layers' order, and the names of all layers that the graph holds."""
    import torch_pruning

    shared = structure.shared(model)
    with torch.enable_grad(), _opaque_recurrence(model):
        try:  # it guesses at shapes and indices, and fails on what it did not foresee in many ways
            graph = torch_pruning.DependencyGraph().build_dependency(
                model,
                tuple(example),
                forward_fn=lambda traced, inputs: traced(*inputs),
                customized_pruners={type(module): _Boundary() for module in model.modules() if _recurrent(module)},
                verbose=False,
            )
            traced = list(graph.get_all_groups())
        except Exception as error:
            if not probing.foreign(error):
                raise
            return _probed(model, example, shared)
        groups = [_group(model, found, graph.is_out_channel_pruning_fn, shared) for found in traced]
        order = [name for name, _ in model.named_modules()]
        seen = {_layer(item.dep.target) for found in traced for item in found}
        return sorted(groups, key=lambda group: order.index(group.name) if group.name in order else len(order)), seen


def _probed(model: nn.Module, example: Sequence[Tensor], shared: set[int]) -> tuple[list[Group | Kept], set[str]]:
    """As `_dependencies`, without a graph."""
    found: list[Group | Kept] = []
    traced, seen = probing.units(model, example)
    for one in traced:
        if isinstance(one, Kept):
            found.append(one)
            continue
        name, units = one
        lost: Lost = {}
        for (layer, axis, channel), unit in units.items():
            lost.setdefault((layer, axis), {})[channel] = unit
        owners = [layer for layer, _ in lost if _shares(model.get_submodule(layer), shared)]
        size = len(set(units.values()))
        found.append(Kept(name, size, _SHARES.format(owners[0])) if owners else _assembled(model, name, size, lost))
    order = [name for name, _ in model.named_modules()]
    return sorted(found, key=lambda group: order.index(group.name)), seen


class _Boundary:
    """Tells torch-pruning that a recurrent layer's input and output channels have nothing to do with each other."""

    pruning_dim = 1

    def prune_out_channels(self, layer: Any, idxs: Any) -> Any: ...

    def prune_in_channels(self, layer: Any, idxs: Any) -> Any: ...

    def get_out_channels(self, layer: nn.RNNBase) -> int:
        return (layer.proj_size or layer.hidden_size) * (2 if layer.bidirectional else 1)

    def get_in_channels(self, layer: nn.RNNBase) -> int:
        return layer.input_size


class _Opaque(torch.autograd.Function):
    """One node from a layer's input to its outputs, in place of all that happens inside."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, *outputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(output.clone() for output in outputs)


def _recurrent(module: nn.Module) -> bool:
    return isinstance(module, nn.RNNBase)


@contextmanager
def _opaque_recurrence(model: nn.Module) -> Iterator[None]:
    """While tracing, hide the steps inside of recurrent layers: the tracer would take their gates for channels."""
    layers = [module for module in model.modules() if isinstance(module, nn.RNNBase)]

    def hidden(layer: nn.RNNBase) -> Callable[..., Any]:
        forward = layer.forward

        def run(source: Tensor, state: Any = None) -> Any:
            with torch.no_grad():
                flat, spec = tree_flatten(forward(source, state))
            return tree_unflatten(list(_Opaque.apply(source, *flat)), spec)  # type: ignore[no-untyped-call]

        return run

    for layer in layers:
        layer.forward = hidden(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _group(model: nn.Module, found: Any, is_out: Callable[[Any], bool], shared: set[int]) -> Group | Kept:
    """A torch-pruning group in our terms."""
    root = found[0].dep.target
    name, known = _layer(root), layouts(root.module)
    size = width(root.module, "out") if "out" in known else len(found[0].idxs)
    lost: Lost = {}  # a normalisation is met from both sides, so members are merged
    for item in found:
        module = item.dep.target.module
        if isinstance(module, nn.Parameter):
            return Kept(name, size, f"it reaches a parameter outside of the known layers (shape {list(module.shape)})")
        if type(module).__name__ == "_OutputOp":
            return Kept(name, size, "its channels are the model's output")
        if type(module).__module__ == "torch_pruning.ops":
            continue  # element-wise, concat, reshape: they hold no weights, and the graph has mapped the channels
        layer, known = _layer(item.dep.target), layouts(module)
        axis = "through" if "through" in known else ("out" if is_out(item.dep.handler) else "in")
        if axis not in known:
            what = "whose weights are computed" if structure.reparametrised(module) else "which cannot be cut"
            return Kept(name, size, f"it reaches '{layer}' ({type(module).__name__}), {what}")
        if _shares(module, shared):
            return Kept(name, size, _SHARES.format(layer))
        lost.setdefault((layer, axis), {}).update(zip(item.idxs, item.root_idxs, strict=True))
    return _assembled(model, name, size, lost)


_SHARES = "it reaches '{}', which shares a parameter with another layer"


def _shares(module: nn.Module, shared: set[int]) -> bool:
    return any(id(parameter) in shared for parameter in module.parameters(recurse=False))


def _assembled(model: nn.Module, name: str, size: int, lost: Lost) -> Group | Kept:
    """A group of `size` units, fewer where convolutions in groups tie them."""
    for layer, axis in list(lost):
        conv = model.get_submodule(layer)
        if not structure.grouped(conv):
            continue
        each = (conv.in_channels if axis == "in" else conv.out_channels) // conv.groups
        if len(lost[layer, axis]) < each * conv.groups:
            return Kept(name, size, f"the groups of convolution '{layer}' read it and something else")
        lost = _tied(lost, (layer, axis), each)
        size = len(set(lost[layer, axis].values()))
        if axis == "in":  # columns of the weight
            lost[layer, axis] = {channel % each: unit for channel, unit in lost[layer, axis].items()}
    members = (Member(layer, axis, *zip(*sorted(pairs.items()), strict=True)) for (layer, axis), pairs in lost.items())
    return Group(name, size, tuple(members))


def _tied(lost: Lost, conv: tuple[str, str], each: int) -> Lost:
    """The same with fewer units: the channels of one convolution that are `each` apart go together, so that its groups
    stay equally wide.
    """
    first = {root: root for pairs in lost.values() for root in pairs.values()}
    for column in range(each):
        alike = {first[root] for channel, root in lost[conv].items() if channel % each == column}
        first = {root: min(alike) if now in alike else now for root, now in first.items()}
    number = {root: unit for unit, root in enumerate(sorted(set(first.values())))}
    return {key: {channel: number[first[root]] for channel, root in pairs.items()} for key, pairs in lost.items()}


def _layer(node: Any) -> str:
    return str(node.name).split(" (")[0]  # torch-pruning appends the module's text
