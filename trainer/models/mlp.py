"""The MLP of a block.  Shape key: B sequences, T tokens, D model width."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config import ModelConfig
from trainer.models.parts import Linear

if torch.cuda.is_available():  # builds of torch without CUDA come without Triton
    from trainer.models import relu2_kernel

LEAK = 0.5
"""Slope of leaky_relu2 below zero, before the square."""


class MLP(nn.Module):
    """Two projections around a squared ReLU, leaky or not; or three around silu(gate) times the hidden units."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.leaky = config.mlp_activation == "leaky_relu2"
        self.kernel = False
        self.fc = Linear(config.model_dim, config.mlp_hidden)
        self.proj = Linear(config.mlp_hidden, config.model_dim, zero=True)
        self.gate = Linear(config.model_dim, config.mlp_hidden) if config.mlp_activation == "swiglu" else None

    def forward(self, x_BTD: Tensor, scale: Tensor) -> Tensor:
        if self.kernel:
            weights = self.fc.weight.to(x_BTD.dtype), (scale[:, None] * self.proj.weight).to(x_BTD.dtype)
            return relu2_kernel.squared_relu_mlp(x_BTD.flatten(0, 1), *weights).view_as(x_BTD)
        projected: Tensor = self.proj(self._hidden(x_BTD), scale)
        return projected

    def _hidden(self, x_BTD: Tensor) -> Tensor:
        if self.gate is not None:
            weight = torch.cat((self.gate.weight, self.fc.weight)).to(x_BTD.dtype)
            gate, hidden = F.linear(x_BTD, weight).chunk(2, dim=-1)
            return F.silu(gate) * hidden
        hidden = self.fc(x_BTD)
        return (F.leaky_relu(hidden, LEAK) if self.leaky else F.relu(hidden)).square()


def use_relu2_kernel(config: ModelConfig, dtype: torch.dtype) -> bool:
    """Whether device, shapes and options suit relu2_kernel: Hopper, which has the copy engine it needs, whole tiles,
    and the activation that it computes."""
    hopper = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)
    tiles = config.model_dim % 64 == 0 and config.mlp_hidden % 256 == 0
    return hopper and dtype == torch.bfloat16 and tiles and config.mlp_activation == "relu2"
