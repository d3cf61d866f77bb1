"""Token shards to batches on the device.  Shape key: B sequences, T tokens.

A prepared folder holds `train_*.bin` and `val_*.bin` (256 little-endian int32: 20240520, 1, token count; then that
many uint16: the format of parameter-golf), `token_bytes.npy` (int16, (vocab,): bytes of text that each token stands
for) and `manifest.json`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

MAGIC, VERSION, HEADER_BYTES = 20240520, 1, 1024
Tokens = npt.NDArray[np.uint16]


class DataError(ValueError):
    """A data folder or shard that cannot be used; the message says which and why."""


def read_shard(path: Path) -> Tokens:
    """Memory-map the tokens of one shard.

    Raises:
        DataError: not a shard, another version, or a size that disagrees with its header.
    """
    size = path.stat().st_size
    if size < HEADER_BYTES:
        raise DataError(f"{path}: {size} bytes is shorter than a shard's {HEADER_BYTES}-byte header")
    magic, version, count = np.fromfile(path, dtype="<i4", count=3)
    if (magic, version) != (MAGIC, VERSION):
        raise DataError(f"{path}: not a token shard (expected magic {MAGIC} version {VERSION}, got {magic} {version})")
    if size != HEADER_BYTES + 2 * int(count):
        raise DataError(f"{path}: header says {count} tokens, but the file has {(size - HEADER_BYTES) / 2:g}")
    return np.memmap(path, dtype="<u2", mode="r", offset=HEADER_BYTES, shape=(int(count),))


def read_split(folder: Path, split: str) -> list[Tokens]:
    """All shards of `train` or `val`, in name order, memory-mapped.

    Raises:
        DataError: the folder or its shards are missing or damaged.
    """
    paths = sorted(folder.glob(f"*{split}_*.bin"))
    if not paths:
        raise DataError(
            f"no {split} shards (*{split}_*.bin) in {str(folder)!r}; `sweeper data prepare` writes such a folder"
        )
    return [read_shard(path) for path in paths]


def read_token_bytes(folder: Path, vocab_size: int) -> Tensor:
    """(vocab_size,) int64: bytes of text per token id; ids beyond the tokeniser's stand for 0.

    Raises:
        DataError: the table is missing, or the tokeniser has more ids than the model's vocabulary.
    """
    path = folder / "token_bytes.npy"
    if not path.exists():
        raise DataError(f"{path} is missing; `sweeper data prepare` writes it beside the shards")
    table = np.load(path)
    if len(table) > vocab_size:
        raise DataError(
            f"the data in {str(folder)!r} uses {len(table)} token ids, but model.vocab_size is {vocab_size}; "
            f"set it to at least {len(table)}"
        )
    padded = torch.zeros(vocab_size, dtype=torch.int64)
    padded[: len(table)] = torch.from_numpy(table.astype(np.int64))
    return padded


class TrainBatches:
    """Windows of T + 1 tokens in an order that is a pure function of the seed and the position.

    Each epoch starts its windows at an offset of its own and visits them in a permutation of its own; a window
    never spans two shards. `position`, the count of windows handed out, is all the state there is.
    """

    def __init__(self, shards: list[Tokens], seq_len: int, seed: int) -> None:
        self._shards = [shard for shard in shards if len(shard) > 2 * seq_len]
        if not self._shards:
            longest = max(len(shard) for shard in shards)
            raise DataError(
                f"data.seq_len is {seq_len}, but the longest training shard has {longest} tokens; "
                f"it needs more than {2 * seq_len}"
            )
        # One window a shard is kept back, so that every offset below seq_len leaves the same count.
        self._counts = np.array([(len(shard) - 1) // seq_len - 1 for shard in self._shards])
        self._starts = np.concatenate(([0], np.cumsum(self._counts)))
        self._seq_len = seq_len
        self._seed = seed
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)
        self._offset = 0
        self.position = 0

    @property
    def epoch(self) -> int:
        """Full passes over the data so far."""
        return self.position // int(self._starts[-1])

    def take(self, sequences: int) -> tuple[Tensor, Tensor]:
        """The next inputs and targets, each (sequences, T) int64 on the CPU."""
        rows = np.stack([self._window(self.position + i) for i in range(sequences)])
        self.position += sequences
        tokens = torch.from_numpy(rows.astype(np.int64))
        return tokens[:, :-1], tokens[:, 1:]

    def _window(self, position: int) -> Tokens:
        epoch, index = divmod(position, int(self._starts[-1]))
        if epoch != self._epoch:
            generator = np.random.default_rng((self._seed, epoch))
            self._epoch = epoch
            self._offset = int(generator.integers(self._seq_len))
            self._order = generator.permutation(self._starts[-1])
        window = int(self._order[index])
        shard = int(np.searchsorted(self._starts, window, side="right")) - 1
        begin = self._offset + (window - int(self._starts[shard])) * self._seq_len
        row: Tokens = self._shards[shard][begin : begin + self._seq_len + 1]
        return row


def validation_windows(shards: list[Tokens], seq_len: int, tokens: int) -> Tokens:
    """(windows, T + 1): the validation stream cut into windows that do not overlap, as the baseline does.

    Args:
        shards: of the validation split; read as one stream.
        seq_len: T.
        tokens: how many to use, rounded down to whole windows and spread evenly over the stream; 0 uses all.

    Raises:
        DataError: the stream is shorter than one window.
    """
    stream = np.concatenate(shards)
    available = (len(stream) - 1) // seq_len
    if available < 1:
        raise DataError(f"data.seq_len is {seq_len}, but the validation split has only {len(stream)} tokens")
    wanted = available if tokens == 0 else min(available, max(1, tokens // seq_len))
    begins = np.arange(wanted) * available // wanted * seq_len
    windows: Tokens = stream[begins[:, None] + np.arange(seq_len + 1)]
    return windows
