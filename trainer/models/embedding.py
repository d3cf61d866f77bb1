"""What options add to the token embedding: hashed pairs of tokens, and a gate that takes in the token before.

Shape key: B sequences, T tokens, D model width, E width of the table of pairs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config import ModelConfig
from trainer.models.parts import Linear, rms_norm


def bigram_ids(tokens_BT: Tensor, buckets: int) -> Tensor:
    """(B, T) rows of the table, of each token and the one before it; the last row where there is none before."""
    mixed = torch.bitwise_xor(36_313 * tokens_BT[:, 1:], 27_191 * tokens_BT[:, :-1]) % (buckets - 1)
    return F.pad(mixed, (1, 0), value=buckets - 1)


def document_begins(tokens_BT: Tensor, separator_id: int) -> Tensor:
    """(B, T) truth: no token of the same document stands before this one. No token is -1, for no separator."""
    begins = tokens_BT == separator_id
    begins[:, 0] = True
    return begins


class BigramHash(nn.Module):
    """A table of hashed pairs of tokens, zero at first, its projection and its learned scale."""

    def __init__(self, buckets: int, width: int, model_dim: int) -> None:
        super().__init__()
        self.table = nn.Embedding(buckets, width)
        nn.init.zeros_(self.table.weight)
        self.projection = Linear(width, model_dim)
        self.scale = nn.Parameter(torch.tensor(0.05))

    def forward(self, rows_BTE: Tensor) -> Tensor:
        # The scale goes into the weight, so that its gradient is a sum over a matrix and not over every token.
        return F.linear(rows_BTE, (self.scale * self.projection.weight).to(rows_BTE.dtype))


class Stem(nn.Module):
    """From token embeddings to the stream: pairs added, the first norm, each token smeared into the next.

    Rows are gathered outside, as a compiled gather would add up its gradients in an order that changes.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.separator_id = config.separator_id
        buckets = config.bigram_buckets
        self.bigram = BigramHash(buckets, config.bigram_dim, config.model_dim) if buckets else None
        self.smear_gate = nn.Parameter(torch.zeros(config.model_dim)) if config.smear_gate else None

    def gathered(self, tokens_BT: Tensor, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
        """For `forward`: the table's rows (B, T, E), and where documents begin (B, T)."""
        pairs = begins = None
        if self.bigram is not None:
            pairs = self.bigram.table(bigram_ids(tokens_BT, self.bigram.table.num_embeddings)).to(dtype)
        if self.smear_gate is not None:
            begins = document_begins(tokens_BT, self.separator_id)
        return pairs, begins

    def forward(self, rows_BTD: Tensor, pairs_BTE: Tensor | None, begins_BT: Tensor | None) -> Tensor:
        if self.bigram is not None:
            rows_BTD = rows_BTD + self.bigram(pairs_BTE)
        x = rms_norm(rows_BTD)
        if self.smear_gate is None or begins_BT is None:
            return x
        before = F.pad(x[:, :-1], (0, 0, 1, 0))
        gate = self.smear_gate.sigmoid().to(x.dtype)
        return torch.where(begins_BT[..., None], x, x + gate * (before - x))
