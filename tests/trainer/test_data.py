"""Shards, batches and validation windows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.conftest import write_shard
from trainer.batches import TrainBatches
from trainer.data import (
    DataError,
    TokenStore,
    open_corpus,
    read_shard,
    read_split,
    text_bytes,
)

CPU = torch.device("cpu")


def test_a_shard_is_read_back(tmp_path):
    tokens = np.arange(5000) % 1024
    write_shard(tmp_path / "train_000000.bin", tokens)
    assert np.array_equal(read_shard(tmp_path / "train_000000.bin"), tokens)


@pytest.mark.parametrize("damage", ["short", "magic", "truncated"])
def test_a_damaged_shard_is_refused_by_name(tmp_path, damage):
    path = tmp_path / "train_000000.bin"
    write_shard(path, np.arange(100))
    content = bytearray(path.read_bytes())
    if damage == "magic":
        content[0] ^= 1
    path.write_bytes(content[:500] if damage == "short" else content[:-2] if damage == "truncated" else content)
    with pytest.raises(DataError, match=r"train_000000\.bin"):
        read_shard(path)


def test_missing_shards_say_what_writes_them(tmp_path):
    with pytest.raises(DataError, match="sweeper data prepare"):
        read_split(tmp_path, "train")


@settings(deadline=None, max_examples=30)
@given(
    lengths=st.lists(st.integers(10, 200), min_size=1, max_size=4),
    seq_len=st.integers(1, 12),
    seed=st.integers(0, 1000),
)
def test_an_epoch_visits_windows_of_one_shard_without_overlap(lengths, seq_len, seed):
    if max(lengths) <= 2 * seq_len:
        return
    starts = np.cumsum([0, *lengths])
    shards = [np.arange(a, b).astype(np.uint16) for a, b in itertools.pairwise(starts)]
    batches = TrainBatches(TokenStore(shards, CPU), seq_len, seed)
    windows = sum((n - 1) // seq_len - 1 for n in lengths if n > 2 * seq_len)
    inputs, targets = batches.take(windows)

    assert (targets == inputs + 1).all()  # the stream counts up, so a window is unbroken
    assert inputs.unique().numel() == inputs.numel()  # and no token is an input twice in an epoch


def test_order_is_a_function_of_seed_and_position(folder):
    store = TokenStore(read_split(folder, "train"), CPU)
    whole = TrainBatches(store, 16, seed=7)
    first, second = whole.take(2000)[0], whole.take(500)[0]
    resumed = TrainBatches(store, 16, seed=7)
    resumed.position = 2000
    assert (resumed.take(500)[0] == second).all()
    assert (TrainBatches(store, 16, seed=8).take(2000)[0] != first).any()


def test_a_store_that_does_not_fit_reads_the_same_tokens_from_the_host():
    shards = [np.arange(40_000, 40_100).astype(np.uint16), np.arange(60_000, 60_050).astype(np.uint16)]
    begins = np.array([0, 90, 100, 140])
    resident, mapped = TokenStore(shards, CPU).gather(begins, 10), TokenStore(shards, CPU, 100).gather(begins, 10)
    assert torch.equal(resident, mapped)
    assert resident[:, 0].tolist() == [40_000, 40_090, 60_000, 60_040]


@pytest.mark.parametrize("most_bytes", [1e9, 0])
def test_a_row_may_lie_in_several_shards(most_bytes):
    parts = np.split(np.arange(30).astype(np.uint16), [11, 12, 20])
    rows = TokenStore(parts, CPU, most_bytes).gather(np.array([9, 0, 26]), 8)
    assert rows.tolist() == [list(range(9, 17)), list(range(8)), [26, 27, 28, 29, 29, 29, 29, 29]]


def test_past_the_end_of_a_store_its_last_token_is_repeated():
    store = TokenStore([np.arange(10).astype(np.uint16)], CPU)
    assert store.gather(np.array([3, 8]), 4).tolist() == [[3, 4, 5, 6], [8, 9, 9, 9]]


def test_a_token_is_found_in_all_shards():
    shards = [np.array([1, 5, 1], dtype=np.uint16), np.array([7, 1], dtype=np.uint16)]
    assert TokenStore(shards, CPU).places(1).tolist() == [0, 2, 4]
    assert TokenStore(shards, CPU, 0).places(9).tolist() == []


@settings(deadline=None)
@given(
    tokens=st.lists(st.integers(0, 7), min_size=1, max_size=40),
    table=st.lists(st.tuples(st.integers(0, 20), st.booleans(), st.booleans()), min_size=8, max_size=8),
)
def test_a_leading_space_counts_inside_a_document(tokens, table):
    columns = np.array(table, dtype=np.int16).T
    counted = text_bytes(columns, np.array(tokens, dtype=np.uint16)).tolist()
    for place, token in enumerate(tokens):
        bare, has_space, _ = table[token]
        space = place > 0 and has_space and not table[tokens[place - 1]][2]
        assert counted[place] == bare + space
    assert text_bytes(columns[0], np.array(tokens, dtype=np.uint16)).tolist() == columns[0][tokens].tolist()


def test_bytes_of_val_are_right_although_they_are_counted_in_32_bits(folder):
    corpus = open_corpus(folder, CPU)
    corpus.token_bytes[:] = 30_000
    corpus.__dict__["_val_bytes_before"] = corpus.val.bytes_before(corpus.token_bytes) - np.uint32(1_000)
    assert corpus.val_bytes(np.array([0, 5]), np.array([3, 6])).tolist() == [90_000, 30_000]


def test_shards_of_another_tokeniser_are_refused(folder):
    write_shard(folder / "val_000000.bin", np.arange(500))
    with pytest.raises(DataError, match=r"a token 499 .* has only 64: they are not of one tokeniser"):
        open_corpus(folder, CPU).val_bytes(np.array([0]), np.array([3]))


def test_the_separator_is_read_from_the_manifest(folder):
    assert open_corpus(folder, CPU).separator is None
    (folder / "manifest.json").write_text('{"separator": 7}')
    assert open_corpus(folder, CPU).separator == 7
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match="does not name the separator"):
        open_corpus(folder, CPU)


def test_a_corpus_stays_open_until_its_files_change(folder):
    first = open_corpus(folder, CPU)
    assert open_corpus(folder, CPU) is first
    write_shard(folder / "val_000000.bin", np.arange(500) % 64)
    assert open_corpus(folder, CPU).val.lengths == [500]
    (folder / "token_bytes.npy").unlink()
    with pytest.raises(DataError, match="sweeper data prepare"):
        open_corpus(folder, CPU)
