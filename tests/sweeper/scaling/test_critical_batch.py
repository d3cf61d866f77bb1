from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.scaling.critical_batch import CriticalBatch, fit_critical_batch
from sweeper.scaling.records import Unidentified

BATCHES = 2.0 ** np.arange(13, 22)


def steps(critical, noise=0.0, seed=0):
    return 2000 * (1 + critical / BATCHES) * np.exp(noise * np.random.default_rng(seed).normal(size=len(BATCHES)))


@given(log2=st.floats(14, 20))
def test_an_exact_hyperbola_is_recovered(log2):
    found = fit_critical_batch(BATCHES, steps(2.0**log2), draws=10)

    assert found.batch_tokens.value == pytest.approx(2.0**log2, rel=2e-3)
    assert found.fewest_steps.value == pytest.approx(2000, rel=2e-3)
    assert found.fewest_tokens.value == pytest.approx(2000 * 2.0**log2, rel=2e-3)


def test_noise_widens_the_interval_and_it_holds_the_truth():
    found = fit_critical_batch(BATCHES, steps(200_000, noise=0.05))

    assert found.batch_tokens.low < 200_000 < found.batch_tokens.high
    assert found.overhead_batch(0.2).value == pytest.approx(0.2 * found.batch_tokens.value)
    assert not found.misfit.flagged


@pytest.mark.parametrize(("critical", "side"), [(2.0**32, "above"), (2.0**2, "below")])
def test_batches_on_one_side_identify_nothing(critical, side):
    found = fit_critical_batch(BATCHES, steps(critical, noise=0.01))

    assert isinstance(found, Unidentified)
    assert side in found.not_identified


def test_three_batches_are_too_few():
    assert isinstance(fit_critical_batch(BATCHES[:3], steps(1e5)[:3]), Unidentified)


def test_a_step_count_that_rises_again_is_flagged():
    bent = steps(200_000, noise=0.01) * np.exp(0.15 * (np.log2(BATCHES) - 17) ** 2)

    found = fit_critical_batch(BATCHES, bent)

    assert isinstance(found, Unidentified) or (isinstance(found, CriticalBatch) and found.misfit.flagged)
