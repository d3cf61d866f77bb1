"""Token shards: files of at most 100,000,000 tokens in the public parameter-golf format, with their manifest.

A shard is 256 little-endian int32 (magic 20240520, version 1, count of tokens, zeros), then the tokens as
little-endian uint16.  The table of bytes beside them has one row, the bytes of text that each token stands for; or
three, where a leading space counts only inside a document: the bytes without it, 1 for tokens that have it, 1 for
tokens after which it does not count.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from sweeper.errors import SweeperError

Split = Literal["train", "val", "reserve"]
SPLITS: tuple[Split, ...] = ("train", "val")
"""What every folder has. `reserve`, which some have, is read by nobody who does not ask for it."""

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
    added_tokens: dict[str, int] = {}
    """Ids that the data use beyond the tokenizer's own, by their marker; they stand for no text."""
    source: dict[str, Any]
    """What the data were made from, and how val was chosen: equal sources give equal shards."""
    shards: tuple[Shard, ...]

    def tokens(self, split: Split) -> int:
        return sum(shard.tokens for shard in self.shards if shard.split == split)

    def text_bytes(self, split: Split) -> int:
        return sum(shard.bytes for shard in self.shards if shard.split == split)

    def documents(self, split: Split) -> int:
        return sum(shard.documents for shard in self.shards if shard.split == split)


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
        if (shard.sha256 and sha256(path) != shard.sha256) or len(read_shard(path)) != shard.tokens:
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


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside, flush to the disk, rename: a kill at any moment leaves what was there, or this."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def stamp(path: Path) -> dict[str, Any]:
    """What a file is recognised by, without reading it."""
    status = path.stat()
    return {"name": path.name, "bytes": status.st_size, "modified_ns": status.st_mtime_ns}


def sha256(path: Path) -> str:
    """Of the file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
