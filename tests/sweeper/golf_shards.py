"""Shards and models as parameter-golf publishes them, small."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

SENTENCES = [f"the house on the hill number {number} stood and the sea was wide" for number in range(200)]


def train_model(folder: Path, **options: Any) -> Path:
    """A SentencePiece model of the kind that the published ones are; `options` are its trainer's."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = {"model_type": "bpe", "byte_fallback": True, "vocab_size": 320, "minloglevel": 2}
    ids = {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_prefix=str(folder / "tiny"), **{**kind, **ids, **options}
    )
    return folder / "tiny.model"


def write_shard(path: Path, tokens: Sequence[int] | np.ndarray) -> None:
    header = np.zeros(256, dtype="<i4")
    header[:3] = 20240520, 1, len(tokens)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header.tobytes() + np.asarray(tokens).astype("<u2").tobytes())


def encoded(texts: Sequence[str], library: sentencepiece.SentencePieceProcessor) -> list[int]:
    """The documents as one stream, BOS before each."""
    return [token for text in texts for token in (library.bos_id(), *library.encode(text))]


def decoded(tokens: np.ndarray, library: sentencepiece.SentencePieceProcessor) -> list[str]:
    """The texts of a stream's documents."""
    runs = np.split(tokens, np.flatnonzero(tokens == library.bos_id()))[1:]
    return [library.decode(run[1:].tolist()) for run in runs]
