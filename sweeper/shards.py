"""Token shards: files of at most 100,000,000 tokens in the public parameter-golf format, with their manifest.

A shard is 256 little-endian int32 (magic 20240520, version 1, count of tokens, zeros), then the tokens as
little-endian uint16.  The table of bytes beside them has one row, the bytes of text that each token stands for; or
three, where a leading space counts only inside a document: the bytes without it, 1 for tokens that have it, 1 for
tokens after which it does not count.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from sweeper.errors import SweeperError

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")

SHARD_TOKENS = 100_000_000
MAGIC, VERSION, HEADER_BYTES = 20240520, 1, 1024
MANIFEST = "manifest.json"
TOKEN_BYTES = "token_bytes.npy"


class Shard(BaseModel):
    """One file of tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    split: Split
    sha256: str = ""
    """Empty, like the counts of bytes and documents, for a shard that lies elsewhere: it is read as it is."""
    tokens: int
    """Separators included."""
    bytes: int = 0
    """Of UTF-8 text that the tokens stand for."""
    documents: int = 0
    """Documents that begin in this shard: its separators."""


class Manifest(BaseModel):
    """What a prepared folder holds; its presence means that the folder is complete."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    tokenizer: str
    tokenizer_sha256: str
    vocab_size: int
    separator: int
    """Id of the token before each document."""
    source: dict[str, Any]
    """What the data were made from, and how val was chosen: equal sources give equal shards."""
    shards: tuple[Shard, ...]

    def tokens(self, split: Split) -> int:
        return sum(shard.tokens for shard in self.shards if shard.split == split)

    def text_bytes(self, split: Split) -> int:
        return sum(shard.bytes for shard in self.shards if shard.split == split)

    def documents(self, split: Split) -> int:
        return sum(shard.documents for shard in self.shards if shard.split == split)


class ShardWriter:
    """Appends tokens to the shards of one split; `finish` gives their records.

    A context manager: on the way out it closes what an error has left open.
    """

    def __init__(
        self,
        folder: Path,
        split: Split,
        token_bytes: NDArray[np.int16],  # (vocabulary,) or (3, vocabulary)
        separator: int,
        shard_tokens: int,
    ) -> None:
        self.split = split
        self._folder, self._limit = folder, shard_tokens
        self._token_bytes, self._separator = token_bytes, separator
        self._last = separator
        self._file: IO[bytes] | None = None
        self._open = _Counts()
        self._shards: list[Shard] = []

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

    def finish(self) -> list[Shard]:
        """The records of all shards, the last one finished."""
        if self._file is not None:
            self._finish_shard()
        return self._shards

    def _path(self) -> Path:
        return self._folder / f"{self.split}_{len(self._shards):06d}.bin"

    def _finish_shard(self) -> None:
        assert self._file is not None, "a shard is finished once"
        header = np.zeros(HEADER_BYTES // 4, dtype="<i4")
        header[:3] = MAGIC, VERSION, self._open.tokens
        self._file.seek(0)
        self._file.write(header.tobytes())
        self._file.close()
        self._file = None
        path = self._path()
        counts = dataclasses.asdict(self._open)
        self._shards.append(Shard(file=path.name, split=self.split, sha256=_sha256(path), **counts))
        self._open = _Counts()


@dataclass(slots=True)
class _Counts:
    """Of the open shard."""

    tokens: int = 0
    bytes: int = 0
    documents: int = 0


def text_bytes(table: NDArray[np.int16], tokens: NDArray[np.uint16], before: int) -> int:
    """Bytes of text that the tokens stand for, after the token `before`."""
    if table.ndim == 1:
        return int(table[tokens].sum(dtype=np.int64))
    bare, has_space, no_space_after = table
    previous = np.append(np.uint16(before), tokens[:-1])
    return int(bare[tokens].sum(dtype=np.int64)) + int(np.count_nonzero(has_space[tokens] > no_space_after[previous]))


def read_shard(path: Path) -> NDArray[np.uint16]:
    """(tokens,) the tokens of a shard, memory-mapped.

    Raises:
        SweeperError: no shard, or one whose size does not match its header.
    """
    header = np.fromfile(path, dtype="<i4", count=HEADER_BYTES // 4)
    if len(header) < HEADER_BYTES // 4 or header[0] != MAGIC or header[1] != VERSION:
        raise SweeperError(f"{path} is no token shard: its header does not begin with {MAGIC}, {VERSION}")
    expected = HEADER_BYTES + 2 * int(header[2])
    if path.stat().st_size != expected:
        raise SweeperError(f"{path} must have {expected:,} bytes by its header, it has {path.stat().st_size:,}")
    return np.memmap(path, dtype="<u2", mode="r", offset=HEADER_BYTES)


def load_manifest(folder: Path) -> Manifest:
    """The manifest of a prepared folder, after a look at the names and sizes of its files.

    Raises:
        SweeperError: no folder, no manifest (not prepared, or not to the end), or files missing or cut off.
    """
    path = folder / MANIFEST
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SweeperError(
            f"{folder} is no prepared data folder (it has no {MANIFEST}); make one with: "
            f"sweeper data prepare PATH... --tokenizer NAME --out {folder}"
        ) from error
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        raise SweeperError(
            f"{path} is not a manifest that this version reads: "
            f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}; remove the folder and prepare it again"
        ) from error
    for shard in manifest.shards:
        file, expected = folder / shard.file, HEADER_BYTES + 2 * shard.tokens
        size = file.stat().st_size if file.is_file() else None
        if size != expected:
            found = "it is missing" if size is None else f"it has {size:,}"
            raise SweeperError(f"{file} must have {expected:,} bytes, {found}; remove {folder} and prepare it again")
    if not (folder / TOKEN_BYTES).is_file():
        raise SweeperError(f"{folder / TOKEN_BYTES} is missing; remove {folder} and prepare it again")
    return manifest


def verify(folder: Path) -> Manifest:
    """The manifest of a prepared folder, every byte of its shards checked against it.

    Raises:
        SweeperError: as `load_manifest`, or a shard or table whose content has changed.
    """
    manifest = load_manifest(folder)
    lengths = np.load(folder / TOKEN_BYTES)
    if lengths.shape not in ((manifest.vocab_size,), (3, manifest.vocab_size)):
        raise SweeperError(f"{folder / TOKEN_BYTES} must hold {manifest.vocab_size} lengths, it has {lengths.shape}")
    for shard in manifest.shards:
        path = folder / shard.file
        if (shard.sha256 and _sha256(path) != shard.sha256) or len(read_shard(path)) != shard.tokens:
            raise SweeperError(
                f"{path} has changed since it was written (sha256 differs); remove {folder} and prepare it again"
            )
    return manifest


@contextmanager
def folder_beside(out: Path) -> Iterator[Path]:
    """An empty folder next to `out`, gone at the end unless it was published."""
    folder = out.absolute().parent / f".{out.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise SweeperError(f"cannot write to {out.absolute().parent}: {error}") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def publish(folder: Path, out: Path) -> bool:
    """Give the finished folder its name; False when another process was faster."""
    try:
        folder.rename(out)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    return True


def stamp(path: Path) -> dict[str, Any]:
    """What a file is recognised by, without reading it."""
    status = path.stat()
    return {"name": path.name, "bytes": status.st_size, "modified_ns": status.st_mtime_ns}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
