"""Token shards to batches on the device.  Shape key: B sequences, T tokens.

A prepared folder holds `train_*.bin`, `val_*.bin` and perhaps `reserve_*.bin` (256 little-endian int32: 20240520, 1,
token count; then that many uint16: the format of parameter-golf), `token_bytes.npy` and `manifest.json`.  Names and
sizes are checked when it is opened; content is not, as hashing 6 GB takes longer than most set-ups: that is what
`sweeper data verify` is for.

`token_bytes.npy` is int16: (vocab,), the bytes of text that each token stands for. Or (3, vocab), where a leading
space belongs to a token but counts only inside a document: the bytes without it; 1 for tokens that have it; 1 for
tokens after which it does not count (separators, which stand for no text).
"""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    if not path.is_file():
        raise DataError(f"{path} is missing, though manifest.json lists it; copy the whole folder, or prepare it again")
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
    """All shards of `train`, `val` or `reserve`, memory-mapped: those of the manifest, else all there are by name.

    Raises:
        DataError: the folder or its shards are missing or damaged, or not as long as the manifest says.
    """
    listed = (read_manifest(folder) or {}).get("shards")
    if listed is None:
        paths = sorted(folder.glob(f"*{split}_*.bin"))
        tokens_of: dict[Path, int] = {}
    else:
        tokens_of = {folder / shard["file"]: int(shard["tokens"]) for shard in listed if shard["split"] == split}
        paths = list(tokens_of)
    if not paths:
        writes = "`sweeper data prepare --reserve-tokens N`" if split == "reserve" else "`sweeper data prepare`"
        raise DataError(f"no {split} shards (*{split}_*.bin) in {str(folder)!r}; {writes} writes such a folder")
    shards = [read_shard(path) for path in paths]
    for path, shard in zip(paths, shards, strict=True):
        if len(shard) != tokens_of.get(path, len(shard)):
            raise DataError(f"{path} has {len(shard)} tokens, manifest.json says {tokens_of[path]}; prepare it again")
    return shards


def read_token_bytes(folder: Path) -> npt.NDArray[np.int16]:
    """The folder's `token_bytes.npy`.

    Raises:
        DataError: the table is missing, or of another shape.
    """
    path = folder / "token_bytes.npy"
    if not path.exists():
        raise DataError(f"{path} is missing; `sweeper data prepare` writes it beside the shards")
    table: npt.NDArray[np.int16] = np.load(path).astype(np.int16)
    if table.ndim != 1 and (table.ndim, len(table)) != (2, 3):
        raise DataError(f"{path} must be of shape (vocabulary,) or (3, vocabulary), it is {table.shape}")
    return table


def text_bytes(table: npt.NDArray[np.integer], tokens: Tokens) -> npt.NDArray[np.int16]:
    """(len(tokens),) bytes of text that each token stands for, after the one before it; the first after none."""
    bare, *spaces = table.astype(np.int16).reshape(-1, table.shape[-1])
    counted: npt.NDArray[np.int16] = bare[tokens]
    if spaces:
        has_space, no_space_after = spaces
        counted[1:] += has_space[tokens[1:]] > no_space_after[tokens[:-1]]
    return counted


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What the folder's `manifest.json` says; None where there is none.

    Raises:
        DataError: no JSON object.
    """
    path = folder / "manifest.json"
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} must hold an object, got {found!r:.60}")
    return found


def read_separator(folder: Path) -> int | None:
    """Id of the token before each document, as the manifest says; None where there is no manifest.

    Raises:
        DataError: a manifest that does not say.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    try:
        return int(manifest["separator"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / 'manifest.json'} does not name the separator of documents: {error!r}") from error


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
            self._resident = torch.empty(int(self.starts[-1]), dtype=torch.int16, device=device)
            for start, shard in zip(self.starts, shards, strict=False):
                part = torch.from_numpy(np.asarray(shard).astype("<u2").view(np.int16))
                self._resident[start : start + len(shard)].copy_(part)

    def gather(self, begins: npt.NDArray[np.int64], length: int) -> Tensor:
        """(len(begins), length) int64 on the device: the tokens from each begin on.

        Past the last token it is repeated.
        """
        if self._resident is not None:
            offsets = to_device(torch.from_numpy(begins), self._device)
            index = offsets[:, None] + torch.arange(length, device=self._device)
            return self._resident[index.clamp_(max=len(self._resident) - 1)].long() & 0xFFFF
        rows = [self._row(int(begin), length) for begin in begins]
        return to_device(torch.from_numpy(np.stack(rows).astype(np.int64)), self._device)

    def _row(self, begin: int, length: int) -> Tokens:
        """(length,) tokens from `begin` on, from as many shards as they lie in."""
        shard = int(np.searchsorted(self.starts, begin, side="right")) - 1
        row = self._shards[shard][begin - int(self.starts[shard]) :][:length]
        if len(row) == length:
            return row
        parts = [row]
        while (missing := length - sum(map(len, parts))) and (shard := shard + 1) < len(self._shards):
            parts.append(self._shards[shard][:missing])
        return np.pad(np.concatenate(parts), (0, missing), mode="edge")

    def places(self, token: int) -> npt.NDArray[np.int64]:
        """Where the token stands in the split, ascending."""
        found = [np.flatnonzero(shard == token) for shard in self._shards]
        return np.concatenate([start + places for start, places in zip(self.starts, found, strict=False)])

    def bytes_before(self, table: npt.NDArray[np.integer]) -> npt.NDArray[np.uint32]:
        """(tokens + 1,) bytes of text before each place, modulo 2**32: differences are right where they are less.

        Raises:
            DataError: a token that the table does not have.
        """
        tokens = np.concatenate(self._shards)
        if tokens.max(initial=0) >= table.shape[-1]:
            raise DataError(
                f"there is a token {tokens.max()} among the shards, but token_bytes.npy has only {table.shape[-1]}: "
                "they are not of one tokeniser"
            )
        before = np.zeros(len(tokens) + 1, dtype=np.uint32)
        np.cumsum(text_bytes(table, tokens), dtype=np.uint32, out=before[1:])
        return before


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The host's tensor, there; on CUDA the host does not wait for it."""
    if device.type != "cuda":
        return tensor.to(device)
    # From pinned memory the copy joins the queue; from pageable memory the host would wait for the queue to drain.
    return tensor.pin_memory().to(device, non_blocking=True)


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """A prepared folder, opened on a device."""

    train: TokenStore
    """The split that is trained on: `train`, or another one that was asked for."""
    val: TokenStore
    token_bytes: npt.NDArray[np.integer]
    """(ids of the tokeniser,) bytes of text that each token stands for, or (3, ids): see the top of this module."""
    separator: int | None = None
    """Id of the token before each document; None where the folder does not say."""

    def val_bytes(self, begins: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Bytes of text of the validation tokens from each begin up to its end, not included; less than 4 GiB each."""
        return (self._val_bytes_before[ends] - self._val_bytes_before[begins]).astype(np.int64)

    @functools.cached_property
    def _val_bytes_before(self) -> npt.NDArray[np.uint32]:
        return self.val.bytes_before(self.token_bytes)


def corpus_for(config: TrainConfig, device: torch.device, *, resident: bool = True) -> Corpus:
    """The folder that a config names, opened on a device; without `resident` its tokens stay in their files.

    Raises:
        DataError: as `open_corpus`; no folder is named, or the model has fewer words than the data.
    """
    folder, vocab_size = config.data.path, config.model.vocab_size
    if not folder:
        raise DataError("data.path is empty; it names a folder that `sweeper data prepare` wrote")
    corpus = (open_corpus if resident else glance)(Path(folder), device, config.data.split)
    ids = corpus.token_bytes.shape[-1]
    if ids > vocab_size:
        raise DataError(
            f"the data in {folder!r} uses {ids} token ids, but model.vocab_size is {vocab_size}; "
            f"set it to at least {ids}"
        )
    return corpus


def open_corpus(folder: Path, device: torch.device, split: str = "train") -> Corpus:
    """Open a prepared folder; the last one stays open, so that the next run of this process has it at once.

    Raises:
        DataError: the folder, its shards or its table of bytes are missing or damaged.
    """
    files = sorted(path for pattern in ("*.bin", "*.npy", "manifest.json") for path in folder.glob(pattern))
    return _open(
        folder, device, split, tuple((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in files)
    )


def glance(folder: Path, device: torch.device, split: str = "train") -> Corpus:
    """As `open_corpus`, with nothing read that stays: for what can be known of a folder before it is used."""
    return Corpus(
        train=TokenStore(read_split(folder, split), device, 0),
        val=TokenStore(read_split(folder, "val"), device, 0),
        token_bytes=read_token_bytes(folder),
        separator=read_separator(folder),
    )


@functools.lru_cache(maxsize=1)
def _open(folder: Path, device: torch.device, split: str, signature: tuple[tuple[str, int, int], ...]) -> Corpus:
    train, val = read_split(folder, split), read_split(folder, "val")
    return Corpus(
        train=TokenStore(train, device, SHARE_FOR_TOKENS * memory_bytes(device)),
        val=TokenStore(val, device),
        token_bytes=read_token_bytes(folder),
        separator=read_separator(folder),
    )
