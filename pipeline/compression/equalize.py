"""Where an exported program can be equalized, what it says with int8 weights and inputs, and the equalized program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from calibration.equalization import Inputs, rounded_inputs, scaled
from calibration.qparams import Float64
from pipeline.compression.program import Layer

State = Mapping[str, np.ndarray[Any, Any]]
Factors = Mapping[str, Float64]  # name of a layer -> a factor for each of its input channels

# Ops that a positive factor of a channel passes through.
_HOMOGENEOUS = frozenset(
    {"aten::relu", "aten::relu_", "aten::leaky_relu", "aten::dropout", "aten::clone", "aten::contiguous"}
    | {"aten::max_pool1d", "aten::max_pool2d", "aten::avg_pool2d"}
)
_CONVOLUTIONS = ("aten::conv1d", "aten::conv2d", "aten::conv3d")
_SOURCES = ("aten::layer_norm", "aten::rms_norm", "aten::gelu")  # behind which a multiplication may be put in


@dataclass(frozen=True)
class Place:
    """One tensor, made by the node `source`, whose every channel may be divided by a factor of its own.

    `readers` multiply by it. `into`: state of what makes the tensor, [channels, ...] each, that takes the division;
    none: a multiplication is put in. `weight`: the first of `into` where that is a layer's weight.
    """

    source: str
    readers: tuple[Layer, ...]
    into: tuple[str, ...] = ()
    weight: str | None = None


def places(module: fx.GraphModule, found: Sequence[Layer]) -> list[Place]:
    """Where channels can be scaled, in order; each layer reads one at most."""
    layers = {layer.name: layer for layer in found}
    reads: dict[str, int] = {}
    for node in module.graph.nodes:
        for source in node.all_input_nodes:
            if source.op == "get_attr":
                reads[str(source.target)] = reads.get(str(source.target), 0) + 1
    result = []
    for node in module.graph.nodes:
        kind, readers = _kind(node), _readers(node, layers)
        if readers is None:  # something else reads it too
            readers = [layers[user.name] for user in node.users if _reads(user, node, layers)]
            readers = [one for one in readers if not one.geometry.kernel] if kind in _SOURCES else []
            into: tuple[str, ...] = ()
        else:
            into = _makers(node, kind, reads)
        if readers and (into or kind in _SOURCES):
            weight = into[0] if into and kind in (*_CONVOLUTIONS, "aten::linear") else None
            result.append(Place(node.name, tuple(readers), into, weight))
    return result


def _reads(user: fx.Node, node: fx.Node, layers: Mapping[str, Layer]) -> bool:
    return user.name in layers and user.args[0] is node


def _readers(node: fx.Node, layers: Mapping[str, Layer]) -> list[Layer] | None:
    """The layers that all of a tensor goes to, through homogeneous ops; None where something else reads it."""
    result: list[Layer] = []
    for user in node.users:
        if _reads(user, node, layers):
            result.append(layers[user.name])
        elif _kind(user) in _HOMOGENEOUS and (beyond := _readers(user, layers)) is not None:
            result += beyond
        else:
            return None
    wide = {bool(layer.geometry.kernel) for layer in result}
    return result if len(wide) == 1 else None


def _makers(node: fx.Node, kind: str, reads: Mapping[str, int]) -> tuple[str, ...]:
    """The state that a division of the node's channels goes into: weight and bias of a layer or of a normalization."""
    at = {"aten::batch_norm": (1, 2), "aten::layer_norm": (2, 3)} | dict.fromkeys(
        (*_CONVOLUTIONS, "aten::linear"), (1, 2)
    )
    several = kind == "aten::layer_norm" and len(node.args[1]) > 1  # type: ignore[arg-type]
    if kind not in at or (kind == "aten::batch_norm" and node.args[5]) or several:
        return ()
    wide = kind in (*_CONVOLUTIONS, "aten::batch_norm")
    readers = [user for user in node.users if _kind(user) not in _HOMOGENEOUS]
    if any((_kind(reader) in _CONVOLUTIONS) != wide for reader in readers):
        return ()
    given = [node.args[i] for i in at[kind] if i < len(node.args) and node.args[i] is not None]
    if not given or any(not isinstance(one, fx.Node) or one.op != "get_attr" for one in given):
        return ()
    keys = tuple(str(one.target) for one in given if isinstance(one, fx.Node))
    return keys if all(reads[key] == 1 for key in keys) else ()


def _kind(node: fx.Node) -> str:
    schema = getattr(node.target, "_schema", None)
    return str(schema.name) if schema is not None else ""


class Simulator(fx.Interpreter):
    """The program with nearest int8 weights and every layer's input on 256 codes from its lowest to its highest."""

    def __init__(
        self, module: fx.GraphModule, seen: Mapping[str, tuple[Layer, Inputs]], state: State, factors: Factors
    ):
        super().__init__(module)
        self.seen, self.factors = seen, factors
        self.weights = {name: self._weight(layer, state) for name, (layer, _) in seen.items()}

    def _weight(self, layer: Layer, state: State) -> Tensor:
        from calibration import weights

        kernel = state[layer.weight]
        if layer.name in self.factors:
            kernel = scaled(kernel, self.factors[layer.name], layer.geometry)
        return torch.from_numpy(weights.dequantized(weights.nearest(kernel), weights.scales(kernel)))

    def run_node(self, n: fx.Node) -> Any:
        """As in torch; a layer sees what int8 would show it."""
        if n.name not in self.seen:
            return super().run_node(n)
        layer, inputs = self.seen[n.name]
        lo, hi = inputs.ends
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        x: Any = args[0].numpy()
        if n.name in self.factors:
            factors = self.factors[n.name]
            lo, hi = lo / factors, hi / factors
            x = (
                x / factors.reshape(-1, *[1] * (x.ndim - 2)).astype(np.float32)
                if layer.geometry.kernel
                else x / factors
            )
        given = torch.from_numpy(rounded_inputs(x.astype(np.float32), float(lo.min()), float(hi.max())))
        target: Any = n.target
        return target(given, self.weights[n.name], *args[2:], **kwargs)


def scale(module: fx.GraphModule, state: State, chosen: Sequence[Place], factors: Factors) -> dict[str, Any]:
    """The state that changes; places without `into` get their multiplication in `module`."""
    changed: dict[str, Any] = {}
    for index, place in enumerate(chosen):
        by = factors[place.readers[0].name]
        for layer in place.readers:
            changed[layer.weight] = scaled(changed.get(layer.weight, state[layer.weight]), by, layer.geometry)
        for key in place.into:
            array = changed.get(key, state[key])
            changed[key] = np.asarray(array / by.reshape(-1, *[1] * (array.ndim - 1)), array.dtype)
        if not place.into:
            _multiply(module, place, f"smoothing_{index}", by)
    return changed


def _multiply(module: fx.GraphModule, place: Place, name: str, by: Float64) -> None:
    (node,) = (one for one in module.graph.nodes if one.name == place.source)
    names = {layer.name for layer in place.readers}
    module.register_buffer(name, torch.from_numpy((1 / by).astype(np.float32)))
    with module.graph.inserting_after(node):
        factor = module.graph.get_attr(name)
    with module.graph.inserting_after(factor):
        product = module.graph.call_function(torch.ops.aten.mul.Tensor, (node, factor))
    node.replace_all_uses_with(product, delete_user_cb=lambda user: user.name in names)
    module.recompile()
