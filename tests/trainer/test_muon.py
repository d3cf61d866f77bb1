"""Muon against what its iteration promises, for any shape and conditioning."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.muon import COEFFICIENTS, Muon, orthogonalize, quintics

names = st.sampled_from(sorted(COEFFICIENTS))


def promised(singular_values: torch.Tensor, steps: int, name: str) -> torch.Tensor:
    """The scalar iteration on each normalised singular value: an odd polynomial moves nothing else."""
    s = singular_values / singular_values.norm()
    for a, b, c in quintics(name, steps):
        s = a * s + b * s**3 + c * s**5
    return s


@st.composite
def conditioned_matrices(draw) -> torch.Tensor:
    """A random matrix with singular values spread over up to four decades."""
    rows, columns = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    decades = draw(st.floats(0, 4))
    scale = 10 ** draw(st.floats(-6, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    rank = min(rows, columns)
    left, _ = torch.linalg.qr(torch.randn(rows, rank, generator=generator, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(columns, rank, generator=generator, dtype=torch.float64))
    return scale * left @ torch.diag(10 ** (-decades * torch.rand(rank, generator=generator).double())) @ right.T


@settings(deadline=None, max_examples=60)
@given(matrix=conditioned_matrices(), steps=st.integers(1, 6), name=names)
def test_singular_values_follow_the_scalar_iteration(matrix, steps, name):
    found = torch.linalg.svdvals(orthogonalize(matrix[None], steps, name)[0])

    # Relative to the 1e-7 that guards the division by the norm, which the steepest quintics of a table blow up.
    guard = 1e-7 / matrix.norm().item() * {"keller": 1, "polar_express": 100}[name]
    expected = promised(torch.linalg.svdvals(matrix), steps, name).sort(descending=True).values
    assert torch.allclose(found, expected, atol=1e-8 + 40 * guard, rtol=40 * guard)


@settings(deadline=None, max_examples=60)
@given(matrix=conditioned_matrices())
def test_five_steps_in_float32_bring_all_but_tiny_singular_values_near_one(matrix):
    values = torch.linalg.svdvals(matrix)
    large = values / values.norm() > 0.02
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)

    update = orthogonalize(matrix.float()[None] / matrix.norm().float(), 5)[0].double()

    # Read along the matrix's own singular directions, where the update must be diagonal.
    along = left.T @ update @ right.T
    assert ((along.diag()[large] > 0.6) & (along.diag()[large] < 1.25)).all()
    assert (along - torch.diag(along.diag())).abs().max() < 2e-3


def test_the_polar_express_takes_what_began_above_a_thousandth_closer_to_one_than_keller_does():
    began = torch.logspace(-3, 0, 20_001, dtype=torch.float64)

    def ends(name: str, steps: int) -> tuple[float, float]:
        s = began
        for a, b, c in quintics(name, steps):
            s = a * s + b * s**3 + c * s**5
        return s.min().item(), s.max().item()

    low, high = ends("polar_express", 5)
    assert low > 0.84 and high < 1.13
    assert ends("keller", 5)[0] < 0.5
    assert all(abs(end - 1) < 1e-6 for end in ends("polar_express", 8))


@settings(deadline=None, max_examples=40)
@given(matrix=conditioned_matrices())
def test_eight_steps_of_the_polar_express_in_float32_are_the_polar_factor(matrix):
    values = torch.linalg.svdvals(matrix)
    large = values / values.norm() > 0.002
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)

    update = orthogonalize(matrix.float()[None] / matrix.norm().float(), 8, "polar_express")[0].double()

    along = (left.T @ update @ right.T).diag()[large]
    assert ((along > 0.995) & (along < 1.005)).all()


def test_a_stack_equals_its_matrices_one_by_one():
    stack = torch.randn(5, 12, 30, dtype=torch.float64)
    together = orthogonalize(stack, 5)
    for matrix, update in zip(stack, together, strict=True):
        assert torch.allclose(orthogonalize(matrix[None], 5)[0], update, atol=1e-12)


@pytest.mark.parametrize("name", sorted(COEFFICIENTS))
def test_two_steps_equal_the_update_written_out(name):
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(24, 8, dtype=torch.float32))
    start = weight.detach().clone()
    gradients = torch.randn(2, 24, 8)
    optimizer = Muon([weight], lr=0.1, momentum=0.9, weight_decay=0.5, newton_schulz_steps=5, newton_schulz=name)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()

    expected, buffer = start, torch.zeros(24, 8)
    for gradient in gradients:
        buffer = 0.9 * buffer + gradient
        direction = orthogonalize((gradient + 0.9 * buffer)[None], 5, name)[0]
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * 3**0.5 * direction
    assert torch.allclose(weight, expected, atol=1e-6)
