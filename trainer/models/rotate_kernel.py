"""Queries, keys and values in one product, then one kernel for norm, rotation and gain.  CUDA, bfloat16.

Shape key: B sequences, T tokens, H query heads, G key heads (and as many value heads), K head width.

Compiled from plain torch this is four kernels forward and five backward with a third of the traffic wasted: 2.5 %
of a step at 7×512 on an H200, 4 % at 9×512 (docs/log.md). Each head of each token is a row of its own here, so that
one pass reads the product and writes what attention takes. Arithmetic is float32 inside a row.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

EPSILON = torch.finfo(torch.float32).eps
"""What F.rms_norm adds to the mean square by default."""
ROWS = 64


@triton.jit
def _forward(qkv, cos, sin, gain, q, k, rows, length, epsilon, H: tl.constexpr, G: tl.constexpr, HALF: tl.constexpr, ROWS: tl.constexpr):  # fmt: skip  # noqa: E501
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    token, head = row // (H + G), row % (H + G)
    inside, is_query = row < rows, head < H
    column = tl.arange(0, HALF)[None, :]
    at = (token * (H + 2 * G) + head)[:, None] * (2 * HALF) + column
    x1 = tl.load(qkv + at, inside[:, None], 0.0).to(tl.float32)
    x2 = tl.load(qkv + at + HALF, inside[:, None], 0.0).to(tl.float32)
    angle = (token % length)[:, None] * HALF + column
    c = tl.load(cos + angle, inside[:, None], 0.0)
    s = tl.load(sin + angle, inside[:, None], 0.0)
    mean_square = (tl.sum(x1 * x1, 1) + tl.sum(x2 * x2, 1)) / (2 * HALF)
    factor = (tl.load(gain + head, inside & is_query, 1.0) * tl.rsqrt(mean_square + epsilon))[:, None]
    y1 = ((x1 * c + x2 * s) * factor).to(tl.bfloat16)
    y2 = ((x2 * c - x1 * s) * factor).to(tl.bfloat16)
    at_q = (token * H + head)[:, None] * (2 * HALF) + column
    at_k = (token * G + head - H)[:, None] * (2 * HALF) + column
    in_q, in_k = (inside & is_query)[:, None], (inside & (head >= H))[:, None]
    tl.store(q + at_q, y1, in_q)
    tl.store(q + at_q + HALF, y2, in_q)
    tl.store(k + at_k, y1, in_k)
    tl.store(k + at_k + HALF, y2, in_k)


@triton.jit
def _backward(dq, dk, dv, qkv, cos, sin, gain, dqkv, dgain, rows, length, epsilon, H: tl.constexpr, G: tl.constexpr, HALF: tl.constexpr, ROWS: tl.constexpr):  # fmt: skip  # noqa: E501
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    token, head = row // (H + 2 * G), row % (H + 2 * G)
    inside, is_query, is_value = row < rows, head < H, head >= H + G
    column = tl.arange(0, HALF)[None, :]
    in_q, in_v = (inside & is_query)[:, None], (inside & is_value)[:, None]
    in_k = (inside & (head >= H) & (head < H + G))[:, None]
    at_q = (token * H + head)[:, None] * (2 * HALF) + column
    at_k = (token * G + head - H)[:, None] * (2 * HALF) + column
    at_v = (token * G + head - H - G)[:, None] * (2 * HALF) + column
    d1 = tl.load(dq + at_q, in_q, 0.0).to(tl.float32) + tl.load(dk + at_k, in_k, 0.0).to(tl.float32)
    d2 = tl.load(dq + at_q + HALF, in_q, 0.0).to(tl.float32) + tl.load(dk + at_k + HALF, in_k, 0.0).to(tl.float32)
    v1, v2 = tl.load(dv + at_v, in_v, 0.0), tl.load(dv + at_v + HALF, in_v, 0.0)
    at = row[:, None] * (2 * HALF) + column
    normed = (inside & (head < H + G))[:, None]
    x1 = tl.load(qkv + at, normed, 0.0).to(tl.float32)
    x2 = tl.load(qkv + at + HALF, normed, 0.0).to(tl.float32)
    angle = (token % length)[:, None] * HALF + column
    c = tl.load(cos + angle, normed, 0.0)
    s = tl.load(sin + angle, normed, 0.0)
    inverse = tl.rsqrt((tl.sum(x1 * x1, 1) + tl.sum(x2 * x2, 1)) / (2 * HALF) + epsilon)[:, None]
    y1, y2 = x1 * inverse, x2 * inverse
    # The rotation is orthogonal: turn the gradient back, and what lies along y is the gain's share.
    r1, r2 = d1 * c - d2 * s, d1 * s + d2 * c
    along = tl.sum(r1 * y1 + r2 * y2, 1)
    tl.store(dgain + token * H + head, along, inside & is_query)
    factor = tl.load(gain + head, inside & is_query, 1.0)[:, None] * inverse
    mean = (along / (2 * HALF))[:, None]
    g1, g2 = ((r1 - y1 * mean) * factor).to(tl.bfloat16), ((r2 - y2 * mean) * factor).to(tl.bfloat16)
    tl.store(dqkv + at, tl.where(is_value[:, None], v1, g1), inside[:, None])
    tl.store(dqkv + at + HALF, tl.where(is_value[:, None], v2, g2), inside[:, None])


@torch.library.custom_op("sweeper::rotate_qk", mutates_args=())
def rotate_qk(qkv: Tensor, cos: Tensor, sin: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    """(B, T, H + 2G, K) to the normed, rotated queries (B, T, H, K), times their gain, and keys (B, T, G, K)."""
    q, k = _shapes(qkv, cos, sin, gain)
    (batch, length, _, width), heads, groups = qkv.shape, gain.numel(), k.size(2)
    rows = batch * length * (heads + groups)
    grid = (triton.cdiv(rows, ROWS),)
    _forward[grid](qkv, cos, sin, gain, q, k, rows, length, EPSILON, heads, groups, width // 2, ROWS)
    return q, k


@rotate_qk.register_fake
def _shapes(qkv: Tensor, cos: Tensor, sin: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
    batch, length, all_heads, width = qkv.shape
    heads = gain.numel()
    return qkv.new_empty(batch, length, heads, width), qkv.new_empty(batch, length, (all_heads - heads) // 2, width)


@torch.library.custom_op("sweeper::rotate_qk_backward", mutates_args=())
def rotate_qk_backward(
    dq: Tensor, dk: Tensor, dv: Tensor, qkv: Tensor, cos: Tensor, sin: Tensor, gain: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the product, like qkv, and of the gain."""
    (batch, length, all_heads, width), heads, groups = qkv.shape, gain.numel(), dk.size(2)
    dqkv, dgain = torch.empty_like(qkv), qkv.new_empty(batch * length, heads, dtype=torch.float32)
    rows = batch * length * all_heads
    gradients = (dq.contiguous(), dk.contiguous(), dv.contiguous())
    sizes = (rows, length, EPSILON, heads, groups, width // 2, ROWS)
    _backward[(triton.cdiv(rows, ROWS),)](*gradients, qkv, cos, sin, gain, dqkv, dgain, *sizes)
    return dqkv, dgain.sum(0)


@rotate_qk_backward.register_fake
def _like(
    dq: Tensor, dk: Tensor, dv: Tensor, qkv: Tensor, cos: Tensor, sin: Tensor, gain: Tensor
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(qkv), torch.empty_like(gain)


class RotatedHeads(torch.autograd.Function):
    """x (B, T, D), weight ((H + 2G)·K, D), gain (H,), cos and sin (T, 1, K/2) to q, k, v for attention."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, gain: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
        width = 2 * cos.size(-1)
        qkv = F.linear(x, weight).view(x.size(0), x.size(1), -1, width)
        q, k = rotate_qk(qkv, cos, sin, gain)
        ctx.save_for_backward(x, weight, gain, cos, sin, qkv)
        return q, k, qkv[:, :, q.size(2) + k.size(2) :]

    @staticmethod
    def backward(ctx: Any, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, gain, cos, sin, qkv = ctx.saved_tensors
        dqkv, dgain = rotate_qk_backward(dq, dk, dv, qkv, cos, sin, gain)
        flat = dqkv.view(-1, weight.size(0))
        return (flat @ weight).view_as(x), flat.T @ x.reshape(-1, x.size(-1)), dgain, None, None


def rotated_heads(x: Tensor, weight: Tensor, gain: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (B, T, H, K), keys and values (B, T, G, K) of x (B, T, D); see `RotatedHeads`."""
    q, k, v = RotatedHeads.apply(x, weight, gain, cos, sin)  # type: ignore[no-untyped-call]  # torch's own
    return q, k, v
