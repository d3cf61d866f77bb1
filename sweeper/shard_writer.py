"""Tokens of one split to its shards, in a way that can be gone on with after a kill."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from sweeper.errors import SweeperError
from sweeper.shards import HEADER_BYTES, MAGIC, VERSION, Shard, Split, sha256


class OpenShard(BaseModel):
    """Counts of a shard that is still being written; see Shard."""

    model_config = ConfigDict(extra="forbid")

    tokens: int = 0
    bytes: int = 0
    documents: int = 0


class WriterState(BaseModel):
    """How far a split is: what lies on the disk beyond it is written again."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    shards: tuple[Shard, ...]
    """Those that are finished."""
    open: OpenShard
    last: int
    """The last token that was written."""


class ShardWriter:
    """Appends tokens to the shards of one split; `finish` gives their records.

    A context manager: on the way out it closes what an error has left open.

    Args:
        folder: of the shards.
        split: of the shards.
        token_bytes: (vocabulary,) or (3, vocabulary), as `shards` says.
        separator: id of the token before each document.
        shard_tokens: of a full shard.
        state: that another writer was in when it was killed; this one goes on from there.

    Raises:
        SweeperError: the folder does not hold what the state says.
    """

    def __init__(
        self,
        folder: Path,
        split: Split,
        token_bytes: NDArray[np.int16],
        separator: int,
        shard_tokens: int,
        state: WriterState | None = None,
    ) -> None:
        self.split = split
        self._folder, self._limit = folder, shard_tokens
        self._token_bytes, self._separator = token_bytes, separator
        self._last = separator if state is None else state.last
        self._file: IO[bytes] | None = None
        self._open = OpenShard() if state is None else state.open.model_copy()
        self._shards: list[Shard] = [] if state is None else list(state.shards)
        self._restore()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def tokens(self) -> int:
        """Written so far, in all shards."""
        return sum(shard.tokens for shard in self._shards) + self._open.tokens

    @property
    def documents(self) -> int:
        """Begun so far, in all shards."""
        return sum(shard.documents for shard in self._shards) + self._open.documents

    def append(self, tokens: NDArray[np.uint16]) -> None:
        while len(tokens):
            if self._file is None:
                self._file = self._path().open("wb")
                self._file.write(bytes(HEADER_BYTES))  # filled in when the count is known
            taken = tokens[: self._limit - self._open.tokens]
            self._file.write(taken.astype("<u2", copy=False).tobytes())
            self._open.tokens += len(taken)
            self._open.bytes += text_bytes(self._token_bytes, taken, self._last)
            self._last = int(taken[-1])
            self._open.documents += int(np.count_nonzero(taken == self._separator))
            if self._open.tokens == self._limit:
                self._finish_shard()
            tokens = tokens[len(taken) :]

    def state(self) -> WriterState:
        """For a writer that goes on; all that it tells of is on the disk when this returns."""
        if self._file is not None:
            _to_disk(self._file)
        return WriterState(shards=tuple(self._shards), open=self._open.model_copy(), last=self._last)

    def finish(self) -> list[Shard]:
        """The records of all shards, the last one finished."""
        if self._file is not None:
            self._finish_shard()
        return self._shards

    def _path(self) -> Path:
        return self._folder / f"{self.split}_{len(self._shards):06d}.bin"

    def _restore(self) -> None:
        """Drop what was written after the state."""
        kept = {shard.file: HEADER_BYTES + 2 * shard.tokens for shard in self._shards}
        if self._open.tokens:
            kept[self._path().name] = HEADER_BYTES + 2 * self._open.tokens
        for name, size in kept.items():
            path = self._folder / name
            found = path.stat().st_size if path.is_file() else 0
            if found < size:
                raise SweeperError(
                    f"{path} has {found:,} bytes, {size:,} were written before the interruption; remove {self._folder} "
                    "and prepare from the beginning"
                )
        for path in self._folder.glob(f"{self.split}_*.bin"):
            if path.name not in kept:
                path.unlink()
        if self._open.tokens:
            self._file = self._path().open("r+b")
            self._file.truncate(kept[self._path().name])
            self._file.seek(0, os.SEEK_END)

    def _finish_shard(self) -> None:
        assert self._file is not None, "a shard is finished once"
        header = np.zeros(HEADER_BYTES // 4, dtype="<i4")
        header[:3] = MAGIC, VERSION, self._open.tokens
        self._file.seek(0)
        self._file.write(header.tobytes())
        _to_disk(self._file)
        self._file.close()
        self._file = None
        path = self._path()
        self._shards.append(Shard(file=path.name, split=self.split, sha256=sha256(path), **self._open.model_dump()))
        self._open = OpenShard()


def text_bytes(table: NDArray[np.int16], tokens: NDArray[np.uint16], before: int) -> int:
    """Bytes of text that the tokens stand for, after the token `before`."""
    if table.ndim == 1:
        return int(table[tokens].sum(dtype=np.int64))
    bare, has_space, no_space_after = table
    previous = np.append(np.uint16(before), tokens[:-1])
    return int(bare[tokens].sum(dtype=np.int64)) + int(np.count_nonzero(has_space[tokens] > no_space_after[previous]))


def _to_disk(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
