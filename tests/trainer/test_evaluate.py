"""val_bpb against a computation by hand on a small text."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainer.data import DataError
from trainer.evaluate import Validator

TEXT = "naïve cats nap"
PIECES = ["<|endoftext|>", "na", "ï", "ve", " cats", " nap", "!"]
IDS = np.array([0, 1, 2, 3, 4, 5], dtype=np.uint16)
BYTES = torch.tensor([0, 2, 2, 2, 5, 4, 1])
CPU = torch.device("cpu")


class Bigram(nn.Module):
    """Gives target j after token i the probability (1 + [j = i + 1] · 5) / 12 over seven tokens."""

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        weight = 1.0 + 5.0 * (targets == tokens + 1)
        return -(weight / 12).log().mean()


def test_bits_per_byte_by_hand():
    assert "".join(PIECES[i] for i in IDS[1:]) == TEXT
    score = Validator(IDS[None], BYTES, 4, CPU).score(Bigram(), lambda: False)
    nats = 5 * -math.log(6 / 12)
    assert score.val_loss == pytest.approx(nats / 5)
    assert score.val_bpb == pytest.approx(nats / math.log(2) / len(TEXT.encode()))
    assert score.tokens == 5


def test_the_score_does_not_depend_on_the_batch():
    windows = np.random.default_rng(0).integers(7, size=(11, 6)).astype(np.uint16)
    scores = [Validator(windows, BYTES, size, CPU).score(Bigram(), lambda: False) for size in (1, 4, 11)]
    assert scores[0].val_bpb == pytest.approx(scores[1].val_bpb, rel=1e-6)
    assert scores[0].val_bpb == pytest.approx(scores[2].val_bpb, rel=1e-6)


def test_a_separator_costs_nats_but_stands_for_no_bytes():
    with_separator = np.array([[0, 1, 2, 3, 4, 5, 0]], dtype=np.uint16)
    score = Validator(with_separator, BYTES, 1, CPU).score(Bigram(), lambda: False)
    assert score.val_bpb == pytest.approx((5 * math.log(2) + math.log(12)) / math.log(2) / len(TEXT.encode()))


def test_targets_without_bytes_are_refused():
    with pytest.raises(DataError, match="0 bytes"):
        Validator(np.zeros((1, 4), dtype=np.uint16), BYTES, 1, CPU)


def test_a_stop_ends_the_validation():
    assert Validator(IDS[None], BYTES, 1, CPU).score(Bigram(), lambda: True) is None
