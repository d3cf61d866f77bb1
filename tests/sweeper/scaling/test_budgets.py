from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.scaling.budgets import fit_envelope, fit_iso_budget
from sweeper.scaling.records import Unidentified


def parabolas(exponent, noise=0.0, budgets=5, curvature=0.01, sizes=7):
    budget = np.repeat(np.geomspace(1e18, 1e20, budgets), sizes)
    best = 1e8 * (budget / 1e19) ** exponent
    size = best * 2.0 ** np.tile(np.linspace(-1.9, 1.7, sizes), budgets)
    log_loss = 1.2 - 0.03 * np.log(budget / 1e19) + curvature * np.log2(size / best) ** 2
    return size, np.exp(log_loss + noise * np.random.default_rng(0).normal(size=len(size))), budget


@given(exponent=st.floats(0.1, 0.9), curvature=st.floats(0.003, 0.03))
def test_the_exponent_of_exact_parabolas_is_recovered(exponent, curvature):
    found = fit_iso_budget(*parabolas(exponent, curvature=curvature), draws=20)

    assert found.law.exponents["budget"].value == pytest.approx(exponent, abs=0.01)


def test_noisy_parabolas_have_intervals_that_hold_the_truth():
    found = fit_iso_budget(*parabolas(0.5, noise=0.002))

    assert found.used == 5
    assert found.law.exponents["budget"].low < 0.5 < found.law.exponents["budget"].high
    assert all(one.size.low < one.size.value < one.size.high for one in found.budgets)


def test_budgets_whose_best_size_is_at_an_edge_are_excluded_with_the_reason():
    size, loss, budget = parabolas(0.5)
    kept = (budget > 2e18) | (size < np.median(size[:7]))

    found = fit_iso_budget(size[kept], loss[kept], budget[kept], fewest=3, draws=20)

    assert found.used == 4
    assert [(e.row, e.reason) for e in found.excluded] == [(0, "the best size is the largest tried")]


def test_too_few_budgets_give_no_law():
    found = fit_iso_budget(*parabolas(0.5, budgets=2), draws=20)

    assert found.law is None
    assert found.not_identified.startswith("2 budgets have a best size")


def curves(sizes):
    budget = np.geomspace(1e16, 1e21, 200)
    run, size, cost, loss = [], [], [], []
    for k, n in enumerate(sizes):
        tokens = budget / 6 / n
        run += [k] * 200
        size += [n] * 200
        cost += budget.tolist()
        loss += (1.7 + 400 / n**0.34 + 400 / tokens**0.34).tolist()
    return run, size, cost, loss


def test_the_envelope_of_curves_gives_the_same_exponent():
    found = fit_envelope(*curves(np.geomspace(1e7, 1e10, 12)))

    assert found.exponents["budget"].value == pytest.approx(0.5, abs=0.02)
    assert {e.reason for e in found.excluded} == {"never lowest, or at an end"}


def test_few_models_give_no_envelope():
    found = fit_envelope(*curves([1e8, 2e8, 4e8]))

    assert isinstance(found, Unidentified)
    assert "1 models are lowest between" in found.not_identified
