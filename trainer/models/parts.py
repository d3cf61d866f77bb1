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
        self.begins_at_zero = zero
        if zero:
            nn.init.zeros_(self.weight)

    def forward(self, input: Tensor, scale: Tensor | None = None) -> Tensor:
        weight = self.weight if scale is None else scale[:, None] * self.weight
        return F.linear(input, weight.to(input.dtype))


@functools.lru_cache(maxsize=16)
def rotary_tables(length: int, width: int, base: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin, each (length, 1, width / 2) in float32, for `rotate` to turn that many channels."""
    frequencies = base ** -(torch.arange(0, width, 2, dtype=torch.float32, device=device) / width)
    angles = torch.outer(torch.arange(length, dtype=torch.float32, device=device), frequencies)[:, None]
    return angles.cos(), angles.sin()


def rotate(x_BTHK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding in the half-split layout: of the R channels that the tables are for, the first ones,
    channel i pairs with channel i + R/2; the others pass."""
    half = cos.size(-1)
    first, second, rest = x_BTHK[..., :half], x_BTHK[..., half : 2 * half], x_BTHK[..., 2 * half :]
    cos, sin = cos.to(x_BTHK.dtype), sin.to(x_BTHK.dtype)
    turned = (first * cos + second * sin, second * cos - first * sin)
    return torch.cat(turned if rest.size(-1) == 0 else (*turned, rest), dim=-1)


def causal_attention(q_BTHK: Tensor, k_BTGK: Tensor, v_BTGK: Tensor) -> Tensor:
    """Causal softmax attention, (B, T, H, K), where groups of query heads share a key and value head."""
    share = q_BTHK.size(2) // k_BTGK.size(2)
    if share > 1 and not q_BTHK.is_cuda:
        # Off CUDA the grouped path falls back to the materialised scores; repeated heads take the fused kernel.
        k_BTGK, v_BTGK = k_BTGK.repeat_interleave(share, dim=2), v_BTGK.repeat_interleave(share, dim=2)
    q, k, v = q_BTHK.transpose(1, 2), k_BTGK.transpose(1, 2), v_BTGK.transpose(1, 2)
    grouped = share > 1 and q.is_cuda
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped).transpose(1, 2)


def without_own_value(y_BTHK: Tensor, v_BTGK: Tensor) -> Tensor:
    """The heads' outputs less what of each lies along its own token's value; groups of heads share a value."""
    y = y_BTHK.view(*v_BTGK.shape[:3], -1, v_BTGK.size(3))
    direction = F.normalize(v_BTGK, dim=-1)[:, :, :, None]
    return (y - (y * direction).sum(-1, keepdim=True) * direction).reshape(y_BTHK.shape)
