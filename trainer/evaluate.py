"""val_loss in nats per token, val_bpb in bits per byte of text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from trainer.data import Corpus, DataError, validation_begins
from trainer.device import is_out_of_memory, release_memory

IGNORED = -100
"""Target that cross_entropy leaves out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a validation found."""

    val_loss: float
    val_bpb: float
    tokens: int
    """Scored target tokens."""


class Validator:
    """Scores a model on fixed windows of a corpus; each target once, with the context inside its window.

    Args:
        corpus: whose validation split is scored.
        seq_len: targets a window.
        tokens: how many to score; 0 is all. See `validation_begins`.
        batch_sequences: windows a forward pass. The last pass is filled up with ignored targets: one shape for all.
        device: of corpus and model.

    Raises:
        DataError: too few tokens, or targets that stand for no bytes at all, so that bits per byte mean nothing.
    """

    def __init__(
        self, corpus: Corpus, *, seq_len: int, tokens: int, batch_sequences: int, device: torch.device
    ) -> None:
        self._store = corpus.val
        self._device = device
        self._begins = validation_begins(int(corpus.val.starts[-1]), seq_len, tokens)
        self._length = seq_len + 1
        self._batch_sequences = min(batch_sequences, len(self._begins))
        self.tokens = len(self._begins) * seq_len
        table = torch.from_numpy(corpus.token_bytes).to(device)
        self._bytes = sum(int(table[targets[targets != IGNORED]].sum()) for _, targets, _ in self._batches())
        if self._bytes == 0:
            raise DataError("the validation tokens stand for 0 bytes of text: token_bytes.npy does not fit the shards")

    def score(self, model: nn.Module, should_stop: Callable[[], bool]) -> Score | None:
        """The model's score, or None when asked to stop on the way."""
        losses: list[Tensor] = []
        weights: list[int] = []
        with evaluating(model):
            while sum(weights) < self.tokens:
                try:
                    for inputs, targets, scored in self._batches(skip=sum(weights) // (self._length - 1)):
                        if should_stop():
                            return None
                        losses.append(model(inputs, targets))
                        weights.append(scored)
                except RuntimeError as error:
                    self._halve(error)
        nats = float(torch.stack(losses).cpu().double() @ torch.tensor(weights, dtype=torch.float64))
        return Score(val_loss=nats / self.tokens, val_bpb=bits_per_byte(nats, self._bytes), tokens=self.tokens)

    def warm_up(self, model: nn.Module) -> None:
        """One forward pass, for what it compiles and allocates."""
        with evaluating(model):
            while True:
                try:
                    inputs, targets, _ = next(self._batches())
                    model(inputs, targets)
                except RuntimeError as error:
                    self._halve(error)
                else:
                    return

    def _halve(self, error: RuntimeError) -> None:
        """Take half the windows a pass if `error` says that memory ran out; else raise it again."""
        if not is_out_of_memory(error) or self._batch_sequences == 1:
            raise error
        self._batch_sequences //= 2
        release_memory(self._device)

    def _batches(self, skip: int = 0) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Inputs and targets, each (batch_sequences, T), and how many of the targets count, from window `skip` on."""
        for first in range(skip, len(self._begins), self._batch_sequences):
            begins = self._begins[first : first + self._batch_sequences]
            filler = np.repeat(begins[:1], self._batch_sequences - len(begins))
            rows = self._store.gather(np.concatenate((begins, filler)), self._length)
            targets = rows[:, 1:].clone()
            targets[len(begins) :] = IGNORED
            yield rows[:, :-1], targets, len(begins) * (self._length - 1)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """No gradients, and the model in evaluation mode, for the block."""
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train()


def bits_per_byte(nats: float, text_bytes: int) -> float:
    """Total loss in nats over the bytes of text that the targets stand for, in bits."""
    return nats / math.log(2) / text_bytes
