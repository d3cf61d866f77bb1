"""Windows of a split in a seeded order, as batches on the device.  Shape key: B sequences, T tokens."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.config import TrainConfig
from trainer.data import Corpus, DataError, TokenStore, to_device
from trainer.models.loss import NO_TARGET
from trainer.windows import Places, document_windows, stream_windows


class TrainBatches:
    """Windows of T + 1 tokens in an order that is a pure function of the seed and the position.

    Each epoch visits its windows in a permutation of its own. In a stream it also begins them at an offset of its own,
    and a window never spans two shards; by documents, a window never spans two documents, and what it lacks to T is
    filled up with targets of `NO_TARGET`. `position`, the count of windows handed out, is all the state there is.

    Args:
        store: of the split.
        seq_len: T.
        seed: of the order.
        documents: (D,) where they begin, ascending; None for a stream.
        start_window: windows of the order that come before the first one here.

    Raises:
        DataError: the split is too short for a single window.
    """

    def __init__(
        self,
        store: TokenStore,
        seq_len: int,
        seed: int,
        *,
        documents: Places | None = None,
        start_window: int = 0,
    ) -> None:
        self._by_document = documents is not None
        if documents is None:
            self._windows = stream_windows(store.lengths, seq_len)
            needed = f"the longest shard of the split has {max(store.lengths)} tokens; it needs more than {2 * seq_len}"
        else:
            self._windows = document_windows(int(store.starts[-1]), seq_len, documents)
            needed = f"the split has {store.starts[-1]} tokens; it needs 2"
        if not len(self._windows):
            raise DataError(f"data.seq_len is {seq_len}, but {needed}")
        self._store = store
        self._seq_len = seq_len
        self._seed = seed
        self._start = start_window
        self._epoch = -1
        self._offset = 0
        self._order: Places = np.empty(0, dtype=np.int64)
        self.position = 0

    def __len__(self) -> int:
        """Windows of one pass."""
        return len(self._windows)

    @property
    def epoch(self) -> int:
        """Full passes over the data so far, those of earlier runs that `start_window` tells of included."""
        return (self._start + self.position) // len(self)

    @property
    def targets(self) -> int | None:
        """Targets in the windows that were handed out; None for a stream, where every position has its own."""
        if not self._by_document:
            return None
        return self._targets_before(self._start + self.position) - self._targets_before(self._start)

    def take(self, sequences: int) -> tuple[Tensor, Tensor]:
        """The next inputs and targets, each (sequences, T) int64 on the device of the store."""
        begins, counts = [], []
        while sequences > 0:
            index = (self._start + self.position) % len(self)
            windows = self._windows[self._epoch_order(self.epoch)[index : index + sequences]]
            begins.append(windows.begins + self._offset)
            counts.append(windows.high)
            self.position += len(windows)
            sequences -= len(windows)
        tokens = self._store.gather(np.concatenate(begins), self._seq_len + 1)
        if not self._by_document:
            return tokens[:, :-1], tokens[:, 1:]
        counts_B = to_device(torch.from_numpy(np.concatenate(counts)), tokens.device)
        filler_BT = torch.arange(self._seq_len, device=tokens.device) >= counts_B[:, None]
        # What a window is filled up with is its first token again, so that nothing of another document is there.
        return tokens[:, :-1].where(~filler_BT, tokens[:, :1]), tokens[:, 1:].masked_fill(filler_BT, NO_TARGET)

    def _targets_before(self, index: int) -> int:
        """In the first `index` windows of the order."""
        passes, rest = divmod(index, len(self))
        part = self._windows[self._epoch_order(passes)[:rest]].targets if rest else 0
        return passes * self._windows.targets + part

    def _epoch_order(self, epoch: int) -> Places:
        """The windows of the epoch in the order of their use; `_offset` is what they begin later by."""
        if epoch != self._epoch:
            generator = np.random.default_rng((self._seed, epoch))
            self._offset = 0 if self._by_document else int(generator.integers(self._seq_len))
            self._order = generator.permutation(len(self))
            self._epoch = epoch
        return self._order


def batches_for(corpus: Corpus, config: TrainConfig) -> TrainBatches:
    """The windows that a config trains on, in its order.

    Raises:
        DataError: too few tokens, or documents that cannot be told apart.
    """
    documents: npt.NDArray[np.int64] | None = None
    if config.data.windows == "documents":
        if corpus.separator is None:
            raise DataError("data.windows = 'documents' needs manifest.json in the data folder: it names the separator")
        documents = corpus.train.places(corpus.separator)
    return TrainBatches(
        corpus.train,
        config.data.seq_len,
        config.seeds.data,
        documents=documents,
        start_window=config.data.start_window,
    )
