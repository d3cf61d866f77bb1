"""Initialisations that options choose.  They change what was drawn, so an option leaves the other weights alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from trainer.models.parts import Linear

SMALLEST_ORTHOGONAL = 64
"""Least rows and columns of a weight that is made orthogonal."""


@torch.no_grad()
def overtone_(weight_VD: Tensor) -> None:
    """Replace the k-th singular value by the largest times k^(-1/2), in place."""
    left, values, right = torch.linalg.svd(weight_VD, full_matrices=False)
    k = torch.arange(1, len(values) + 1, dtype=values.dtype, device=values.device)
    weight_VD.copy_(left * (values[0] * k.rsqrt()) @ right)


def orthogonal_(linears: list[Linear], projection_gain: float) -> None:
    """Draw orthogonal weights in place: gain 1, but `projection_gain` where they begin at zero; 0 leaves them there."""
    for linear in linears:
        gain = projection_gain if linear.begins_at_zero else 1.0
        if gain > 0 and min(linear.weight.shape) >= SMALLEST_ORTHOGONAL:
            nn.init.orthogonal_(linear.weight, gain)


def phase_mix(layer: int, layers: int) -> float:
    """Share of the stream, against the embedding, that block `layer` begins with: from 0.18 to 0.82 over the depth."""
    return 1 / (1 + math.exp(-3 * (layer / max(layers - 1, 1) - 0.5)))
