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


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a validation found."""

    val_loss: float
    val_bpb: float
    val_bpb_stderr: float
    """Of val_bpb, from how it varies between the windows; 0 for a single one."""
    tokens: int
    """Scored target tokens."""


class Validator:
    """Scores a model on fixed windows of a corpus; each target once, with the context inside its window.

    Args:
        corpus: whose validation split is scored.
        seq_len: targets a window.
        tokens: how many to score; 0 is all. See `validation_begins`.
        batch_sequences: windows a forward pass. The last pass is filled up, so that one shape serves all; the filler
            is not counted.
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
        self._bytes = torch.cat([table[targets].sum(1) for _, targets in self._batches()])[: len(self._begins)].cpu()
        if not self._bytes.any():
            raise DataError("the validation tokens stand for 0 bytes of text: token_bytes.npy does not fit the shards")

    def score(self, model: nn.Module, should_stop: Callable[[], bool]) -> Score | None:
        """The model's score, or None when asked to stop on the way."""
        losses: list[Tensor] = []
        done = 0
        with evaluating(model):
            while done < len(self._begins):
                try:
                    for inputs, targets in self._batches(skip=done):
                        if should_stop():
                            return None
                        losses.append(model(inputs, targets, per_sequence=True)[: len(self._begins) - done])
                        done += len(losses[-1])
                except RuntimeError as error:
                    self._halve(error)
        nats = torch.cat(losses).cpu().double() * (self._length - 1)
        return Score(
            val_loss=float(nats.sum()) / self.tokens,
            val_bpb=bits_per_byte(float(nats.sum()), int(self._bytes.sum())),
            val_bpb_stderr=bits_per_byte_stderr(nats, self._bytes),
            tokens=self.tokens,
        )

    def warm_up(self, model: nn.Module) -> None:
        """One forward pass, for what it compiles and allocates."""
        with evaluating(model):
            while True:
                try:
                    model(*next(self._batches()), per_sequence=True)
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

    def _batches(self, skip: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets from window `skip` on, each (batch_sequences, T); the last are filled up."""
        for first in range(skip, len(self._begins), self._batch_sequences):
            begins = self._begins[first : first + self._batch_sequences]
            filler = np.repeat(begins[:1], self._batch_sequences - len(begins))
            rows = self._store.gather(np.concatenate((begins, filler)), self._length)
            yield rows[:, :-1], rows[:, 1:]


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


def bits_per_byte_stderr(nats_N: Tensor, bytes_N: Tensor) -> float:
    """Standard error of total nats over total bytes, in bits, from N windows: that of a ratio of two means.

    Windows count as drawn independently; neighbours of one document are alike, so it is a little too small.
    """
    count, total = len(nats_N), float(bytes_N.sum())
    if count < 2:
        return 0.0
    residuals = nats_N - bytes_N * (float(nats_N.sum()) / total)
    return bits_per_byte(math.sqrt(count) * float(residuals.std()), 1) / total
