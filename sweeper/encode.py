"""Files to tokens of the two splits: encoded on all cores, in the order of the input, a few pieces at a time."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sweeper.documents import Piece, read_pieces
from sweeper.shards import Split
from sweeper.tokenizers import Tokenizer

_TASK_CHARACTERS = 1 << 19  # a task ends with the piece that passes this


@dataclass(frozen=True, slots=True)
class Input:
    """A file, and the split its documents belong to; None draws for each document."""

    path: Path
    split: Split | None


@dataclass(frozen=True, slots=True)
class Batch:
    """Tokens of neighbouring documents."""

    path: Path
    position: int
    """Bytes of the file (as stored) that had been read."""
    tokens: dict[Split, NDArray[np.uint16]]


@dataclass(frozen=True, slots=True)
class _Task:
    source: Input
    position: int
    pieces: list[Piece]


@dataclass(frozen=True, slots=True)
class _Encoded:
    split: Split
    starts: bool
    ids: NDArray[np.uint16]


def encode(inputs: list[Input], column: str, tokenizer: Tokenizer, val_fraction: float) -> Iterator[Batch]:
    """The inputs' tokens, each document behind the separator.

    Raises:
        SweeperError: broken input, as `documents.read_pieces` says.
    """
    separator = np.array([tokenizer.separator], dtype=np.uint16)
    last: Split | None = None

    def run(task: _Task) -> list[_Encoded]:
        # Threads are enough: tiktoken lets go of the GIL while it encodes, SentencePiece has threads of its own.
        ids = tokenizer.encode([piece.text for piece in task.pieces], [piece.starts for piece in task.pieces])
        return [
            _Encoded(task.source.split or draw(piece.text, val_fraction), piece.starts, found)
            for piece, found in zip(task.pieces, ids, strict=True)
        ]

    def join(encoded: list[_Encoded]) -> dict[Split, NDArray[np.uint16]]:
        nonlocal last
        parts: dict[Split, list[NDArray[np.uint16]]] = {}
        for piece in encoded:
            # A part that the draw has torn from the one before it begins like a document.
            begins = piece.starts or piece.split != last
            parts.setdefault(piece.split, []).extend([separator, piece.ids] if begins else [piece.ids])
            last = piece.split
        return {split: np.concatenate(arrays) for split, arrays in parts.items()}

    cores = os.cpu_count() or 1
    pending: deque[tuple[_Task, Future[list[_Encoded]]]] = deque()
    with ThreadPoolExecutor(cores) as pool:
        for task in _tasks(inputs, column):
            pending.append((task, pool.submit(run, task)))
            if len(pending) > cores + 1:
                done, future = pending.popleft()
                yield Batch(done.source.path, done.position, join(future.result()))
        for done, future in pending:
            yield Batch(done.source.path, done.position, join(future.result()))


def draw(text: str, val_fraction: float) -> Split:
    """The split of a document, by its hash: the same text always falls the same way."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return "val" if int.from_bytes(digest) < val_fraction * 2**64 else "train"


def _tasks(inputs: list[Input], column: str) -> Iterator[_Task]:
    for source in inputs:
        held: list[Piece] = []
        characters = 0
        for piece in read_pieces(source.path, column):
            held.append(piece)
            characters += len(piece.text)
            if characters >= _TASK_CHARACTERS:
                yield _Task(source, piece.position, held)
                held, characters = [], 0
        yield _Task(source, source.path.stat().st_size, held)
