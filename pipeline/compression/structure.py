"""Which channels hang together, and taking them out: recorded as data, so that it can be replayed on a fresh model.

torch-pruning's dependency graph says which slices of which layers fall when one channel goes. The slicing is ours:
the table below knows every layer that is cut, and a group that reaches anything else stays whole and is named. Each
group is then tried on real inputs: taking channels out must give what zeroing them gives. What fails that stays whole
too, so a graph that the tracer misread cannot do harm.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from pipeline.compression.macs import Layer
from pipeline.errors import UsageError
from pipeline.interface import by_name

Edit = dict[str, Any]  # {"module", "axis", "width", "removed"}: channels that one layer lost along one axis
Edits = list[list[Edit]]  # one list for each time that the model was pruned, oldest first

TOLERANCE = 1e-4  # of the largest output: between removing and zeroing, float noise only


@dataclass(frozen=True)
class Layout:
    """Where a layer keeps the channels of one axis: (tensor, dim) pairs, weight first, and the width's attributes."""

    tensors: tuple[tuple[str, int], ...]
    widths: tuple[str, ...]


@dataclass(frozen=True)
class Member:
    """`channels[i]` of a layer's axis ("in", "out" or "through") falls when channel `roots[i]` of its group does."""

    module: str
    axis: str
    channels: tuple[int, ...]
    roots: tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """Channels that can only go together. `name`: the layer that makes them; `width`: how many there are."""

    name: str
    width: int
    members: tuple[Member, ...]


@dataclass(frozen=True)
class Kept:
    """A group that stays whole, and why."""

    name: str
    width: int
    reason: str


_CONV = {
    "out": Layout((("weight", 0), ("bias", 0)), ("out_channels",)),
    "in": Layout((("weight", 1),), ("in_channels",)),
}
_TRANSPOSED = {
    "out": Layout((("weight", 1), ("bias", 0)), ("out_channels",)),
    "in": Layout((("weight", 0),), ("in_channels",)),
}
_DEPTHWISE = {"through": Layout((("weight", 0), ("bias", 0)), ("in_channels", "out_channels", "groups"))}
_LINEAR = {
    "out": Layout((("weight", 0), ("bias", 0)), ("out_features",)),
    "in": Layout((("weight", 1),), ("in_features",)),
}
_NORM = {"through": Layout((("weight", 0), ("bias", 0), ("running_mean", 0), ("running_var", 0)), ("num_features",))}
_PRELU = {"through": Layout((("weight", 0),), ("num_parameters",))}
_RECURRENT = {"in": Layout((("weight_ih_l0", 1), ("weight_ih_l0_reverse", 1)), ("input_size",))}


def layouts(module: nn.Module) -> Mapping[str, Layout]:
    """Axis -> layout for a layer that can be cut; empty for every other."""
    if isinstance(module, nn.modules.conv._ConvNd):
        if module.groups == 1:
            return _TRANSPOSED if module.transposed else _CONV
        depthwise = module.groups == module.in_channels == module.out_channels
        return _DEPTHWISE if depthwise else {}
    if type(module) is nn.Linear:
        return _LINEAR
    if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)):
        return _NORM
    if isinstance(module, nn.PReLU) and module.num_parameters > 1:
        return _PRELU
    if isinstance(module, nn.RNNBase):
        return _RECURRENT
    return {}


def groups(model: nn.Module, example: Sequence[Tensor]) -> tuple[list[Group], list[Kept]]:
    """The groups that can be cut, and those that cannot with the reason. `example`: real inputs, each [n, ...].

    Leaves the model as it was. Raises UsageError when its graph cannot be traced.
    """
    training = model.training
    model.eval()
    try:
        found, kept = [], []
        with torch.no_grad():
            reference = by_name(model(*example))
        for group in _dependencies(model, example):
            if isinstance(group, Group):
                reason = _problem(model, group, example, reference)
                if not reason:
                    found.append(group)
                    continue
                group = Kept(group.name, group.width, reason)
            kept.append(group)
        return found, kept
    finally:
        model.train(training)


def edits_for(model: nn.Module, removed: Iterable[tuple[Group, Sequence[int]]]) -> list[Edit]:
    """What each layer loses when each group loses these of its channels; in layer order."""
    lost: dict[tuple[str, str], set[int]] = {}
    for group, channels in removed:
        gone = set(channels)
        for member in group.members:
            hit = {channel for channel, root in zip(member.channels, member.roots, strict=True) if root in gone}
            lost.setdefault((member.module, member.axis), set()).update(hit)
    order = {name: index for index, (name, _) in enumerate(model.named_modules())}
    return [
        {"module": name, "axis": axis, "width": width(model.get_submodule(name), axis), "removed": sorted(channels)}
        for (name, axis), channels in sorted(lost.items(), key=lambda item: (order[item[0][0]], item[0][1]))
        if channels
    ]


def remaining(groups: Sequence[Group], gone: Sequence[Sequence[int]]) -> list[Group]:
    """The groups as they are, renumbered, once each has lost these of its channels."""
    lost: dict[tuple[str, str], set[int]] = {}
    for group, channels in zip(groups, gone, strict=True):
        for member in group.members:
            hit = (c for c, root in zip(member.channels, member.roots, strict=True) if root in set(channels))
            lost.setdefault((member.module, member.axis), set()).update(hit)

    def now(index: int, without: Iterable[int]) -> int:
        return index - sum(1 for one in without if one < index)

    found = []
    for group, channels in zip(groups, gone, strict=True):
        members = []
        for member in group.members:
            away = lost[member.module, member.axis]
            pairs = zip(member.channels, member.roots, strict=True)
            kept = [(now(c, away), now(root, set(channels))) for c, root in pairs if c not in away]
            members.append(Member(member.module, member.axis, *zip(*kept, strict=True)))
        found.append(Group(group.name, group.width - len(set(channels)), tuple(members)))
    return found


def cost(model: nn.Module, groups: Sequence[Group], layers: Iterable[Layer]) -> Callable[[Sequence[int]], int]:
    """MACs of the whole network as a function of the channels left in each group, exact and without building it."""
    full = [group.width for group in groups]
    reach: dict[tuple[str, str], list[tuple[int, int]]] = {}  # (layer, axis) -> [(group, its channels for one root)]
    for index, group in enumerate(groups):
        for member in group.members:
            each = len(member.channels) // len(set(member.roots))
            reach.setdefault((member.module, member.axis), []).append((index, each))
    terms = []
    for layer in layers:
        module = model.get_submodule(layer.name)
        axes = [axis for axis in layouts(module) if (layer.name, axis) in reach]
        terms.append(
            (layer.macs - layer.fixed, layer.fixed, [(width(module, axis), reach[layer.name, axis]) for axis in axes])
        )

    def macs(left: Sequence[int]) -> int:
        gone = [before - after for before, after in zip(full, left, strict=True)]
        total = 0
        for amount, fixed, axes in terms:
            for size, parts in axes:
                amount = amount // size * (size - sum(gone[group] * each for group, each in parts))
            total += amount + fixed
        return total

    return macs


def width(module: nn.Module, axis: str) -> int:
    """Channels of a layer's axis now."""
    return int(getattr(module, layouts(module)[axis].widths[0]))


def apply(model: nn.Module, edits: Iterable[Edit]) -> None:
    """Take the channels out, in place."""
    for edit in edits:
        module = model.get_submodule(edit["module"])
        layout = layouts(module)[edit["axis"]]
        gone = set(edit["removed"])
        keep = torch.tensor([i for i in range(edit["width"]) if i not in gone])
        for name, dim in layout.tensors:
            tensor = getattr(module, name, None)
            if tensor is None:
                continue
            cut = tensor.detach().index_select(dim, keep)
            setattr(module, name, nn.Parameter(cut, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else cut)
        for attribute in layout.widths:
            setattr(module, attribute, len(keep))


def replay(model: nn.Module, steps: Edits, where: str) -> None:
    """Apply recorded edits to a freshly built model. Raises UsageError when they do not fit it."""
    for edits in steps:
        for edit in edits:
            name, axis = edit["module"], edit["axis"]
            module = dict(model.named_modules()).get(name)
            now = width(module, axis) if module is not None and axis in layouts(module) else None
            if now != edit["width"]:
                raise UsageError(
                    f"{where} does not build what was pruned: layer '{name}' has {now} channels ({axis}), the record "
                    f"says {edit['width']}. The factory changed since; run the stages again"
                )
        apply(model, edits)


def zero(model: nn.Module, edits: Iterable[Edit]) -> None:
    """Make the channels unseen by whatever reads them, in place: what removing them must be equal to."""
    for edit in edits:
        if edit["axis"] == "in":
            module = model.get_submodule(edit["module"])
            for name, dim in layouts(module)["in"].tensors:
                if hasattr(module, name):
                    getattr(module, name).data.index_fill_(dim, torch.tensor(edit["removed"]), 0.0)


def _problem(model: nn.Module, group: Group, example: Sequence[Tensor], reference: Mapping[str, Tensor]) -> str:
    """Why a group cannot be cut; empty when half of it was removed with the result that zeroing gives."""
    if group.width < 2:
        return "it has one channel"
    if not any(member.axis == "in" for member in group.members):
        return "its channels are the model's output"
    order = torch.randperm(group.width, generator=torch.Generator().manual_seed(0)).tolist()
    edits = edits_for(model, [(group, order[: group.width // 2])])
    cut, zeroed = copy.deepcopy(model), copy.deepcopy(model)
    try:
        apply(cut, edits)
        zero(zeroed, edits)
        with torch.no_grad():
            removed, expected = by_name(cut(*example)), by_name(zeroed(*example))
    except Exception as error:
        return f"without some of its channels the model does not run: {' '.join(str(error).split())[:160]}"
    for name, whole in reference.items():
        if removed[name].shape != whole.shape:
            return f"it changes the output's shape from {list(whole.shape)} to {list(removed[name].shape)}"
    worst = max(
        float((removed[name] - values).abs().max() / values.abs().max().clamp_min(1e-12))
        for name, values in expected.items()
    )
    if not worst <= TOLERANCE:
        return f"removing its channels is not the same as zeroing them (off by {worst:.2g} of the largest output)"
    return ""


def _dependencies(model: nn.Module, example: Sequence[Tensor]) -> list[Group | Kept]:
    import torch_pruning

    shared = _shared(model)
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
        return sorted(groups, key=lambda group: order.index(group.name) if group.name in order else len(order))


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


def _shared(model: nn.Module) -> set[int]:
    """Parameters that several layers share: cutting one layer would untie them."""
    owners: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), set()).add(name)
    return {key for key, names in owners.items() if len(names) > 1}


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
