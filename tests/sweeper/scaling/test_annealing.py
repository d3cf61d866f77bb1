"""The annealing law on curves made from it, step by step, and on curves that it does not hold."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.scaling import annealing_fit
from sweeper.scaling.annealing import AnnealingForecast, AnnealingLaw, fit_annealing
from sweeper.scaling.annealing_data import Annealed
from sweeper.scaling.rates import Drops, Rates, logged, trapezoid
from sweeper.scaling.records import Array, Unidentified

PEAK = 0.02
NOISE = 0.001


def published(rate: Array, steps: Array) -> Array:
    """The law's sum over every step, as it is written in the paper."""
    sums, eta = np.cumsum(rate), rate / PEAK
    drops = np.flatnonzero(np.diff(rate[int(np.argmax(rate)) :]) < 0) + int(np.argmax(rate)) + 1
    loss = []
    for step in steps:
        past = drops[drops <= step]
        since = (sums[step] - sums[past - 1]) / (2000 * PEAK)
        gain = (eta[past - 1] - eta[past]) @ (1 - (1 + 25 * eta[past] ** -0.5 * since) ** -0.5)
        loss.append(2.6 + 0.7 * (sums[step] / (2000 * PEAK)) ** -0.45 - 0.2 * gain)
    return np.array(loss)


def run(shape: str, last: int, seed: int = 0, points: int = 150) -> Annealed:
    steps = np.arange(last + 1)
    rate = np.minimum(PEAK, PEAK * steps / 50)
    if shape == "cosine":
        rate = np.minimum(
            rate, PEAK * (0.05 + 0.95 * 0.5 * (1 + np.cos(np.pi * np.clip((steps - 50) / (last - 50), 0, 1))))
        )
        rates = logged(steps[50:], rate[50:])
    elif shape == "warmdown":
        rate = np.minimum(rate, PEAK * np.maximum((last - steps) / (0.3 * last), 1e-3))
        rates = trapezoid(PEAK, last, warmup=50 / last, cooldown=0.3)
    elif shape == "drop":
        rate = np.where(steps < last // 2, rate, 0.3 * PEAK)
        rates = Rates(np.array([0.0, 50, last // 2, last // 2, last]), PEAK * np.array([0, 1, 1, 0.3, 0.3]))
    else:
        rates = trapezoid(PEAK, last, warmup=50 / last)
    at = np.unique(np.linspace(150, last, points).round().astype(int))
    noise = np.random.default_rng(seed).normal(0, NOISE, len(at))
    return Annealed(rates, at.astype(np.float64), published(rate, at) + noise)


FITTED = [run("cosine", 2000, 1), run("constant", 2000, 2), run("drop", 1600, 3)]


@pytest.fixture(scope="module")
def law() -> AnnealingLaw:
    found = fit_annealing(FITTED)
    assert isinstance(found, AnnealingLaw), found
    return found


@pytest.mark.parametrize(
    ("unseen", "most"),
    [(run("warmdown", 2000, 9), 0.006), (run("cosine", 6000, 10), 0.02), (run("warmdown", 6000, 11), 0.02)],
)
def test_schedules_that_it_never_saw_are_predicted(law: AnnealingLaw, unseen: Annealed, most: float) -> None:
    found = law.predict(unseen.rates, unseen.step_n)
    assert isinstance(found, AnnealingForecast)
    assert np.abs(found.loss_m - unseen.loss_n).mean() < most
    inside = (found.low_m <= unseen.loss_n) & (unseen.loss_n <= found.high_m)
    assert inside.mean() > 0.9
    assert found.end.width < 0.15


def test_a_form_that_holds_is_not_flagged_and_the_fit_is_the_same_twice(law: AnnealingLaw) -> None:
    assert not law.misfit.flagged and law.r_squared > 0.999 and law.left_out is not None and law.left_out < 0.004
    again = fit_annealing(FITTED)
    assert isinstance(again, AnnealingLaw)
    assert (again.theta_p == law.theta_p).all() and (again.draws_Dp == law.draws_Dp).all()


def test_the_three_term_law_agrees_where_both_hold(law: AnnealingLaw) -> None:
    unseen = run("warmdown", 2000, 9)
    found = law.predict(unseen.rates, unseen.step_n)
    assert isinstance(found, AnnealingForecast)
    assert np.abs(found.tissue_m - unseen.loss_n).mean() < 0.02


def test_a_wrong_form_is_flagged() -> None:
    rising = [Annealed(r.rates, r.step_n, r.loss_n + 0.3 * np.clip(r.step_n / 2000 - 0.6, 0, 1)) for r in FITTED]
    found = fit_annealing(rising)
    assert isinstance(found, AnnealingLaw)
    assert found.misfit.flagged and "keep a pattern" in found.misfit.detail


@pytest.mark.parametrize(
    ("runs", "reason"),
    [
        ([run("constant", 2000)], "no rate falls"),
        ([run("cosine", 2000)], "falls all along"),
        ([run("warmdown", 2000, points=12)], "12 points, 20 needed"),
        ([run("warmdown", 250)], "the sum of rates grows by x"),
        (
            [FITTED[0], Annealed(trapezoid(0.05, 2000, cooldown=0.3), FITTED[1].step_n, FITTED[1].loss_n)],
            "of their own",
        ),
    ],
)
def test_what_cannot_hold_a_law_is_refused(runs: list[Annealed], reason: str) -> None:
    found = fit_annealing(runs)
    assert isinstance(found, Unidentified) and reason in found.not_identified


@pytest.mark.parametrize(
    ("rates", "reason"),
    [
        (trapezoid(PEAK, 20_000, cooldown=0.3), "times the longest fitted one, 4 are allowed"),
        (trapezoid(3 * PEAK, 1000, cooldown=0.3), "is not like those of the runs"),
    ],
)
def test_predictions_too_far_away_are_refused(law: AnnealingLaw, rates: Rates, reason: str) -> None:
    found = law.predict(rates, np.linspace(100, rates.last, 20))
    assert isinstance(found, Unidentified) and reason in found.not_identified


def test_one_run_with_a_trunk_is_enough_for_a_longer_one_like_it() -> None:
    found = fit_annealing([run("warmdown", 1500, 4)])
    assert isinstance(found, AnnealingLaw)
    longer = run("warmdown", 3000, 5)
    predicted = found.predict(longer.rates, longer.step_n)
    assert isinstance(predicted, AnnealingForecast)
    assert predicted.end.low <= longer.loss_n[-1] <= predicted.end.high


def test_six_curves_of_a_thousand_points_take_seconds() -> None:
    runs = [run(shape, last, seed, 1000) for seed, (shape, last) in enumerate([("cosine", 3000), ("drop", 3000)] * 3)]
    began = time.perf_counter()
    assert isinstance(fit_annealing(runs), AnnealingLaw)
    assert time.perf_counter() - began < 15


@pytest.mark.parametrize(
    ("step", "loss", "said"),
    [([1.0, 3, 2], [3.0, 2, 1], "ascending"), ([1.0, 2], [3.0], "ascending"), ([1.0, 2], [3.0, -1], "positive")],
)
def test_curves_that_are_none_are_refused(step: list[float], loss: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fit_annealing([Annealed(trapezoid(PEAK, 10), np.array(step), np.array(loss))])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-0.5, 0.5), min_size=7, max_size=7))
def test_slopes_are_those_of_the_prediction(offsets: list[float]) -> None:
    theta = annealing_fit.CENTRE + np.array(offsets)
    drops = Drops(np.array([0.3, 0.5]), np.array([0.7, 0.2]), np.array([0.4, 0.8]), np.array([400.0, 800.0]))
    sums = np.linspace(0.1, 1.5, 9)
    _, slopes = annealing_fit.predict(theta[None], sums, drops)
    for p in range(7):
        step = np.zeros(7)
        step[p] = 1e-6
        up, down = (annealing_fit.predict((theta + sign * step)[None], sums, drops)[0][0] for sign in (1, -1))
        assert slopes[0, :, p] == pytest.approx((up - down) / 2e-6, rel=1e-4, abs=1e-7)
