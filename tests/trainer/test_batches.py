"""Windows of documents: every target once, none from another document; the order of later phases; whole runs."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.conftest import VOCAB, write_shard
from trainer import events
from trainer.batches import TrainBatches
from trainer.config import ConfigError, TrainConfig
from trainer.data import TokenStore
from trainer.loop import train
from trainer.models.loss import NO_TARGET
from trainer.windows import document_windows as placed_by_document
from trainer.windows import stream_windows as placed_in_stream

CPU = torch.device("cpu")


def stream(lengths: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Documents of so many tokens behind their separators, each the number of its place; and where they begin."""
    begins = np.cumsum([0, *(length + 1 for length in lengths[:-1])])
    return np.arange(sum(lengths) + len(lengths)).astype(np.uint16), begins


def shards(tokens: np.ndarray, cuts: list[int]) -> list[np.ndarray]:
    return [part for part in np.split(tokens, sorted(cut % len(tokens) for cut in cuts)) if len(part)]


@settings(deadline=None, max_examples=150)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=20),
    seq_len=st.integers(1, 20),
    cuts=st.lists(st.integers(0, 2_000), max_size=3),
    resident=st.booleans(),
)
def test_every_token_of_a_document_is_a_target_once_and_none_sees_another(lengths, seq_len, cuts, resident):
    tokens, begins = stream(lengths)
    store = TokenStore(shards(tokens, cuts), CPU, math.inf if resident else 0)
    batches = TrainBatches(store, seq_len, 7, documents=begins)

    inputs, targets = (found.numpy() for found in batches.take(len(batches)))

    ends = [*begins[1:], len(tokens) - 1]  # the separator after a document is its last target
    document_of = {token: number for number, begin in enumerate(begins) for token in range(begin, ends[number])}
    trained: list[int] = []
    for row, wanted in zip(inputs, targets, strict=True):
        count = int((wanted != NO_TARGET).sum())
        assert (wanted[:count] == row[:count] + 1).all(), "the target is the token after; filled up on the right alone"
        assert (row[count:] == row[0]).all(), "what fills up is of the window itself"
        assert len({document_of[token] for token in row.tolist()}) == 1
        trained += wanted[:count].tolist()
    expected = set(range(1, len(tokens)))
    for begin, end in zip(begins, ends, strict=True):
        tail = (end - begin) % seq_len
        if end - begin > seq_len and tail < seq_len / 4:
            expected -= set(range(end + 1 - tail, end + 1))
    assert sorted(trained) == sorted(expected)
    assert batches.targets == len(trained)


@settings(deadline=None, max_examples=150)
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=20), seq_len=st.integers(1, 20))
def test_windows_keep_all_targets_but_short_tails_and_what_a_stream_keeps_back(lengths, seq_len):
    tokens, begins = stream(lengths)
    placed = placed_by_document(len(tokens), seq_len, begins)
    # A document's targets are its tokens and the separator after it; the last one has none.
    targets = [*(length + 1 for length in lengths[:-1]), lengths[-1]]
    tails = [count % seq_len for count in targets if count > seq_len]
    assert placed.targets == len(tokens) - 1 - sum(tail for tail in tails if tail < seq_len / 4)
    streamed = placed_in_stream(lengths, seq_len)
    assert len(streamed) == sum(max(0, (length - 1) // seq_len - 1) for length in lengths)
    assert streamed.targets == len(streamed) * seq_len


def test_windows_of_documents_by_hand():
    found = placed_by_document(38, 8, np.array([0, 4, 21, 31]))
    assert (found.begins.tolist(), found.high.tolist()) == (
        [0, 4, 12, 21, 29, 31],  # 4 targets; 17: two windows, a tail of 1 dropped; 10: a tail of 2 is a quarter; 6
        [4, 8, 8, 8, 2, 6],
    )


def test_a_later_phase_goes_on_where_the_one_before_stopped():
    store = TokenStore([np.arange(1_000).astype(np.uint16)], CPU)
    whole = TrainBatches(store, 8, 3)
    before, after = whole.take(100)[0], whole.take(90)[0]  # the second begins the second pass on its way
    later = TrainBatches(store, 8, 3, start_window=100)

    assert torch.equal(later.take(90)[0], after)
    assert (later.position, later.epoch, whole.epoch) == (90, 1, 1)
    assert not torch.equal(TrainBatches(store, 8, 3).take(90)[0], after)
    assert len(before) == 100


def test_targets_of_a_part_are_those_that_were_handed_out():
    tokens, begins = stream([3, 30, 11, 7, 2, 19])
    batches = TrainBatches(TokenStore([tokens], CPU), 8, 5, documents=begins, start_window=4)
    handed = 0
    for sequences in (1, 5, len(batches), 2):
        handed += int((batches.take(sequences)[1] != NO_TARGET).sum())
        assert batches.targets == handed


def test_windows_and_splits_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match=r"data\.start_window must not be negative, got -1"):
        TrainConfig.from_dict({"data": {"start_window": -1}})
    with pytest.raises(ConfigError, match=r"data\.split must be one of 'train', 'reserve', got 'val'"):
        TrainConfig.from_dict({"data": {"split": "val"}})


def ran(values: dict) -> list[events.Event]:
    found: list[events.Event] = []
    train(TrainConfig.from_dict(values), found.append, lambda: False)
    return found


def by_documents(folder, length: int) -> None:
    """Give the folder documents of so many tokens, and the manifest that tells of their separator, 0."""
    tokens = np.fromfile(folder / "train_000000.bin", "<u2", offset=1024).astype(np.int64) % (VOCAB - 1) + 1
    tokens[:: length + 1] = 0
    write_shard(folder / "train_000000.bin", tokens)
    (folder / "manifest.json").write_text(json.dumps({"separator": 0}))


def test_a_run_by_documents_says_what_it_trained(folder, values):
    by_documents(folder, 11)
    values["data"]["windows"] = "documents"

    *_, outcome, end = ran(values)

    assert isinstance(outcome, events.Outcome) and isinstance(end, events.End) and end.reason == "complete"
    assert end.tokens == 12 * 256
    assert end.targets == outcome.targets == 12 * 16 * 12, "12 steps of 16 windows, a document of 12 targets each"
    values["data"]["windows"] = "stream"
    assert ran(values)[-1].targets is None


def test_documents_without_a_manifest_are_refused(values):
    values["data"]["windows"] = "documents"
    (failure,) = ran(values)
    assert (failure.reason, "needs manifest.json" in failure.message) == ("data", True)


def test_a_run_on_the_reserve_reads_its_shards_alone(folder, values):
    values["data"]["split"] = "reserve"
    (failure,) = ran(values)
    assert (failure.reason, "no reserve shards" in failure.message) == ("data", True)

    (folder / "train_000000.bin").rename(folder / "reserve_000000.bin")
    reserve = ran(values)
    (folder / "reserve_000000.bin").rename(folder / "train_000000.bin")
    values["data"]["split"] = "train"

    assert reserve[-1].reason == "complete"
    assert [e.train_loss for e in reserve if isinstance(e, events.Step)] == [
        e.train_loss for e in ran(values) if isinstance(e, events.Step)
    ]


def test_two_phases_train_on_what_one_run_does(folder, values, tmp_path):
    """At rates so small that no weight moves, so that a step's loss tells its windows alone."""
    values["eval"] = {"val_tokens": 512, "final_val_tokens": 512}
    values["optim"] = dict.fromkeys(("matrix_lr", "scalar_lr", "embed_lr", "head_lr"), 1e-30)
    whole = [e.train_loss for e in ran(values) if isinstance(e, events.Step)]
    second = {**values, "budget": {"steps": 5}, "data": {**values["data"], "start_window": 7 * 16}}

    assert [e.train_loss for e in ran(second) if isinstance(e, events.Step)] == whole[7:12]
