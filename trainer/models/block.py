"""The blocks of the decoder, with one lane or two.  Shape key: B sequences, T tokens, D model width."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.config import ModelConfig
from trainer.models.attention import Attention
from trainer.models.init import phase_mix
from trainer.models.mlp import MLP
from trainer.models.parts import rms_norm


class _Parts(nn.Module):
    """Attention, MLP and what a block scales and mixes with, for block `layer` of the model."""

    norm_scale: Tensor | None

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention = Attention(config, exclusive=layer >= config.num_layers - config.xsa_last_layers)
        self.mlp = MLP(config)
        stream = phase_mix(layer, config.num_layers) if config.resid_mix_init == "phase" else 1.0
        self.resid_mix = nn.Parameter(
            torch.stack((torch.full((config.model_dim,), stream), torch.full((config.model_dim,), 1 - stream)))
        )
        self.attn_scale = nn.Parameter(torch.ones(config.model_dim))
        self.mlp_scale = nn.Parameter(torch.ones(config.model_dim))
        # A tensor, so that all blocks share a graph; no part of the state.
        scale = torch.tensor((layer + 1) ** -0.5) if config.layer_norm_scale else None
        self.register_buffer("norm_scale", scale, persistent=False)

    def mixed(self, x_BTD: Tensor, x0_BTD: Tensor) -> Tensor:
        mix = self.resid_mix.to(x_BTD.dtype)
        return mix[0] * x_BTD + mix[1] * x0_BTD

    def attended(self, x_BTD: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        attended: Tensor = self.attention(self._normed(x_BTD), self.attn_scale, cos, sin)
        return attended

    def expanded(self, x_BTD: Tensor) -> Tensor:
        expanded: Tensor = self.mlp(self._normed(x_BTD), self.mlp_scale)
        return expanded

    def _normed(self, x_BTD: Tensor) -> Tensor:
        normed = rms_norm(x_BTD)
        return normed if self.norm_scale is None else normed * self.norm_scale


class Block(_Parts):
    """Add the skip, mix the stream with the embedding x0, then attention and MLP, each scaled per channel and added.

    The skip is added in here, not by the caller, so that a compiled block fuses it with the norm.
    """

    def forward(
        self,
        x_BTD: Tensor,
        x0_BTD: Tensor,
        cos: Tensor,
        sin: Tensor,
        skip_BTD: Tensor | None = None,
        skip_weight: Tensor | None = None,
    ) -> Tensor:
        x = self.mixed(with_skip(x_BTD, skip_BTD, skip_weight), x0_BTD)
        x = x + self.attended(x, cos, sin)
        return x + self.expanded(x)


class LaneBlock(_Parts):
    """Attention reads one lane and the MLP the other; then each lane takes a learned share of itself and of both.

    Skip and x0 are for the first lane alone, and what x0 is mixed with is for the attention alone.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.lane_mix = nn.Parameter(torch.ones(2, 3))

    def forward(
        self,
        x_BTD: Tensor,
        lane_BTD: Tensor,
        x0_BTD: Tensor,
        cos: Tensor,
        sin: Tensor,
        skip_BTD: Tensor | None = None,
        skip_weight: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        x = with_skip(x_BTD, skip_BTD, skip_weight)
        attended = self.attended(self.mixed(x, x0_BTD), cos, sin)
        expanded = self.expanded(lane_BTD)
        mix = self.lane_mix.to(x.dtype)
        first = mix[0, 0] * x + mix[0, 1] * attended + mix[0, 2] * expanded
        second = mix[1, 0] * lane_BTD + mix[1, 1] * attended + mix[1, 2] * expanded
        return first, second


def with_skip(x_BTD: Tensor, skip_BTD: Tensor | None, weight: Tensor | None) -> Tensor:
    """The stream and what an earlier block pushed, weighted per channel."""
    if skip_BTD is None or weight is None:
        return x_BTD
    return x_BTD + weight.to(x_BTD.dtype) * skip_BTD
