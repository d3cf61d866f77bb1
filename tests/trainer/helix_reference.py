"""HelixLM in float64, written plainly from its description: token by token, node by node, nothing fused."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trainer.helix_config import HelixConfig

Parameters = dict[str, Tensor]


def loss(p: Parameters, config: HelixConfig, predecessors: list[list[int]], tokens: Tensor, targets: Tensor) -> Tensor:
    found = logits(p, config, predecessors, tokens)
    return torch.nn.functional.cross_entropy(found.flatten(0, 1), targets.flatten())


def logits(p: Parameters, config: HelixConfig, predecessors: list[list[int]], tokens: Tensor) -> Tensor:
    table = p["embedding.weight"]
    e = table[tokens] * (math.sqrt(config.d_model) if config.embedding_scale else 1)
    h, out = e, torch.zeros_like(e)
    total = torch.zeros(tokens.shape, dtype=torch.float64)
    halted = torch.zeros(tokens.shape, dtype=torch.bool)
    decay = torch.exp(-torch.exp(torch.clip(p["recurrence.log_dt"] + p["recurrence.log_a"], -20, 20)))
    for t in range(config.num_loops):
        x = norm(h + loop_embedding(config, t) + e, p["recurrence.norm.weight"])
        h = decay * h + p["recurrence.b"] * e + graph(p, config, predecessors, x)
        if config.act == "off":
            out = h
            continue
        chance = torch.sigmoid(h @ p["readout.halt_weight"] + p["readout.halt_bias"])
        weight = torch.where(total + chance >= config.act_threshold, torch.clip(1 - total, min=0), chance)
        if config.act == "remainder" and t == config.num_loops - 1:
            weight = torch.clip(1 - total, min=0)
        going = ~halted
        out = out + (weight * going)[..., None] * h
        total = total + chance * going
        halted = halted | (total >= config.act_threshold)
    return norm(out, p["readout.norm.weight"]) @ table.T


def loop_embedding(config: HelixConfig, t: int) -> Tensor:
    width = int(config.d_model * config.loop_dim_ratio)
    sines = [math.sin(t * 10_000 ** (-2 * i / width)) for i in range(width // 2)]
    cosines = [math.cos(t * 10_000 ** (-2 * i / width)) for i in range(width // 2)]
    filled = sines + cosines
    return torch.tensor(filled + [0.0] * (config.d_model - len(filled)), dtype=torch.float64)


def norm(x: Tensor, gain: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6) * gain


def graph(p: Parameters, config: HelixConfig, predecessors: list[list[int]], x: Tensor) -> Tensor:
    made: list[Tensor] = []
    for number, sources in enumerate(predecessors):
        column, kind = divmod(number, 3)
        prefix = f"recurrence.nodes.{number}."
        own = {name.removeprefix(prefix): value for name, value in p.items() if name.startswith(prefix)}
        read = [made[source] for source in sources] or [x]
        if not sources and config.root_bypass:
            made.append(x)
        elif kind == 2:
            made.append(gate(own, read))
        else:
            merged = read[0]
            if len(read) > 1:
                prefix = f"recurrence.merges.{number}."
                merged = torch.cat(read, -1) @ p[f"{prefix}linear.weight"].T + p[f"{prefix}linear.bias"]
                merged = norm(merged, p[f"{prefix}norm.weight"]) if config.merge_norm else merged
            y = norm(merged, own["norm.weight"])
            if kind == 1:
                inner = torch.nn.functional.silu(y @ own["gate.weight"].T) * (y @ own["up.weight"].T)
                made.append(inner @ own["down.weight"].T)
            else:
                full = {"full": True, "linear": False}.get(
                    config.attention, column % config.full_attention_interval == 0
                )
                made.append(attention(own, config, y, full))
    return torch.stack(made[-3:]).mean(0) + x


def gate(own: Parameters, read: list[Tensor]) -> Tensor:
    shares = torch.softmax(own["logits"][: len(read)], 0)
    mixed = sum(share * value for share, value in zip(shares, read, strict=False))  # extras are dropped, as built
    return mixed @ own["out_proj.weight"].T + own["out_proj.bias"]


def attention(own: Parameters, config: HelixConfig, y: Tensor, full: bool) -> Tensor:
    batch, length, dim = y.shape
    width = dim // config.num_heads
    q, k, v = (
        (y @ own[f"{name}_proj.weight"].T + own[f"{name}_proj.bias"]).view(batch, length, -1, width) for name in "qkv"
    )
    if config.rope:
        q, k = rotated(q, config.rope_base), rotated(k, config.rope_base)
    if not full:
        q, k = (features(u @ own[f"{name}_feat.weight"].T) for u, name in ((q, "q"), (k, "k")))
    rows = []
    for t in range(length):
        products = torch.einsum("bhf,bshf->bsh", q[:, t], k[:, : t + 1])
        if full:
            products = torch.softmax(products / math.sqrt(width), 1)
        y_t = torch.einsum("bsh,bshk->bhk", products, v[:, : t + 1])
        if not full:
            z = products.sum(1) if config.z_norm == "standard" else k[:, : t + 1].sum((1, 3))
            y_t = y_t / torch.clip(z, min=1e-6)[..., None]
        rows.append(y_t.flatten(1))
    return torch.stack(rows, 1) @ own["out_proj.weight"].T + own["out_proj.bias"]


def features(u: Tensor) -> Tensor:
    return torch.where(u > 0, u + 1, torch.exp(torch.clip(u, max=0)))


def rotated(x: Tensor, base: float) -> Tensor:
    """Channel i as the real and i + K/2 as the imaginary part, turned backwards by t · base^(-2i / K)."""
    half = x.size(-1) // 2
    speeds = torch.tensor([base ** (-i / half) for i in range(half)], dtype=torch.float64)
    angles = torch.arange(x.size(1), dtype=torch.float64)[:, None, None] * speeds
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angles), -angles)
    return torch.cat((turned.real, turned.imag), -1)
