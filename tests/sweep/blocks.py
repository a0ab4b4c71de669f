"""A grammar of blocks that networks are drawn from. A network is data: a list of (block, arguments) and its ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS = 8  # between blocks; inside, a block has what it likes
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu, "relu6": F.relu6, "silu": F.silu, "hardswish": F.hardswish, "gelu": F.gelu, "none": lambda x: x,
    "leaky": lambda x: F.leaky_relu(x, 0.1), "tanh": torch.tanh,
}  # fmt: skip


def _act(name: str, x: Tensor) -> Tensor:
    return ACTIVATIONS[name](x)


def _conv(into: int, out: int, kernel: int = 3, **more: Any) -> nn.Sequential:
    """A convolution that keeps the size, and BatchNorm."""
    return nn.Sequential(nn.Conv2d(into, out, kernel, padding=(kernel - 1) // 2, **more), nn.BatchNorm2d(out))


class Plain(nn.Module):
    """A convolution with "same" padding, even kernels too, or with a stride."""

    def __init__(self, kernel: int, stride: int, groups: int, act: str) -> None:
        super().__init__()
        padding: Any = "same" if stride == 1 else kernel // 2
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, kernel, stride, padding, groups=groups)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        return _act(self.act, self.conv(x))


class Residual(nn.Module):
    def __init__(self, width: int, act: str) -> None:
        super().__init__()
        self.inner, self.outer, self.act = _conv(CHANNELS, width), _conv(width, CHANNELS), act

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.outer(_act(self.act, self.inner(x))))


class Dense(nn.Module):
    def __init__(self, layers: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_conv(CHANNELS + i * growth, growth) for i in range(layers))
        self.join = nn.Conv2d(CHANNELS + layers * growth, CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, F.relu(layer(x))], 1)
        return self.join(x)


class Shuffle(nn.Module):
    """Half of the channels go through, then both are shuffled."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        half = CHANNELS // 2
        self.groups, self.branch = (
            groups,
            nn.Sequential(_conv(half, half, 1), nn.ReLU(), _conv(half, half, groups=half)),
        )

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        x = torch.cat([left, self.branch(right)], 1)
        n, c, h, w = x.shape
        return x.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class Split(nn.Module):
    """Pieces of uneven width go their own ways."""

    def __init__(self, first: int, act: str) -> None:
        super().__init__()
        self.sizes = [first, CHANNELS - first]
        self.branches, self.act = nn.ModuleList(_conv(size, size) for size in self.sizes), act

    def forward(self, x: Tensor) -> Tensor:
        parts = zip(self.branches, torch.split(x, self.sizes, dim=1), strict=True)
        return torch.cat([_act(self.act, branch(part)) for branch, part in parts], dim=1)


class Excite(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, width: int, hard: bool) -> None:
        super().__init__()
        self.down, self.up, self.hard = nn.Conv2d(CHANNELS, width, 1), nn.Conv2d(width, CHANNELS, 1), hard

    def forward(self, x: Tensor) -> Tensor:
        scale = self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1))))
        return x * (F.hardsigmoid(scale) if self.hard else torch.sigmoid(scale))


class Attention(nn.Module):
    def __init__(self, heads: int, fused: bool) -> None:
        super().__init__()
        self.norm, self.heads, self.fused = nn.LayerNorm(CHANNELS), heads, fused
        self.qkv, self.out = nn.Linear(CHANNELS, 3 * CHANNELS), nn.Linear(CHANNELS, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        parts = self.qkv(self.norm(tokens)).reshape(n, h * w, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = parts[0], parts[1], parts[2]
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = torch.softmax(q @ k.transpose(-2, -1) * (c // self.heads) ** -0.5, dim=-1) @ v
        tokens = tokens + self.out(y.transpose(1, 2).reshape(n, h * w, c))
        return tokens.transpose(1, 2).reshape(n, c, h, w)


class UShape(nn.Module):
    """Down, and up again to the skip's own size, by a resize or a transposed convolution."""

    def __init__(self, up: str, pool: str) -> None:
        super().__init__()
        self.up, self.pool, self.low = up, pool, _conv(CHANNELS, 12)
        self.raise_ = nn.ConvTranspose2d(12, 12, 2, 2) if up == "transposed" else None
        self.join = nn.Conv2d(CHANNELS + 12, CHANNELS, 1)

    def forward(self, x: Tensor) -> Tensor:
        low = F.max_pool2d(x, 2, ceil_mode=True) if self.pool == "max" else F.avg_pool2d(x, 2, ceil_mode=True)
        low = F.relu(self.low(low))
        if self.raise_ is not None:
            low = self.raise_(low)[:, :, : x.shape[2], : x.shape[3]]
        elif self.up == "nearest":
            low = F.interpolate(low, scale_factor=2)[:, :, : x.shape[2], : x.shape[3]]
        else:
            low = F.interpolate(low, size=x.shape[2:], mode="bilinear", align_corners=False)
        return self.join(torch.cat([x, low], 1))


class Shared(nn.Module):
    """One layer, called twice."""

    def __init__(self, act: str) -> None:
        super().__init__()
        self.conv, self.act = _conv(CHANNELS, CHANNELS), act

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(_act(self.act, self.conv(x)))


class Dead(nn.Module):
    """A convolution some of whose channels are always 0."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        with torch.no_grad():
            self.conv.weight[:channels] = 0
            self.conv.bias[:channels] = 0

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x))


class Scaled(nn.Module):
    """Weights that are large or tiny as a whole."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 1)
        with torch.no_grad():
            self.conv.weight *= factor
            self.conv.bias *= factor

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


_acts = st.sampled_from(sorted(ACTIVATIONS))
BLOCKS: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "plain": (
        Plain,
        {"kernel": st.integers(1, 5), "stride": st.integers(1, 2), "groups": st.sampled_from([1, 2, 8]), "act": _acts},
    ),
    "residual": (Residual, {"width": st.sampled_from([5, 8, 16]), "act": _acts}),
    "dense": (Dense, {"layers": st.integers(1, 3), "growth": st.sampled_from([3, 4])}),
    "shuffle": (Shuffle, {"groups": st.sampled_from([2, 4])}),
    "split": (Split, {"first": st.integers(1, 7), "act": _acts}),
    "excite": (Excite, {"width": st.sampled_from([2, 4]), "hard": st.booleans()}),
    "attention": (Attention, {"heads": st.sampled_from([1, 2, 4]), "fused": st.booleans()}),
    "u": (
        UShape,
        {"up": st.sampled_from(["nearest", "bilinear", "transposed"]), "pool": st.sampled_from(["max", "avg"])},
    ),
    "shared": (Shared, {"act": _acts}),
    "dead": (Dead, {"channels": st.sampled_from([1, 4])}),
    "scaled": (Scaled, {"factor": st.sampled_from([1e-4, 1e-2, 1e2, 1e3])}),
}


@dataclass(frozen=True)
class Plan:
    """A network as data. `second`: what a second input is, "" for none. `outputs`: kinds of ends."""

    size: tuple[int, int]
    blocks: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...]
    second: str = ""
    outputs: tuple[str, ...] = ("scores",)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of one sample of each input."""
        more = {"image": (3, *self.size), "vector": (5,)}
        return {"x": (3, *self.size)} | ({"second": more[self.second]} if self.second else {})


_block = st.sampled_from(sorted(BLOCKS)).flatmap(
    lambda name: st.tuples(
        st.just(name), st.fixed_dictionaries(BLOCKS[name][1]).map(lambda given: tuple(sorted(given.items())))
    )
)
plans = st.builds(
    Plan,
    size=st.tuples(st.integers(6, 13), st.integers(6, 13)),
    blocks=st.lists(_block, min_size=1, max_size=4).map(tuple),
    second=st.sampled_from(["", "", "image", "vector"]),
    outputs=st.sampled_from([("scores",), ("scores", "map"), ("scores", "features"), ("features", "map", "scores")]),
)


class Drawn(nn.Module):
    """The network of a plan, its weights seeded by it."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.plan = plan
        self.stem = _conv(3 + 3 * (plan.second == "image"), CHANNELS)
        self.body = nn.ModuleList(BLOCKS[name][0](**dict(given)) for name, given in plan.blocks)
        self.head = nn.Linear(CHANNELS + (5 if plan.second == "vector" else 0), 6)
        for part in self.modules():
            if isinstance(part, nn.BatchNorm2d):  # as after training
                part.running_mean.copy_(torch.linspace(-0.2, 0.2, part.num_features))
                part.running_var.copy_(torch.linspace(0.3, 1.2, part.num_features))

    def forward(self, x: Tensor, second: Tensor | None = None) -> dict[str, Tensor]:
        if second is not None and second.ndim == 4:
            x = torch.cat([x, second], 1)
        x = F.relu(self.stem(x))
        for block in self.body:
            x = block(x)
        features = x.mean((2, 3))
        joined = features if second is None or second.ndim == 4 else torch.cat([features, second], 1)
        ends: Mapping[str, Tensor] = {"scores": self.head(joined), "map": x, "features": features}
        return {name: ends[name] for name in self.plan.outputs}
