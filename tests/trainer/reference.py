"""The baseline model once more, in float64 numpy-style torch, written from its description and not from ours.

Loops over positions, heads and layers on purpose: nothing here shares a line or a kernel with trainer.models.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def normed(x: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps)


def rotated(x_TK: Tensor, base: float) -> Tensor:
    length, width = x_TK.shape
    half = width // 2
    rows = []
    for position in range(length):
        angles = torch.tensor([position / base ** (2 * i / width) for i in range(half)], dtype=x_TK.dtype)
        first, second = x_TK[position, :half], x_TK[position, half:]
        rows.append(
            torch.cat((first * angles.cos() + second * angles.sin(), -first * angles.sin() + second * angles.cos()))
        )
    return torch.stack(rows)


def attention(x_TD: Tensor, p: dict[str, Tensor], heads: int, kv_heads: int, base: float, eps: float) -> Tensor:
    length, dim = x_TD.shape
    width = dim // heads
    outputs = []
    for head in range(heads):
        kv = head // (heads // kv_heads)
        q = x_TD @ p["q_proj.weight"][head * width : (head + 1) * width].T
        k = x_TD @ p["k_proj.weight"][kv * width : (kv + 1) * width].T
        v = x_TD @ p["v_proj.weight"][kv * width : (kv + 1) * width].T
        q = rotated(normed(q, eps), base) * p["q_gain"][head]
        k = rotated(normed(k, eps), base)
        rows = []
        for t in range(length):
            scores = (k[: t + 1] @ q[t]) / math.sqrt(width)
            weights = torch.exp(scores - scores.max())
            rows.append((weights / weights.sum()) @ v[: t + 1])
        outputs.append(torch.stack(rows))
    return torch.cat(outputs, dim=-1) @ p["out_proj.weight"].T


def block(x: Tensor, x0: Tensor, p: dict[str, Tensor], heads: int, kv_heads: int, base: float, eps: float) -> Tensor:
    x = p["resid_mix"][0] * x + p["resid_mix"][1] * x0
    inner = {name.removeprefix("attention."): value for name, value in p.items() if name.startswith("attention.")}
    x = x + p["attn_scale"] * attention(normed(x, eps), inner, heads, kv_heads, base, eps)
    hidden = normed(x, eps) @ p["mlp.fc.weight"].T
    hidden = torch.where(hidden > 0, hidden, torch.zeros_like(hidden)) ** 2
    return x + p["mlp_scale"] * (hidden @ p["mlp.proj.weight"].T)


def loss(
    p: dict[str, Tensor],
    tokens_BT: Tensor,
    targets_BT: Tensor,
    *,
    layers: int,
    heads: int,
    kv_heads: int,
    base: float = 10_000.0,
    cap: float = 30.0,
    eps: float,
) -> Tensor:
    """Mean nats per target, from float64 parameters under the names of GPT.named_parameters()."""
    embedding = p["embedding.weight"]
    head = p.get("lm_head.weight", embedding)
    encoder = layers // 2
    total = torch.zeros((), dtype=embedding.dtype)
    for tokens, targets in zip(tokens_BT, targets_BT, strict=True):
        x0 = normed(embedding[tokens], eps)
        x = x0
        skips: list[Tensor] = []
        for layer in range(layers):
            mine = {n.removeprefix(f"blocks.{layer}."): v for n, v in p.items() if n.startswith(f"blocks.{layer}.")}
            if layer >= encoder and skips:
                x = x + p["skip_weights"][layer - encoder] * skips.pop()
            x = block(x, x0, mine, heads, kv_heads, base, eps)
            if layer < encoder:
                skips.append(x)
        logits = cap * torch.tanh(normed(x, eps) @ head.T / cap)
        log_total = torch.logsumexp(logits, dim=-1)
        total = total + (log_total - logits[torch.arange(len(targets)), targets]).sum()
    return total / targets_BT.numel()
