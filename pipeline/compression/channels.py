"""Channels of convolutions and linear layers that can only go together, by torch-pruning's dependency graph.

The graph says which slices of which layers fall when one channel goes. The slicing is ours (`structure`): a group that
reaches anything that its table does not know stays whole and is named. Each group is then tried on real inputs, so a
graph that the tracer misread cannot do harm.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from pipeline.compression import structure
from pipeline.compression.structure import Group, Kept, Member, layouts, width
from pipeline.errors import UsageError


def groups(model: nn.Module, example: Sequence[Tensor]) -> tuple[list[Group], list[Kept]]:
    """The groups that can be cut, and those that cannot with the reason. `example`: real inputs, each [n, ...].

    Leaves the model as it was. Raises UsageError when its graph cannot be traced.
    """
    with structure.judging(model):
        found, kept = [], []
        with torch.no_grad():
            reference = model(*example)
        dependent, seen = _dependencies(model, example)
        for group in dependent:
            if isinstance(group, Group):
                reason = structure.problem(model, group, example, reference)
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
        try:
            graph = torch_pruning.DependencyGraph().build_dependency(
                model,
                tuple(example),
                forward_fn=lambda traced, inputs: traced(*inputs),
                customized_pruners={type(module): _Boundary() for module in model.modules() if _recurrent(module)},
                verbose=False,
            )
            traced = list(graph.get_all_groups())
        except Exception as error:
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise UsageError(f"the model's graph cannot be traced for pruning: {text}") from error
        groups = [_group(found, graph.is_out_channel_pruning_fn, shared) for found in traced]
        order = [name for name, _ in model.named_modules()]
        seen = {_layer(item.dep.target) for found in traced for item in found}
        return sorted(groups, key=lambda group: order.index(group.name) if group.name in order else len(order)), seen


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


def _group(found: Any, is_out: Callable[[Any], bool], shared: set[int]) -> Group | Kept:
    """A torch-pruning group in our terms."""
    root = found[0].dep.target
    name, known = _layer(root), layouts(root.module)
    size = width(root.module, "out") if "out" in known else len(found[0].idxs)
    lost: dict[tuple[str, str], dict[int, int]] = {}  # a normalisation is met from both sides, so members are merged
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
            return Kept(name, size, f"it reaches '{layer}' ({type(module).__name__}), which cannot be cut")
        if any(id(parameter) in shared for parameter in module.parameters(recurse=False)):
            return Kept(name, size, f"it reaches '{layer}', which shares a parameter with another layer")
        lost.setdefault((layer, axis), {}).update(zip(item.idxs, item.root_idxs, strict=True))
    members = (Member(layer, axis, *zip(*sorted(pairs.items()), strict=True)) for (layer, axis), pairs in lost.items())
    return Group(name, size, tuple(members))


def _layer(node: Any) -> str:
    return str(node.name).split(" (")[0]  # torch-pruning appends the module's text
