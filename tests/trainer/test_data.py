"""Shards, batches and validation windows."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.conftest import write_shard
from trainer.data import DataError, TrainBatches, read_shard, read_split, read_token_bytes, validation_windows


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


def test_a_vocabulary_smaller_than_the_tokenisers_is_refused(folder):
    with pytest.raises(DataError, match=r"64 token ids, but model\.vocab_size is 32"):
        read_token_bytes(folder, 32)
    assert read_token_bytes(folder, 100).tolist() == [2] * 64 + [0] * 36


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
    batches = TrainBatches(shards, seq_len, seed)
    windows = sum((n - 1) // seq_len - 1 for n in lengths if n > 2 * seq_len)
    inputs, targets = batches.take(windows)

    assert (targets == inputs + 1).all()  # the stream counts up, so a window is unbroken
    assert inputs.unique().numel() == inputs.numel()  # and no token is an input twice in an epoch


def test_order_is_a_function_of_seed_and_position(folder):
    shards = read_split(folder, "train")
    whole = TrainBatches(shards, 16, seed=7)
    first, second = whole.take(2000)[0], whole.take(500)[0]
    resumed = TrainBatches(shards, 16, seed=7)
    resumed.position = 2000
    assert (resumed.take(500)[0] == second).all()
    assert (TrainBatches(shards, 16, seed=8).take(2000)[0] != first).any()


def test_validation_windows_cover_the_stream_once():
    stream = np.arange(1003).astype(np.uint16)
    windows = validation_windows([stream[:500], stream[500:]], 100, 0)
    assert windows[:, 1:].ravel().tolist() == list(range(1, 1001))
    some = validation_windows([stream], 100, 350)
    assert some[:, 0].tolist() == [0, 300, 600]
    with pytest.raises(DataError, match="only 50 tokens"):
        validation_windows([stream[:50]], 100, 0)
