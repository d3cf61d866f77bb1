"""Files to tokens of the splits: encoded on all cores, in the order of the input, a few pieces at a time."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sweeper.documents import Format, Piece, read_pieces
from sweeper.shards import Split
from sweeper.tokenizers import Tokenizer
from sweeper.unfinished import Place

_TASK_CHARACTERS = 1 << 19  # a task ends with the piece that passes this
_RESERVED_BY = 0.98
"""Share of the input by which the reserve is full: what comes after makes up for a last piece that val took."""


@dataclass(frozen=True, slots=True)
class Input:
    """A file, and the split its documents belong to; None draws for each document."""

    path: Path
    split: Split | None


@dataclass(frozen=True, slots=True)
class Encoded:
    """One piece."""

    split: Split
    """Of its document, before any of it is reserved."""
    starts: bool
    position: int
    """Bytes of its file (as stored) that had been read."""
    ids: NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Batch:
    """Neighbouring pieces of one file."""

    file: int
    """Its number among the inputs."""
    position: int
    """Bytes of the file (as stored) that had been read."""
    end: Place
    """After the last piece."""
    pieces: list[Encoded]


@dataclass(frozen=True, slots=True)
class _Task:
    file: int
    position: int
    end: Place
    pieces: list[Piece]


def encode(
    inputs: Sequence[Input],
    tokenizer: Tokenizer,
    *,
    val_fraction: float,
    column: str = "text",
    form: Format = "text",
    begin: Place | None = None,
) -> Iterator[Batch]:
    """The inputs' tokens in their order, from the place `begin` on.

    Raises:
        SweeperError: broken input, as `documents.read_pieces` says.
    """

    def run(task: _Task) -> Batch:
        # Threads are enough: tiktoken lets go of the GIL while it encodes, SentencePiece has threads of its own.
        ids = tokenizer.encode([piece.text for piece in task.pieces], [piece.starts for piece in task.pieces])
        split = inputs[task.file].split
        pieces = [
            Encoded(split or draw(piece.text, val_fraction), piece.starts, piece.position, found)
            for piece, found in zip(task.pieces, ids, strict=True)
        ]
        return Batch(task.file, task.position, task.end, pieces)

    cores = os.cpu_count() or 1
    pending: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(cores) as pool:
        for task in _tasks(inputs, column, form, begin or Place()):
            pending.append(pool.submit(run, task))
            if len(pending) > cores + 1:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


class Allotment:
    """Gives each piece of the input to a split, and puts separators before documents.

    The reserve is taken from what would be trained on, a document every so often: it fills in step with the input, so
    that it is a sample of all of it, and is full shortly before the end.

    Args:
        separator: id of the token before each document.
        reserve_tokens: least tokens of the reserve, separators included; at most a piece more are taken.
        input_bytes: of the files that the reserve is taken from, as stored.
        reserved: tokens that the reserve has already.
        last: split of the piece before the first one here.
    """

    def __init__(
        self, separator: int, *, reserve_tokens: int, input_bytes: int, reserved: int = 0, last: Split | None = None
    ) -> None:
        self._separator = np.array([separator], dtype=np.uint16)
        self._rate = reserve_tokens / (_RESERVED_BY * max(1, input_bytes))
        self._wanted = reserve_tokens
        self._reserved = reserved
        self.last = last

    def allot(self, pieces: Sequence[Encoded], bytes_before: int) -> dict[Split, NDArray[np.uint16]]:
        """The tokens of each split.

        Args:
            pieces: the next ones, of one file.
            bytes_before: of the files before that one, as stored.
        """
        parts: dict[Split, list[NDArray[np.uint16]]] = {}
        for piece in pieces:
            due = min(self._wanted, self._rate * (bytes_before + piece.position))
            split: Split = "reserve" if piece.split == "train" and self._reserved < due else piece.split
            # A part that the draw has torn from the one before it begins like a document.
            begins = piece.starts or split != self.last
            parts.setdefault(split, []).extend([self._separator, piece.ids] if begins else [piece.ids])
            if split == "reserve":
                self._reserved += len(piece.ids) + begins
            self.last = split
        return {split: np.concatenate(arrays) for split, arrays in parts.items()}


def draw(text: str, val_fraction: float) -> Split:
    """The split of a document, by its hash: the same text always falls the same way."""
    # A conversation holds markers that are no Unicode text, see chatml.
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
    return "val" if int.from_bytes(digest) < val_fraction * 2**64 else "train"


def _tasks(inputs: Sequence[Input], column: str, form: Format, begin: Place) -> Iterator[_Task]:
    for file, source in enumerate(inputs[begin.file :], start=begin.file):
        held: list[Piece] = []
        characters = 0
        done = begin.pieces if file == begin.file else 0
        for piece in itertools.islice(read_pieces(source.path, column, form), done, None):
            held.append(piece)
            characters += len(piece.text)
            if characters >= _TASK_CHARACTERS:
                done += len(held)
                yield _Task(file, piece.position, Place(file=file, pieces=done), held)
                held, characters = [], 0
        yield _Task(file, source.path.stat().st_size, Place(file=file + 1), held)
