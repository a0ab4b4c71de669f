"""Attention whose heads can go one by one, in place of nn.MultiheadAttention, whose width must stay its input's."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """The same answers as the nn.MultiheadAttention that it is made of, from four plain linear layers.

    Called with the same arguments; gives no attention weights (None in their place).
    """

    # What nn.TransformerEncoderLayer asks before it takes its fused path, which knows no narrower attention.
    in_proj_bias = None
    _qkv_same_embed_dim = False

    def __init__(self, origin: nn.MultiheadAttention) -> None:
        super().__init__()
        self.num_heads, self.batch_first, self.dropout = origin.num_heads, origin.batch_first, origin.dropout
        width, bias = origin.embed_dim, origin.in_proj_bias is not None
        self.q = nn.Linear(width, width, bias)
        self.k = nn.Linear(width if origin.kdim is None else origin.kdim, width, bias)
        self.v = nn.Linear(width if origin.vdim is None else origin.vdim, width, bias)
        self.out_proj = nn.Linear(width, width, origin.out_proj.bias is not None)
        self.out_proj.load_state_dict(origin.out_proj.state_dict())
        fused = origin.in_proj_weight
        weights = fused.chunk(3) if fused is not None else [getattr(origin, f"{one}_proj_weight") for one in "qkv"]
        with torch.no_grad():
            for index, layer in enumerate((self.q, self.k, self.v)):
                layer.weight.copy_(weights[index])
                if origin.in_proj_bias is not None:
                    layer.bias.copy_(origin.in_proj_bias.chunk(3)[index])
        self.train(origin.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, None]:
        """Outputs [n, steps, width] (or steps first, as built), None. Masks: True or -inf is not looked at."""
        batched = query.ndim == 3
        query, key, value = ((one if batched else one[None]) for one in (query, key, value))
        if batched and not self.batch_first:
            query, key, value = (one.transpose(0, 1) for one in (query, key, value))
        q, k, v = (
            layer(one).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for layer, one in ((self.q, query), (self.k, key), (self.v, value))
        )
        mask = None if attn_mask is None else _additive(attn_mask, query)
        if key_padding_mask is not None:
            padding = _additive(key_padding_mask, query).view(-1, 1, 1, key.shape[1])
            mask = padding if mask is None else mask + padding
        said = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)
        output: Tensor = self.out_proj(said.transpose(1, 2).flatten(2))
        if not batched:
            return output[0], None
        return output if self.batch_first else output.transpose(0, 1), None


def refusal(module: nn.MultiheadAttention) -> str:
    """Why an attention cannot be taken apart; empty when it can."""
    if type(module) is not nn.MultiheadAttention:
        return f"it is a {type(module).__name__}, whose inside is unknown"
    if module.bias_k is not None or module.add_zero_attn:
        return "it adds keys of its own (add_bias_kv, add_zero_attn)"
    return ""


def unfold(model: nn.Module, name: str) -> None:
    """Put an `Attention` in the place of a named nn.MultiheadAttention."""
    origin = model.get_submodule(name)
    assert isinstance(origin, nn.MultiheadAttention)
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, Attention(origin))
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False  # its fused path reads nn.MultiheadAttention's own tensors


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    if mask.ndim == 3:
        raise ValueError("a mask for each head cannot be kept when heads go: give one for all, [steps, steps]")
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(mask, float("-inf"))
