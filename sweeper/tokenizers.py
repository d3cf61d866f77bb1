"""The tokenisers that sweeper ships: byte-level BPE as tiktoken ranks, no download ever.  Others are SentencePiece
models, named by their path.

`gpt2` is OpenAI's; `sweeper1024` is ours, trained on the packaged corpus.  To train it again, bit for bit
(needs the `tokenizers` package, which comes with the extra `dev`):

    python -m sweeper.tokenizers --rebuild
"""

from __future__ import annotations

import argparse
import base64
import functools
import hashlib
import importlib.resources
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import tiktoken
import zstandard
from numpy.typing import NDArray

from sweeper import sentencepieces
from sweeper.errors import SweeperError

SEPARATOR = "<|endoftext|>"
"""Stands before each document; 0 bytes of text. The last token of both vocabularies."""

VOCABULARY_SIZES = {"gpt2": 50_257, "sweeper1024": 1_024}
"""Tokens of each tokeniser, the separator included."""

# The GPT-2 pattern as tiktoken writes it (possessive, so faster; the same pieces).
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""

_FILES = {"gpt2": "gpt2.tiktoken.zst", "sweeper1024": "sweeper1024.tiktoken"}


class Tokenizer(Protocol):
    """One tokeniser, loaded."""

    name: str
    fingerprint: str
    """SHA-256 of what decides a text's ids."""
    separator: int
    """Id of the token that stands before each document."""
    token_bytes: NDArray[np.int16]
    """(vocabulary,) or (3, vocabulary), as `shards` says."""

    def encode(self, texts: Sequence[str], starts: Sequence[bool]) -> list[NDArray[np.uint16]]:
        """Ids of each text, which starts a document or goes on with one."""


class Packaged:
    """A tokeniser that sweeper ships."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.fingerprint = fingerprint(name)
        self.separator = separator_id(name)
        self.token_bytes = token_bytes(name)
        self._encoding = encoding(name)

    def encode(self, texts: Sequence[str], starts: Sequence[bool]) -> list[NDArray[np.uint16]]:
        return [self._encoding.encode_to_numpy(text, disallowed_special=()).astype(np.uint16) for text in texts]


def load(name: str) -> Tokenizer:
    """The tokeniser of that name, or the SentencePiece model at that path.

    Raises:
        SweeperError: an unknown name, or a model that cannot be loaded.
    """
    return sentencepieces.SentencePiece(Path(name)) if is_model(name) else Packaged(name)


def is_model(name: str) -> bool:
    """Whether the name is the path of a SentencePiece model."""
    return name.endswith(sentencepieces.SUFFIX)


def label(name: str) -> str:
    """For a folder's name."""
    return f"{Path(name).stem}-{fingerprint(name)[:8]}" if is_model(name) else name


def check_name(name: str) -> None:
    """Raises SweeperError for a tokeniser that sweeper does not have."""
    if name not in VOCABULARY_SIZES and not (is_model(name) and Path(name).is_file()):
        known = ", ".join(VOCABULARY_SIZES)
        if is_model(name):
            raise SweeperError(
                f"there is no SentencePiece model {name!r}; the tokenizers that need no file are {known}"
            )
        raise SweeperError(
            f"unknown tokenizer {name!r}: choose one of {known}, or name a SentencePiece {sentencepieces.SUFFIX} file"
        )


@functools.cache
def encoding(name: str) -> tiktoken.Encoding:
    """The tokeniser as a tiktoken encoding, built from the packaged ranks.

    Raises:
        SweeperError: an unknown name.
    """
    ranks = read_ranks(_packaged(name))
    return tiktoken.Encoding(
        name,
        pat_str=PATTERN,
        mergeable_ranks=ranks,
        special_tokens={SEPARATOR: len(ranks)},
        explicit_n_vocab=VOCABULARY_SIZES[name],
    )


def separator_id(name: str) -> int:
    """Id of the token that stands before each document."""
    check_name(name)
    return VOCABULARY_SIZES[name] - 1


def token_bytes(name: str) -> NDArray[np.int16]:
    """(vocabulary,) bytes of UTF-8 text that each token stands for; 0 for the separator.

    Raises:
        SweeperError: an unknown name.
    """
    lengths = np.zeros(encoding(name).n_vocab, dtype=np.int16)
    for token, rank in read_ranks(_packaged(name)).items():
        lengths[rank] = len(token)
    return lengths


def fingerprint(name: str) -> str:
    """SHA-256 of what decides a text's ids: pattern, ranks and separator, or a model's file.

    Raises:
        SweeperError: an unknown name, or no such file.
    """
    return sentencepieces.fingerprint(Path(name)) if is_model(name) else _packaged_fingerprint(name)


@functools.cache
def _packaged_fingerprint(name: str) -> str:
    return hashlib.sha256(f"{PATTERN}\n{SEPARATOR}\n".encode() + _packaged(name)).hexdigest()


def read_ranks(text: bytes) -> dict[bytes, int]:
    """Ranks in tiktoken's format: a line holds a token in base64 and its rank."""
    ranks = {}
    for line in text.splitlines():
        token, rank = line.split()
        ranks[base64.b64decode(token)] = int(rank)
    return ranks


def write_ranks(ranks: dict[bytes, int]) -> bytes:
    """The inverse of `read_ranks`, by rising rank."""
    lines = sorted((rank, base64.b64encode(token)) for token, rank in ranks.items())
    return b"".join(b"%s %d\n" % (token, rank) for rank, token in lines)


def train(documents: Iterable[str], vocabulary: int) -> dict[bytes, int]:
    """Ranks of a byte-level BPE of `vocabulary` tokens, one of them left for the separator.

    Deterministic: pairs of equal count are ordered by their ids.  Needs the `tokenizers` package.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers  # a development dependency only

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - 1,
        initial_alphabet=sorted(_BYTE_OF_LETTER),
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return {bytes(_BYTE_OF_LETTER[letter] for letter in token): rank for token, rank in tokenizer.get_vocab().items()}


def rebuild() -> bytes:
    """The ranks file of sweeper1024, trained anew on the packaged corpus."""
    return write_ranks(train(_packaged_documents(), VOCABULARY_SIZES["sweeper1024"]))


def _packaged(name: str) -> bytes:
    check_name(name)
    data = (importlib.resources.files("sweeper") / "assets" / _FILES[name]).read_bytes()
    return zstandard.decompress(data) if _FILES[name].endswith(".zst") else data


def _packaged_documents() -> Iterator[str]:
    packed = (importlib.resources.files("sweeper") / "assets" / "small" / "train.txt.zst").read_bytes()
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(packed)) as stream:
        text = stream.read().decode()
    yield from text.split(f"\n{SEPARATOR}\n")


def _letters() -> dict[str, int]:
    """GPT-2's printable stand-ins for bytes, in which the `tokenizers` package writes tokens: printable
    Latin-1 stands for itself, the rest moves up from U+0100 in order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(moved)}


_BYTE_OF_LETTER = _letters()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sweeper.tokenizers", description=__doc__)
    parser.add_argument("--rebuild", action="store_true", required=True, help="train sweeper1024 again")
    parser.parse_args()
    path = Path(str(importlib.resources.files("sweeper") / "assets" / _FILES["sweeper1024"]))
    path.write_bytes(rebuild())


if __name__ == "__main__":
    main()
