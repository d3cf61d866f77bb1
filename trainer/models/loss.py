"""The head's loss: logits, soft cap, cross-entropy in float32; for large vocabularies in chunks of tokens.

Shape key: N tokens, D model width, V vocabulary.

A target of NO_TARGET costs nothing and pulls at nothing; means are over the others.  Which they are is values, never
shapes: one graph serves any number of them, and where there are none the mean is what it was without them, to the bit.

Whole logits of a 50,000-word vocabulary are larger than all other activations together. In chunks, each chunk's
logits become its gradients at once, so that one chunk is all that ever exists: the idea of Liger's and Apple's fused
losses, from plain torch, which compiles each chunk to two kernels between its three products.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

NO_TARGET = -100
"""In place of a target id: the position has none."""
WHOLE_VOCAB = 8_192
"""Largest vocabulary whose logits are made whole."""
CHUNK_TOKENS = 8_192
"""Most tokens whose logits exist at a time."""
ALIGNMENT = 64
"""Rows of the weight are filled up to a multiple of this: tensor cores want even strides, 50,257 is prime."""


def token_losses(
    x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, softcap: float | None, smoothing: Tensor | None = None
) -> Tensor:
    """(N,) losses in nats, float32 at least, 0 without a target; the logits exist whole.

    With `smoothing` e, a scalar, (1 - e) of the target's loss and e of the mean loss over all words.
    """
    logits = capped_logits(x_ND, weight_VD, softcap)
    losses = F.cross_entropy(logits, targets_N, reduction="none", ignore_index=NO_TARGET)
    if smoothing is None:
        return losses
    rest = logits.gather(-1, targets_N.clamp(min=0)[:, None])[:, 0] - logits.mean(-1)
    return losses + smoothing * torch.where(targets_N == NO_TARGET, 0.0, rest)


def mean_over_targets(losses_N: Tensor, targets_N: Tensor) -> Tensor:
    """The mean of losses, of those that have a target; 0 where none has."""
    return losses_N.mean() * (targets_N.numel() / _count(targets_N).to(losses_N.dtype))


def _count(targets_N: Tensor) -> Tensor:
    """Targets there are, at least 1, a scalar on the device."""
    return (targets_N != NO_TARGET).sum().clamp(min=1)


def capped_logits(x_ND: Tensor, weight_VD: Tensor, softcap: float | None) -> Tensor:
    """(N, V) whole, float32 at least."""
    return _capped(F.linear(x_ND, weight_VD.to(x_ND.dtype)), softcap)


def _capped(logits: Tensor, softcap: float | None) -> Tensor:
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return wide if softcap is None else softcap * torch.tanh(wide / softcap)


def _chunk_logits(x_CD: Tensor, weight_PD: Tensor, vocab: int, softcap: float | None) -> tuple[Tensor, Tensor]:
    """Capped logits, (C, P), filler at minus infinity; and which column is which word, (P,)."""
    words = torch.arange(weight_PD.size(0), device=x_CD.device)
    logits = _capped(F.linear(x_CD, weight_PD), softcap)
    return logits.masked_fill(words >= vocab, -torch.inf), words


def chunk_losses(x_CD: Tensor, weight_PD: Tensor, targets_C: Tensor, vocab: int, softcap: float | None) -> Tensor:
    """(C,) losses of one chunk."""
    logits, _ = _chunk_logits(x_CD, weight_PD, vocab, softcap)
    losses = logits.logsumexp(-1) - logits.gather(-1, targets_C.clamp(min=0)[:, None])[:, 0]
    return torch.where(targets_C == NO_TARGET, 0.0, losses)


def chunk_gradients(
    x_CD: Tensor,
    weight_PD: Tensor,
    targets_C: Tensor,
    share: Tensor,
    vocab: int,
    softcap: float | None,
    smoothing: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of one chunk's losses times `share`; its gradients (C, D) and (P, D), in x's dtype.  See `token_losses`."""
    logits, words = _chunk_logits(x_CD, weight_PD, vocab, softcap)
    normaliser = logits.logsumexp(-1)
    is_target = words == targets_C[:, None]
    wanted, aim = is_target.to(logits.dtype), torch.where(is_target, logits, 0.0).sum(-1)
    if smoothing is not None:
        wanted = (1 - smoothing) * wanted + smoothing / vocab
        aim = (1 - smoothing) * aim + smoothing / vocab * torch.where(words < vocab, logits, 0.0).sum(-1)
    has_target = targets_C != NO_TARGET
    loss = torch.where(has_target, normaliser - aim, 0.0).sum() * share
    probability = (logits - normaliser[:, None]).exp()
    bend = 1.0 if softcap is None else 1.0 - (logits / softcap).square()
    slope = torch.where(has_target[:, None] & (words < vocab), bend, 0.0)
    gradient = ((probability - wanted) * slope * share).to(x_CD.dtype)
    return loss, gradient @ weight_PD, gradient.mT @ x_CD


class ChunkedLoss:
    """Mean cross-entropy of tied or untied logits, chunk by chunk.

    Args:
        vocab: words; ids of targets are below it, or NO_TARGET.
        softcap: logits are softcap · tanh(logits / softcap); None leaves them as they are.
        most_tokens: whose logits exist at a time.
    """

    def __init__(self, vocab: int, softcap: float | None, most_tokens: int = CHUNK_TOKENS) -> None:
        self.vocab, self.softcap, self.most_tokens = vocab, softcap, most_tokens
        self.losses: Callable[..., Tensor] = chunk_losses
        self.gradients: Callable[..., tuple[Tensor, Tensor, Tensor]] = chunk_gradients

    def compile(self, backend: str) -> None:
        self.losses = torch.compile(chunk_losses, dynamic=False, fullgraph=True, backend=backend)
        self.gradients = torch.compile(chunk_gradients, dynamic=False, fullgraph=True, backend=backend)

    def mean(self, x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, smoothing: Tensor | None = None) -> Tensor:
        """The mean loss over the targets, with gradients for x and weight; smoothed as in `token_losses`."""
        inputs = x_ND, weight_VD, targets_N, self, smoothing
        loss: Tensor = _Mean.apply(*inputs)  # type: ignore[no-untyped-call]  # torch's own
        return loss

    def each(self, x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor) -> Tensor:
        """(N,) losses, without gradients."""
        padded = self.padded(weight_VD.detach(), x_ND.dtype)
        chunk = self.chunk_tokens(len(x_ND))
        chunks = zip(torch.split(x_ND.detach(), chunk), torch.split(targets_N, chunk), strict=True)
        return torch.cat([self.losses(x, padded, targets, self.vocab, self.softcap) for x, targets in chunks])

    def chunk_tokens(self, tokens: int) -> int:
        """Length of the chunks of `tokens`: all alike where that is possible, so that one graph serves."""
        sizes = range(min(self.most_tokens, tokens), self.most_tokens // 4, -1)
        return next((size for size in sizes if tokens % size == 0), self.most_tokens)

    def padded(self, weight_VD: Tensor, dtype: torch.dtype) -> Tensor:
        return F.pad(weight_VD.to(dtype), (0, 0, 0, -self.vocab % ALIGNMENT))


class _Mean(torch.autograd.Function):
    """The gradients are made in the forward pass, where the logits are."""

    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, parts: ChunkedLoss, smoothing: Tensor | None
    ) -> Tensor:
        padded = parts.padded(weight_VD, x_ND.dtype)
        x_gradients: list[Tensor] = []
        weight_gradient = torch.zeros_like(padded, dtype=weight_VD.dtype)
        total = x_ND.new_zeros((), dtype=weight_VD.dtype)
        share = _count(targets_N).to(weight_VD.dtype).reciprocal()
        chunk = parts.chunk_tokens(len(x_ND))
        constants = share, parts.vocab, parts.softcap, smoothing
        for x, targets in zip(torch.split(x_ND, chunk), torch.split(targets_N, chunk), strict=True):
            loss, x_gradient, gradient = parts.gradients(x, padded, targets, *constants)
            total += loss
            x_gradients.append(x_gradient)
            weight_gradient += gradient
        ctx.save_for_backward(torch.cat(x_gradients), weight_gradient[: parts.vocab])
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x_gradient, weight_gradient = ctx.saved_tensors
        return x_gradient * upstream.to(x_gradient.dtype), weight_gradient * upstream, None, None, None
