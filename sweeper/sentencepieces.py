"""SentencePiece models, such as those of parameter-golf: ids of text, and the bytes that each token stands for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweeper.errors import SweeperError

SUFFIX = ".model"
SPACE = "\u2581"
"""What stands for a space in a piece."""
_MARK = "."  # stands before text that goes on, so that its first space is kept


def fingerprint(path: Path) -> str:
    """SHA-256 of the model's file; needs no package.

    Raises:
        SweeperError: there is no such file.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise SweeperError(f"there is no SentencePiece model {path}: {error.strerror}") from error


class SentencePiece:
    """One model, loaded.

    Raises:
        SweeperError: no such file, no model, one without a BOS token, or the package is not installed.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self.fingerprint = fingerprint(path)
        self._processor = _load(path)
        self.separator = int(self._processor.bos_id())
        """BOS, which stands before each document."""
        if self.separator < 0:
            raise SweeperError(f"{path} has no BOS token to stand before each document")
        if self._processor.vocab_size() > 2**16:
            raise SweeperError(f"{path} has {self._processor.vocab_size()} tokens; shards hold ids below 65,536")
        self.token_bytes = _token_bytes(self._processor)
        self._mark: list[int] = self._processor.encode(_MARK)

    def encode(self, texts: Sequence[str], starts: Sequence[bool]) -> list[NDArray[np.uint16]]:
        """Ids of each text, which starts a document or goes on with one."""
        # A model may drop or add a space where a text begins; behind a mark, nothing begins.
        marked = [not start and text[:1].isspace() for text, start in zip(texts, starts, strict=True)]
        given = [_MARK + text if mark else text for text, mark in zip(texts, marked, strict=True)]
        encoded = self._processor.encode(given, num_threads=os.cpu_count() or 1)
        skipped = len(self._mark)
        return [
            np.array(ids[skipped:] if mark and ids[:skipped] == self._mark else ids, dtype=np.uint16)
            for ids, mark in zip(encoded, marked, strict=True)
        ]


def decoder(path: Path) -> tuple[int, Callable[[list[int]], str]]:
    """Ids of the model, and what makes text of them; raises as `SentencePiece`."""
    processor = _load(path)
    return processor.vocab_size(), processor.decode


def _load(path: Path) -> Any:
    try:
        import sentencepiece  # of the extra `golf`
    except ImportError as error:
        raise SweeperError(
            f"the tokenizer {path} is a SentencePiece model, which needs the extra golf: pip install sentencepiece"
        ) from error
    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise SweeperError(f"{path} is no SentencePiece model: {error}") from error


def _token_bytes(processor: Any) -> NDArray[np.int16]:
    """(3, vocabulary): bytes without a leading space, 1 for tokens that have one, 1 for tokens after which it does
    not count: as parameter-golf counts them, but for spaces inside a piece, which its models do not have and which
    it would count as the three bytes of their stand-in."""
    table = np.zeros((3, processor.vocab_size()), dtype=np.int16)
    for token in range(processor.vocab_size()):
        if processor.is_control(token) or processor.is_unknown(token) or processor.is_unused(token):
            table[2, token] = 1
        elif processor.is_byte(token):
            table[0, token] = 1
        else:
            piece: str = processor.id_to_piece(token)
            table[1, token] = piece.startswith(SPACE)
            table[0, token] = len(piece.removeprefix(SPACE).replace(SPACE, " ").encode())
    return table
