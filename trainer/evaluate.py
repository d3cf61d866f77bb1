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

from trainer.data import Corpus, DataError
from trainer.device import is_out_of_memory, release_memory
from trainer.distributed import ALONE, Group
from trainer.windows import scored_windows


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
        tokens: how many to score; 0 is all. See `scored_windows`, also for the last two.
        batch_sequences: windows a forward pass. The last pass is filled up, so that one shape serves all; the filler
            is not counted.
        device: of corpus and model.
        group: whose ranks share the windows evenly.
        stride: by which windows advance; 0 for windows that do not overlap.
        by_document: whether documents are kept apart.

    Raises:
        DataError: too few tokens, documents that cannot be told apart, or targets that stand for no bytes at all, so
            that bits per byte mean nothing.
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
        stride: int = 0,
        by_document: bool = False,
    ) -> None:
        self._store = corpus.val
        self._device = device
        self._group = group
        self._length = seq_len + 1
        windows = scored_windows(
            int(corpus.val.starts[-1]),
            seq_len,
            tokens=tokens,
            stride=stride,
            documents=_documents(corpus) if by_document else None,
        )
        self.tokens = windows.targets
        # Of overlapping or short windows, those whose scored targets make a whole one together vary as one.
        _, together = np.unique(windows.stretches(seq_len), return_inverse=True)
        self._together = torch.from_numpy(together)
        first = windows.begins + 1
        self._bytes = torch.from_numpy(corpus.val_bytes(first + windows.low, first + windows.high))
        if not self._bytes.any():
            raise DataError("the validation tokens stand for 0 bytes of text: token_bytes.npy does not fit the shards")
        share = math.ceil(len(windows) / group.size)
        self._batch_sequences = min(batch_sequences, share)
        # Filled up with the first ones again; what is gathered from all ranks is cut to the windows there are.
        mine = windows[np.resize(np.arange(len(windows)), share * group.size)[group.rank * share :][:share]]
        self._begins = mine.begins
        self._low, self._high = (torch.from_numpy(edge).to(device)[:, None] for edge in (mine.low, mine.high))

    def score(self, model: nn.Module, should_stop: Callable[[], bool]) -> Score | None:
        """The model's score, or None when asked to stop on the way: both the same on every rank."""
        nats: list[Tensor] = []
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
                    nats.append(self._pass(model, done))
                    done += len(nats[-1])
        gathered = self._group.gather([torch.cat(nats)])[0].flatten()[: len(self._bytes)].cpu().double()
        total = float(gathered.sum())
        return Score(
            val_loss=total / self.tokens,
            val_bpb=bits_per_byte(total, int(self._bytes.sum())),
            val_bpb_stderr=bits_per_byte_stderr(self._grouped(gathered), self._grouped(self._bytes.double())),
            tokens=self.tokens,
        )

    def warm_up(self, model: nn.Module) -> None:
        """One forward pass, for what it compiles and allocates."""
        with evaluating(model):
            self._pass(model, 0)

    def _pass(self, model: nn.Module, first: int) -> Tensor:
        """(windows of a pass,) total losses of the targets that count, in this rank's windows from `first` on."""
        while True:
            try:
                losses_BT: Tensor = model(*self._batch(first), per_token=True)
            except RuntimeError as error:
                self._halve(error)
            else:
                low, high = (edge[first : first + self._batch_sequences] for edge in (self._low, self._high))
                target = torch.arange(self._length - 1, device=self._device)
                counts = (low <= target) & (target < high)
                return torch.where(counts, losses_BT[: len(low)], 0.0).sum(1)

    def _halve(self, error: RuntimeError) -> None:
        """Take half the windows a pass if `error` says that memory ran out; else raise it again."""
        if not is_out_of_memory(error) or self._batch_sequences == 1:
            raise error
        self._batch_sequences //= 2
        release_memory(self._device)

    def _batch(self, first: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of this rank's windows from `first` on, (batch_sequences, T); too few are filled up."""
        begins = self._begins[first : first + self._batch_sequences]
        filler = np.repeat(begins[:1], self._batch_sequences - len(begins))
        rows = self._store.gather(np.concatenate((begins, filler)), self._length)
        return rows[:, :-1], rows[:, 1:]

    def _grouped(self, values_N: Tensor) -> Tensor:
        """Sums of what varies together."""
        return values_N.new_zeros(int(self._together.max()) + 1).index_add_(0, self._together, values_N)


def _documents(corpus: Corpus) -> npt.NDArray[np.int64]:
    """Where the documents of the validation split begin."""
    if corpus.separator is None:
        raise DataError("eval.by_document needs manifest.json in the data folder, which names the separator")
    return corpus.val.places(corpus.separator)


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
    """Standard error of total nats over total bytes, in bits, from N stretches of text: that of a ratio of two means.

    Stretches count as drawn independently; neighbours of one document are alike, so it is a little too small.
    """
    count, total = len(nats_N), float(bytes_N.sum())
    if count < 2:
        return 0.0
    residuals = nats_N - bytes_N * (float(nats_N.sum()) / total)
    return bits_per_byte(math.sqrt(count) * float(residuals.std()), 1) / total
