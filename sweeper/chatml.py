"""Conversations as ChatML text, with two ids of their own for its markers.

    <|im_start|>user
    What is 2 + 2?<|im_end|>
    <|im_start|>assistant
    4.<|im_end|>

Between here and the ids, a marker is half of a surrogate pair: no text can hold one, whatever it says about markers.
So a conversation that quotes `<|im_start|>` is encoded as the letters that it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweeper.errors import SweeperError
from sweeper.tokenizers import Tokenizer

MARKERS = ("<|im_start|>", "<|im_end|>")
"""Their ids follow the tokenizer's own, in this order."""
_START, _END = "\ud800", "\ud801"
_SPLIT = re.compile(f"([{_START}{_END}])")


def render(row: Any, where: str) -> str:
    """The text of one conversation, its markers as said above.

    Args:
        row: {"messages": [{"role", "content"}, …]} or {"prompt", "response"}; other keys are left aside.
        where: for errors.

    Raises:
        SweeperError: another shape, a role that is no word, or content that is no text.
    """
    messages = _messages(row, where)
    return "".join(f"{_START}{role}\n{content}{_END}\n" for role, content in messages)


def _messages(row: Any, where: str) -> list[tuple[str, str]]:
    if isinstance(row, dict) and isinstance(row.get("messages"), list) and row["messages"]:
        return [_message(message, f"{where}, message {i}") for i, message in enumerate(row["messages"], start=1)]
    if isinstance(row, dict) and {"prompt", "response"} <= row.keys():
        pair = (("user", row["prompt"]), ("assistant", row["response"]))
        return [_message({"role": role, "content": content}, where) for role, content in pair]
    found = f"the keys {', '.join(row)}" if isinstance(row, dict) else f"{str(row)[:60]!r}"
    raise SweeperError(
        f'{where}: expected {{"messages": [{{"role": …, "content": …}}, …]}} with at least one message, or '
        f'{{"prompt": …, "response": …}}; found {found}'
    )


def _message(message: Any, where: str) -> tuple[str, str]:
    if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
        raise SweeperError(f"{where}: expected an object with role and content, found {str(message)[:60]!r}")
    role, content = message["role"], message["content"]
    for name, value in (("role", role), ("content", content)):
        if not isinstance(value, str):
            raise SweeperError(f"{where}: {name} must be text, got {str(value)[:60]!r} ({type(value).__name__})")
        try:
            value.encode()
        except UnicodeEncodeError as error:  # JSON can write half of a surrogate pair
            raise SweeperError(f"{where}: {name} is not valid Unicode: {error}") from error
    if not role or role.split() != [role]:
        raise SweeperError(f"{where}: role must be one word, such as user or assistant, got {role[:60]!r}")
    return role, content


def question(prompt: str) -> str:
    """A user's turn and the beginning of the answer, its markers as said above.

    Raises:
        SweeperError: no valid text.
    """
    return render({"messages": [{"role": "user", "content": prompt}]}, "prompt") + f"{_START}assistant\n"


class ChatTokenizer:
    """Another tokenizer with the markers added.

    Raises:
        SweeperError: its vocabulary has no room for two more ids in 16 bits.
    """

    def __init__(self, base: Tokenizer) -> None:
        size = base.token_bytes.shape[-1]
        if size + len(MARKERS) > 2**16:
            raise SweeperError(
                f"{base.name} has {size:,} ids, and shards hold ids below 65,536: no room for ChatML's two"
            )
        self._base = base
        self.name = base.name
        self.fingerprint = base.fingerprint
        self.separator = base.separator
        self.added = {marker: size + i for i, marker in enumerate(MARKERS)}
        """Ids of the markers."""
        more = np.zeros((*base.token_bytes.shape[:-1], len(MARKERS)), dtype=np.int16)
        if more.ndim == 2:
            more[2] = 1  # a leading space does not count after a marker
        self.token_bytes: NDArray[np.int16] = np.concatenate((base.token_bytes, more), axis=-1)
        self._marks = {mark: np.array([size + i], np.uint16) for i, mark in enumerate((_START, _END))}

    def encode(self, texts: Sequence[str], starts: Sequence[bool]) -> list[NDArray[np.uint16]]:
        """Ids of each text; what stands behind a marker is encoded apart from what stands before it."""
        parts = [[part for part in _SPLIT.split(text) if part] for text in texts]
        plain = [
            (part, i == 0 and begins)
            for found, begins in zip(parts, starts, strict=True)
            for i, part in enumerate(found)
            if part not in self._marks
        ]
        ids = iter(self._base.encode([part for part, _ in plain], [begins for _, begins in plain]))
        return [
            np.concatenate([self._marks[part] if part in self._marks else next(ids) for part in found])
            for found in parts
        ]
