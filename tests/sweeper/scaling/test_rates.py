"""Sums of rates against sums over every step, and what a schedule is cut into."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.scaling.rates import MOST_DROPS, Rates, logged, trapezoid


@given(st.floats(0, 0.4), st.floats(0, 0.6), st.integers(200, 3000))
def test_sums_are_those_over_every_step(warmup: float, cooldown: float, last: int) -> None:
    rates = trapezoid(0.3, last, warmup=warmup, cooldown=cooldown)
    steps = np.arange(last) + 0.5
    each = np.interp(steps, rates.step_k, rates.rate_k)
    at = np.array([1, last // 2, last, last + 50], dtype=np.float64)
    past = np.where(rates.rate_k[-1] > 0, 50 * rates.rate_k[-1], 0)
    wanted = [each[0], each[: last // 2].sum(), each.sum(), each.sum() + past]
    # A knot within a step bends its rate: the step's middle is then off its mean by up to an eighth of the peak.
    assert rates.sums(at) == pytest.approx(wanted, rel=2e-3, abs=2 * 0.3 / 8)


@given(st.floats(0.05, 1.0))
def test_falls_add_up_to_the_whole_fall(cooldown: float) -> None:
    drops = trapezoid(0.3, 1000, cooldown=cooldown).drops()
    assert len(drops.fall_j) <= MOST_DROPS + 1
    assert drops.fall_j.sum() == pytest.approx(0.3)
    assert (np.diff(drops.step_j) > 0).all() and (drops.rate_j > 0).all()


def test_a_jump_is_one_piece_at_its_new_rate() -> None:
    drops = Rates(np.array([0.0, 100, 100, 200]), np.array([1.0, 1.0, 0.2, 0.2])).drops()
    assert (drops.fall_j.tolist(), drops.rate_j.tolist(), drops.step_j.tolist()) == ([0.8], [0.2], [100.0])
    assert drops.sum_j.tolist() == [100.0]


def test_a_logged_jump_is_a_jump_and_a_logged_cosine_is_thinned() -> None:
    assert len(logged([10, 20, 30], [1.0, 1.0, 0.3]).drops().fall_j) == 1
    steps = np.arange(1, 2001)
    drops = logged(steps, 0.5 * (1 + np.cos(np.pi * steps / 2000)) + 0.01).drops()
    assert len(drops.fall_j) <= 2 * MOST_DROPS
    assert drops.fall_j.sum() == pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize(
    ("steps", "rates", "said"),
    [
        ([0, 1], [1], "as many"),
        ([1, 2], [1, 1], "from 0"),
        ([0, 2, 1], [1, 1, 1], "ascend"),
        ([0, 1], [0, 0], "positive"),
    ],
)
def test_what_is_no_schedule_is_refused(steps: list[float], rates: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Rates(np.array(steps, dtype=float), np.array(rates, dtype=float))
    with pytest.raises(ValueError, match="no schedule"):
        trapezoid(1.0, 100, warmup=0.6, cooldown=0.6)
