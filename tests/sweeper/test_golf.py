"""Published shards, read where they lie: val_bpb as an independent count of the text has it."""

from __future__ import annotations

import lzma
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
from torch import Tensor, nn

from sweeper import data
from sweeper.errors import SweeperError
from sweeper.shards import load_manifest, verify
from tests.sweeper.golf_shards import decoded, encoded, train_model, write_shard
from trainer.data import open_corpus
from trainer.evaluate import Validator

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
PUBLISHED = SHARED / "fineweb_1024_bpe.model"
CPU = torch.device("cpu")


class ByTarget(nn.Module):
    """Charges for each token what its id says, in float64."""

    def forward(self, tokens: Tensor, targets: Tensor, per_token: bool) -> Tensor:
        return 1 + targets.double() / 1000


def some_texts() -> list[str]:
    """Of a large corpus where there is one, else of the packaged one."""
    path = SHARED / "corpus" / "val.txt.xz"
    if not path.exists():
        path = SHARED / "small" / "val.txt"
    with lzma.open(path, "rt") if path.suffix == ".xz" else path.open() as file:
        return file.read(600_000).split("\n<|endoftext|>\n")


@pytest.mark.skipif(not PUBLISHED.exists(), reason=f"the model {PUBLISHED.name} is not beside the project")
def test_val_bpb_is_that_of_the_decoded_text(tmp_path):
    library = sentencepiece.SentencePieceProcessor(model_file=str(PUBLISHED))
    stream = np.array(encoded(some_texts(), library))
    write_shard(tmp_path / "golf" / "fineweb_train_000000.bin", stream)
    write_shard(tmp_path / "golf" / "fineweb_val_000000.bin", stream[:70_000])
    write_shard(tmp_path / "golf" / "fineweb_val_000001.bin", stream[70_000:])

    corpus = open_corpus(data.ensure(str(tmp_path / "golf"), str(PUBLISHED), tmp_path / "home"), CPU)

    texts = decoded(stream, library)
    written = sum(len(text.encode()) for text in texts)
    assert written > 500_000 and any(not text.isascii() for text in texts)
    nats = sum(1 + int(token) / 1000 for token in stream[1:])
    seq_len = next(length for length in range(64, len(stream)) if (len(stream) - 1) % length == 0)
    for kind in ({}, {"stride": 48}, {"by_document": True}):
        validator = Validator(corpus, seq_len=seq_len, tokens=0, batch_sequences=64, device=CPU, **kind)
        score = validator.score(ByTarget(), lambda: False)
        assert score.tokens == len(stream) - 1
        assert score.val_bpb == pytest.approx(nats / math.log(2) / written, rel=1e-9)


@pytest.fixture
def golf(tmp_path) -> Path:
    """A folder of small shards, its model beside them."""
    folder = tmp_path / "golf"
    model = train_model(folder)
    library = sentencepiece.SentencePieceProcessor(model_file=str(model))
    stream = encoded([f"the sea number {number} was wide" for number in range(100)], library)
    for name in ("train_000000", "train_000001", "val_000000"):
        write_shard(folder / f"fineweb_{name}.bin", stream)
    return folder


def test_shards_are_linked_not_copied_and_once(golf, tmp_path):
    linked = data.ensure(str(golf), "tiny.model", tmp_path / "home")  # beside the shards

    assert sorted(path.name for path in linked.iterdir() if path.is_symlink()) == sorted(
        path.name for path in golf.glob("*.bin")
    )
    manifest = verify(linked)
    stream_tokens = (golf / "fineweb_val_000000.bin").stat().st_size // 2 - 512
    assert (manifest.tokens("train"), manifest.tokens("val")) == (2 * stream_tokens, stream_tokens)
    assert (manifest.separator, manifest.tokenizer) == (1, "tiny.model")
    assert data.ensure(str(golf), str(golf / "tiny.model"), tmp_path / "home") == linked
    assert open_corpus(linked, CPU).separator == 1

    shutil.copy(golf / "fineweb_train_000000.bin", golf / "fineweb_train_000002.bin")
    assert load_manifest(data.ensure(str(golf), "tiny.model", tmp_path / "home")).tokens("train") == 3 * stream_tokens
    assert not list((tmp_path / "home" / "data").glob("*.partial"))


def test_a_linked_folder_needs_no_package_again(golf, tmp_path, monkeypatch):
    linked = data.ensure(str(golf), "tiny.model", tmp_path / "home")
    monkeypatch.setitem(__import__("sys").modules, "sentencepiece", None)
    assert data.ensure(str(golf), "tiny.model", tmp_path / "home") == linked


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("truncated", r"fineweb_train_000001\.bin must have .* bytes by its header"),
        ("no val", r"has no val shards \(\*val_\*\.bin\)"),
        ("larger vocabulary", "holds the token 319, tiny.model has only 300: another tokenizer's"),
        ("no documents", r"no document begins in the first 50 tokens of .*train_000001\.bin"),
        ("no model", r"there is no SentencePiece model 'other\.model', nor one of that name in"),
    ],
)
def test_shards_that_cannot_be_used_are_refused(damage, said, golf, tmp_path):
    shard, model = golf / "fineweb_train_000001.bin", "tiny.model"
    if damage == "truncated":
        shard.write_bytes(shard.read_bytes()[:-2])
    elif damage == "no val":
        (golf / "fineweb_val_000000.bin").unlink()
    elif damage == "larger vocabulary":
        train_model(golf, vocab_size=300)
        write_shard(golf / "fineweb_train_000000.bin", [1, 319])
    elif damage == "no documents":
        write_shard(shard, [5] * 50)
    else:
        model = "other.model"
    with pytest.raises(SweeperError, match=said):
        data.ensure(str(golf), model, tmp_path / "home")
    assert not list(tmp_path.glob("home/data/*"))


def test_shards_named_with_a_packaged_tokenizer_say_what_to_name(golf, tmp_path):
    with pytest.raises(SweeperError, match=r"it holds shards, .* where data\.tokenizer names their SentencePiece"):
        data.ensure(str(golf), "sweeper1024", tmp_path / "home")
