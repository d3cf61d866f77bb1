"""Files of text to pieces of documents, in a stream: memory does not grow with the input.

A document longer than a piece comes in several, cut where a cut changes no token: before a line break or
space that a letter follows, which is where the tokenisers' pattern splits anyway.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from sweeper import chatml
from sweeper.compressed import SUFFIXES, uncompressed
from sweeper.errors import SweeperError
from sweeper.tokenizers import SEPARATOR

PIECE_CHARACTERS = 1 << 20
"""Longest piece."""
Format = Literal["text", "chatml"]
"""What a row holds: text under a column, or a conversation."""

_KINDS = {
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
_READ_BYTES = 1 << 16
_SEPARATOR_LINE = re.compile(re.escape(SEPARATOR.encode()) + rb"\r*(?:\n|\Z)")  # where a line begins


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


def check_format(files: list[Path], form: Format) -> None:
    """Raises SweeperError for a file that cannot hold what is asked for."""
    for file in files:
        if form == "chatml" and _kind(file) != "jsonl":
            raise SweeperError(f"--format chatml reads JSON lines, a conversation each; {file} is {_kind(file)}")


def read_pieces(path: Path, column: str, form: Format = "text") -> Iterator[Piece]:
    """The documents of one file, in pieces; empty documents are left out.

    Text is split at lines that hold only the separator, else the file is one document.  JSON lines and
    Parquet hold one document a row, under `column`; or JSON lines a conversation, which `chatml` renders.

    Raises:
        SweeperError: broken compression, UTF-8, JSON or Parquet, or a row of another shape; with file
            and line or row.
    """
    kind = _kind(path)
    if kind == "parquet":
        yield from _read_parquet(path, column)
        return

    def text_of(row: Any, where: str) -> str:
        return chatml.render(row, where) if form == "chatml" else _column_of(row, column, where)

    with uncompressed(path) as (stream, stored):
        yield from (_read_text(path, stream, stored) if kind == "text" else _read_jsonl(path, stream, stored, text_of))


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
    held = ""  # of the current document, what has not been given out
    starts = True
    for text, ends in _stretches(path, stream):
        held += text
        if ends:
            # The line break before the separator belongs to the separator.
            yield from _document(held.removesuffix("\n").removesuffix("\r"), stored.tell(), starts)
            held, starts = "", True
        elif len(held) > PIECE_CHARACTERS + _READ_BYTES:
            pieces, held = split_pieces(held)
            for piece in pieces:
                yield Piece(piece, starts, stored.tell())
                starts = False
    yield from _document(held, stored.tell(), starts)


def _stretches(path: Path, stream: IO[bytes]) -> Iterator[tuple[str, bool]]:
    """The text in stretches that a separator's line, or nothing much, ends; and which of the two."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    line, line_begins = 1, True
    while block := stream.read(_READ_BYTES):
        if not block.endswith(b"\n"):
            block += stream.readline(_READ_BYTES)  # a line is never cut where it may be a separator
        begin = 0
        for found in _SEPARATOR_LINE.finditer(block):
            if not (block[found.start() - 1] == ord("\n") if found.start() else line_begins):
                continue
            yield _decode(decoder, block[begin : found.start()], True, path, line), True
            line += block.count(b"\n", begin, found.end())
            begin = found.end()
        line_begins = block.endswith(b"\n")
        yield _decode(decoder, block[begin:], line_begins, path, line), False
        line += block.count(b"\n", begin)
    yield _decode(decoder, b"", True, path, line), False


def _read_jsonl(
    path: Path, stream: IO[bytes], stored: IO[bytes], text_of: Callable[[Any, str], str]
) -> Iterator[Piece]:
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode())
        except UnicodeDecodeError as error:
            raise _not_utf8(path, number, error) from error
        except json.JSONDecodeError as error:
            raise SweeperError(f"{path}, line {number}: not JSON: {error}") from error
        yield from _document(text_of(row, f"{path}, line {number}"), stored.tell())


def _column_of(row: Any, column: str, where: str) -> str:
    if not isinstance(row, dict) or column not in row:
        found = f"the keys {', '.join(row)}" if isinstance(row, dict) else f"{str(row)[:60]!r}"
        raise SweeperError(
            f"{where}: expected an object with the text under {column!r}, found {found}; name another with --column"
        )
    return _as_text(row[column], f"{where}: {column!r}")


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
    line += error.object.count(b"\n", 0, error.start)
    byte = error.object[error.start]
    return SweeperError(f"{path}, line {line}: not UTF-8 (byte 0x{byte:02x}: {error.reason}); convert the file first")


def _kind(path: Path) -> str | None:
    name = Path(path.stem) if path.suffix in SUFFIXES else path
    kind = _KINDS.get(name.suffix)
    return None if kind == "parquet" and name != path else kind


_READABLE = (
    f"readable are {', '.join(f'*{suffix}' for suffix in _KINDS)}, text and JSON lines also with {', '.join(SUFFIXES)}"
)
