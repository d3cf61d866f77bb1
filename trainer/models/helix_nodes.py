"""The nodes of a HelixLM graph and what merges their inputs.

Shape key: B sequences, T tokens, D width, H heads, K head width, F features of a head.

Every node has an RMSNorm of its own, whose gain goes into the weight behind it: the same function, but the gain's
gradient is then a sum over a matrix and not over every token. Nodes return their branch alone: nothing is added.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.helix_config import HelixConfig
from trainer.models.linear_attention import features, linear_attention
from trainer.models.parts import rotate

EPS = 1e-6
"""Of every RMSNorm."""
STD = 0.02
"""Of every weight matrix at first; biases begin at zero."""
ALIGNMENT = 64
"""Hidden units are filled up to a multiple of this in the products: tensor cores want even strides."""


class Weights(nn.Linear):
    """A projection whose float32 weights are cast to the activation's dtype at the product."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True) -> None:
        super().__init__(inputs, outputs, bias=bias)
        nn.init.normal_(self.weight, std=STD)
        if bias:
            nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return F.linear(input, self.weight.to(input.dtype), bias)


class Norm(nn.Module):
    """RMSNorm with a gain, 1 at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.size(-1),), self.weight.to(x.dtype), EPS)


class Dropout(nn.Module):
    """Drops channels while training; the share is a tensor, so that its values share a graph."""

    share: Tensor

    def __init__(self, share: float) -> None:
        super().__init__()
        self.register_buffer("share", torch.tensor(share), persistent=False)
        self.drops = share > 0

    def set_share(self, share: float) -> None:
        self.share.fill_(share)
        self.drops = share > 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.drops or not self.training:
            return x
        kept = torch.rand(x.shape, device=x.device) >= self.share
        return x * kept * (1 / (1 - self.share)).to(x.dtype)


class Attention(nn.Module):
    """What linear and softmax attention share: the norm, four projections with biases, rotation.

    Args:
        config: of the family.
        features: of a head's queries and keys in linear attention, 0 in softmax attention.
    """

    def __init__(self, config: HelixConfig, features: int) -> None:
        super().__init__()
        dim = config.d_model
        self.heads, self.head_dim = config.num_heads, config.head_dim
        self.z_norm = config.z_norm
        self.norm = Norm(dim)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (Weights(dim, dim) for _ in range(4))
        self.dropout = Dropout(config.dropout)
        self.q_feat, self.k_feat = (Weights(self.head_dim, features, bias=False) if features else None for _ in "qk")
        # Nothing stands between projection and features but a rotation, so one matrix can do the work of both.
        self.folds = 0 < features <= self.head_dim and not config.rope

    def projected(self, x_BTD: Tensor, tables: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries and keys, (B, T, H, K), or (B, T, H, F) where they are folded with their features; values.

        `tables` are cos and sin of the rotation, or nothing.
        """
        pairs = [self._folded(self.q_proj, self.q_feat), self._folded(self.k_proj, self.k_feat)]
        pairs.append((self.v_proj.weight, self.v_proj.bias))
        weight, bias = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        x = F.rms_norm(x_BTD, (x_BTD.size(-1),), eps=EPS)
        qkv = F.linear(x, (weight * self.norm.weight).to(x.dtype), bias.to(x.dtype))
        split = torch.split(qkv, [len(part) for part, _ in pairs], dim=-1)
        q, k, v = (part.view(*x.shape[:2], self.heads, -1) for part in split)
        if tables:
            q, k = rotate(q, *tables), rotate(k, *tables)
        return q, k, v

    def _folded(self, projection: Weights, feature: Weights | None) -> tuple[Tensor, Tensor]:
        if feature is None or not self.folds:
            return projection.weight, projection.bias
        weight = feature.weight @ projection.weight.view(self.heads, self.head_dim, -1)
        bias = projection.bias.view(self.heads, self.head_dim) @ feature.weight.mT
        return weight.flatten(0, 1), bias.flatten()


class LinearAttention(Attention):
    """Causal linear attention with learned features elu(W u) + 1, W shared by the heads."""

    def __init__(self, config: HelixConfig) -> None:
        super().__init__(config, config.linear_feature_dim)

    def forward(self, x_BTD: Tensor, *tables: Tensor) -> Tensor:
        q, k, v = self.projected(x_BTD, tables)
        if not self.folds:
            assert self.q_feat is not None and self.k_feat is not None
            q, k = self.q_feat(q), self.k_feat(k)
        gathered = linear_attention(features(q), features(k), v, self.z_norm)
        out: Tensor = self.dropout(self.out_proj(gathered.flatten(2)))
        return out


class FullAttention(Attention):
    """Causal softmax attention. Its share of dropped weights is part of the graph: each value compiles one."""

    def __init__(self, config: HelixConfig) -> None:
        super().__init__(config, 0)
        self.share = config.dropout

    def set_share(self, share: float) -> None:
        self.share = share

    def forward(self, x_BTD: Tensor, *tables: Tensor) -> Tensor:
        q, k, v = (part.transpose(1, 2) for part in self.projected(x_BTD, tables))
        share = self.share if self.share and self.training else 0.0
        gathered = F.scaled_dot_product_attention(q, k, v, dropout_p=share, is_causal=True).transpose(1, 2)
        out: Tensor = self.dropout(self.out_proj(gathered.flatten(2)))
        return out


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x)), no biases; gate and up in one product."""

    def __init__(self, config: HelixConfig) -> None:
        super().__init__()
        dim, hidden = config.d_model, config.hidden
        self.filler = -hidden % ALIGNMENT if hidden > ALIGNMENT else 0
        self.norm = Norm(dim)
        self.gate, self.up = (Weights(dim, hidden, bias=False) for _ in range(2))
        self.down = Weights(hidden, dim, bias=False)
        self.dropout = Dropout(config.dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        rows = [F.pad(part.weight, (0, 0, 0, self.filler)) for part in (self.gate, self.up)]
        x = F.rms_norm(x_BTD, (x_BTD.size(-1),), eps=EPS)
        gate, up = F.linear(x, (torch.cat(rows) * self.norm.weight).to(x.dtype)).chunk(2, dim=-1)
        down = F.pad(self.down.weight, (0, self.filler)).to(x.dtype)
        out: Tensor = self.dropout(F.linear(F.silu(gate) * up, down))
        return out


class Gate(nn.Module):
    """A learned convex mix of its inputs, projected. Its norm exists, and nothing uses it, as built.

    Args:
        config: of the family.
        logits: weights to be had. Inputs beyond these are not read: the caller leaves them out.
    """

    def __init__(self, config: HelixConfig, logits: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.full((logits,), 1 / logits))
        self.norm = Norm(config.d_model)
        self.out_proj = Weights(config.d_model, config.d_model)
        self.dropout = Dropout(config.dropout)

    def forward(self, *inputs_BTD: Tensor) -> Tensor:
        mixed = inputs_BTD[0]
        if len(inputs_BTD) > 1:
            shares = self.logits[: len(inputs_BTD)].softmax(0).to(mixed.dtype)
            mixed = total(share * x for share, x in zip(shares.unbind(), inputs_BTD, strict=True))
        out: Tensor = self.dropout(self.out_proj(mixed))
        return out


class Merge(nn.Module):
    """Several predecessors, side by side, projected to one width."""

    def __init__(self, config: HelixConfig, count: int) -> None:
        super().__init__()
        self.linear = Weights(count * config.d_model, config.d_model)
        self.norm = Norm(config.d_model) if config.merge_norm else None

    def forward(self, *inputs_BTD: Tensor) -> Tensor:
        merged: Tensor = self.linear(torch.cat(inputs_BTD, dim=-1))
        return merged if self.norm is None else self.norm(merged)


def total(parts: Iterable[Tensor]) -> Tensor:
    """Their sum, without a copy of them side by side."""
    return functools.reduce(operator.add, parts)


def node_of(kind: str, config: HelixConfig, logits: int) -> nn.Module:
    """A node; `logits` counts for gates alone."""
    made: dict[str, Any] = {"linear": LinearAttention, "full": FullAttention, "swiglu": SwiGLU}
    return Gate(config, logits) if kind == "gate" else made[kind](config)
