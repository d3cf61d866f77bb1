"""The chunked loss against the plain one, in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounter

from trainer.config import ModelConfig
from trainer.models import loss
from trainer.models.gpt import GPT


def plain(x, weight, targets, softcap, smoothing=0.0):
    logits = softcap * torch.tanh(x @ weight.T / softcap)
    return F.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)


@settings(deadline=None, max_examples=60)
@given(
    tokens=st.integers(1, 70), vocab=st.integers(2, 200), width=st.integers(1, 9), chunk=st.integers(1, 40),
    softcap=st.floats(1.0, 40.0), smoothing=st.sampled_from([0.0, 0.01, 0.3]), seed=st.integers(0, 2**31),
    left_out=st.sampled_from([0.0, 0.3, 0.95]),
)  # fmt: skip
def test_loss_and_gradients_are_those_of_whole_logits(tokens, vocab, width, chunk, softcap, smoothing, seed, left_out):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, width, dtype=torch.float64, generator=generator, requires_grad=True)
    weight = (3 * torch.randn(vocab, width, dtype=torch.float64, generator=generator)).requires_grad_()
    targets = torch.randint(vocab, (tokens,), generator=generator)
    targets[torch.rand(tokens, generator=generator) < left_out] = -100
    kept = targets != -100
    expected = plain(x, weight, targets, softcap, smoothing)[kept].sum() / max(1, int(kept.sum()))
    wanted = torch.autograd.grad(expected / 3, (x, weight))
    parts = loss.ChunkedLoss(vocab, softcap, chunk)
    unsmoothed = plain(x, weight, targets, softcap).detach()
    torch.testing.assert_close(parts.each(x, weight, targets), unsmoothed, rtol=1e-12, atol=1e-12)
    share = torch.tensor(smoothing, dtype=torch.float64) if smoothing else None
    whole = loss.mean_over_targets(loss.token_losses(x, weight, targets, softcap, share), targets)
    for mean in (parts.mean(x, weight, targets, share), whole):
        torch.testing.assert_close(mean.detach(), expected.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(torch.autograd.grad(mean / 3, (x, weight)), wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.filterwarnings("ignore")  # torch warns itself on the way, and stumbles when that raises
@pytest.mark.parametrize("vocab", [50, 9_000], ids=["whole", "by chunks"])
def test_what_has_no_target_changes_nothing_and_compiles_nothing(vocab):
    torch._dynamo.reset()
    made = GPT(ModelConfig(vocab_size=vocab, num_layers=1, model_dim=16, num_heads=2, num_kv_heads=1))
    torch.nn.init.normal_(made.embedding.weight)
    counter = CompileCounter()
    made.compile_blocks(counter)
    tokens = torch.randint(vocab, (2, 9), generator=torch.Generator().manual_seed(1))
    inputs, targets = tokens[:, :-1].clone(), tokens[:, 1:].clone()

    def gradients():
        made.zero_grad()
        found = made(inputs, targets)
        found.backward()
        return [found.detach(), *(weight.grad.clone() for weight in made.parameters() if weight.grad is not None)]

    first = gradients()
    graphs = counter.frame_count
    targets[1] = -100
    half = gradients()
    inputs[1, 3] += 1  # of the row without targets
    assert all(torch.equal(a, b) for a, b in zip(half, gradients(), strict=True))
    targets[:] = -100
    assert not any(found.any() for found in gradients())
    targets[:], inputs[:] = tokens[:, 1:], tokens[:, :-1]
    assert all(torch.equal(a, b) for a, b in zip(first, gradients(), strict=True))
    assert counter.frame_count == graphs > 0
    inputs, targets = inputs[:1], targets[:1]
    torch.testing.assert_close(half, gradients(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("tied", "smoothing"), [(True, 0.0), (False, 0.0), (True, 0.1)])
def test_a_model_with_a_large_vocabulary_learns_the_same_by_chunks(tied, smoothing):
    def model(most_whole):
        torch.manual_seed(0)
        sizes = {"num_layers": 2, "model_dim": 16, "num_heads": 2, "num_kv_heads": 1}
        made = GPT(ModelConfig(vocab_size=300, tie_embeddings=tied, label_smoothing=smoothing, **sizes)).double()
        made.dtype = torch.float64
        torch.nn.init.normal_(made.lm_head.weight) if made.lm_head is not None else None
        made.head.chunked = loss.ChunkedLoss(300, 30.0, 16) if most_whole < 300 else None
        return made

    tokens = torch.randint(300, (3, 17), generator=torch.Generator().manual_seed(1))
    whole, chunked = model(300), model(100)
    for made in (whole, chunked):
        made(tokens[:, :-1], tokens[:, 1:]).backward()
    for (name, a), b in zip(whole.named_parameters(), chunked.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-12, msg=name)
    with torch.no_grad():
        each = [made(tokens[:, :-1], tokens[:, 1:], per_token=True) for made in (whole, chunked)]
    torch.testing.assert_close(*each)


def test_vocabularies_above_the_limit_go_by_chunks():
    assert GPT(ModelConfig(vocab_size=loss.WHOLE_VOCAB, num_layers=1)).head.chunked is None
    assert GPT(ModelConfig(vocab_size=loss.WHOLE_VOCAB + 1, num_layers=1)).head.chunked is not None


@pytest.mark.parametrize(("tokens", "limit", "expected"), [(65_536, 8_192, 8_192), (17_408, 8_192, 4_352), (10_007, 8_192, 8_192), (5, 8, 5)])  # fmt: skip  # noqa: E501
def test_chunks_are_alike_where_they_can_be(tokens, limit, expected):
    assert loss.ChunkedLoss(10, 1.0, limit).chunk_tokens(tokens) == expected


@pytest.mark.parametrize("vocab", [50, 64, 70])
def test_without_a_cap_filler_words_stay_out_of_loss_and_gradients(vocab):
    x, weight = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((21, 8), (vocab, 8)))
    targets = torch.randint(vocab, (21,))
    expected = torch.nn.functional.cross_entropy(x @ weight.T, targets, reduction="none")
    wanted = torch.autograd.grad(expected.mean(), (x, weight))
    parts = loss.ChunkedLoss(vocab, None, 5)
    found = parts.mean(x, weight, targets)
    torch.testing.assert_close(found, expected.mean())
    torch.testing.assert_close(torch.autograd.grad(found, (x, weight)), wanted)
    torch.testing.assert_close(parts.each(x, weight, targets), expected.detach())
