"""Token shards to batches on the device.  Shape key: B sequences, T tokens.

A prepared folder holds `train_*.bin` and `val_*.bin` (256 little-endian int32: 20240520, 1, token count; then that
many uint16: the format of parameter-golf), `token_bytes.npy` (int16, (vocab,): bytes of text that each token stands
for) and `manifest.json`.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.config import TrainConfig
from trainer.device import memory_bytes

MAGIC, VERSION, HEADER_BYTES = 20240520, 1, 1024
Tokens = npt.NDArray[np.uint16]
SHARE_FOR_TOKENS = 0.25
"""Share of the device's memory (off CUDA, of the host's) that training tokens may take."""


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


def read_token_bytes(folder: Path) -> npt.NDArray[np.int64]:
    """(ids of the tokeniser,): bytes of text per token id.

    Raises:
        DataError: the table is missing.
    """
    path = folder / "token_bytes.npy"
    if not path.exists():
        raise DataError(f"{path} is missing; `sweeper data prepare` writes it beside the shards")
    table: npt.NDArray[np.int64] = np.load(path).astype(np.int64)
    return table


class TokenStore:
    """All tokens of a split, on the device where they fit, so that a batch is one gather there.

    Args:
        shards: of the split; `starts` holds where each begins.
        device: that batches are wanted on.
        most_bytes: what the store may take there; a larger split stays memory-mapped on the host.
    """

    def __init__(self, shards: list[Tokens], device: torch.device, most_bytes: float = math.inf) -> None:
        self.lengths = [len(shard) for shard in shards]
        self.starts = np.concatenate(([0], np.cumsum(self.lengths)))
        self._device = device
        self._shards = shards
        self._resident: Tensor | None = None
        if 2 * int(self.starts[-1]) <= most_bytes:
            # torch indexes int16 on every device, uint16 on few; `gather` undoes the sign.
            parts = [torch.from_numpy(np.asarray(shard).astype("<u2").view(np.int16)) for shard in shards]
            self._resident = torch.cat(parts).to(device)

    def gather(self, begins: npt.NDArray[np.int64], length: int) -> Tensor:
        """(len(begins), length) int64 on the device: the tokens from each begin on. No shard end is crossed."""
        if self._resident is not None:
            offsets = _to_device(torch.from_numpy(begins), self._device)
            index = offsets[:, None] + torch.arange(length, device=self._device)
            return self._resident[index].long() & 0xFFFF
        shard_of = np.searchsorted(self.starts, begins, side="right") - 1
        rows = [
            self._shards[shard][begin : begin + length]
            for shard, begin in zip(shard_of, begins - self.starts[shard_of], strict=True)
        ]
        return _to_device(torch.from_numpy(np.stack(rows).astype(np.int64)), self._device)


def _to_device(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type != "cuda":
        return tensor.to(device)
    # From pinned memory the copy joins the queue; from pageable memory the host would wait for the queue to drain.
    return tensor.pin_memory().to(device, non_blocking=True)


class TrainBatches:
    """Windows of T + 1 tokens in an order that is a pure function of the seed and the position.

    Each epoch starts its windows at an offset of its own and visits them in a permutation of its own; a window
    never spans two shards. `position`, the count of windows handed out, is all the state there is.
    """

    def __init__(self, store: TokenStore, seq_len: int, seed: int) -> None:
        # One window a shard is kept back, so that every offset below seq_len leaves the same count.
        counts = np.maximum(0, (np.array(store.lengths) - 1) // seq_len - 1)
        if not counts.any():
            raise DataError(
                f"data.seq_len is {seq_len}, but the longest training shard has {max(store.lengths)} tokens; "
                f"it needs more than {2 * seq_len}"
            )
        self._store = store
        self._begins = np.concatenate(
            [start + seq_len * np.arange(count) for start, count in zip(store.starts, counts, strict=False)]
        ).astype(np.int64)
        self._seq_len = seq_len
        self._seed = seed
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)
        self.position = 0

    @property
    def epoch(self) -> int:
        """Full passes over the data so far."""
        return self.position // len(self._begins)

    def take(self, sequences: int) -> tuple[Tensor, Tensor]:
        """The next inputs and targets, each (sequences, T) int64 on the device of the store."""
        begins = []
        while sequences > 0:
            index = self.position % len(self._begins)
            part = self._epoch_order(self.epoch)[index : index + sequences]
            begins.append(part)
            self.position += len(part)
            sequences -= len(part)
        tokens = self._store.gather(np.concatenate(begins), self._seq_len + 1)
        return tokens[:, :-1], tokens[:, 1:]

    def _epoch_order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Where each window of the epoch begins, in the order of their use."""
        if epoch != self._epoch:
            generator = np.random.default_rng((self._seed, epoch))
            offset = int(generator.integers(self._seq_len))
            self._order = self._begins[generator.permutation(len(self._begins))] + offset
            self._epoch = epoch
        return self._order


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """A prepared folder, opened on a device."""

    train: TokenStore
    val: TokenStore
    token_bytes: npt.NDArray[np.int64]
    """(ids of the tokeniser,) bytes of text that each token stands for."""


def corpus_for(config: TrainConfig, device: torch.device) -> Corpus:
    """The folder that a config names, opened on a device.

    Raises:
        DataError: as `open_corpus`; no folder is named, or the model has fewer words than the data.
    """
    folder, vocab_size = config.data.path, config.model.vocab_size
    if not folder:
        raise DataError("data.path is empty; it names a folder that `sweeper data prepare` wrote")
    corpus = open_corpus(Path(folder), device)
    ids = len(corpus.token_bytes)
    if ids > vocab_size:
        raise DataError(
            f"the data in {folder!r} uses {ids} token ids, but model.vocab_size is {vocab_size}; "
            f"set it to at least {ids}"
        )
    return corpus


def open_corpus(folder: Path, device: torch.device) -> Corpus:
    """Open a prepared folder; the last one stays open, so that the next run of this process has it at once.

    Raises:
        DataError: the folder, its shards or its table of bytes are missing or damaged.
    """
    files = sorted(path for pattern in ("*.bin", "*.npy") for path in folder.glob(pattern))
    return _open(folder, device, tuple((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in files))


@functools.lru_cache(maxsize=1)
def _open(folder: Path, device: torch.device, signature: tuple[tuple[str, int, int], ...]) -> Corpus:
    train, val = read_split(folder, "train"), read_split(folder, "val")
    return Corpus(
        train=TokenStore(train, device, SHARE_FOR_TOKENS * memory_bytes(device)),
        val=TokenStore(val, device),
        token_bytes=read_token_bytes(folder),
    )


def validation_begins(stream_tokens: int, seq_len: int, wanted_tokens: int) -> npt.NDArray[np.int64]:
    """Where the validation windows begin: the stream cut into windows that do not overlap, as the baseline does.

    Args:
        stream_tokens: of the validation split, read as one stream.
        seq_len: T; a window is T + 1 tokens, of which the last T are targets.
        wanted_tokens: how many to score, rounded down to whole windows and spread evenly over the stream; 0 is all.

    Raises:
        DataError: the stream is shorter than one window.
    """
    available = (stream_tokens - 1) // seq_len
    if available < 1:
        raise DataError(f"data.seq_len is {seq_len}, but the validation split has only {stream_tokens} tokens")
    wanted = available if wanted_tokens == 0 else min(available, max(1, wanted_tokens // seq_len))
    begins: npt.NDArray[np.int64] = np.arange(wanted) * available // wanted * seq_len
    return begins
