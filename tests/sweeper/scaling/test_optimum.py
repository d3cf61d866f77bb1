"""The vertex of one cell, and every reason to refuse it."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import PchipInterpolator

from sweeper.scaling import shading
from sweeper.scaling.optimum import fit_optimum
from sweeper.scaling.records import Observations, observations


def bowl(rates, best=0.02, curvature=0.01, noise=0.0, seed=0, **columns) -> Observations:
    rates = np.asarray(rates, dtype=float)
    log_loss = np.log(3.0) + curvature * np.log2(rates / best) ** 2
    losses = np.exp(log_loss + noise * np.random.default_rng(seed).normal(size=len(rates)))
    given = {"n_params": 1e7, "steps": 1000, "batch_tokens": 65_536, "learning_rate": rates, "loss": losses}
    return observations(**{**given, **columns})


FIVE = 0.02 * 2.0 ** np.array([-1.0, -0.5, 0.0, 0.5, 1.0])


@given(
    best=st.floats(1e-4, 0.5),
    curvature=st.floats(0.002, 0.015),
    offset=st.floats(-0.45, 0.45),
    step=st.floats(0.3, 0.8),
)
def test_an_exact_bowl_is_found_wherever_it_lies(best, curvature, offset, step):
    rates = best * 2.0 ** (offset * step + step * np.arange(-3, 4))

    found = fit_optimum(bowl(rates, best, curvature), draws=20, band=0.5)

    assert found.at[0].value == pytest.approx(best, rel=1e-5)
    assert found.loss_at == pytest.approx(3.0, rel=1e-6)
    assert found.curvature_dd[0, 0] == pytest.approx(2 * curvature, rel=1e-4)


@given(
    angle=st.floats(-0.8, 0.8), centre=st.tuples(st.floats(-0.9, 0.9), st.floats(-0.9, 0.9)), seed=st.integers(0, 99)
)
def test_a_coupled_bowl_in_rate_and_batch_is_found(angle, centre, seed):
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(-2.0, 2.1, 0.5), np.arange(-2.0, 2.1, 0.5)))
    u, v = x - centre[0], y - centre[1]
    log_loss = 1.0 + 0.004 * u**2 + 0.003 * v**2 + 0.006 * angle * u * v
    runs = observations(
        n_params=1e7, steps=1000, batch_tokens=65_536 * 2.0**y, learning_rate=0.02 * 2.0**x, loss=np.exp(log_loss)
    )

    found = fit_optimum(runs, ("learning_rate", "batch_tokens"), draws=20, seed=seed)

    assert found.not_identified is None
    assert found.log2_at_d == pytest.approx([np.log2(0.02) + centre[0], 16 + centre[1]], abs=1e-4)


def test_the_interval_holds_the_optimum_and_says_how_it_was_made():
    found = fit_optimum(bowl(FIVE, best=0.018, noise=0.001))

    assert found.at[0].low < 0.018 < found.at[0].high
    assert found.at[0].width < 0.01
    assert "bootstrap" in found.interval_method
    assert found.used == 5


def test_a_skewed_bowl_leaves_the_vertex_in_its_place():
    """Rates too high cost two to three times as much as rates too low, as Step Law's runs have it."""
    excess = PchipInterpolator(shading.OFFSETS, shading.EXCESS, extrapolate=False)
    off, held = [], []
    for seed in range(60):
        random = np.random.default_rng(seed)
        octaves = np.arange(-2.5, 2.1, 0.5) - random.uniform(-0.25, 0.25)
        losses = 3.0 * (1 + excess(octaves)) * np.exp(0.001 * random.normal(size=len(octaves)))
        found = fit_optimum(bowl(0.02 * 2.0**octaves, loss=losses), draws=100, seed=seed)
        off.append(np.log2(found.at[0].value / 0.02))
        held.append(found.at[0].low <= 0.02 <= found.at[0].high)

    assert abs(np.mean(off)) < 0.15
    assert np.mean(held) >= 0.85


def test_more_noise_makes_a_wider_interval():
    rates = 0.02 * 2.0 ** np.arange(-1.5, 1.6, 0.5)
    narrow, wide = (fit_optimum(bowl(rates, noise=noise)).at[0].width for noise in (0.0003, 0.0015))

    assert wide > 2 * narrow


def test_one_wild_run_moves_the_vertex_little():
    rates = 0.02 * 2.0 ** np.arange(-1.25, 1.26, 0.25)
    clean = bowl(rates, noise=0.0003)
    wild = clean.loss.copy()
    wild[8] *= 1.012

    found = fit_optimum(bowl(rates, loss=wild), draws=50)

    assert abs(np.log2(found.at[0].value / 0.02)) < 0.1


def test_points_far_above_the_least_are_excluded_with_the_reason():
    found = fit_optimum(bowl([*FIVE, 0.2], curvature=0.008), draws=20)

    assert [(e.row, e.reason) for e in found.excluded] == [(5, "more than 2.0% above the least loss")]


def test_diverged_runs_are_excluded_and_bound_the_stable_rates():
    losses = [3.05, 3.01, 3.0, 3.01, 3.05, np.nan]

    found = fit_optimum(bowl([*FIVE, 0.08], loss=losses), draws=20)

    assert found.at[0].value == pytest.approx(0.02, rel=0.01)
    assert (found.excluded[0].row, found.excluded[0].reason) == (5, "diverged")
    assert found.highest_stable[0] == pytest.approx(0.04)


@pytest.mark.parametrize(("best", "side", "value"), [(0.1, "at or above", 0.04), (0.001, "at or below", 0.01)])
def test_an_optimum_beyond_what_was_tried_is_one_sided_and_no_number(best, side, value):
    found = fit_optimum(bowl(FIVE, best=best, curvature=0.004))

    assert found.at == ()
    assert (found.bounds[0].side, found.bounds[0].value) == (side, pytest.approx(value))
    assert found.not_identified.startswith(f"the best run is at the edge of what was tried: learning_rate {side}")


@pytest.mark.parametrize(
    ("runs", "reason"),
    [
        (bowl(FIVE[:3]), "too few points: 3 within 10% of the least loss, 4 needed"),
        (bowl(FIVE, loss=[3.0, 3.02, 2.99, 3.02, 3.0]), "wrong curvature"),
        (bowl(FIVE, curvature=1e-5, noise=0.002, seed=1), "flat within noise|wrong curvature|edge"),
        (bowl(FIVE, loss=np.full(5, np.nan)), "too few points: 0"),
    ],
)
def test_where_there_is_no_vertex_the_reason_stands_in_its_place(runs, reason):
    found = fit_optimum(runs)

    assert found.at == ()
    assert found.log2_at_d is None
    assert re.match(reason, found.not_identified), found.not_identified


def test_noise_without_a_bowl_is_hardly_ever_given_a_vertex():
    rates = 0.02 * 2.0 ** np.arange(-1.5, 1.6, 0.5)
    found = [fit_optimum(bowl(rates, curvature=0.0, noise=0.002, seed=s), draws=100) for s in range(60)]

    assert sum(one.not_identified is None for one in found) <= 6


def test_three_points_need_runs_that_state_their_noise():
    three = FIVE[1:4]

    unknown = fit_optimum(bowl(three), fewest=3)
    known = fit_optimum(bowl(three, loss_stderr=0.001), fewest=3)

    assert "state their loss_stderr" in unknown.not_identified
    assert known.at[0].low < 0.02 < known.at[0].high


def test_the_same_seed_gives_the_same_interval():
    runs = bowl(FIVE, noise=0.0005)

    assert fit_optimum(runs, seed=3).at == fit_optimum(runs, seed=3).at
    assert fit_optimum(runs, seed=3).at != fit_optimum(runs, seed=4).at


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="one axis, a positive band and a draw"):
        fit_optimum(bowl(FIVE), band=-1.0)
