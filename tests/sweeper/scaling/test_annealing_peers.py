"""The rest of a run from its beginning and from peers: exact where the law holds, wider where less is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.scaling.annealing_peers import BackTest, Piece, back_test, cut, foretell
from sweeper.scaling.rates import Rates, trapezoid
from sweeper.scaling.records import Array

MEMORY = 2.5e6


def loss(rates: Rates, at: Array, level: float = 0.0) -> Array:
    """The three-term law with a memory and a power that are among the searched ones."""
    drops = rates.drops()
    since = np.maximum(at[:, None] - drops.step_j, 0.0)
    area = -np.expm1(-since / MEMORY) @ drops.fall_j / rates.peak
    return np.asarray(2.0 + level + 0.6 * (rates.sums(at) / rates.peak / 2e7) ** -0.4 - 0.3 * area)


def run(tokens: float, level: float = 0.0, *, peak: float = 1.0, noise: float = 0.0, seed: int = 0) -> list[Piece]:
    rates = trapezoid(peak, tokens, cooldown=0.4)
    at = np.linspace(0.03, 1.0, 60) * tokens
    random = np.random.default_rng(seed)
    return [Piece(rates, at, loss(rates, at, level) * np.exp(noise * random.standard_normal(60)), True)]


PEERS = [run(4e7, level, peak=peak) for level, peak in ((-0.02, 0.5), (0.0, 1.0), (0.01, 1.5), (0.03, 2.0))]


@settings(max_examples=15, deadline=None)
@given(st.floats(-0.05, 0.05), st.floats(0.2, 0.8), st.sampled_from([4e7, 1e8]))
def test_a_run_of_the_law_is_foretold_from_any_share_before_its_rate_falls_or_after(
    level: float, share: float, tokens: float
) -> None:
    (whole,) = run(tokens, level, peak=0.7)
    later = whole.at_n > share * tokens
    told = foretell(cut([whole], share * tokens), PEERS, whole.rates, whole.at_n[later], train=True)
    assert np.abs(told.log_loss_m - np.log(whole.loss_n[later])).max() < 0.01
    assert (told.sd_m > 0).all()


def test_what_no_peer_shows_is_wide() -> None:
    (whole,) = run(4e7, noise=0.005)
    before, end = cut([whole], 1.2e7), np.array([4e7])
    alone = foretell(before, [], whole.rates, end, train=True)
    among = foretell(before, PEERS, whole.rates, end, train=True)
    assert alone.sd_m[0] > 5 * among.sd_m[0]
    assert (alone.runs, among.runs) == (0, 4)


def test_back_tests_see_what_the_model_does_not() -> None:
    good = back_test(PEERS, 0.3, train=True)
    assert good.judged == 4 and good.error < 0.01
    odd = [run(4e7, seed=k) for k in range(4)]
    for k, (piece,) in enumerate(odd):
        gain = 1 - 0.1 * (k - 1.5) * np.clip(piece.at_n / 4e7 - 0.6, 0, 1)
        odd[k] = [Piece(piece.rates, piece.at_n, piece.loss_n * gain, True)]
    bad = back_test(odd, 0.3, train=True)
    assert bad.excess[-1] > good.excess[-1] and list(bad.excess) == sorted(bad.excess)
    assert bad.widened(np.array([0.01]), np.array([1.0]), 0.3)[0] == pytest.approx(np.hypot(0.01, bad.excess[-1]))


def test_without_back_tests_the_band_drifts_apart_with_distance() -> None:
    none = back_test([], 0.3, train=True)
    assert none == BackTest(0, none.error, (0.0,) * 4) or none.judged == 0
    near, far = none.widened(np.full(2, 0.01), np.array([0.3, 0.6]), 0.3)
    assert near == pytest.approx(0.01) and far > 0.03


def test_held_out_and_training_losses_differ_by_a_share() -> None:
    peers = [[*peer, Piece(peer[0].rates, peer[0].at_n[9::10], peer[0].loss_n[9::10] - 0.04, False)] for peer in PEERS]
    (whole,) = run(1e8)
    before = cut([whole], 3e7)
    train, held_out = (
        foretell(before, peers, whole.rates, np.array([1e8]), train=kind).log_loss_m[0] for kind in (True, False)
    )
    assert np.exp(train) - np.exp(held_out) == pytest.approx(0.04, abs=0.005)


def test_points_that_do_not_ascend_are_refused() -> None:
    with pytest.raises(ValueError, match="as many losses as ascending tokens are needed"):
        Piece(trapezoid(1.0, 10.0), np.array([2.0, 1.0]), np.array([3.0, 3.0]), True)
