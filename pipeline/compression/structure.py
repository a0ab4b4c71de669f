"""Units that hang together, and taking them out: recorded as data, so that it can be replayed on a fresh model.

The table below knows every layer that is cut and where it keeps what. Which slices of which layers belong to one unit
is found elsewhere (`channels`, `hidden`); here a found group is tried on real inputs: taking units out must give what
zeroing them gives. What fails that stays whole and is named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import gcd
from typing import Any, Literal, Protocol, TypeGuard

import torch
from torch import Tensor, nn

from pipeline.compression.attention import unfold
from pipeline.compression.copies import copied
from pipeline.compression.macs import Part
from pipeline.errors import UsageError
from pipeline.interface import Outputs, by_name

Edit = dict[str, Any]  # {"module", "axis", "width", "removed"}: channels that one layer lost along one axis
Edits = list[list[Edit]]  # one list for each time that the model was pruned, oldest first

ATTENTION = "attention"  # an edit that takes an nn.MultiheadAttention apart, so that its heads can go
LAYER = "layer"  # an edit that takes a whole residual block out
HEAD_ATTRIBUTES = ("num_heads", "n_heads", "n_head", "heads", "nhead", "num_attention_heads")
HEADS_WIDTHS = ("all_head_size", "inner_dim", "attn_dim")  # names for heads x size of a head
TOLERANCE = 1e-4  # of the largest output: between removing and zeroing, float noise only


@dataclass(frozen=True)
class Layout:
    """Where a layer keeps the channels of one axis: (tensor, dim) pairs, weight first, and its width's attributes.

    `multiples`: attributes that are multiples of the width, which is the first tensor's own where `widths` is empty.
    `role`: whether the layer makes the channels, reads them, or lets them through.
    """

    tensors: tuple[tuple[str, int], ...]
    widths: tuple[str, ...]
    role: Literal["makes", "reads", "passes"] = "passes"
    multiples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Member:
    """`channels[i]` of a layer's axis (a key of `layouts`) falls when unit `roots[i]` of its group does."""

    module: str
    axis: str
    channels: tuple[int, ...]
    roots: tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """Units whose slices can only go together. `name`: the layer that makes them; `width`: how many there are."""

    name: str
    width: int
    members: tuple[Member, ...]


@dataclass(frozen=True)
class Kept:
    """A group that stays whole, and why."""

    name: str
    width: int
    reason: str


class Removed(nn.Module):
    """What stands where a residual block was: x, however the block was called."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What it is given."""
        return x


_CONV = {
    "out": Layout((("weight", 0), ("bias", 0)), ("out_channels",), "makes"),
    "in": Layout((("weight", 1),), ("in_channels",), "reads"),
}
# Channels that are read are columns here: one channel of each convolution group at once, since all have equally many.
_GROUPED = _CONV | {"in": Layout((("weight", 1),), (), "reads", ("in_channels",))}
_TRANSPOSED = {
    "out": Layout((("weight", 1), ("bias", 0)), ("out_channels",), "makes"),
    "in": Layout((("weight", 0),), ("in_channels",), "reads"),
}
_DEPTHWISE = {"through": Layout((("weight", 0), ("bias", 0)), ("in_channels", "out_channels", "groups"))}
_LINEAR = {
    "out": Layout((("weight", 0), ("bias", 0)), ("out_features",), "makes"),
    "in": Layout((("weight", 1),), ("in_features",), "reads"),
}
_NORM = {"through": Layout((("weight", 0), ("bias", 0), ("running_mean", 0), ("running_var", 0)), ("num_features",))}
_PRELU = {"through": Layout((("weight", 0),), ("num_parameters",))}


def layouts(module: nn.Module) -> Mapping[str, Layout]:
    """Axis -> layout for a layer that can be cut; empty for every other, and where its weights are made of others."""
    if reparametrised(module):
        return {}
    if isinstance(module, nn.modules.conv._ConvNd):
        if module.groups == 1:
            return _TRANSPOSED if module.transposed else _CONV
        if module.groups == module.in_channels == module.out_channels:
            return _DEPTHWISE
        return _GROUPED if grouped(module) else {}
    if type(module) is nn.Linear:
        return _LINEAR
    if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)):
        return _NORM
    if isinstance(module, nn.PReLU) and module.num_parameters > 1:
        return _PRELU
    if isinstance(module, nn.RNNBase):
        return _recurrent(module)
    if heads := head_attribute(module):
        return {"heads": Layout((), (heads,), multiples=tuple(name for name in HEADS_WIDTHS if hasattr(module, name)))}
    return {}


def reparametrised(module: nn.Module) -> bool:
    """Are a layer's weights computed anew from others at each call (weight_norm, spectral_norm, parametrizations)?"""
    own = ("weight", "weight_ih_l0")
    return hasattr(module, "parametrizations") or any(
        isinstance(getattr(module, name, None), Tensor) and name not in module._parameters for name in own
    )


def grouped(module: nn.Module) -> TypeGuard[nn.modules.conv._ConvNd]:
    """A convolution in groups, each of which reads several channels."""
    return (
        isinstance(module, nn.modules.conv._ConvNd) and not module.transposed and 1 < module.groups < module.in_channels
    )


def head_attribute(module: nn.Module) -> str:
    """Where a module keeps its number of heads; empty where it has none, or all heads are one tensor's business."""
    if isinstance(module, nn.MultiheadAttention):
        return ""
    names = (name for name in HEAD_ATTRIBUTES if type(getattr(module, name, None)) is int)
    return next(names, "")


def _recurrent(module: nn.RNNBase) -> Mapping[str, Layout]:
    """Every layer and direction makes its state (a row block for each gate); itself and the next layer read it."""
    found = {"in": Layout((("weight_ih_l0", 1), ("weight_ih_l0_reverse", 1)), ("input_size",), "reads")}
    for layer in range(module.num_layers):
        if layer:
            both = ((f"weight_ih_l{layer}", 1), (f"weight_ih_l{layer}_reverse", 1))
            found[f"in l{layer}"] = Layout(both, (), "reads")
        for own in (f"l{layer}", f"l{layer}_reverse")[: 1 + module.bidirectional]:
            rows = tuple((f"{kind}_{own}", 0) for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
            found[f"gates {own}"] = Layout(rows, (), "makes")
            found[f"state {own}"] = Layout(((f"weight_hh_{own}", 1),), ("hidden_size",), "reads")
    return found


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


class Counted(Protocol):
    """A layer and what it takes, by what that grows with (macs.Layer, sizes.Amount)."""

    @property
    def name(self) -> str:
        """The layer's."""
        ...

    @property
    def parts(self) -> tuple[Part, ...]:
        """As in macs.Layer."""
        ...


def cost(model: nn.Module, groups: Sequence[Group], layers: Iterable[Counted]) -> Callable[[Sequence[int]], int]:
    """MACs of the whole network (or what else was counted of its layers) as a function of the channels left in each
    group, exact and without building it.
    """
    full = [group.width for group in groups]
    reach: dict[tuple[str, str], list[tuple[int, int]]] = {}  # (layer, axis) -> [(group, its channels for one root)]
    for index, group in enumerate(groups):
        for member in group.members:
            each = len(member.channels) // len(set(member.roots))
            reach.setdefault((member.module, member.axis), []).append((index, each))
    terms = []
    for layer in layers:
        module = model.get_submodule(layer.name)
        for amount, axes in layer.parts:
            cut = [axis for axis in axes if (layer.name, axis) in reach]
            terms.append((amount, [(width(module, axis), reach[layer.name, axis]) for axis in cut]))

    def macs(left: Sequence[int]) -> int:
        gone = [before - after for before, after in zip(full, left, strict=True)]
        total = 0
        for amount, axes in terms:
            for size, parts in axes:
                amount = amount // size * (size - sum(gone[group] * each for group, each in parts))
            total += amount
        return total

    return macs


def alignments(model: nn.Module, groups: Sequence[Group], align: int) -> list[int]:
    """Of which number of units each group should keep multiples, so that its layers' channels are multiples of `align`.

    A head is as many channels as it is wide, so any number of heads of 8 is aligned to 8.
    """
    return [align // gcd(align, _channels(model, group)) for group in groups]


def _channels(model: nn.Module, group: Group) -> int:
    """Of one unit, in the layer that has the fewest of them."""
    return min(
        len(member.channels) // len(set(member.roots))
        for member in group.members
        if layouts(model.get_submodule(member.module))[member.axis].tensors
    )


def width(module: nn.Module, axis: str) -> int:
    """Channels of a layer's axis now."""
    layout = layouts(module)[axis]
    if layout.widths:
        return int(getattr(module, layout.widths[0]))
    name, dim = layout.tensors[0]
    return int(getattr(module, name).shape[dim])


def apply(model: nn.Module, edits: Iterable[Edit]) -> None:
    """Take the channels out, in place."""
    for edit in edits:
        if edit["axis"] == ATTENTION:
            unfold(model, edit["module"])
            continue
        if edit["axis"] == LAYER:
            parent, _, own = edit["module"].rpartition(".")
            setattr(model.get_submodule(parent), own, Removed())
            continue
        module = model.get_submodule(edit["module"])
        layout = layouts(module)[edit["axis"]]
        gone = set(edit["removed"])
        keep = torch.tensor([i for i in range(edit["width"]) if i not in gone])
        for name, dim in layout.tensors:
            tensor = getattr(module, name, None)
            if tensor is None:
                continue
            cut = tensor.detach().index_select(dim, keep)
            if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
                cut = cut.contiguous(memory_format=torch.channels_last)  # the user's choice, which trains faster
            setattr(module, name, nn.Parameter(cut, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else cut)
        for attribute in layout.widths:
            setattr(module, attribute, len(keep))
        for attribute in layout.multiples:
            setattr(module, attribute, getattr(module, attribute) // edit["width"] * len(keep))


def replay(model: nn.Module, steps: Edits, where: str) -> None:
    """Apply recorded edits to a freshly built model. Raises UsageError when they do not fit it."""
    for edits in steps:
        for edit in edits:
            name, axis = edit["module"], edit["axis"]
            module = dict(model.named_modules()).get(name)
            if axis == ATTENTION:
                now = getattr(module, "num_heads", None) if isinstance(module, nn.MultiheadAttention) else None
            elif axis == LAYER:
                now = None if module is None or isinstance(module, Removed) else 1
            else:
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
        module = model.get_submodule(edit["module"])
        layout = layouts(module)[edit["axis"]]
        if layout.role == "reads":
            for name, dim in layout.tensors:
                if hasattr(module, name):
                    getattr(module, name).data.index_fill_(dim, torch.tensor(edit["removed"]), 0.0)


@contextmanager
def judging(model: nn.Module) -> Iterator[None]:
    """In eval mode while outputs are compared, in its own mode afterwards."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def reads(model: nn.Module, member: Member) -> bool:
    """Whether this is a place where the units of a group are read."""
    return layouts(model.get_submodule(member.module))[member.axis].role == "reads"


def problem(model: nn.Module, group: Group, example: Sequence[Tensor], reference: Outputs) -> str:
    """Why a group cannot be cut; empty when half of it was removed with the result that zeroing gives."""
    if group.width < 2:
        return "it has one channel"
    if not any(reads(model, member) for member in group.members):
        return "its channels are the model's output"
    order = torch.randperm(group.width, generator=torch.Generator().manual_seed(0)).tolist()
    edits = edits_for(model, [(group, order[: group.width // 2])])
    cut, zeroed = copied(model), copied(model)
    try:
        apply(cut, edits)
        zero(zeroed, edits)
        with torch.no_grad():
            removed, expected = by_name(cut(*example)), by_name(zeroed(*example))
    except Exception as error:
        return f"without some of its channels the model does not run: {' '.join(str(error).split())[:160]}"
    for name, whole in by_name(reference).items():
        if removed[name].shape != whole.shape:
            return f"it changes the output's shape from {list(whole.shape)} to {list(removed[name].shape)}"
    worst = difference(removed, expected)
    if not worst <= TOLERANCE:
        return f"removing its channels is not the same as zeroing them (off by {worst:.2g} of the largest output)"
    return ""


def difference(answer: Outputs, expected: Outputs) -> float:
    """The largest difference between two answers of a model, as a share of the largest value expected there."""
    found = by_name(answer)
    return max(
        float((found[name] - values).abs().max() / values.abs().max().clamp_min(1e-12))
        for name, values in by_name(expected).items()
    )


def shared(model: nn.Module) -> set[int]:
    """Parameters that several layers share: cutting one layer would untie them."""
    owners: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), set()).add(name)
    return {key for key, names in owners.items() if len(names) > 1}
