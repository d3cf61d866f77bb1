"""Initialisations, and what options add to the token embedding, against their own mathematics."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from tests.trainer import reference
from tests.trainer.small_models import ALL, EPS, SIZES, double, exact, model_of, randn
from trainer.config import ModelConfig
from trainer.models.embedding import BigramHash, Stem, bigram_ids
from trainer.models.gpt import GPT


def test_what_an_option_adds_leaves_the_other_weights_as_they_were_drawn():
    plain = dict(model_of(seed=3).named_parameters())
    added = {name: value for name, value in ALL.items() if name not in ("mlp_activation", "loop_blocks")}
    for name, parameter in model_of(seed=3, **added).named_parameters():
        assert name not in plain or torch.equal(parameter, plain[name]), name


def test_pairs_of_tokens_find_their_rows():
    tokens = torch.randint(50_257, (3, 40), generator=torch.Generator().manual_seed(0))
    rows = bigram_ids(tokens, 4096)
    for b, sequence in enumerate(tokens.tolist()):
        expected = [4095]
        for previous, current in pairwise(sequence):
            expected.append(((36313 * current) ^ (27191 * previous)) % 4095)
        assert rows[b].tolist() == expected


def test_bigrams_are_projected_scaled_and_added_ahead_of_the_norm():
    stem = double(Stem(ModelConfig(**SIZES, bigram_buckets=31, bigram_dim=8)))
    tokens, rows = torch.randint(50, (2, 9)), randn(2, 9, 32)
    bigram = stem.bigram
    pairs = bigram.table.weight[bigram_ids(tokens, 31)] @ bigram.projection.weight.T * bigram.scale
    exact(stem(rows, *stem.gathered(tokens, torch.float64)), reference.normed(rows + pairs, EPS))


def test_bigrams_change_nothing_at_first_and_are_not_dead():
    bigram = BigramHash(31, 8, 32)
    rows = bigram.table(torch.tensor([[3, 4]]))
    (bigram(rows) * torch.randn(1, 2, 32)).sum().backward()
    assert bigram.scale.item() == pytest.approx(0.05)
    assert not bigram(rows).any() and bigram.projection.weight.any() and bigram.table.weight.grad[3:5].all()


def test_the_gate_smears_each_token_into_the_next_of_its_document():
    stem = double(Stem(ModelConfig(**SIZES, smear_gate=True, separator_id=7)))
    tokens, rows = torch.tensor([[3, 4, 7, 5, 6], [7, 1, 2, 7, 7]]), randn(2, 5, 32)
    x, g = reference.normed(rows, EPS), 1 / (1 + torch.exp(-stem.smear_gate))
    expected = x.clone()
    for b, t in ((0, 1), (0, 3), (0, 4), (1, 1), (1, 2)):
        expected[b, t] = (1 - g) * x[b, t] + g * x[b, t - 1]
    exact(stem(rows, *stem.gathered(tokens, torch.float64)), expected)


def test_a_document_does_not_see_the_last_token_of_the_one_before():
    tokens = torch.tensor([[3, 4, 7, 5, 6]])
    changed = torch.tensor([[3, 9, 7, 5, 6]])

    def streams(separator: int) -> list[torch.Tensor]:
        model = model_of(smear_gate=True, separator_id=separator)
        return [model._embedded(ids) for ids in (tokens, changed)]

    before, after = streams(7)
    assert torch.equal(before[0, 2:], after[0, 2:]) and not torch.equal(before[0, 1], after[0, 1])
    before, after = streams(-1)
    assert not torch.equal(before[0, 2], after[0, 2])


def test_overtone_gives_the_embedding_a_power_law_spectrum():
    drawn, made = (model_of(seed=2, embed_init=kind).embedding.weight.double() for kind in ("normal", "overtone"))
    largest = torch.linalg.matrix_norm(drawn, 2)
    values = torch.linalg.svdvals(made)
    exact(values, largest * torch.arange(1, 33, dtype=torch.float64) ** -0.5, 1e-5)
    # The same singular vectors: both products of the two are symmetric.
    for product in (drawn.T @ made, drawn @ made.T):
        exact(product, product.T, 1e-4)


@pytest.mark.parametrize(("kind", "gain"), [("orthogonal", 0.0), ("orthogonal_projections", 1 / math.sqrt(6))])
def test_orthogonal_weights_have_equal_singular_values(kind, gain):
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "num_layers": 3, "model_dim": 128, "num_heads": 4, "num_kv_heads": 1, "mlp_mult": 1}
    model = GPT(ModelConfig(**sizes, linear_init=kind, bigram_buckets=31, bigram_dim=64, tie_embeddings=False))
    block = model.blocks[1]
    spread = {
        name: torch.linalg.svdvals(linear.weight)
        for name, linear in (*block.attention.named_children(), *block.mlp.named_children())
        if linear is not None
    }
    spread["pairs"] = torch.linalg.svdvals(model.stem.bigram.projection.weight)
    wanted = dict.fromkeys(spread, 1.0) | {"out_proj": gain, "proj": gain}
    for name in ("q_proj", "fc", "out_proj", "proj", "pairs"):
        exact(spread[name], torch.full_like(spread[name], wanted[name]), 1e-5)
    assert spread["k_proj"].std() > 0.01, "a weight of 32 rows is too small to be made orthogonal"
    assert not model.lm_head.weight.any()


def test_phase_mixes_lean_on_the_embedding_first_and_on_the_stream_last():
    model = model_of(num_layers=5, resid_mix_init="phase")
    for i, block in enumerate(model.blocks):
        p = 1 / (1 + math.exp(-3 * (i / 4 - 0.5)))
        exact(block.resid_mix[:, 3], torch.tensor([p, 1 - p]), 1e-6)
    assert GPT(ModelConfig(**{**SIZES, "num_layers": 1}, resid_mix_init="phase")).blocks[0].resid_mix[0, 0] < 0.5
