"""The law of a held-out curve: exact laws come back, intervals cover, and what the data do not hold is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.saturation import CurveLaw, curve_saturation, fit_curve, forecast, token_saturation
from sweeper.scaling.records import Estimate, Unidentified

LAWS = st.tuples(st.floats(1.0, 5.0), st.floats(0.1, 3.0), st.floats(0.1, 1.5))
"""Floor, scale at 1e8 tokens, exponent."""


def law_at(tokens, floor, scale, exponent):
    return floor + scale * (np.asarray(tokens) / 1e8) ** -exponent


@settings(max_examples=60, deadline=None)
@given(LAWS, st.integers(6, 40), st.floats(4.0, 100.0), st.floats(1e4, 1e9))
def test_an_exact_law_is_recovered_at_any_size(law, points, span, first):
    tokens = np.linspace(1.0, span, points) * first
    found = fit_curve(tokens, law[0] + law[1] * (tokens / first) ** -law[2], draws=100)
    assert isinstance(found, CurveLaw)
    assert found.exponent == pytest.approx(law[2], rel=1e-3)
    assert found.offset == pytest.approx(law[0], abs=2e-3)
    assert found.floor is not None and found.floor.low <= found.offset <= found.floor.high
    assert found.at(10 * tokens[-1]) == pytest.approx(law[0] + law[1] * (10 * span) ** -law[2], abs=2e-3)


@settings(max_examples=30, deadline=None)
@given(LAWS, st.floats(0.5, 2.0))
def test_the_fit_does_not_depend_on_the_unit_of_tokens(law, unit):
    tokens = np.linspace(1e8, 2e9, 12)
    loss = law_at(tokens, *law) + 0.001 * np.sin(np.arange(12) * 2.3)
    one, other = fit_curve(tokens, loss, draws=50), fit_curve(tokens * unit, loss, draws=50)
    assert isinstance(one, CurveLaw) and isinstance(other, CurveLaw)
    assert one.exponent == pytest.approx(other.exponent, rel=1e-5)
    assert one.at(tokens) == pytest.approx(other.at(tokens * unit), rel=1e-6)


@pytest.mark.parametrize(("points", "noise", "span"), [(8, 0.003, 8.0), (19, 0.005, 19.0)])
def test_the_intervals_cover_floor_saturation_and_what_is_measured_next(points, noise, span):
    random = np.random.default_rng(3)
    tokens = np.linspace(1 / span, 1, points) * 1e9
    covered = {"floor": 0, "saturation": 0, "band": 0}
    repeats = 120
    for seed in range(repeats):
        true = law_at(tokens, 2.8, 2.0, 0.45)
        loss = true + noise * random.standard_normal(points)
        law = fit_curve(tokens, loss, draws=300, seed=seed)
        assert isinstance(law, CurveLaw) and law.floor is not None
        covered["floor"] += law.floor.low <= 2.8 <= law.floor.high
        share = curve_saturation(law, 10.8, float(loss[-1]))
        assert isinstance(share, Estimate)
        covered["saturation"] += share.low <= (10.8 - loss[-1]) / (10.8 - 2.8) <= share.high
        band = forecast(law, tokens, 2e9)
        assert not isinstance(band, Unidentified)
        new = law_at(2e9, 2.8, 2.0, 0.45) + noise * random.standard_normal()
        covered["band"] += band.end.low <= new <= band.end.high
    assert {name for name, count in covered.items() if count < 0.88 * repeats} == set(), covered


@settings(max_examples=40, deadline=None)
@given(st.floats(0.001, 0.3), st.integers(6, 20))
def test_a_curve_that_does_not_flatten_has_no_floor_and_says_so(slope, points):
    tokens = np.geomspace(1e8, 2e9, points)
    straight = 5 - slope * np.log(tokens / 1e8)
    bent_down = 5 - slope * (tokens / 1e8) / 20
    for loss in (straight, bent_down):
        law = fit_curve(tokens, loss, draws=100)
        assert isinstance(law, CurveLaw)
        assert law.floor is None and "wrong curvature" in str(law.floor_not_identified)
        refused = curve_saturation(law, 10.8, float(loss[-1]))
        assert isinstance(refused, Unidentified) and "wrong curvature" in refused.not_identified


def test_a_curve_that_is_flat_after_its_first_point_is_no_power_law():
    tokens = np.linspace(1e8, 2e9, 10)
    law = fit_curve(tokens, np.r_[4.0, np.full(9, 3.0)])
    assert isinstance(law, CurveLaw)
    assert "flat from there" in str(law.floor_not_identified)


@pytest.mark.parametrize(
    ("tokens", "loss", "reason"),
    [
        ([], [], "0 held-out losses at this rate, 6 needed"),
        ([1, 2, 3, 4, 5], [5, 4, 3.5, 3.3, 3.2], "5 held-out losses at this rate, 6 needed"),
        ([10, 11, 12, 13, 14, 15], [5, 4, 3.5, 3.3, 3.2, 3.1], "tokens grow by x1.50 over the points, x2 needed"),
        ([1, 2, 3, 4, 5, 6], [3, 3.1, 3.2, 3.3, 3.4, 3.5], "the loss does not fall"),
        ([1, 2, 3, 4, 5, 6], [3, 3.1, 3, 3.1, 3, 3.05], "the loss does not fall"),
    ],
)
def test_refusals_give_their_reason_and_no_number(tokens, loss, reason):
    law = fit_curve(tokens, loss)
    assert isinstance(law, Unidentified)
    assert reason in law.not_identified
    assert curve_saturation(law, 10.8, 3.0) is law
    assert forecast(law, tokens, 100.0) is law


def test_a_floor_that_noise_hides_is_not_identified_though_the_near_future_is():
    random, tokens = np.random.default_rng(1), np.linspace(1e9, 2.1e9, 8)
    law = fit_curve(tokens, law_at(tokens, 2.8, 2.0, 0.2) + 0.004 * random.standard_normal(8))
    assert isinstance(law, CurveLaw)
    assert law.floor is None
    assert "bootstrap draws" in str(law.floor_not_identified) or "curvature" in str(law.floor_not_identified)
    near = forecast(law, tokens, 2.3e9)
    assert not isinstance(near, Unidentified)
    assert near.end.low < law_at(2.3e9, 2.8, 2.0, 0.2) < near.end.high


def test_a_band_that_is_wider_than_the_fall_so_far_is_refused():
    random, tokens = np.random.default_rng(0), np.linspace(1e9, 2.1e9, 6)
    law = fit_curve(tokens, law_at(tokens, 2.8, 0.5, 0.5) + 0.012 * random.standard_normal(6))
    far = forecast(law, tokens, 1e12)
    assert isinstance(far, Unidentified)


@settings(max_examples=40, deadline=None)
@given(LAWS, st.floats(1.1, 4.0))
def test_saturation_grows_with_tokens_and_ends_below_one(law, further):
    tokens = np.linspace(1e8, 2e9, 10)
    loss = law_at(tokens, *law)
    found = fit_curve(tokens, loss, draws=50)
    shares = [curve_saturation(found, 10.8, float(now)) for now in (loss[-2], loss[-1], law_at(2e9 * further, *law))]
    assert all(isinstance(share, Estimate) for share in shares)
    assert shares[0].value < shares[1].value < shares[2].value < 1.01


def test_token_saturation_is_of_the_reference_ratio():
    assert token_saturation(3.0e9, 27_500_548, 109.0) == pytest.approx(3e9 / 27_500_548 / 109)
    assert token_saturation(0, 1, 1) == 0
    for wrong in ((-1, 1, 1), (1, 0, 1), (1, 1, 0)):
        with pytest.raises(ValueError, match="must"):
            token_saturation(*wrong)


def test_impossible_input_is_refused():
    with pytest.raises(ValueError, match="ascending"):
        fit_curve([2, 1, 3], [1, 1, 1])
    with pytest.raises(ValueError, match="losses"):
        fit_curve([1, 2, 3], [1, 1])
    with pytest.raises(ValueError, match="loss must be finite"):
        fit_curve([1, 2, 3], [1, math.nan, 1])
    with pytest.raises(ValueError, match="below the one before training"):
        curve_saturation(Unidentified(used=0, not_identified=""), 3.0, 3.0)
