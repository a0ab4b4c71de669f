"""The layers of an exported program whose weights are products' operands: where their numbers lie, what they get."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from calibration.weights import Geometry, same_padding
from pipeline.compression import recurrent

Array = np.ndarray[Any, Any]
Watch = Callable[["Layer", Array], None]

_CONVOLUTIONS = ("aten::conv1d", "aten::conv2d", "aten::conv3d")
_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")


@dataclass(frozen=True)
class Layer:
    """`weight` is its key in the program's state. `shift` is where a constant can be added to its outputs: a key and
    +1 (its bias), or -1 (the running mean of the BatchNorm that alone reads it); None where there is no such place.
    `name`: of the node in the graph; a recurrent op is several layers, whose names have the weight's behind it. `rows`:
    where weight and bias are a part of what is stored, as nn.MultiheadAttention's for query, key and value are.
    """

    name: str
    weight: str
    geometry: Geometry
    shift: tuple[str, int] | None
    node: str = ""  # where it is another name: of a recurrent op
    rows: tuple[int, int] | None = None

    @property
    def label(self) -> str:
        """What a report calls it."""
        return self.weight if self.rows is None else f"{self.weight}[{self.rows[0]}:{self.rows[1]}]"

    def kernel(self, array: Array) -> Array:
        """The layer's part of the stored weights as [out, in / groups, *kernel], as a plain convolution has them."""
        array = array if self.rows is None else array[slice(*self.rows)]
        return _swapped(array, self.geometry.groups) if self.geometry.spread else array

    def put(self, array: Array, kernel: Array) -> Array:
        """The stored weights with the layer's part replaced; of a bias, [out] too."""
        part = _swapped(kernel, self.geometry.groups) if self.geometry.spread and kernel.ndim > 1 else kernel
        if self.rows is None:
            return part
        array = array.copy()
        array[slice(*self.rows)] = part
        return array


def _swapped(array: Array, groups: int) -> Array:
    """Inputs and outputs of a transposed convolution's weights change places, and its taps their order."""
    split = array.reshape(groups, -1, *array.shape[1:]).swapaxes(1, 2)
    return np.ascontiguousarray(np.flip(split.reshape(-1, *split.shape[2:]), tuple(range(2, array.ndim))))


def layers(module: fx.GraphModule, beyond: Collection[str] = ()) -> tuple[list[Layer], dict[str, str]]:
    """The layers in order, and why others stay as they are: name -> reason.

    `module` is what `ExportedProgram.module()` gives; `beyond`: ops such as "aten.gru" whose weights count too, beside
    convolutions and fully connected layers.
    """
    reads = Counter(
        str(source.target) for node in module.graph.nodes for source in node.all_input_nodes if source.op == "get_attr"
    )
    found, left = [], {}
    for node in module.graph.nodes:
        kind = _schema(node)
        plain = kind in (*_CONVOLUTIONS, "aten::linear")
        if not plain and not kind.startswith(("aten::conv_transpose", *recurrent.PREFIXES)):
            continue
        if not plain and kind.replace("::", ".") not in beyond:
            left[node.name] = f"{kind.removeprefix('aten::')} stays in float here"
            continue
        if kind.startswith(recurrent.PREFIXES):
            cells, reason = recurrent.cells(node, reads)
            found += [Layer(f"{node.name}.{c.weight}", c.weight, Geometry(), c.shift, node.name) for c in cells]
            left |= {node.name: reason} if reason else {}
            continue
        given = dict(zip(_ARGUMENTS if plain else _TRANSPOSED, node.args, strict=False)) | dict(node.kwargs)
        weight, rows = _stored(given["weight"])
        if weight is None:
            left[node.name] = "its weights are computed"
        elif reads[weight] != 1 or len(given["weight"].users) != 1:
            left[node.name] = f"shares '{weight}' with another layer"
        else:
            shape = tuple(_value(module, weight).shape)
            geometry = _geometry(given, shape) if plain else _transposed(given, shape)
            if min((end for ends in geometry.padding for end in ends), default=0) < 0:
                left[node.name] = "it crops its output"
                continue
            place = _place(node, given, len(shape), reads, rows)
            found.append(Layer(node.name, weight, geometry, place, rows=rows))
    return found, left


def _stored(node: Any) -> tuple[str | None, tuple[int, int] | None]:
    """The key of the state that a node is, and which rows of it where it is a part; no key where it is computed."""
    if not isinstance(node, fx.Node):
        return None, None
    if node.op == "get_attr":
        return str(node.target), None
    parts = node.args[0] if node.target is operator.getitem else None
    if not isinstance(parts, fx.Node) or _schema(parts) not in ("aten::chunk", "aten::split", "aten::split_with_sizes"):
        return None, None
    whole, number = parts.args[0], node.args[1]
    if not isinstance(whole, fx.Node) or whole.op != "get_attr" or parts.args[2:] not in ((), (0,)):
        return None, None
    ends = np.cumsum([0, *(len(part) for part in parts.meta["val"])]).tolist()
    assert isinstance(number, int)
    return str(whole.target), (ends[number], ends[number + 1])


def watch(module: fx.GraphModule, found: Sequence[Layer], inputs: tuple[Tensor, ...], see: Watch) -> None:
    """Run the program once and show `see` the input of every layer in `found`."""
    by_node: dict[str, list[Layer]] = {}
    for layer in found:
        by_node.setdefault(layer.node or layer.name, []).append(layer)

    class Watcher(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            for layer, x in self.given(n):
                see(layer, x.detach().numpy())
            return super().run_node(n)

        def given(self, n: fx.Node) -> Iterator[tuple[Layer, Tensor]]:
            wanted = by_node.get(n.name, [])
            if not wanted:
                return
            args, _ = self.fetch_args_kwargs_from_env(n)
            if not wanted[0].node:
                yield wanted[0], args[0]
                return
            by_weight = {layer.weight: layer for layer in wanted}
            for weight, x in recurrent.inputs(n, args):
                if weight in by_weight:
                    yield by_weight[weight], x

    with torch.no_grad():
        Watcher(module).run(*inputs)


def predict(module: fx.GraphModule, changed: Mapping[str, Tensor], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The program's outputs, in order, with some of its state replaced."""
    with torch.no_grad():
        output = torch.func.functional_call(module, dict(changed), inputs)
    return (output,) if isinstance(output, Tensor) else tuple(output)


def _schema(node: fx.Node) -> str:
    schema = getattr(node.target, "_schema", None)
    return str(schema.name) if schema is not None else ""


def _geometry(given: Mapping[str, Any], shape: tuple[int, ...]) -> Geometry:
    kernel = shape[2:]
    if not kernel:
        return Geometry()
    axes = len(kernel)
    stride, dilation = (_each(given.get(name, 1), axes) for name in ("stride", "dilation"))
    padding = given.get("padding", 0)
    if isinstance(padding, str):
        both = same_padding(kernel, dilation) if padding == "same" else ((0, 0),) * axes
    else:
        both = tuple((one, one) for one in _each(padding, axes))
    return Geometry(kernel, stride, both, dilation, int(given.get("groups", 1)))


def _transposed(given: Mapping[str, Any], shape: tuple[int, ...]) -> Geometry:
    """That of the plain convolution, at stride 1 and over inputs spread apart, which a transposed one is."""
    kernel = shape[2:]
    axes = len(kernel)
    stride, dilation = (_each(given.get(name, 1), axes) for name in ("stride", "dilation"))
    cut, more = (_each(given.get(name, 0), axes) for name in ("padding", "output_padding"))
    reach = [(size - 1) * step - less for size, step, less in zip(kernel, dilation, cut, strict=True)]
    padding = tuple((one, one + extra) for one, extra in zip(reach, more, strict=True))
    return Geometry(kernel, (1,) * axes, padding, dilation, int(given.get("groups", 1)), stride)


def _each(value: Any, axes: int) -> tuple[int, ...]:
    numbers = tuple(value) if isinstance(value, list | tuple) else (value,)
    return numbers * axes if len(numbers) == 1 else numbers


def _place(
    node: fx.Node, given: Mapping[str, Any], ndim: int, reads: Mapping[str, int], rows: tuple[int, int] | None
) -> tuple[str, int] | None:
    bias = given.get("bias")
    if isinstance(bias, fx.Node):
        key, its_rows = _stored(bias)
        return (key, 1) if key is not None and its_rows == rows and reads[key] == 1 and len(bias.users) == 1 else None
    if rows is not None:
        return None
    reader = next(iter(node.users)) if len(node.users) == 1 else None
    if reader is None or _schema(reader) != "aten::batch_norm":
        return None
    mean, training = reader.args[3], reader.args[5]
    if not isinstance(mean, fx.Node) or training or reads[str(mean.target)] != 1:
        return None
    # BatchNorm's channels are the second axis; those of a fully connected layer the last: one axis, or no place.
    return (str(mean.target), -1) if reader.meta["val"].ndim == ndim else None


def _value(module: fx.GraphModule, name: str) -> Tensor:
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part)
    assert isinstance(value, Tensor)
    return value
