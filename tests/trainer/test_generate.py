"""Drawing tokens: what top_k, top_p and temperature leave, where a stop string ends it."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from trainer.config import ConfigError, ModelConfig
from trainer.generate import Samples, Sampling, candidates, draw, generate, stream
from trainer.models.gpt import GPT

LOGITS = st.lists(st.floats(-20, 20), min_size=2, max_size=30, unique=True).map(torch.tensor)


def model() -> GPT:
    torch.manual_seed(0)
    made = GPT(
        ModelConfig(vocab_size=40, num_layers=2, model_dim=32, num_heads=2, num_kv_heads=1, tie_embeddings=False)
    )
    assert made.lm_head is not None
    torch.nn.init.normal_(made.lm_head.weight, std=0.5)
    return made


def continued(prompt, most=12, stops=(), **changes):
    wanted = {"seq_len": 8, "sampling": Sampling(), "generator": torch.Generator().manual_seed(1)}
    return generate(stream(model(), prompt, **(wanted | changes)), most, stops)


@given(LOGITS, st.integers(1, 30), st.floats(0.05, 1), st.floats(0.1, 3))
def test_what_is_drawn_from(logits, top_k, top_p, temperature):
    few, words = candidates(logits, Sampling(temperature=temperature, top_k=top_k, top_p=top_p))
    shares = torch.zeros(len(logits)).index_copy(0, words, few)
    assert math.isclose(float(shares.sum()), 1, rel_tol=1e-5)
    kept = shares > 0
    assert 1 <= int(kept.sum()) <= top_k
    full = (logits / temperature).softmax(0)
    if (~kept).any() and (full[~kept] > 0).any():
        assert full[kept].min() >= full[~kept].max()
    cut = (logits / temperature).topk(min(top_k, len(logits))).values.softmax(0)
    count = int(kept.sum())
    assert float(cut[: count - 1].sum()) < top_p + 1e-6 and float(cut[:count].sum()) > top_p - 1e-6


@given(LOGITS)
def test_temperature_zero_takes_the_likeliest(logits):
    assert draw(logits, Sampling(temperature=0), torch.Generator()) == int(logits.argmax())


def test_the_continuation_follows_the_models_own_likeliest_tokens():
    prompt = [3, 1, 4, 1, 5]
    ids = continued(prompt, most=3, sampling=Sampling(temperature=0))
    seen = list(prompt)
    for token in ids:
        losses = model()(torch.tensor([seen] * 40), torch.tensor([[*seen[1:], word] for word in range(40)]), True)
        assert int(losses[:, -1].argmin()) == token
        seen.append(token)


def test_the_same_seed_says_the_same_and_the_runs_own_chance_is_left_alone():
    before = torch.get_rng_state()
    assert continued([1, 2]) == continued([1, 2])
    assert continued([1, 2]) != continued([1, 2], generator=torch.Generator().manual_seed(2))
    samples = Samples([[1, 2], [3]], tokens=4, seq_len=8, seed=1)
    made = model()
    state = torch.get_rng_state()
    assert samples.of(made, 5) == samples.of(made, 5) != samples.of(made, 6)
    assert torch.equal(torch.get_rng_state(), state) and len(before) == len(state)
    assert made.training


def test_a_stop_string_ends_it_and_is_left_out():
    whole = continued([1, 2])
    assert continued([1, 2], stops=[whole[3:5]]) == whole[:3]
    assert continued([1, 2], stops=[[39, 39, 39, 39]]) == whole


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.5}])
def test_what_cannot_be_drawn_is_refused_by_name(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Sampling(**wrong)


def test_an_empty_prompt_is_refused():
    with pytest.raises(ConfigError, match="empty"):
        continued([])
