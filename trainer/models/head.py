"""The end of the model: final norm, logits, loss.  Shape key: B sequences, T tokens, D model width, V vocabulary."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainer.models.loss import WHOLE_VOCAB, ChunkedLoss, capped_logits, mean_over_targets, token_losses
from trainer.models.parts import rms_norm


class Head(nn.Module):
    """Final norm, logits, soft cap, cross-entropy in float32.  The weight is the caller's: tied or not.

    Args:
        vocab_size: words.
        softcap: logits become softcap · tanh(logits / softcap); None leaves them as they are.
        label_smoothing: of the mean loss while training, and of nothing else.
        normed: whether what comes in has its final norm already.
    """

    smoothing: Tensor | None

    def __init__(
        self, vocab_size: int, softcap: float | None, label_smoothing: float = 0.0, *, normed: bool = False
    ) -> None:
        super().__init__()
        self.softcap = softcap
        self.normed = normed
        self.chunked = ChunkedLoss(vocab_size, softcap) if vocab_size > WHOLE_VOCAB else None
        # A tensor, so that its values share a graph; no part of the state.
        smoothing = torch.tensor(label_smoothing) if label_smoothing > 0 else None
        self.register_buffer("smoothing", smoothing, persistent=False)

    def forward(self, x_BTD: Tensor, weight_VD: Tensor, targets_BT: Tensor, per_token: bool = False) -> Tensor:
        """Loss in nats per token: the mean of all, or (B, T) of each, without gradients."""
        x, targets = (x_BTD if self.normed else rms_norm(x_BTD)).flatten(0, 1), targets_BT.flatten()
        smoothing = None if self.smoothing is None or per_token or not self.training else self.smoothing
        if self.chunked is not None and not per_token:
            return self.chunked.mean(x, weight_VD, targets, smoothing)
        if self.chunked is not None:
            losses = self.chunked.each(x, weight_VD, targets)
        else:
            losses = token_losses(x, weight_VD, targets, self.softcap, smoothing)
        return losses.view_as(targets_BT) if per_token else mean_over_targets(losses, targets)

    def logits(self, x_BD: Tensor, weight_VD: Tensor) -> Tensor:
        """(B, V), capped, float32 at least."""
        return capped_logits(x_BD if self.normed else rms_norm(x_BD), weight_VD, self.softcap)

    def compile_parts(self, backend: str) -> None:
        """Compile the whole, or, where it goes by chunks, what happens to a chunk."""
        if self.chunked is None:
            self.compile(dynamic=False, fullgraph=True, backend=backend)
        else:
            self.chunked.compile(backend)
