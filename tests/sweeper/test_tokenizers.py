"""The shipped tokenisers against the `tokenizers` package, their known ids, and their own rebuild."""

from __future__ import annotations

import subprocess
import sys
from importlib import resources

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from sweeper import tokenizers
from sweeper.documents import read_pieces
from sweeper.errors import SweeperError

NAMES = list(tokenizers.VOCABULARY_SIZES)

SAMPLES = [
    "",
    "hello world",
    "It's what they'll say: we've won, I'd think; he's I'm you're can't",
    "  leading, trailing  \n\n\n three breaks\t tab \r\n and   runs   ",
    "Zürich naïve 東京 москва 🙂🙃 éé ﬁ ½ ²",
    "x = [1, 2, 3]; y == 3.14159e-10 # comment <|endoftext|> is text here",
    "0123456789" * 5,
    "a" * 300 + " " * 300 + "!" * 300,
]


@pytest.mark.parametrize("name", NAMES)
@given(text=st.text())
def test_any_text_survives_the_round_trip(name, text):
    encoding = tokenizers.encoding(name)

    ids = encoding.encode_ordinary(text)

    assert encoding.decode(ids) == text
    assert sum(len(encoding.decode_single_token_bytes(id)) for id in ids) == len(text.encode())


def test_gpt2_gives_the_ids_that_everyone_else_gets():
    assert tokenizers.encoding("gpt2").encode_ordinary("hello world") == [31373, 995]
    assert tokenizers.encoding("gpt2").encode_ordinary(" Hello, world!\n") == [18435, 11, 995, 0, 198]
    assert tokenizers.separator_id("gpt2") == 50_256


@pytest.mark.parametrize("name", NAMES)
def test_vocabulary_is_whole(name):
    encoding = tokenizers.encoding(name)
    size = tokenizers.VOCABULARY_SIZES[name]
    lengths = tokenizers.token_bytes(name)

    assert encoding.n_vocab == size
    assert encoding.encode(tokenizers.SEPARATOR, allowed_special="all") == [size - 1]
    assert tokenizers.separator_id(name) == size - 1
    assert (lengths.shape, lengths.dtype) == ((size,), np.int16)
    assert lengths[size - 1] == 0
    assert all(lengths[id] == len(encoding.decode_single_token_bytes(id)) > 0 for id in range(size - 1))


def test_sweeper1024_encodes_as_the_library_that_trained_it():
    reference = library_encoder("sweeper1024")
    encoding = tokenizers.encoding("sweeper1024")
    corpus = resources.files("sweeper") / "assets" / "small"
    with resources.as_file(corpus) as folder:
        texts = SAMPLES + [piece.text for piece in read_pieces(folder / "val.txt.zst", "text")]

    assert len(texts) == len(SAMPLES) + 42
    for text in texts:
        assert encoding.encode_ordinary(text) == reference.encode(text).ids


def test_gpt2_encodes_as_a_bpe_of_the_same_merges():
    reference = library_encoder("gpt2")

    for text in SAMPLES:
        assert tokenizers.encoding("gpt2").encode_ordinary(text) == reference.encode(text).ids


def test_sweeper1024_is_rebuilt_bit_for_bit():
    shipped = resources.files("sweeper") / "assets" / "sweeper1024.tiktoken"

    assert tokenizers.rebuild() == shipped.read_bytes()


def test_ranks_survive_their_file():
    ranks = {b"\n": 0, b" ": 1, b"\xff\x00": 2}

    assert tokenizers.read_ranks(tokenizers.write_ranks(ranks)) == ranks


def test_fingerprints_tell_tokenizers_apart():
    assert len({tokenizers.fingerprint(name) for name in NAMES}) == len(NAMES)


def test_unknown_names_are_refused_with_those_there_are():
    with pytest.raises(SweeperError, match="unknown tokenizer 'gpt3': choose one of gpt2, sweeper1024"):
        tokenizers.encoding("gpt3")


def test_no_network_no_download_and_no_tokenizers_package():
    """In a process of its own, as audit hooks stay."""
    code = """
import sys
def refuse(event, arguments):
    if event.startswith("socket.") or event == "urllib.Request":
        raise RuntimeError(f"{event} {arguments}")
sys.addaudithook(refuse)
from sweeper import tokenizers
for name in tokenizers.VOCABULARY_SIZES:
    assert tokenizers.encoding(name).decode(tokenizers.encoding(name).encode_ordinary("word")) == "word"
print([name for name in ("tokenizers", "requests", "torch") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.strip() == "[]"


def library_encoder(name: str) -> Tokenizer:
    """The shipped ranks as an encoder of the `tokenizers` package, its merges worked out from the ranks: a
    token was made of the two that its bytes give when only earlier merges are applied."""
    letter = {byte: char for char, byte in tokenizers._BYTE_OF_LETTER.items()}
    ranks = tokenizers.read_ranks(tokenizers._packaged(name))
    spelled = {token: "".join(letter[byte] for byte in token) for token in ranks}
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) > 1:
            left, right = halves(token, ranks, rank)
            merges.append((spelled[left], spelled[right]))
    vocabulary = {spelled[token]: rank for token, rank in ranks.items()}
    encoder = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    encoder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    return encoder


def halves(token: bytes, ranks: dict[bytes, int], rank: int) -> list[bytes]:
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        pairs = [ranks.get(parts[i] + parts[i + 1], rank) for i in range(len(parts) - 1)]
        best = min(range(len(pairs)), key=pairs.__getitem__)
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return parts
