"""Files of text to pieces of documents, in a stream: memory does not grow with the input.

A document longer than a piece comes in several, cut where a cut changes no token: before a line break or
space that a letter follows, which is where the tokenisers' pattern splits anyway.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import zstandard

from sweeper.errors import SweeperError
from sweeper.tokenizers import SEPARATOR

PIECE_CHARACTERS = 1 << 20
"""Longest piece."""

_KINDS = {
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
_COMPRESSIONS = (".zst", ".gz", ".xz")
_READ_BYTES = 1 << 16
_ZSTD_BYTES = 1 << 11  # fed at once: little, as it may be thousands of times as much uncompressed


@dataclass(frozen=True, slots=True)
class Piece:
    """Text of a document, or of a part of one."""

    text: str
    starts: bool
    """Whether it is the document's first."""
    position: int
    """Bytes of the file (as stored) that have been read."""


def find_files(paths: list[Path]) -> list[Path]:
    """The files that the paths name, folders searched through, in a fixed order.

    Raises:
        SweeperError: a path that does not exist, a file of a kind we cannot read, or a folder without any.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.is_file() and _kind(file))
            if not found:
                raise SweeperError(f"the folder {path} holds no file that can be read; {_READABLE}")
            files += found
        elif not path.is_file():
            raise SweeperError(f"there is no file or folder {path}")
        elif not _kind(path):
            raise SweeperError(f"cannot tell what {path} holds; {_READABLE}")
        else:
            files.append(path)
    return files


def read_pieces(path: Path, column: str) -> Iterator[Piece]:
    """The documents of one file, in pieces; empty documents are left out.

    Text is split at lines that hold only the separator, else the file is one document.  JSON lines and
    Parquet hold one document a row, under `column`.

    Raises:
        SweeperError: broken compression, UTF-8, JSON or Parquet, or a row without the column; with file
            and line or row.
    """
    kind = _kind(path)
    if kind == "parquet":
        yield from _read_parquet(path, column)
        return
    with _open(path) as (stream, stored):
        yield from (_read_text(path, stream, stored) if kind == "text" else _read_jsonl(path, stream, stored, column))


def split_pieces(text: str) -> tuple[list[str], str]:
    """Full pieces at the front of the text, and the rest, which is at most one piece long."""
    pieces = []
    start = 0
    while len(text) - start > PIECE_CHARACTERS:
        end = _cut(text, start, start + PIECE_CHARACTERS)
        pieces.append(text[start:end])
        start = end
    return pieces, text[start:]


def _cut(text: str, start: int, end: int) -> int:
    """Where to end a piece that starts at `start`: the last harmless place up to `end`, else `end` itself."""
    for mark in ("\n", " "):
        position = text.rfind(mark, start + 1, end)
        while position > start:
            if not text[position + 1].isspace():
                return position
            position = text.rfind(mark, start + 1, position)
    return end


def _read_text(path: Path, stream: IO[bytes], stored: IO[bytes]) -> Iterator[Piece]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    held: list[str] = []  # of the current document, what has not been given out
    length = 0
    starts = True
    number = 1
    line_begins = True
    for raw in iter(lambda: stream.readline(_READ_BYTES), b""):
        ended = raw.endswith(b"\n")
        if line_begins and raw.rstrip(b"\r\n") == SEPARATOR.encode():
            # The line break before the separator belongs to the separator.
            last = "".join(held).removesuffix("\n").removesuffix("\r")
            if last:
                yield Piece(last, starts, stored.tell())
            held, length, starts = [], 0, True
        else:
            text = _decode(decoder, raw, ended, path, number)
            held.append(text)
            length += len(text)
            if length > PIECE_CHARACTERS + _READ_BYTES:
                pieces, rest = split_pieces("".join(held))
                for piece in pieces:
                    yield Piece(piece, starts, stored.tell())
                    starts = False
                held, length = [rest], len(rest)
        line_begins = ended
        number += ended
    held.append(_decode(decoder, b"", True, path, number))
    yield from _document("".join(held), stored.tell(), starts)


def _read_jsonl(path: Path, stream: IO[bytes], stored: IO[bytes], column: str) -> Iterator[Piece]:
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode())
        except UnicodeDecodeError as error:
            raise _not_utf8(path, number, error) from error
        except json.JSONDecodeError as error:
            raise SweeperError(f"{path}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict) or column not in row:
            found = f"the keys {', '.join(row)}" if isinstance(row, dict) else f"{str(row)[:60]!r}"
            raise SweeperError(
                f"{path}, line {number}: expected an object with the text under {column!r}, found {found}; "
                "name another with --column"
            )
        yield from _document(_as_text(row[column], f"{path}, line {number}: {column!r}"), stored.tell())


def _read_parquet(path: Path, column: str) -> Iterator[Piece]:
    import pyarrow  # takes a third of a second: only those who read Parquet pay
    import pyarrow.parquet

    size = path.stat().st_size
    try:
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            names = file.schema_arrow.names
            if column not in names:
                raise SweeperError(f"{path} has no column {column!r} but {', '.join(names)}; name one with --column")
            number = 0
            for batch in file.iter_batches(batch_size=64, columns=[column]):
                for value in batch.column(0):
                    number += 1
                    text = _as_text(value.as_py(), f"{path}, row {number}: {column!r}")
                    yield from _document(text, size * number // file.metadata.num_rows)
    except (pyarrow.ArrowException, OSError) as error:
        raise SweeperError(f"{path} cannot be read as Parquet: {error}") from error


def _document(text: str, position: int, starts: bool = True) -> Iterator[Piece]:
    pieces, rest = split_pieces(text)
    for piece in (*pieces, rest):
        if piece:
            yield Piece(piece, starts, position)
            starts = False


def _as_text(value: Any, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise SweeperError(f"{where} must be text, got {str(value)[:60]!r} ({type(value).__name__})")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can write half of a surrogate pair
        raise SweeperError(f"{where} is not valid Unicode: {error}") from error
    return value


def _decode(decoder: codecs.IncrementalDecoder, raw: bytes, final: bool, path: Path, line: int) -> str:
    try:
        return decoder.decode(raw, final)
    except UnicodeDecodeError as error:
        raise _not_utf8(path, line, error) from error


def _not_utf8(path: Path, line: int, error: UnicodeDecodeError) -> SweeperError:
    byte = error.object[error.start]
    return SweeperError(f"{path}, line {line}: not UTF-8 (byte 0x{byte:02x}: {error.reason}); convert the file first")


@contextmanager
def _open(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """The file's content, uncompressed, and the stored file under it, whose position shows progress."""
    with path.open("rb") as stored, ExitStack() as stack:
        stream: IO[bytes] = stored
        if path.suffix == ".zst":
            stream = io.BufferedReader(_ZstdStream(stored), _READ_BYTES)
        elif path.suffix == ".gz":
            stream = io.BufferedReader(stack.enter_context(gzip.GzipFile(fileobj=stored)))
        elif path.suffix == ".xz":
            stream = stack.enter_context(lzma.LZMAFile(stored))
        try:
            yield stream, stored
        except (zstandard.ZstdError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, EOFError) as error:
            raise SweeperError(f"{path} cannot be decompressed: {error}") from error


class _ZstdStream(io.RawIOBase):
    """Zstandard frames, one after another.  zstandard's own reader takes a cut-off file for a whole one."""

    def __init__(self, stored: IO[bytes]) -> None:
        self._stored = stored
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._compressed = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self._ready and (self._compressed or self._refill()):
            if self._frame is None:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._ready = memoryview(self._frame.decompress(self._compressed))
            self._compressed = b""
            if self._frame.eof:
                self._compressed = self._frame.unused_data
                self._frame = None
        count = min(len(target), len(self._ready))
        target[:count] = self._ready[:count]
        self._ready = self._ready[count:]
        return count

    def _refill(self) -> bool:
        self._compressed = self._stored.read(_ZSTD_BYTES)
        if not self._compressed and self._frame is not None:
            raise EOFError("it ends in the middle of a zstd frame; is the copy complete?")
        return bool(self._compressed)


def _kind(path: Path) -> str | None:
    name = Path(path.stem) if path.suffix in _COMPRESSIONS else path
    kind = _KINDS.get(name.suffix)
    return None if kind == "parquet" and name != path else kind


_READABLE = (
    f"readable are {', '.join(f'*{suffix}' for suffix in _KINDS)}, "
    f"text and JSON lines also with {', '.join(_COMPRESSIONS)}"
)
