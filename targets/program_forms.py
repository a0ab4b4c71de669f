"""A program's calls in the forms that converters know: the same numbers, said in full.

PyTorch takes a stride of 2, (2,) or (2, 2), and a schema says how many it means; converters read what is written.
"""

from __future__ import annotations

from typing import Any


def plain(graph: Any) -> None:
    """Rewrite the calls of a torch.fx graph in place; each stays the call that it is in PyTorch.

    Lists of a length that the schema knows get it; clamps of floats get floats; alpha * y is a product; axes that
    cannot be squeezed are not named; other names of an op become that op, and a split into one piece a copy.
    """
    for node in list(graph.nodes):
        if node.op == "call_function" and hasattr(node.target, "_schema"):
            _in_full(node)
            _renamed(node)
            _clamped(node)
            _weighed(graph, node)
            _squeezed(node)
            _whole(graph, node)


def _in_full(node: Any) -> None:
    """Lists at full length, wherever the argument stands."""
    arguments = node.target._schema.arguments
    given = {argument.name: value for argument, value in zip(arguments, node.args, strict=False)} | node.kwargs
    for argument in arguments:
        value, length = given.get(argument.name), argument.N
        if not length or value is None or isinstance(value, str):
            continue
        if isinstance(value, int):
            value = [value]
        if len(value) == 1:
            _put(node, argument.name, list(value) * length)
        elif value is not given[argument.name]:
            _put(node, argument.name, list(value))


def _put(node: Any, name: str, value: Any) -> None:
    """The value of an argument, by position where it stands so."""
    if name in node.kwargs:
        node.kwargs = {**node.kwargs, name: value}
        return
    place = next(i for i, argument in enumerate(node.target._schema.arguments) if argument.name == name)
    node.args = (*node.args[:place], value, *node.args[place + 1 :])


def _rank(node: Any) -> int:
    return len(node.meta["val"].shape)


def _clamped(node: Any) -> None:
    """clamp(0.0, 1): one number is an integer, which ONNX has no clamp of floats for."""
    import torch

    aten = torch.ops.aten
    if node.target in (aten.clamp.default, aten.clamp_.default, aten.hardtanh.default) and _is_float(node.args[0]):
        node.args = (node.args[0], *(float(v) if isinstance(v, int) else v for v in node.args[1:]))
        node.kwargs = {name: float(v) if isinstance(v, int) else v for name, v in node.kwargs.items()}


def _squeezed(node: Any) -> None:
    """Axes that are not 1 long stay in PyTorch, and are an error in ONNX; a view of the same type is a copy."""
    import torch

    aten = torch.ops.aten
    if node.target in (aten.squeeze.dim, aten.squeeze.dims):
        data, axes = node.args[:2]
        sizes, named = data.meta["val"].shape, axes if isinstance(axes, list | tuple) else [axes]
        kept = [axis for axis in named if isinstance(sizes[axis], int) and sizes[axis] == 1]
        if len(kept) < len(named):
            node.target, node.args = (aten.squeeze.dims, (data, kept)) if kept else (aten.clone.default, (data,))
    elif node.target == aten.view.dtype and node.args[0].meta["val"].dtype == node.args[1]:
        node.target, node.args = aten.clone.default, node.args[:1]


def _weighed(graph: Any, node: Any) -> None:
    """x + alpha * y, said so."""
    import torch

    aten = torch.ops.aten
    alpha = node.kwargs.get("alpha")
    sums = (aten.add.Tensor, aten.sub.Tensor, aten.subtract.Tensor, aten.add_.Tensor, aten.sub_.Tensor)
    if node.target not in sums or "alpha" not in node.kwargs:
        return
    data, other = node.args[:2]
    if hasattr(other, "meta") and alpha != 1:
        with graph.inserting_before(node):
            made = graph.call_function(aten.mul.Tensor, (other, alpha))
        made.meta = dict(other.meta)
        other = made
    elif alpha != 1:
        other = alpha * other
    node.args, node.kwargs = (data, other), {}


def _is_float(node: Any) -> bool:
    value = getattr(node, "meta", {}).get("val")
    return value is not None and bool(value.dtype.is_floating_point)


def _whole(graph: Any, node: Any) -> None:
    """A split into one piece: its only item is a copy of what is split."""
    import torch

    aten = torch.ops.aten
    value = node.meta.get("val")
    splits = (aten.split_with_sizes.default, aten.split.Tensor, aten.chunk.default)
    if node.target in splits and isinstance(value, list | tuple) and len(value) == 1:
        for item in list(node.users):
            item.target, item.args = aten.clone.default, (node.args[0],)  # under its own name: it may be an output
        graph.erase_node(node)


def _renamed(node: Any) -> None:
    """Other names for an op, and a stable sort, which a sort is on every target."""
    import torch

    aten = torch.ops.aten
    if node.target in (aten.view.default, aten._unsafe_view.default):
        node.target = aten.reshape.default
    elif node.target in (aten.hstack.default, aten.vstack.default) and _rank(node.args[0][0]) > 1:
        node.args = (node.args[0], 1 if node.target == aten.hstack.default else 0)
        node.target = aten.cat.default
    elif node.target == aten.sort.stable:
        (data, *rest) = node.args
        more = dict(zip(("dim", "descending"), rest, strict=False)) | node.kwargs
        node.args, node.target = (data, more.get("dim", -1), more.get("descending", False)), aten.sort.default
        node.kwargs = {}
