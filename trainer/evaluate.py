"""val_loss in nats per token, val_bpb in bits per byte of text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from trainer.data import Corpus, DataError, validation_begins
from trainer.device import is_out_of_memory, release_memory
from trainer.distributed import ALONE, Group


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
        group: whose ranks share the windows evenly.

    Raises:
        DataError: too few tokens, or targets that stand for no bytes at all, so that bits per byte mean nothing.
    """

    def __init__(
        self,
        corpus: Corpus,
        *,
        seq_len: int,
        tokens: int,
        batch_sequences: int,
        device: torch.device,
        group: Group = ALONE,
    ) -> None:
        self._store = corpus.val
        self._device = device
        self._group = group
        begins = validation_begins(int(corpus.val.starts[-1]), seq_len, tokens)
        self._windows = len(begins)
        share = math.ceil(self._windows / group.size)
        # Filled up with the first ones again; what is gathered from all ranks is cut to the windows there are.
        self._begins = np.resize(begins, share * group.size)[group.rank * share :][:share]
        self._length = seq_len + 1
        self._batch_sequences = min(batch_sequences, share)
        self.tokens = self._windows * seq_len
        table = torch.from_numpy(corpus.token_bytes).to(device)
        passes = (self._batch(begins[first:]) for first in range(0, self._windows, self._batch_sequences))
        self._bytes = torch.cat([table[targets].sum(1) for _, targets in passes])[: self._windows].cpu()
        if not self._bytes.any():
            raise DataError("the validation tokens stand for 0 bytes of text: token_bytes.npy does not fit the shards")

    def score(self, model: nn.Module, should_stop: Callable[[], bool]) -> Score | None:
        """The model's score, or None when asked to stop on the way: both the same on every rank."""
        losses: list[Tensor] = []
        done = 0
        with evaluating(model):
            while True:
                # A rank that had to halve takes more passes than the others: they ask along until all are done.
                unfinished, stop = self._group.largest(done < len(self._begins), should_stop())
                if not unfinished:
                    break
                if stop:
                    return None
                if done < len(self._begins):
                    losses.append(self._pass(model, done))
                    done += len(losses[-1])
        per_window = self._group.gather([torch.cat(losses)])[0].flatten()[: self._windows]
        nats = per_window.cpu().double() * (self._length - 1)
        return Score(
            val_loss=float(nats.sum()) / self.tokens,
            val_bpb=bits_per_byte(float(nats.sum()), int(self._bytes.sum())),
            val_bpb_stderr=bits_per_byte_stderr(nats, self._bytes),
            tokens=self.tokens,
        )

    def warm_up(self, model: nn.Module) -> None:
        """One forward pass, for what it compiles and allocates."""
        with evaluating(model):
            self._pass(model, 0)

    def _pass(self, model: nn.Module, first: int) -> Tensor:
        """(windows of a pass,) losses of this rank's windows from `first` on."""
        while True:
            try:
                each: Tensor = model(*self._batch(self._begins[first:]), per_sequence=True)
            except RuntimeError as error:
                self._halve(error)
            else:
                return each[: len(self._begins) - first]

    def _halve(self, error: RuntimeError) -> None:
        """Take half the windows a pass if `error` says that memory ran out; else raise it again."""
        if not is_out_of_memory(error) or self._batch_sequences == 1:
            raise error
        self._batch_sequences //= 2
        release_memory(self._device)

    def _batch(self, begins: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the first windows of `begins`, each (batch_sequences, T); too few are filled up."""
        begins = begins[: self._batch_sequences]
        filler = np.repeat(begins[:1], self._batch_sequences - len(begins))
        rows = self._store.gather(np.concatenate((begins, filler)), self._length)
        return rows[:, :-1], rows[:, 1:]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode for the block, without gradients.

    A compiled model keeps them: its blocks then run the graphs that training compiled, where other graphs would
    take as long to compile again as a dozen validations. What they save for a backward pass goes with the pass.
    """
    model.eval()
    try:
        with torch.set_grad_enabled(getattr(model, "compiled", False)):
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
