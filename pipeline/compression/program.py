"""The convolutions and fully connected layers of an exported program: where their numbers lie, and what they get."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from calibration.weights import Geometry, same_padding

Watch = Callable[["Layer", np.ndarray[Any, Any]], None]

_CONVOLUTIONS = {"aten::conv1d": 1, "aten::conv2d": 2, "aten::conv3d": 3}
_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


@dataclass(frozen=True)
class Layer:
    """`weight` is its key in the program's state. `shift` is where a constant can be added to its outputs: a key and
    +1 (its bias), or -1 (the running mean of the BatchNorm that alone reads it); None where there is no such place.
    """

    name: str  # of the node in the graph
    weight: str
    geometry: Geometry
    shift: tuple[str, int] | None


def layers(module: fx.GraphModule) -> tuple[list[Layer], dict[str, str]]:
    """The layers in order, and why others stay as they are: name -> reason.

    `module` is what `ExportedProgram.module()` gives.
    """
    reads = Counter(
        str(source.target) for node in module.graph.nodes for source in node.all_input_nodes if source.op == "get_attr"
    )
    found, left = [], {}
    for node in module.graph.nodes:
        kind = _kind(node)
        if kind is None:
            continue
        given = dict(zip(_ARGUMENTS, node.args, strict=False)) | dict(node.kwargs)
        weight = given["weight"]
        if not isinstance(weight, fx.Node) or weight.op != "get_attr":
            left[node.name] = "its weights are computed"
        elif reads[str(weight.target)] != 1:
            left[node.name] = f"shares '{weight.target}' with another layer"
        elif kind == "transposed":
            left[node.name] = "a transposed convolution"
        else:
            shape = tuple(_value(module, str(weight.target)).shape)
            place = _place(node, given, len(shape), reads)
            found.append(Layer(node.name, str(weight.target), _geometry(given, shape), place))
    return found, left


def watch(module: fx.GraphModule, found: Sequence[Layer], inputs: tuple[Tensor, ...], see: Watch) -> None:
    """Run the program once and show `see` the input of every layer in `found`."""
    by_name = {layer.name: layer for layer in found}

    class Watcher(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            layer = by_name.get(n.name)
            if layer is not None:
                see(layer, self.env[n.args[0]].detach().numpy())  # type: ignore[index]
            return super().run_node(n)

    with torch.no_grad():
        Watcher(module).run(*inputs)


def predict(module: fx.GraphModule, changed: Mapping[str, Tensor], inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The program's outputs, in order, with some of its state replaced."""
    with torch.no_grad():
        output = torch.func.functional_call(module, dict(changed), inputs)
    return (output,) if isinstance(output, Tensor) else tuple(output)


def _kind(node: fx.Node) -> str | None:
    schema = getattr(node.target, "_schema", None)
    name = schema.name if schema is not None else ""
    if name in _CONVOLUTIONS or name == "aten::linear":
        return "plain"
    return "transposed" if name.startswith("aten::conv_transpose") else None


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


def _each(value: Any, axes: int) -> tuple[int, ...]:
    numbers = tuple(value) if isinstance(value, list | tuple) else (value,)
    return numbers * axes if len(numbers) == 1 else numbers


def _place(node: fx.Node, given: Mapping[str, Any], ndim: int, reads: Mapping[str, int]) -> tuple[str, int] | None:
    bias = given.get("bias")
    if isinstance(bias, fx.Node):
        return (str(bias.target), 1) if bias.op == "get_attr" and reads[str(bias.target)] == 1 else None
    reader = next(iter(node.users)) if len(node.users) == 1 else None
    if reader is None or getattr(getattr(reader.target, "_schema", None), "name", "") != "aten::batch_norm":
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
