"""val_bpb against a computation by hand on a small text."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainer.config import ConfigError, TrainConfig
from trainer.data import Corpus, DataError, TokenStore
from trainer.distributed import Group
from trainer.evaluate import Score, Validator
from trainer.models.gpt import GPT, ModelConfig

TEXT = "naïve cats nap"
PIECES = ["<|endoftext|>", "na", "ï", "ve", " cats", " nap", "!"]
IDS = np.array([0, 1, 2, 3, 4, 5], dtype=np.uint16)
BYTES = np.array([0, 2, 2, 2, 5, 4, 1])
CPU = torch.device("cpu")


class Bigram(nn.Module):
    """Gives target j after token i the probability (1 + [j = i + 1] · 5) / 12 over seven tokens."""

    def forward(self, tokens: Tensor, targets: Tensor, per_token: bool) -> Tensor:
        assert per_token
        weight = 1.0 + 5.0 * (targets == tokens + 1)
        return -(weight / 12).log()


def validator(stream: list[int] | np.ndarray, *, seq_len: int, batch: int = 4, **kind: Any) -> Validator:
    store = TokenStore([np.asarray(stream, dtype=np.uint16)], CPU)
    corpus = Corpus(train=store, val=store, token_bytes=BYTES, separator=0)
    return Validator(corpus, seq_len=seq_len, tokens=0, batch_sequences=batch, device=CPU, **kind)


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

    def forward(self, tokens: Tensor, targets: Tensor, per_token: bool) -> Tensor:
        if len(tokens) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return super().forward(tokens, targets, per_token)


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


SEQ_LEN = 8
STREAM = np.random.default_rng(3).integers(7, size=61)


@pytest.fixture(scope="module")
def gpt() -> GPT:
    """In float64, with weights that make every token of the context count."""
    torch.manual_seed(0)
    model = GPT(ModelConfig(vocab_size=7, num_layers=2, model_dim=16, num_heads=2, num_kv_heads=1)).double()
    model.dtype = torch.float64
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def score(model: nn.Module, stream: np.ndarray = STREAM, **kind: Any) -> Score:
    return validator(stream, seq_len=SEQ_LEN, **kind).score(model, lambda: False)


def nats_token_by_token(model: GPT, stream: np.ndarray, first_of: list[int]) -> float:
    """Sum over the targets, each in a pass of its own that begins at the token which is named for it."""
    total = 0.0
    for target, first in enumerate(first_of, start=1):
        context = torch.from_numpy(stream[first : target + 1])[None]
        with torch.no_grad():
            total += float(model(context[:, :-1], context[:, 1:], per_token=True)[0, -1])
    return total


@pytest.mark.parametrize("stride", [1, 3, 5, 8])
def test_sliding_scores_are_those_of_each_token_with_its_context(gpt, stride):
    targets = len(STREAM) - 1
    # A window ends where the strides do; the last one ends with the stream.
    ends = [min(targets, SEQ_LEN + -(-max(0, i + 1 - SEQ_LEN) // stride) * stride) for i in range(targets)]
    expected = nats_token_by_token(gpt, STREAM, [end - SEQ_LEN for end in ends])
    found = score(gpt, stride=stride)
    assert found.tokens == targets
    assert found.val_loss * targets == pytest.approx(expected, rel=1e-12)
    assert found.val_bpb == pytest.approx(expected / math.log(2) / BYTES[STREAM[1:]].sum(), rel=1e-12)


@pytest.mark.parametrize("stride", [0, 3])
def test_by_document_no_token_sees_another_document(gpt, stride):
    begins = np.flatnonzero(STREAM == 0)
    step = stride or SEQ_LEN
    firsts = []
    for target in range(1, len(STREAM)):
        begin = max([0, *begins[begins < target]])
        after = min([*begins[begins >= target], len(STREAM) - 1])  # the separator that ends it, or the last token
        end = min(after - begin, SEQ_LEN + -(-max(0, target - begin - SEQ_LEN) // step) * step)
        firsts.append(begin + max(0, end - SEQ_LEN))
    found = score(gpt, stride=stride, by_document=True)
    assert found.tokens == len(STREAM) - 1
    expected = nats_token_by_token(gpt, STREAM, firsts)
    assert found.val_loss * found.tokens == pytest.approx(expected, rel=1e-12)
    assert found.val_loss != pytest.approx(score(gpt, stride=stride).val_loss, rel=1e-4)


def test_a_stride_of_the_whole_window_is_the_plain_score_to_the_bit(gpt):
    stream = STREAM[: 7 * SEQ_LEN + 1]
    plain, sliding = score(gpt, stream), score(gpt, stream, stride=SEQ_LEN)
    assert plain == sliding
    assert score(gpt, stride=SEQ_LEN).tokens == score(gpt).tokens + 4  # what is left at the end


def test_more_context_costs_more_passes_of_one_shape_and_lowers_the_loss(gpt):
    """The stream repeats what only its context foretells; as a model, one that copies what it has seen."""

    class Copies(nn.Module):
        shapes: ClassVar[list[tuple[int, ...]]] = []

        def forward(self, tokens: Tensor, targets: Tensor, per_token: bool) -> Tensor:
            self.shapes.append(tuple(tokens.shape))
            seen = (tokens[:, None, :] == targets[:, :, None]).tril().any(2)
            return torch.where(seen, 0.1, 3.0)

    stream = np.tile([1, 2, 3, 4, 5, 6], 20)[:101]
    losses, passes = [], []
    for stride in (0, 4, 2, 1):
        Copies.shapes.clear()
        losses.append(score(Copies(), stream, stride=stride).val_loss)
        passes.append(len(Copies.shapes))
        assert set(Copies.shapes) == {(4, SEQ_LEN)}
    assert losses == sorted(losses, reverse=True) and losses[0] > losses[-1]
    assert passes == [math.ceil(windows / 4) for windows in (12, 1 + 23, 1 + 46, 1 + 92)]


def test_the_standard_error_of_overlapping_windows_is_that_of_stretches(gpt):
    plain, sliding = (score(Bigram(), STREAM[:57], stride=stride) for stride in (0, 2))
    assert sliding.val_bpb == pytest.approx(plain.val_bpb, rel=1e-6)  # a bigram needs no context
    assert sliding.val_bpb_stderr == pytest.approx(plain.val_bpb_stderr, rel=1e-5)


class Rank(Group):
    """One of two that do not run at once: what the first found is kept for the second."""

    size = 2
    kept: ClassVar[list[Tensor]] = []

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def gather(self, tensors: list[Tensor]) -> list[Tensor]:
        self.kept.append(tensors[0])
        return [torch.stack([self.kept[0], tensors[0]])]


@pytest.mark.parametrize("kind", [{"stride": 3}, {"by_document": True}, {"stride": 2, "by_document": True}])
def test_ranks_share_windows_of_every_kind(gpt, kind):
    Rank.kept.clear()
    _, both = (score(gpt, group=Rank(rank), **kind) for rank in range(2))
    alone = score(gpt, **kind)
    assert (both.val_loss, both.val_bpb_stderr) == pytest.approx((alone.val_loss, alone.val_bpb_stderr), rel=1e-12)


def test_documents_cannot_be_told_apart_without_a_separator():
    store = TokenStore([np.arange(7).astype(np.uint16)], CPU)
    corpus = Corpus(train=store, val=store, token_bytes=BYTES)
    with pytest.raises(DataError, match=r"by_document needs manifest\.json"):
        Validator(corpus, seq_len=3, tokens=0, batch_sequences=1, device=CPU, by_document=True)


def test_strides_that_leave_text_out_are_refused():
    with pytest.raises(ConfigError, match=r"eval\.stride must not exceed data\.seq_len \(1024\), got 1025"):
        TrainConfig.from_dict({"eval": {"stride": 1025}})
    with pytest.raises(ConfigError, match=r"eval\.stride must not be negative, got -1"):
        TrainConfig.from_dict({"eval": {"stride": -1}})
