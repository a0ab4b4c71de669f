"""Kinds of networks that people bring: small ones, each of one idea, for the table of what a target makes of them.

Heights and widths differ, so that a swapped layout cannot pass unseen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.lengths import Lengths

CLASSES, TOKENS, STEPS, WIDTH = 5, 40, 9, 16
IMAGE, SERIES, VECTORS = (3, 12, 10), (6, 32), (STEPS, WIDTH)


class Calls(nn.Module):
    """Layers by name and what is done with them."""

    def __init__(self, act: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.act = act
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self, x)


def conv(before: int, after: int, size: int = 3, **options: Any) -> nn.Module:
    options = {"padding": size // 2} | options
    return nn.Sequential(nn.Conv2d(before, after, size, **options), nn.BatchNorm2d(after), nn.ReLU())


def head(width: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))


def plain_convolution() -> nn.Module:
    return nn.Sequential(conv(3, 16), conv(16, 32, stride=2), head(32))


def series_convolution() -> nn.Module:
    features = [nn.Conv1d(6, 16, 5), nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(16, 48, 3), nn.ReLU()]
    return nn.Sequential(*features, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(48, CLASSES))


def series_of_any_length() -> nn.Module:
    body = nn.Sequential(nn.Conv1d(6, 16, 5, padding=2), nn.ReLU(), nn.Conv1d(16, 48, 3, 2), nn.ReLU())
    return Calls(lambda m, x: m.end(m.body(x).mean(2)), body=body, end=nn.Linear(48, CLASSES))


def depthwise() -> nn.Module:
    return nn.Sequential(conv(3, 16), conv(16, 16, groups=16), conv(16, 32, 1), head(32))


def grouped() -> nn.Module:
    return nn.Sequential(conv(3, 16), conv(16, 32, groups=4), head(32))


def dilated() -> nn.Module:
    return nn.Sequential(conv(3, 16), conv(16, 32, dilation=2, padding=2), head(32))


def transposed() -> nn.Module:
    return nn.Sequential(conv(3, 16, stride=2), nn.ConvTranspose2d(16, 8, 4, 2, 1), nn.ReLU(), head(8))


def residual() -> nn.Module:
    return Calls(lambda m, x: m.end(torch.relu(m.a(x) + m.b(m.a(x)))), a=conv(3, 16), b=conv(16, 16), end=head(16))


def concatenation() -> nn.Module:
    return Calls(lambda m, x: m.end(torch.cat([m.a(x), m.b(x)], 1)), a=conv(3, 8), b=conv(3, 8, 5), end=head(16))


def squeeze_and_hard_swish() -> nn.Module:
    gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 4, 1), nn.ReLU(), nn.Conv2d(4, 16, 1), nn.Hardsigmoid())
    first = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Hardswish())

    def act(m: Any, x: Tensor) -> Tensor:
        h = m.first(x)
        return m.end(functional.hardswish(m.out(h * m.gate(h))))

    return Calls(act, first=first, gate=gate, out=nn.Conv2d(16, 32, 1), end=head(32))


def unet() -> nn.Module:
    def act(m: Any, x: Tensor) -> Tensor:
        fine = m.a(x)
        coarse = functional.interpolate(m.b(functional.max_pool2d(fine, 2)), scale_factor=2.0, mode="nearest")
        return m.out(m.c(torch.cat([fine, coarse], 1)))

    return Calls(act, a=conv(3, 8), b=conv(8, 16), c=conv(24, 8), out=nn.Conv2d(8, CLASSES, 1))


def autoencoder() -> nn.Module:
    encoder = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 1, 1), nn.ReLU()]
    return nn.Sequential(*encoder, nn.ConvTranspose2d(16, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 3, 3, 1, 1))


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, CLASSES))


def gelu_and_layer_norm() -> nn.Module:
    block = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH))
    return Calls(lambda m, x: m.end((x + m.block(x)).mean(1)), block=block, end=nn.Linear(WIDTH, CLASSES))


def fused_attention() -> nn.Module:
    def act(m: Any, x: Tensor) -> Tensor:
        q, k, v = m.qkv(x).view(-1, STEPS, 3, 2, WIDTH // 2).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, STEPS, WIDTH)
        return m.end(m.out(mixed).mean(1))

    return Calls(act, qkv=nn.Linear(WIDTH, 3 * WIDTH), out=nn.Linear(WIDTH, WIDTH), end=nn.Linear(WIDTH, CLASSES))


def multihead_attention() -> nn.Module:
    attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
    return Calls(
        lambda m, x: m.end((x + m.mix(x, x, x, need_weights=False)[0]).mean(1)),
        mix=attention,
        end=nn.Linear(WIDTH, CLASSES),
    )


def transformer_layer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(WIDTH, 2, 32, 0.0, "gelu", batch_first=True, norm_first=True)
    return Calls(lambda m, x: m.end(m.layer(x).mean(1)), layer=layer, end=nn.Linear(WIDTH, CLASSES))


def gru() -> nn.Module:
    return Calls(
        lambda m, x: m.end(m.cell(x)[0][:, -1]), cell=nn.GRU(WIDTH, 12, batch_first=True), end=nn.Linear(12, CLASSES)
    )


def lstm() -> nn.Module:
    return Calls(
        lambda m, x: m.end(m.cell(x)[0][:, -1]), cell=nn.LSTM(WIDTH, 12, batch_first=True), end=nn.Linear(12, CLASSES)
    )


def embedding() -> nn.Module:
    return Calls(
        lambda m, ids: m.end(torch.relu(m.mix(m.table(ids))).mean(1)),
        table=nn.Embedding(TOKENS, WIDTH),
        mix=nn.Linear(WIDTH, 32),
        end=nn.Linear(32, CLASSES),
    )


def selection() -> nn.Module:
    return Calls(
        lambda m, x: m.end(m.score(x).flatten(1).topk(4)[0]), score=nn.Linear(WIDTH, 2), end=nn.Linear(4, CLASSES)
    )


class TwoOutputs(nn.Module):
    """Token ids and a mask in, a dict out."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.mix = nn.Embedding(TOKENS, WIDTH), nn.Linear(WIDTH, 32)
        self.kind, self.amount = nn.Linear(32, CLASSES), nn.Linear(32, 1)

    def forward(self, mask: Tensor, ids: Tensor) -> dict[str, Tensor]:
        h = torch.relu(self.mix(self.table(ids))) * mask.unsqueeze(2)
        h = h.sum(1) / mask.sum(1, keepdim=True).clamp(min=1.0)
        return {"kind": self.kind(h), "embedding": self.amount(h)}  # as an op of its own graph is called


@dataclass(frozen=True)
class Kind:
    """`title` as in the table; `inputs`: name -> shape of one sample; ids are drawn below TOKENS, masks are 0 or 1."""

    title: str
    make: Callable[[], nn.Module]
    inputs: dict[str, tuple[int, ...]]
    lengths: Lengths | None = None


KINDS: dict[str, Kind] = {
    function.__name__: Kind(title, function, {"ids" if function is embedding else "input": shape})
    for title, function, shape in (
        ("convolutions, BatchNorm, ReLU", plain_convolution, IMAGE),
        ("1-D convolutions", series_convolution, SERIES),
        ("depthwise convolutions", depthwise, IMAGE),
        ("grouped convolutions", grouped, IMAGE),
        ("dilated convolutions", dilated, IMAGE),
        ("transposed convolutions", transposed, IMAGE),
        ("residual additions", residual, IMAGE),
        ("concatenation", concatenation, IMAGE),
        ("squeeze-and-excitation, hard-swish", squeeze_and_hard_swish, IMAGE),
        ("U-Net", unet, IMAGE),
        ("autoencoder", autoencoder, IMAGE),
        ("fully connected layers", perceptron, SERIES),
        ("GELU, LayerNorm", gelu_and_layer_norm, VECTORS),
        ("attention, q, k and v fused", fused_attention, VECTORS),
        ("nn.MultiheadAttention", multihead_attention, VECTORS),
        ("transformer layer", transformer_layer, VECTORS),
        ("GRU", gru, VECTORS),
        ("LSTM", lstm, VECTORS),
        ("top-k selection", selection, VECTORS),
        ("embedding of token ids (int64)", embedding, (STEPS,)),
    )
}
KINDS["two_outputs"] = Kind(
    "token ids and a mask in, a dict of outputs", TwoOutputs, {"ids": (STEPS,), "mask": (STEPS,)}
)


KINDS["varying_series"] = Kind(
    "1-D convolutions over 8 to 32 steps", series_of_any_length, {"input": SERIES}, Lengths({"input": 2}, 8, 32)
)
KINDS["varying_tokens"] = Kind(
    "1 to 24 token ids and their mask",
    TwoOutputs,
    {"ids": (24,), "mask": (24,)},
    Lengths({"ids": 1, "mask": 1}, 1, 24, "mask"),
)


def made(name: str) -> nn.Module:
    """The network with seeded weights and BatchNorms that have seen data, so that folding them matters."""
    kind = KINDS[name]
    torch.set_num_threads(1)
    with torch.random.fork_rng():
        torch.manual_seed(sum(name.encode()))
        model = kind.make()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.5, 0.5)
        if any(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in model.modules()):
            with torch.no_grad():
                for _ in range(8):
                    model(torch.randn(32, *kind.inputs["input"]))
    return model.eval()


def factory(name: str) -> Callable[[], nn.Module]:
    """A model factory's function for one kind."""
    return lambda: made(name)


globals().update({f"build_{name}": factory(name) for name in KINDS})  # what "kinds:build_NAME" finds
