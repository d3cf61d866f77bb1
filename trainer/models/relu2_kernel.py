"""The MLP with its squared ReLU inside the products.  Hopper, bfloat16.

Shape key: M tokens, D model width, N hidden units.

Between the two products plain torch writes the hidden layer, reads it, writes its square, and does the like twice over
backward. Here the square is taken before the product leaves the chip: only a = relu(x Wᵀ)² is ever written, and as
relu(h) = sqrt(a), the gradient 2 relu(h) needs nothing else. It pays 3.4 % of a step at 7×512 mlp 4 on an H200
(docs/log.md), although the product alone is 6 % slower than cuBLAS.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

BLOCK_M, BLOCK_N, BLOCK_K, GROUP = 128, 256, 64, 8
"""Tile of a program; the best of ten measured at 131,072 × 512 × 2,048."""


@triton.jit
def _product(left, right, hidden, out, M, N, D, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr, PROGRAMS: tl.constexpr, BACKWARD: tl.constexpr):  # fmt: skip  # noqa: E501
    rows, columns = tl.cdiv(M, BM), tl.cdiv(N, BN)
    for tile in tl.range(tl.program_id(0), rows * columns, PROGRAMS, flatten=True):
        first = tile // (GROUP * columns) * GROUP
        size = min(rows - first, GROUP)
        m = (first + tile % (GROUP * columns) % size) * BM
        n = tile % (GROUP * columns) // size * BN
        sums = tl.zeros((BM, BN), dtype=tl.float32)
        for step in range(tl.cdiv(D, BK)):
            sums = tl.dot(left.load([m, step * BK]), right.load([n, step * BK]).T, sums)
        # In halves, as a whole tile would not fit into shared memory beside the operands.
        low, high = tl.split(tl.permute(tl.reshape(sums, (BM, 2, BN // 2)), (0, 2, 1)))
        if BACKWARD:
            low = low * (2.0 * tl.sqrt(hidden.load([m, n]).to(tl.float32)))
            high = high * (2.0 * tl.sqrt(hidden.load([m, n + BN // 2]).to(tl.float32)))
        else:
            low, high = tl.maximum(low, 0.0), tl.maximum(high, 0.0)
            low, high = low * low, high * high
        out.store([m, n], low.to(tl.bfloat16))
        out.store([m, n + BN // 2], high.to(tl.bfloat16))


def _run(left: Tensor, right: Tensor, hidden: Tensor | None) -> Tensor:
    out = left.new_empty(left.size(0), right.size(0))
    half = [BLOCK_M, BLOCK_N // 2]
    described = TensorDescriptor.from_tensor(out, half)
    programs = torch.cuda.get_device_properties(left.device).multi_processor_count
    _product[(programs,)](
        TensorDescriptor.from_tensor(left, [BLOCK_M, BLOCK_K]),
        TensorDescriptor.from_tensor(right, [BLOCK_N, BLOCK_K]),
        described if hidden is None else TensorDescriptor.from_tensor(hidden, half),
        described,
        left.size(0),
        right.size(0),
        left.size(1),
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
        GROUP,
        programs,
        hidden is not None,
        num_warps=8,
        num_stages=3,
    )
    return out


@torch.library.custom_op("sweeper::relu2", mutates_args=())
def relu2(x: Tensor, weight: Tensor) -> Tensor:
    """relu(x weightᵀ)², (M, N), of x (M, D) and weight (N, D)."""
    return _run(x, weight, None)


@relu2.register_fake
def _hidden(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.size(0), weight.size(0))


@torch.library.custom_op("sweeper::relu2_backward", mutates_args=())
def relu2_backward(dy: Tensor, weight: Tensor, hidden: Tensor) -> Tensor:
    """Gradient before the ReLU, (M, N): dy (M, D) times weightᵀ (N, D), times 2 sqrt(hidden)."""
    return _run(dy.contiguous(), weight, hidden)


@relu2_backward.register_fake
def _like(dy: Tensor, weight: Tensor, hidden: Tensor) -> Tensor:
    return torch.empty_like(hidden)


class SquaredReluMLP(torch.autograd.Function):
    """x (M, D), in_weight (N, D), out_weight (D, N) to (M, D)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, in_weight: Tensor, out_weight: Tensor) -> Tensor:
        hidden = relu2(x, in_weight)
        ctx.save_for_backward(x, in_weight, out_weight, hidden)
        out: Tensor = hidden @ out_weight.T
        return out

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, in_weight, out_weight, hidden = ctx.saved_tensors
        dhidden = relu2_backward(dy, out_weight.T.contiguous(), hidden)
        return dhidden @ in_weight, dhidden.T @ x, dy.T @ hidden


def squared_relu_mlp(x: Tensor, in_weight: Tensor, out_weight: Tensor) -> Tensor:
    """relu(x in_weightᵀ)² out_weightᵀ, (M, D); see `SquaredReluMLP`."""
    out: Tensor = SquaredReluMLP.apply(x, in_weight, out_weight)  # type: ignore[no-untyped-call]  # torch's own
    return out
