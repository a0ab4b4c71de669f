"""Forms of an op that litert-torch refuses or lowers wrongly become ones that it takes, with the same numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.fx import GraphModule


def nearest(module: GraphModule) -> None:
    """Nearest-neighbour interpolation by anything but whole factors becomes a choice of rows and columns by index.

    LiteRT's kernel computes other indices then (20 dB off at 1.5). By whole factors "nearest-exact" is "nearest", which
    the converter has. The indices are PyTorch's: what it makes of 0, 1, 2 ...
    """
    import torch

    aten = torch.ops.aten
    plain = {1: aten.upsample_nearest1d.vec, 2: aten.upsample_nearest2d.vec, 3: aten.upsample_nearest3d.vec}
    exact = {
        1: aten._upsample_nearest_exact1d.vec,
        2: aten._upsample_nearest_exact2d.vec,
        3: aten._upsample_nearest_exact3d.vec,
    }
    for axes in plain:
        for along, operator in ((plain[1], plain[axes]), (exact[1], exact[axes])):
            for node in [found for found in module.graph.nodes if found.target == operator]:
                _by_index(module, node, axes, along, plain[axes])
    module.graph.eliminate_dead_code()
    module.recompile()


def _by_index(module: GraphModule, node: Any, axes: int, along: Any, plain: Any) -> None:
    import torch

    given: list[Any] = [*node.args, None]
    data, sizes, factors = given[:3]
    before, after = ([int(size) for size in one.meta["val"].shape[-axes:]] for one in (data, node))
    indices = []
    for axis, (small, big) in enumerate(zip(before, after, strict=True)):
        counted = torch.arange(small, dtype=torch.float32).reshape(1, 1, -1)
        found = along(counted, [big], None) if sizes is not None else along(counted, None, [factors[axis]])
        indices.append(found.reshape(-1).long())
    if all(_repeats(index, small) for index, small in zip(indices, before, strict=True)):
        node.target, node.args = plain, (data, after, None)
        return
    value: Any = data
    for axis, index in enumerate(indices):
        if torch.equal(index, torch.arange(before[axis])):
            continue
        name = f"nearest_{node.name}_{axis}"
        module.register_buffer(name, index)
        with module.graph.inserting_before(node):
            where = module.graph.get_attr(name)
            value = module.graph.call_function(torch.ops.aten.index_select.default, (value, axis + 2, where))
            value.meta = dict(node.meta)
    node.replace_all_uses_with(value)


def _repeats(index: Any, size: int) -> bool:
    """Is each of `size` places taken equally often, in order?"""
    import torch

    times, left = divmod(len(index), size)
    return left == 0 and torch.equal(index, torch.arange(size).repeat_interleave(times))


def output_padding(module: GraphModule) -> None:
    """A transposed convolution with padding at its output becomes one without any padding, and a cut.

    Padding p takes p off both ends of what it makes, output padding adds at the far end again; where that is more than
    was taken off, it is as much zero input there, for which the converter has no form: that is left alone.
    """
    import torch

    aten = torch.ops.aten
    operators = {aten.conv_transpose1d.default: 1, aten.conv_transpose2d.input: 2}
    calls: list[Any] = [found for found in module.graph.nodes if found.target in operators]
    for node in calls:
        axes = operators[node.target]
        given: list[Any] = list(node.args)
        data, weight, bias, stride, padding, added, groups, dilation = (
            given + [None, [1] * axes, [0] * axes, [0] * axes, 1, [1] * axes][len(given) - 2 :]
        )
        if not any(added) or any(more > less for more, less in zip(added, padding, strict=True)):
            continue
        node.args = (data, weight, bias, stride, [0] * axes, [0] * axes, groups, dilation)
        sizes = [int(size) for size in node.meta["val"].shape[-axes:]]
        value: Any = node
        readers = list(node.users)
        for axis, (start, size) in enumerate(zip(padding, sizes, strict=True)):
            with module.graph.inserting_after(value):
                value = module.graph.call_function(aten.slice.Tensor, (value, axis + 2, start, start + size))
                value.meta = dict(node.meta)
        for reader in readers:
            reader.replace_input_with(node, value)
    module.recompile()
