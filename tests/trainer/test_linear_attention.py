"""Linear attention: by chunks, in one piece and token by token it is one function."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.models.linear_attention import features, linear_attention


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def recurrent(q_BTHF, k_BTHF, v_BTHK, z_norm):
    state, keys = 0.0, 0.0
    rows = []
    for q, k, v in zip(q_BTHF.unbind(1), k_BTHF.unbind(1), v_BTHK.unbind(1), strict=True):
        state = state + k[..., :, None] * v[..., None, :]
        keys = keys + k
        z = keys.sum(-1) if z_norm == "key_sum" else (q * keys).sum(-1)
        rows.append((q[..., None, :] @ state)[..., 0, :] / z.clamp_min(1e-6)[..., None])
    return torch.stack(rows, 1)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    batch=st.integers(1, 3),
    length=st.integers(1, 40),
    heads=st.integers(1, 3),
    width=st.integers(1, 5),
    features_=st.integers(1, 6),
    chunk=st.integers(1, 17),
    z_norm=st.sampled_from(["key_sum", "standard"]),
)
def test_quadratic_chunked_and_recurrent_forms_agree(seed, batch, length, heads, width, features_, chunk, z_norm):
    q, k = (features(2 * drawn(seed + i, batch, length, heads, features_)) for i in (0, 1))
    v = drawn(seed + 2, batch, length, heads, width)
    expected = recurrent(q, k, v, z_norm)
    for size in (chunk, length, length + 3):
        torch.testing.assert_close(linear_attention(q, k, v, z_norm, chunk=size), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("z_norm", ["key_sum", "standard"])
def test_gradients_of_the_forms_agree(z_norm):
    inputs = [features(drawn(1, 2, 11, 2, 3)), features(drawn(2, 2, 11, 2, 3)), drawn(3, 2, 11, 2, 4)]
    found = []
    for form in (lambda *x: linear_attention(*x, z_norm, chunk=4), lambda *x: recurrent(*x, z_norm)):
        leaves = [x.clone().requires_grad_() for x in inputs]
        found.append(torch.autograd.grad((form(*leaves) ** 2).sum(), leaves))
    for chunked, expected in zip(*found, strict=True):
        torch.testing.assert_close(chunked, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("z_norm", ["key_sum", "standard"])
def test_what_comes_later_changes_no_bit(z_norm):
    q, k, v = features(drawn(1, 1, 30, 2, 3)).float(), features(drawn(2, 1, 30, 2, 3)).float(), drawn(3, 1, 30, 2, 4)
    before = linear_attention(q, k, v.float(), z_norm, chunk=8)
    q[:, 21:], k[:, 21:], v[:, 21:] = 7, 1e4, -3
    after = linear_attention(q, k, v.float(), z_norm, chunk=8)
    assert torch.equal(before[:, :21], after[:, :21]) and not torch.equal(before[:, 21:], after[:, 21:])


def test_features_of_small_values_survive_16_bits():
    u = torch.tensor([-9.0, -3.0, 0.0, 2.0], dtype=torch.bfloat16)
    wanted = torch.tensor([-9.0, -3.0, 0.0, 2.0], dtype=torch.float64)
    expected = torch.where(wanted > 0, wanted + 1, wanted.exp())
    torch.testing.assert_close(features(u).double(), expected, rtol=2**-8, atol=0)
