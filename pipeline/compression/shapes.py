"""Widths that a runtime's kernels like: which shapes of layers to time, and what their times say of other widths.

A shape is two equal layers in a row (with ReLU, and a depthwise convolution between where the network has one), as wide
as the network's own at the same place. It is timed at its full width and at widths near three quarters of it that are
multiples of 1, 4, 8, ... and no more. What a multiply-accumulate costs at each alignment decides a group's alignment.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from pipeline.compression.macs import Layer
from pipeline.compression.structure import Group, grouped, layouts

ALIGNMENTS = (1, 4, 8, 16, 32)
SHAPES = 4  # timed a network: the ones with most MACs; others take what the most alike says
USUAL = 8  # where nothing was timed
FILE = "profile.json"
NEAR = 0.75  # of the full width
GOOD = 1.05  # an alignment is good enough when a MAC costs so much more than at the best

Times = Mapping[int, float]  # width -> ms


@dataclass(frozen=True)
class Shape:
    """`kind`: "conv1d", "conv2d", "conv3d" or "linear"; `kernel`, and `positions` of its output (of an image, all axes;
    of a linear layer, all but the last); `width`: channels of the group that it makes; `depthwise`: kernel of the
    depthwise convolution that these run through, if any.
    """

    kind: str
    kernel: tuple[int, ...]
    positions: tuple[int, ...]
    width: int
    depthwise: tuple[int, ...] = ()

    def module(self, width: int) -> nn.Module:
        """The two layers, so wide."""
        if self.kind == "linear":
            return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        kind: Any = {"conv1d": nn.Conv1d, "conv2d": nn.Conv2d, "conv3d": nn.Conv3d}[self.kind]
        first, last = (kind(width, width, self.kernel, padding="same") for _ in range(2))
        between: list[nn.Module] = [nn.ReLU()]
        if self.depthwise:
            between += [kind(width, width, self.depthwise, padding="same", groups=width), nn.ReLU()]
        return nn.Sequential(first, *between, last, nn.ReLU())

    def input_shape(self, width: int) -> tuple[int, ...]:
        """Of one sample."""
        return (*self.positions, width) if self.kind == "linear" else (width, *self.positions)

    def widths(self) -> list[int]:
        """The full one, and for each alignment the one nearest to three quarters that has it and no larger one."""
        found = {self.width}
        for align in ALIGNMENTS:
            fits = [w for w in range(align, self.width, align) if (w // align) % 2]
            if fits:
                found.add(min(fits, key=lambda w: abs(w - NEAR * self.width)))
        return sorted(found)


def record(shape: Shape) -> dict[str, Any]:
    """As JSON."""
    return asdict(shape)


def of_record(row: Mapping[str, Any]) -> Shape:
    """From JSON."""
    return Shape(row["kind"], tuple(row["kernel"]), tuple(row["positions"]), row["width"], tuple(row["depthwise"]))


def of_groups(
    model: nn.Module, groups: Sequence[Group], layers: Sequence[Layer], seen: Mapping[str, Tensor]
) -> list[Shape | None]:
    """The shape of the layer with most MACs among those that make or read each group's units; None where that is no
    convolution or linear layer (recurrent layers, heads), or one of them is a convolution in groups. `seen`: each
    layer's output, [n, ...].
    """
    macs = {layer.name: layer.macs for layer in layers}
    found: list[Shape | None] = []
    for group in groups:
        names = {
            member.module
            for member in group.members
            if layouts(model.get_submodule(member.module))[member.axis].role != "passes"
        }
        if any(grouped(model.get_submodule(name)) for name in names):  # a unit is several channels
            found.append(None)
            continue
        heavy = max(sorted(names), key=lambda name: macs.get(name, 0))
        module = model.get_submodule(heavy)
        if isinstance(module, nn.Linear):
            found.append(Shape("linear", (), tuple(seen[heavy].shape[1:-1]), group.width))
        elif isinstance(module, nn.modules.conv._ConvNd):
            kind = f"conv{len(module.kernel_size)}d"
            size = (tuple(module.kernel_size), tuple(seen[heavy].shape[2:]), group.width)
            found.append(Shape(kind, *size, _depthwise(model, group)))
        else:
            found.append(None)
    return found


def _depthwise(model: nn.Module, group: Group) -> tuple[int, ...]:
    modules = (model.get_submodule(member.module) for member in group.members if member.axis == "through")
    kernels = [tuple(one.kernel_size) for one in modules if isinstance(one, nn.modules.conv._ConvNd)]
    return max(kernels, default=())


def outputs_of(model: nn.Module, layers: Sequence[Layer], run: Callable[[], Any]) -> dict[str, Tensor]:
    """Each layer's last output while `run` runs the model."""
    seen: dict[str, Tensor] = {}

    def hook(name: str) -> Any:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                seen[name] = output.detach()

        return keep

    handles = [model.get_submodule(layer.name).register_forward_hook(hook(layer.name)) for layer in layers]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return seen


def chosen(shapes: Sequence[Shape | None]) -> list[Shape]:
    """Which to time: different ones, those with most MACs first, `SHAPES` at most, too narrow ones left out."""
    different = {shape for shape in shapes if shape is not None and shape.width >= 4}
    return sorted(different, key=lambda one: (-_macs(one), one.width, one.kind))[:SHAPES]


def nearest(shape: Shape, timed: Sequence[Shape]) -> Shape | None:
    """The timed shape most like this one: itself, else of the same kind and kernel and nearest width; None without."""
    alike = [one for one in timed if one.kind == shape.kind]
    if not alike:
        return None
    return min(
        alike,
        key=lambda one: (
            one != shape,
            one.kernel != shape.kernel,
            one.depthwise != shape.depthwise,
            abs(one.width - shape.width),
        ),
    )


@dataclass(frozen=True)
class Kernels:
    """What a target takes for a shape: `times`, one table a precision."""

    width: int
    times: tuple[Times, ...]

    def alignment(self) -> int:
        """The smallest at which a MAC costs at most `GOOD` times what it costs at the best, in every precision."""
        worst: dict[int, float] = {}
        for table in self.times:
            costs = self._costs(table)
            for align, cost in costs.items():
                worst[align] = max(worst.get(align, 0.0), cost / min(costs.values()))
        good = [align for align, ratio in worst.items() if ratio <= GOOD]
        return min(good) if good else min(worst, key=lambda align: (worst[align], align))

    def pays(self, share: float, width: int) -> bool:
        """Whether a layer should be faster with this share of its units, `width` of them, in every precision."""
        for table in self.times:
            costs = self._costs(table)
            known = max((one for one in costs if one <= own_alignment(width)), default=min(costs))
            if costs[known] * (share * self.width) ** 2 >= table[self.width]:
                return False
        return True

    def _costs(self, table: Times) -> dict[int, float]:
        """Alignment -> ms / width^2 (both layers are so wide), of the widths below the full one."""
        return {own_alignment(width): ms / width**2 for width, ms in table.items() if width != self.width}


def read(folder: Path, of_groups: Mapping[str, Any], names: Sequence[str]) -> list[Kernels | None]:
    """What a device profile (stages.device_profile) says of each group. `of_groups`: what stages.shapes told."""
    rows = json.loads((folder / FILE).read_text())
    found: list[Kernels | None] = []
    for name in names:
        at = of_groups["groups"].get(name)
        if at is None:
            found.append(None)
            continue
        tables = ({int(width): ms for width, ms in table.items()} for table in rows[at].values())
        found.append(Kernels(of_groups["shapes"][at]["width"], tuple(tables)))
    return found


def own_alignment(width: int) -> int:
    """The largest of `ALIGNMENTS` that divides a width."""
    return max(align for align in ALIGNMENTS if width % align == 0)


def _macs(shape: Shape) -> int:
    product = shape.width**2
    for one in (*shape.kernel, *shape.positions):
        product *= one
    return product
