"""Ids back to text: what a model said, for people to read."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sweeper import sentencepieces, tokenizers
from sweeper.chatml import MARKERS
from sweeper.errors import SweeperError

UNKNOWN = "\ufffd"
"""For an id that the tokenizer does not have."""


def text_of(tokenizer: str, ids: Sequence[int]) -> str:
    """The text that ids of a tokenizer stand for, ChatML's two markers and the separator written out.

    Raises:
        SweeperError: no such tokenizer.
    """
    words, decode = _decoder(tokenizer)
    special = dict(enumerate(MARKERS, start=words))
    parts = []
    for known, run in itertools.groupby(ids, key=lambda token: 0 <= token < words):
        tokens = list(run)
        parts += [decode(tokens)] if known else [special.get(token, UNKNOWN) for token in tokens]
    return "".join(parts)


@functools.cache
def _decoder(name: str) -> tuple[int, Callable[[list[int]], str]]:
    """Ids of the tokenizer itself, and how they are read."""
    if tokenizers.is_model(name):
        return sentencepieces.decoder(Path(name))
    encoding = tokenizers.encoding(name)

    def decode(ids: list[int]) -> str:
        return encoding.decode_bytes(ids).decode("utf-8", "replace")

    return encoding.n_vocab, decode


def with_text(event: dict[str, Any], tokenizer: str) -> dict[str, Any]:
    """A trainer's Sample, as plain values, with prompt and continuation as text; as it is without the tokenizer."""
    try:
        return {**event, "prompt": text_of(tokenizer, event["prompt_ids"]), "text": text_of(tokenizer, event["ids"])}
    except SweeperError:
        return event
