"""Files as they are without their compression, in a stream."""

from __future__ import annotations

import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import zstandard

from sweeper.errors import SweeperError

SUFFIXES = (".zst", ".gz", ".xz")
"""Of files that are compressed; others are read as they are."""
_READ_BYTES = 1 << 16
_ZSTD_BYTES = 1 << 11  # fed at once: little, as it may be thousands of times as much uncompressed


@contextmanager
def uncompressed(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
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
