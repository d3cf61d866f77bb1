"""Pieces that model families share.  Shape key: B sequences, T tokens, D model width, H heads, K head width."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rms_norm(x: Tensor) -> Tensor:
    """Divide by the root mean square over the last axis; no weights, eps is the dtype's own."""
    return F.rms_norm(x, (x.size(-1),))


class Linear(nn.Linear):
    """A bias-free projection whose float32 weight is cast to the activation's dtype at the product."""

    def __init__(self, inputs: int, outputs: int, *, zero: bool = False) -> None:
        super().__init__(inputs, outputs, bias=False)
        if zero:
            nn.init.zeros_(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight.to(input.dtype))


def rotary_tables(length: int, head_dim: int, base: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin, each (length, head_dim / 2) in float32, for `rotate`."""
    frequencies = base ** -(torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim)
    angles = torch.outer(torch.arange(length, dtype=torch.float32, device=device), frequencies)
    return angles.cos(), angles.sin()


def rotate(x_BHTK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding in the half-split layout: channel i pairs with channel i + K/2."""
    first, second = x_BHTK.chunk(2, dim=-1)
    cos, sin = cos.to(x_BHTK.dtype), sin.to(x_BHTK.dtype)
    return torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1)


def causal_attention(q_BHTK: Tensor, k_BGTK: Tensor, v_BGTK: Tensor) -> Tensor:
    """Causal softmax attention where groups of query heads share a key and value head (G divides H)."""
    if q_BHTK.is_cuda:
        return F.scaled_dot_product_attention(
            q_BHTK, k_BGTK, v_BGTK, is_causal=True, enable_gqa=q_BHTK.size(1) != k_BGTK.size(1)
        )
    # Off CUDA the grouped path falls back to the materialised scores; repeated heads take the fused kernel.
    share = q_BHTK.size(1) // k_BGTK.size(1)
    k, v = k_BGTK.repeat_interleave(share, dim=1), v_BGTK.repeat_interleave(share, dim=1)
    return F.scaled_dot_product_attention(q_BHTK, k, v, is_causal=True)
