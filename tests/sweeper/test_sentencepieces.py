"""SentencePiece models: ids as the library gives them, bytes as the decoded text has them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from sweeper import data, tokenizers
from sweeper.errors import SweeperError
from sweeper.sentencepieces import SentencePiece
from sweeper.shard_writer import text_bytes
from sweeper.shards import load_manifest, read_shard, verify
from tests.sweeper.golf_shards import decoded, train_model

PUBLISHED = Path(__file__).parents[2].parent / "shared" / "data" / "fineweb_1024_bpe.model"
TEXTS = [
    "The house stood on the hill.",
    " a leading space,  two inside, one after ",
    "Zürich naïve 東京 🙂 and\n\nlines\tof it",
    "x",
]
LONG = "".join(f"Line {number} of a long text\nwithout  separators, naïve as it is. " for number in range(30_000))


@pytest.fixture(scope="module", params=["prefixed", "bare", "published"])
def model(request, tmp_path_factory) -> Path:
    """One that puts a space before every text and keeps all others, one that does neither, and a public one."""
    if request.param == "published":
        if not PUBLISHED.exists():
            pytest.skip(f"the SentencePiece model {PUBLISHED.name} is not beside the project")
        return PUBLISHED
    prefixed = request.param == "prefixed"
    return train_model(
        tmp_path_factory.mktemp("model"),
        add_dummy_prefix=prefixed,
        remove_extra_whitespaces=not prefixed,
        normalization_rule_name="identity" if prefixed else "nmt_nfkc",
    )


def test_bytes_are_those_of_the_decoded_text(model):
    tokenizer, library = SentencePiece(model), sentencepiece.SentencePieceProcessor(model_file=str(model))
    for text, ids in zip(TEXTS, tokenizer.encode(TEXTS, [True] * len(TEXTS)), strict=True):
        assert ids.tolist() == library.encode(text)
        assert text_bytes(tokenizer.token_bytes, ids, tokenizer.separator) == len(library.decode(ids.tolist()).encode())
    assert tokenizer.separator == library.bos_id() == 1
    assert text_bytes(tokenizer.token_bytes, np.array([1, 2, 0, 3], dtype=np.uint16), 1) == 0


def test_text_is_prepared_whole_although_it_is_encoded_in_pieces(model, tmp_path):
    (tmp_path / "train.txt").write_text("\n<|endoftext|>\n".join([*TEXTS, LONG]))
    (tmp_path / "val.txt").write_text("\n<|endoftext|>\n".join(TEXTS))
    out = tmp_path / "out"

    made = data.prepare(
        [tmp_path / "train.txt"], str(model), out, val_paths=[tmp_path / "val.txt"], shard_tokens=99_999
    )

    library = sentencepiece.SentencePieceProcessor(model_file=str(model))
    tokens = np.concatenate([read_shard(out / shard.file) for shard in made.shards if shard.split == "train"])
    documents = decoded(tokens, library)
    assert documents == [library.decode(library.encode(text)) for text in [*TEXTS, LONG]]
    assert tokens[-len(library.encode(LONG)) :].tolist() == library.encode(LONG)
    assert made.text_bytes("train") == sum(len(text.encode()) for text in documents)
    assert (made.documents("train"), made.documents("val")) == (5, 4)
    assert (made.tokenizer, made.separator, made.vocab_size) == (model.name, 1, library.vocab_size())
    assert verify(out) == made
    assert data.ensure(str(out), str(model), tmp_path / "home") == out


def test_the_packaged_corpus_is_prepared_once_for_each_model(tmp_path):
    models = [train_model(tmp_path / name, vocab_size=size) for name, size in (("a", 300), ("b", 310))]
    folders = [data.ensure("small", str(path), tmp_path) for path in [*models, *models]]
    assert folders[:2] == folders[2:] and folders[0] != folders[1]
    assert [load_manifest(folder).vocab_size for folder in folders[:2]] == [300, 310]


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(SweeperError, match=r"there is no SentencePiece model '.*a\.model'"):
        tokenizers.check_name(str(tmp_path / "a.model"))
    (tmp_path / "a.model").write_text("{}")
    with pytest.raises(SweeperError, match=r"a\.model is no SentencePiece model"):
        tokenizers.load(str(tmp_path / "a.model"))
    headless = train_model(tmp_path / "headless", bos_id=-1)
    with pytest.raises(SweeperError, match="has no BOS token"):
        tokenizers.load(str(headless))


def test_without_the_package_the_extra_is_named_but_fingerprints_are_known(tmp_path, monkeypatch):
    path = train_model(tmp_path)
    known = SentencePiece(path).fingerprint
    monkeypatch.setitem(sys.modules, "sentencepiece", None)  # as where it is not installed

    assert tokenizers.fingerprint(str(path)) == known
    with pytest.raises(SweeperError, match="needs the extra golf: pip install sentencepiece"):
        tokenizers.load(str(path))
