"""Pieces that model families share.  Shape key: B sequences, T tokens, D model width, H heads, K head width."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rms_norm(x: Tensor) -> Tensor:
    """Divide by the root mean square over the last axis; no weights, eps is the dtype's own."""
    return F.rms_norm(x, (x.size(-1),))


class Linear(nn.Linear):
    """A bias-free projection whose float32 weight is cast to the activation's dtype at the product.

    `scale`, one factor an output channel, multiplies the weight's rows: the same as scaling the output, but its
    gradient is a sum over a matrix and not over every token.
    """

    def __init__(self, inputs: int, outputs: int, *, zero: bool = False) -> None:
        super().__init__(inputs, outputs, bias=False)
        if zero:
            nn.init.zeros_(self.weight)

    def forward(self, input: Tensor, scale: Tensor | None = None) -> Tensor:
        weight = self.weight if scale is None else scale[:, None] * self.weight
        return F.linear(input, weight.to(input.dtype))


@functools.lru_cache(maxsize=16)
def rotary_tables(length: int, head_dim: int, base: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin, each (length, 1, head_dim / 2) in float32, for `rotate`."""
    frequencies = base ** -(torch.arange(0, head_dim, 2, dtype=torch.float32, device=device) / head_dim)
    angles = torch.outer(torch.arange(length, dtype=torch.float32, device=device), frequencies)[:, None]
    return angles.cos(), angles.sin()


def rotate(x_BTHK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding in the half-split layout: channel i pairs with channel i + K/2."""
    first, second = x_BTHK.chunk(2, dim=-1)
    cos, sin = cos.to(x_BTHK.dtype), sin.to(x_BTHK.dtype)
    return torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1)


def causal_attention(q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor) -> Tensor:
    """Causal softmax attention, (B, T, H, K), where groups of query heads share a key and value head."""
    share = q_BTHK.size(2) // k_BTGK.size(2)
    if share > 1 and not q_BTHK.is_cuda:
        # Off CUDA the grouped path falls back to the materialised scores; repeated heads take the fused kernel.
        k_BTGK, v_BTGK = k_BTGK.repeat_interleave(share, dim=2), v_BTGK.repeat_interleave(share, dim=2)
    q, k, v = q_BTHK.transpose(1, 2), k_BTGK.transpose(1, 2), v_BTGK.transpose(1, 2)
    grouped = share > 1 and q.is_cuda
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped).transpose(1, 2)
