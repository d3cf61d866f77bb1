"""val_bpb against a computation by hand on a small text."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainer.data import Corpus, DataError, TokenStore
from trainer.evaluate import Validator

TEXT = "naïve cats nap"
PIECES = ["<|endoftext|>", "na", "ï", "ve", " cats", " nap", "!"]
IDS = np.array([0, 1, 2, 3, 4, 5], dtype=np.uint16)
BYTES = np.array([0, 2, 2, 2, 5, 4, 1])
CPU = torch.device("cpu")


class Bigram(nn.Module):
    """Gives target j after token i the probability (1 + [j = i + 1] · 5) / 12 over seven tokens."""

    def forward(self, tokens: Tensor, targets: Tensor, per_sequence: bool) -> Tensor:
        assert per_sequence
        weight = 1.0 + 5.0 * (targets == tokens + 1)
        return -(weight / 12).log().mean(1)


def validator(stream: list[int] | np.ndarray, *, seq_len: int, batch: int = 4) -> Validator:
    store = TokenStore([np.asarray(stream, dtype=np.uint16)], CPU)
    corpus = Corpus(train=store, val=store, token_bytes=BYTES)
    return Validator(corpus, seq_len=seq_len, tokens=0, batch_sequences=batch, device=CPU)


def test_bits_per_byte_by_hand():
    assert "".join(PIECES[i] for i in IDS[1:]) == TEXT
    score = validator(IDS, seq_len=5).score(Bigram(), lambda: False)
    nats = 5 * -math.log(6 / 12)
    assert score.val_loss == pytest.approx(nats / 5)
    assert score.val_bpb == pytest.approx(nats / math.log(2) / len(TEXT.encode()))
    assert score.tokens == 5


def test_the_score_does_not_depend_on_the_batch():
    stream = np.random.default_rng(0).integers(7, size=56)
    one, four, all_at_once = (
        validator(stream, seq_len=5, batch=size).score(Bigram(), lambda: False) for size in (1, 4, 11)
    )
    assert one.tokens == four.tokens == all_at_once.tokens == 55
    assert one.val_bpb == pytest.approx(four.val_bpb, rel=1e-6)
    assert one.val_bpb == pytest.approx(all_at_once.val_bpb, rel=1e-6)


def test_a_separator_costs_nats_but_stands_for_no_bytes():
    score = validator([*IDS, 0], seq_len=6).score(Bigram(), lambda: False)
    assert score.val_bpb == pytest.approx((5 * math.log(2) + math.log(12)) / math.log(2) / len(TEXT.encode()))


def test_targets_without_bytes_are_refused():
    with pytest.raises(DataError, match="0 bytes"):
        validator([0, 0, 0, 0], seq_len=3)


def test_a_stop_ends_the_validation():
    assert validator(IDS, seq_len=5).score(Bigram(), lambda: True) is None


class Small(Bigram):
    """Has no memory for more than three windows."""

    def forward(self, tokens: Tensor, targets: Tensor, per_sequence: bool) -> Tensor:
        if len(tokens) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return super().forward(tokens, targets, per_sequence)


def test_out_of_memory_halves_the_windows_of_a_pass_and_scores_each_once():
    stream = np.random.default_rng(0).integers(7, size=56)
    whole = validator(stream, seq_len=5, batch=8).score(Bigram(), lambda: False)
    halved = validator(stream, seq_len=5, batch=8).score(Small(), lambda: False)
    assert halved.tokens == whole.tokens
    assert halved.val_bpb == pytest.approx(whole.val_bpb, rel=1e-6)
    single = validator(stream, seq_len=5, batch=8)
    single.warm_up(Small())
    assert single.score(Small(), lambda: False).val_bpb == pytest.approx(whole.val_bpb, rel=1e-6)


def test_the_standard_error_foretells_how_scores_of_other_samples_differ():
    generator = np.random.default_rng(1)
    samples = [validator(generator.integers(7, size=5 * 60 + 1), seq_len=5) for _ in range(200)]
    scores = [sample.score(Bigram(), lambda: False) for sample in samples]
    spread = np.std([score.val_bpb for score in scores])
    assert np.mean([score.val_bpb_stderr for score in scores]) == pytest.approx(spread, rel=0.15)
    assert validator(IDS, seq_len=5).score(Bigram(), lambda: False).val_bpb_stderr == 0.0
