"""Grouped-query causal attention.  Shape key: B sequences, T tokens, D model width."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config import ModelConfig
from trainer.models.parts import Linear, causal_attention, rms_norm, rotate, without_own_value

if torch.cuda.is_available():  # builds of torch without CUDA come without Triton
    from trainer.models import rotate_kernel


class Attention(nn.Module):
    """q and k are RMS-normed per head and rotated, q scaled by a learned gain.

    Args:
        config: sizes and initial values.
        exclusive: whether each token's own value is taken out of what its heads gather.
    """

    def __init__(self, config: ModelConfig, *, exclusive: bool = False) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.exclusive = exclusive
        self.kernel = False
        kv_dim = config.num_kv_heads * self.head_dim
        self.q_proj = Linear(config.model_dim, config.model_dim)
        self.k_proj = Linear(config.model_dim, kv_dim)
        self.v_proj = Linear(config.model_dim, kv_dim)
        self.out_proj = Linear(config.model_dim, config.model_dim, zero=True)
        self.q_gain = nn.Parameter(torch.full((config.num_heads,), config.qk_gain_init))

    def forward(self, x_BTD: Tensor, scale: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        # One product for all three: apart, the narrow ones are bound by memory. Muon still sees them apart.
        weight = torch.cat((self.q_proj.weight, self.k_proj.weight, self.v_proj.weight)).to(x_BTD.dtype)
        if self.kernel:
            q, k, v = rotate_kernel.rotated_heads(x_BTD, weight, self.q_gain, cos, sin)
        else:
            q, k, v = self._heads(F.linear(x_BTD, weight), cos, sin)
        gathered = causal_attention(q, k, v)
        if self.exclusive:
            gathered = without_own_value(gathered, v)
        projected: Tensor = self.out_proj(gathered.flatten(2), scale)
        return projected

    def _heads(self, qkv: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        heads = [projection.weight.size(0) // self.head_dim for projection in (self.q_proj, self.k_proj, self.v_proj)]
        q, k, v = torch.split(qkv.view(*qkv.shape[:2], -1, self.head_dim), heads, dim=2)
        q = rotate(rms_norm(q), cos, sin) * self.q_gain.to(q.dtype)[:, None]
        return q, rotate(rms_norm(k), cos, sin), v


def use_rotate_kernel(config: ModelConfig, dtype: torch.dtype) -> bool:
    """Whether device, shapes and options suit rotate_kernel: bfloat16 on CUDA, head widths that are powers of two,
    all channels rotated."""
    half = config.head_dim // 2
    suits = half >= 16 and half & (half - 1) == 0 and config.rotary_dims == config.head_dim
    return torch.cuda.is_available() and dtype == torch.bfloat16 and suits
