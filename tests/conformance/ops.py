"""For every row of the targets' capability tables a network in which torch.export finds that op.

Each op gets x, float32 [n, 6, 12, 8], what a convolution made of the input; its answer's first axis must be n.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SHAPE, STEPS, TABLE = (6, 12, 8), 12, 7
TOKENS = {"embedding"}  # these get token ids, int64 [n, STEPS], below TABLE
COMPLEX = {"fft_fft", "fft_rfft", "stft"}  # what these make is no number before its size is taken
Op = Callable[[Any, Tensor], Any]


def _square(x: Tensor) -> Tensor:
    """Regular matrices [n, 6, 8, 8]."""
    return x[:, :, :8] @ x[:, :, :8].transpose(2, 3) + 30 * torch.eye(8)


def _first(found: Any) -> Tensor:
    tensor: Tensor = found if isinstance(found, Tensor) else found[0]
    return tensor


OPS: dict[str, Op] = {
    "plain": lambda m, x: x,
    "_softmax": lambda m, x: torch._softmax(x, 1, False),
    "_unsafe_view": lambda m, x: torch.ops.aten._unsafe_view(x, [-1, 6, 96]),
    "_unique2": lambda m, x: x * torch.unique(x).sum(),
    "abs": lambda m, x: x.abs(),
    "adaptive_avg_pool1d": lambda m, x: F.adaptive_avg_pool1d(x.flatten(2), 1),
    "adaptive_avg_pool2d": lambda m, x: F.adaptive_avg_pool2d(x, 1),
    "adaptive_max_pool2d": lambda m, x: F.adaptive_max_pool2d(x, 3),
    "add": lambda m, x: x + m.conv(x),
    "addmm": lambda m, x: torch.addmm(m.bias, x.flatten(1), m.matrix),
    "amax": lambda m, x: x.amax(1),
    "amin": lambda m, x: x.amin(1),
    "argmax": lambda m, x: x.argmax(1).float(),
    "atan": lambda m, x: x.atan(),
    "avg_pool1d": lambda m, x: F.avg_pool1d(x.flatten(2), 2),
    "avg_pool2d": lambda m, x: F.avg_pool2d(x, 2),
    "batch_norm": lambda m, x: m.norm(x),
    "bmm": lambda m, x: torch.bmm(x.reshape(-1, 12, 8), x.reshape(-1, 8, 12)).reshape(-1, 864),
    "bucketize": lambda m, x: torch.bucketize(x, torch.linspace(-1, 1, 5)).float(),
    "cat": lambda m, x: torch.cat([x, m.conv(x)], 1),
    "celu": lambda m, x: F.celu(x),
    "chunk": lambda m, x: x.chunk(2, 1)[0],
    "clamp": lambda m, x: x.clamp(-0.3, 0.4),
    "clone": lambda m, x: x.clone(),
    "col2im": lambda m, x: F.fold(F.unfold(x, 3), (12, 8), 3),
    "contiguous": lambda m, x: x.transpose(1, 2).contiguous(),
    "conv1d": lambda m, x: m.conv1d(x.flatten(2)),
    "conv2d": lambda m, x: m.conv(x),
    "conv3d": lambda m, x: m.conv3d(x[:, None]),
    "conv_transpose1d": lambda m, x: m.up1d(F.relu(m.wide(x)).flatten(2)),
    "conv_transpose2d": lambda m, x: m.up2d(F.relu(m.wide(x))),
    "convolution": lambda m, x: torch.convolution(x, m.conv.weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1),
    "cummax": lambda m, x: x.cummax(1)[0],
    "cummin": lambda m, x: x.cummin(1)[0],
    "cumsum": lambda m, x: x.cumsum(1),
    "div": lambda m, x: x / m.high(x),
    "dropout": lambda m, x: F.dropout(x, 0.1, m.training),
    "einsum": lambda m, x: torch.einsum("nchw,cd->ndhw", x, m.matrix[:6, :6]),
    "elu": lambda m, x: F.elu(x),
    "embedding": lambda m, x: m.table(x),
    "erf": lambda m, x: x.erf(),
    "erfinv": lambda m, x: (x.tanh() * 0.9).erfinv(),
    "exp": lambda m, x: x.exp(),
    "expand": lambda m, x: m.one(x).expand(-1, 6, -1, -1),
    "fft_fft": lambda m, x: torch.fft.fft(x).abs(),
    "fft_rfft": lambda m, x: torch.fft.rfft(x).abs(),
    "flatten": lambda m, x: x.flatten(1),
    "flip": lambda m, x: x.flip(1),
    "floor": lambda m, x: (4 * x).floor(),
    "fmod": lambda m, x: x.fmod(0.3),
    "gather": lambda m, x: x.gather(1, torch.zeros_like(x, dtype=torch.int64)),
    "gelu": lambda m, x: F.gelu(x),
    "glu": lambda m, x: F.glu(x, 1),
    "grid_sampler": lambda m, x: F.grid_sample(x, x[:, :2, :6, :8].permute(0, 2, 3, 1).tanh(), align_corners=False),
    "group_norm": lambda m, x: F.group_norm(x, 2),
    "gru": lambda m, x: m.gru(m.one(x).squeeze(1))[0],
    "gt": lambda m, x: (x > 0.1).float(),
    "hardsigmoid": lambda m, x: F.hardsigmoid(x),
    "hardswish": lambda m, x: F.hardswish(x),
    "hardtanh": lambda m, x: F.hardtanh(x),
    "im2col": lambda m, x: F.unfold(x, 3),
    "index_select": lambda m, x: x.index_select(1, torch.tensor([2, 0])),
    "instance_norm": lambda m, x: F.instance_norm(x),
    "inverse": lambda m, x: torch.inverse(_square(x)),
    "layer_norm": lambda m, x: F.layer_norm(x, (8,)),
    "leaky_relu": lambda m, x: F.leaky_relu(x),
    "lgamma": lambda m, x: m.high(x).lgamma(),
    "linalg_cholesky": lambda m, x: torch.linalg.cholesky(_square(x)),
    "linalg_det": lambda m, x: torch.linalg.det(_square(x)),
    "linalg_inv": lambda m, x: torch.linalg.inv(_square(x)),
    "linalg_qr": lambda m, x: torch.linalg.qr(_square(x))[1],
    "linalg_svd": lambda m, x: torch.linalg.svd(_square(x))[1],
    "linalg_svdvals": lambda m, x: torch.linalg.svdvals(_square(x)),
    "linalg_vector_norm": lambda m, x: torch.linalg.vector_norm(x, dim=1),
    "linear": lambda m, x: F.linear(x.flatten(1), m.matrix.T),
    "log": lambda m, x: m.high(x).log(),
    "log2": lambda m, x: m.high(x).log2(),
    "log_sigmoid": lambda m, x: F.logsigmoid(x),
    "log_softmax": lambda m, x: F.log_softmax(x, 1),
    "logsumexp": lambda m, x: x.logsumexp(1),
    "lstm": lambda m, x: m.lstm(m.one(x).squeeze(1))[0],
    "lt": lambda m, x: (x < 0.1).float(),
    "masked_fill": lambda m, x: x.masked_fill(m.mask, 0.0),
    "matmul": lambda m, x: F.relu(x) @ m.matrix[:8, :5],
    "max": lambda m, x: x.max(1)[0],
    "max_pool1d": lambda m, x: F.max_pool1d(x.flatten(2), 2),
    "max_pool2d": lambda m, x: F.max_pool2d(x, 2),
    "max_pool2d_with_indices": lambda m, x: torch.ops.aten.max_pool2d_with_indices(x, [2, 2])[0],
    "maximum": lambda m, x: torch.maximum(x, m.conv(x)),
    "mean": lambda m, x: x.mean(1),
    "median": lambda m, x: x.median(1)[0],
    "minimum": lambda m, x: torch.minimum(x, m.conv(x)),
    "mish": lambda m, x: F.mish(x),
    "mm": lambda m, x: torch.mm(x.flatten(1), m.matrix),
    "movedim": lambda m, x: x.movedim(1, 2),
    "mul": lambda m, x: x * m.conv(x),
    "narrow": lambda m, x: x.narrow(1, 1, 2),
    "neg": lambda m, x: -x,
    "nonzero": lambda m, x: x * x.nonzero().sum(),
    "pad": lambda m, x: F.pad(x, (1, 1)),
    "permute": lambda m, x: x.permute(0, 2, 3, 1),
    "pixel_shuffle": lambda m, x: F.pixel_shuffle(torch.cat([x, x], 1), 2),
    "pow": lambda m, x: m.high(x) ** 1.5,
    "prelu": lambda m, x: m.prelu(x),
    "prod": lambda m, x: x.prod(1),
    "reciprocal": lambda m, x: m.high(x).reciprocal(),
    "relu": lambda m, x: F.relu(x),
    "relu6": lambda m, x: F.relu6(x),
    "repeat": lambda m, x: x.repeat(1, 2, 1, 1),
    "reshape": lambda m, x: x.reshape(-1, 12, 48),
    "rms_norm": lambda m, x: F.rms_norm(x, (8,)),
    "rnn_tanh": lambda m, x: m.rnn(m.one(x).squeeze(1))[0],
    "roll": lambda m, x: x.roll(1, 1),
    "round": lambda m, x: (4 * x).round(),
    "rsqrt": lambda m, x: m.high(x).rsqrt(),
    "scaled_dot_product_attention": lambda m, x: F.scaled_dot_product_attention(x, x, x),
    "select": lambda m, x: x[:, 2],
    "selu": lambda m, x: F.selu(x),
    "sigmoid": lambda m, x: x.sigmoid(),
    "silu": lambda m, x: F.silu(x),
    "sin": lambda m, x: x.sin(),
    "slice": lambda m, x: x[:, 1:4],
    "softmax": lambda m, x: F.softmax(x, 1),
    "softplus": lambda m, x: F.softplus(x),
    "sort": lambda m, x: x.sort(1)[0],
    "special_bessel_j0": lambda m, x: torch.special.bessel_j0(x),
    "split": lambda m, x: x.split(3, 1)[0],
    "sqrt": lambda m, x: m.high(x).sqrt(),
    "square": lambda m, x: x.square(),
    "squeeze": lambda m, x: m.one(x).squeeze(1),
    "stack": lambda m, x: torch.stack([x, m.conv(x)], 1),
    "std": lambda m, x: x.std(1),
    "stft": lambda m, x: torch.stft(x.flatten(1), 16, return_complex=True, window=torch.ones(16)).abs(),
    "sub": lambda m, x: x - m.conv(x),
    "sum": lambda m, x: x.sum(1),
    "sym_size": lambda m, x: x.reshape(x.shape[0], 6, 96),
    "tanh": lambda m, x: x.tanh(),
    "threshold": lambda m, x: F.threshold(x, 0.1, 0.2),
    "to": lambda m, x: x.to(torch.float64).float(),
    "topk": lambda m, x: x.flatten(1).topk(3)[0],
    "transpose": lambda m, x: x.transpose(1, 2),
    "unflatten": lambda m, x: x.unflatten(1, (2, 3)),
    "unsqueeze": lambda m, x: x.unsqueeze(1),
    "upsample_bicubic2d": lambda m, x: F.interpolate(x, scale_factor=2.0, mode="bicubic"),
    "upsample_bilinear2d": lambda m, x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
    "upsample_nearest2d": lambda m, x: F.interpolate(x, scale_factor=2.0, mode="nearest"),
    "var": lambda m, x: x.var(1),
    "view": lambda m, x: x.view(-1, 6, 96),
    "where": lambda m, x: torch.where(m.mask, x, m.conv(x)),
}

# For rows that depend on the op's form, forms that are int8: row__form.
FORMS: dict[str, Op] = {
    "clamp__to_6": lambda m, x: m.conv(x).clamp(0, 6),
    "clamp__from_0": lambda m, x: x.clamp(min=0.0),
    "clamp__to_1": lambda m, x: m.conv(x).clamp(-1, 1),
    "div__by_a_number": lambda m, x: x / 3.0,
    "expand__one": lambda m, x: m.one(x).expand(-1, 1, -1, -1),
    "expand__a_class_token": lambda m, x: torch.cat(
        [m.bias[None, None, :8].expand(x.shape[0], -1, -1), x.flatten(1, 2)], 1
    ),
    "index_select__neighbours": lambda m, x: x.index_select(1, torch.tensor([1, 2, 3])),
    "max__of_two": lambda m, x: torch.max(x, m.conv(x)),
    "pow__2": lambda m, x: x**2,
    "pow__minus_half": lambda m, x: m.high(x) ** -0.5,
    "repeat__a_class_token": lambda m, x: torch.cat(
        [m.bias[None, None, :8].repeat(x.shape[0], 1, 1), x.flatten(1, 2)], 1
    ),
}


class Example(nn.Module):
    """A convolution, one op on what it makes, and, with `end`, a product that reads that."""

    def __init__(self, op: Op, end: bool) -> None:
        super().__init__()
        self.op = op
        self.first, self.conv = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1)
        self.one, self.high = nn.Conv2d(6, 1, 1), nn.Conv2d(6, 6, 1)
        self.conv1d, self.conv3d, self.wide = nn.Conv1d(6, 4, 3), nn.Conv3d(1, 2, 3), nn.Conv2d(6, 16, 1)
        self.up1d, self.up2d = nn.ConvTranspose1d(16, 8, 4, 2, 1), nn.ConvTranspose2d(16, 8, 4, 2, 1)
        self.norm, self.prelu, self.linear = nn.BatchNorm2d(6), nn.PReLU(), nn.Linear(8, 5)
        self.gru, self.lstm = nn.GRU(8, 5, batch_first=True), nn.LSTM(8, 5, batch_first=True)
        self.rnn, self.table = nn.RNN(8, 5, batch_first=True), nn.Embedding(TABLE, 8)
        self.matrix, self.bias = nn.Parameter(torch.randn(576, 16) / 24), nn.Parameter(torch.randn(16))
        self.register_buffer("mask", torch.arange(96).reshape(12, 8) % 3 > 0)
        self.end = nn.LazyLinear(4) if end else None
        nn.init.constant_(self.high.bias, 3.0)  # what it makes is positive

    def forward(self, x: Tensor) -> Tensor:
        x = _first(self.op(self, self.first(x) if x.is_floating_point() else x))
        return x if self.end is None else self.end(x.flatten(1))


class Rows(nn.Module):
    """Networks of several rows beside each other, an output each."""

    def __init__(self, names: Sequence[str], end: bool) -> None:
        super().__init__()
        self.names, self.rows = names, nn.ModuleList(Example({**OPS, **FORMS}[name], end) for name in names)

    def forward(self, input: Tensor, ids: Tensor | None = None) -> dict[str, Tensor]:
        rows = zip(self.names, self.rows, strict=True)
        return {name: row(ids if name in TOKENS else input) for name, row in rows}


def made(*names: str, end: bool = False) -> Rows:
    """The networks of these rows, seeded. Called with input, float32 [n, *SHAPE], and ids, int64 [n, STEPS]."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        module = Rows(names, end).eval()
        module(torch.zeros(2, *SHAPE), torch.zeros(2, STEPS, dtype=torch.int64))  # the sizes of the last products
        return module
