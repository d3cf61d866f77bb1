from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.scaling import power_sum
from sweeper.scaling.loss_law import LossLaw, fit_loss_law
from sweeper.scaling.projection import project
from sweeper.scaling.records import Unidentified

N, D = (axis.ravel() for axis in np.meshgrid(np.geomspace(7e7, 1e10, 7), np.geomspace(1e9, 3e11, 7)))


def two_term(n, d, floor=1.8172, a=482.0, b=2085.4, alpha=0.3478, beta=0.3658):
    return floor + a / n**alpha + b / d**beta


def noisy(loss, deviation=0.002, seed=0):
    return loss * np.exp(deviation * np.random.default_rng(seed).normal(size=len(loss)))


def fit(loss, sizes, **options) -> LossLaw:
    law = fit_loss_law(loss, sizes, **{"draws": 100, **options})
    assert isinstance(law, LossLaw)
    return law


@settings(max_examples=12, deadline=None)
@given(
    floor=st.floats(1.0, 2.2),
    alpha=st.floats(0.2, 0.5),
    beta=st.floats(0.2, 0.5),
    share=st.tuples(*[st.floats(0.2, 0.8)] * 2),
)
def test_an_exact_law_of_sizes_and_tokens_is_recovered(floor, alpha, beta, share):
    a, b = (s * np.exp(e * np.log(x).mean()) for s, e, x in zip(share, (alpha, beta), (N, D), strict=True))

    law = fit(two_term(N, D, floor, a, b, alpha, beta), {"n_params": N, "tokens": D}, draws=5)

    assert law.exponents["n_params"].value == pytest.approx(alpha, abs=2e-3)
    assert law.exponents["tokens"].value == pytest.approx(beta, abs=2e-3)
    assert law.objective < 1e-9
    assert law.floor is not None
    assert law.floor.value == pytest.approx(floor, abs=5e-3)
    assert law.best_split().value == pytest.approx(beta / (alpha + beta), abs=3e-3)


def test_gradients_are_exact():
    random = np.random.default_rng(0)
    theta, x = random.normal(size=(1, 5)), random.normal(size=(9, 2))
    _, shares = power_sum.log_prediction(theta, x)
    exact = power_sum.jacobian(shares, x)[0]

    for k, step in enumerate(1e-6 * np.eye(5)):
        above, below = (power_sum.log_prediction(theta + s, x)[0][0] for s in (step, -step))
        assert exact[:, k] == pytest.approx((above - below) / 2e-6, abs=1e-8)


def test_refits_of_draws_are_as_low_as_a_search_from_many_starts():
    x = np.log(np.stack([N, D], axis=1))
    x, y = x - x.mean(axis=0), np.log(noisy(two_term(N, D), 0.005))
    whole = power_sum.fit(x, y, 12, 0)
    drawn = np.random.default_rng(1).multinomial(len(y), np.full(len(y), 1 / len(y)), size=3).astype(float)

    quick = power_sum.refit(whole.theta_p, x, y, drawn)

    for theta, weights in zip(quick, drawn, strict=True):
        rows = np.repeat(np.arange(len(y)), weights.astype(int))
        searched = power_sum.fit(x[rows], y[rows], 12, 0)
        objective = power_sum.huber(power_sum.log_prediction(theta[None], x[rows])[0][0] - y[rows]).sum()
        assert objective <= searched.objective * 1.002


def test_outliers_move_a_robust_fit_little():
    loss = noisy(two_term(N, D), 0.001)
    loss[[3, 20, 33]] *= 1.2

    law = fit(loss, {"n_params": N, "tokens": D})

    assert law.exponents["n_params"].value == pytest.approx(0.3478, abs=0.02)
    assert law.exponents["tokens"].value == pytest.approx(0.3658, abs=0.02)


def test_intervals_are_there_hold_the_truth_and_repeat_by_seed():
    loss = noisy(two_term(N, D), seed=1)

    first, again, other = (fit(loss, {"n_params": N, "tokens": D}, seed=seed) for seed in (1, 1, 2))

    assert first.exponents["n_params"].low < 0.3478 < first.exponents["n_params"].high
    assert first.exponents == again.exponents
    assert first.exponents != other.exponents
    low, high = (bound[0] for bound in first.predict({"n_params": 2e10, "tokens": 1e12})[1:])
    assert low < two_term(2e10, 1e12) < high


def test_runs_scatter_more_than_the_law():
    law = fit(noisy(two_term(N, D), 0.01), {"n_params": N, "tokens": D})
    place = {"n_params": 1e9, "tokens": 1e10}

    (_, low, high), (_, law_low, law_high) = law.predict(place), law.predict(place, new_run=False)

    assert high - low > 1.5 * (law_high - law_low)


def test_a_floor_that_the_data_do_not_hold_is_refused_and_predictions_remain():
    steps = np.geomspace(1000, 4000, 9)

    law = fit(noisy(2.0 + 4 / steps**0.2, 0.002), {"steps": steps})

    assert law.floor is None
    assert law.floor_not_identified.startswith("the floor is not told from none: up to ")
    assert law.predict({"steps": 2000.0})[0][0] == pytest.approx(2.0 + 4 / 2000**0.2, rel=0.01)


def test_a_floor_less_well_known_than_the_loss_above_it_is_refused():
    steps = np.geomspace(1000, 8000, 12)

    law = fit(noisy(2.0 + 4 / steps**0.2, 0.001, seed=2), {"steps": steps}, draws=400)

    assert law.floor is None
    assert law.floor_not_identified.startswith("the interval of the floor is ")


def without_effect_of_the_batch(seed: int):
    """40 runs of 1.2 + 20 / steps^0.45 at batches that do not matter."""
    random = np.random.default_rng(seed)
    steps, batch = np.exp(random.uniform(np.log(500), np.log(5000), 40)), 2.0 ** random.integers(15, 19, 40)
    return (1.2 + 20 * steps**-0.45) * np.exp(random.normal(0, 0.003, 40)), {"steps": steps, "batch_tokens": batch}


@pytest.mark.parametrize("seed", [1, 5, 7, 8, 14, 15, 18])
def test_no_floor_is_told_where_a_term_is_a_constant_in_disguise(seed):
    law = fit(*without_effect_of_the_batch(seed), draws=200)

    assert law.exponents["batch_tokens"].low < 0.02
    assert law.floor is None
    assert law.floor_not_identified.startswith("the exponent of batch_tokens (")


def test_draws_leave_a_floor_that_has_vanished_from_the_fit():
    tokens = np.geomspace(1e8, 8e8, 6)
    for seed in (12, 16, 20):
        law = fit(noisy(1.0 + 30 / tokens**0.18, 0.003, seed=seed), {"tokens": tokens}, draws=200)

        assert np.exp(law.theta_p[0]) < 1e-3
        assert np.quantile(np.exp(law.draws_Dp[:, 0]), 0.9) > 0.3
        assert law.exponents["tokens"].low < 0.18 < law.exponents["tokens"].high
        assert law.floor is None


def test_a_batch_that_only_rounding_moves_is_no_size():
    random = np.random.default_rng(0)
    steps, batch = np.geomspace(1e3, 1e5, 20), 131_072 * random.uniform(0.98, 1.02, 20)

    law = fit_loss_law(noisy(2 + 30 / steps**0.4), {"steps": steps, "batch_tokens": batch})
    narrow = fit_loss_law(noisy(2 + 30 / steps**0.4), {"steps": steps, "batch_tokens": np.geomspace(1e5, 1.4e5, 20)})

    assert law.not_identified == "batch_tokens takes fewer than three values"
    assert narrow.not_identified == "batch_tokens varies by less than a factor of 1.5"


@pytest.mark.parametrize("seed", range(6))
def test_no_prediction_lies_above_runs_with_less_of_everything(seed):
    steps, batch = (v.ravel() for v in np.meshgrid([500.0, 1000, 2000, 4000], [65_536.0, 131_072, 262_144]))
    tokens = steps * batch
    loss = noisy((2.2 + 3 * (tokens / 1e8) ** -0.3) / 3, 0.02, seed=seed)
    law = fit(loss, {"steps": steps, "batch_tokens": batch}, draws=400)

    _, _, high = law.predict({"steps": 8 * steps, "batch_tokens": batch}, new_run=False)

    less = (steps <= 8 * steps[:, None]) & (batch <= batch[:, None])
    scatter = np.sqrt((law.residuals_n**2).mean() * 12 / 7)
    assert (high <= np.where(less, loss, np.inf).min(axis=1) * np.exp(2.01 * scatter)).all()
    assert (law.draws_Dp[:, 3:] > 0).all()


def test_a_law_whose_form_is_rejected_says_so():
    right = fit(noisy(two_term(N, D), 0.002), {"n_params": N, "tokens": D})
    coupled = noisy(two_term(N, D) + 0.04 * np.log(N / 1e9) * np.log(D / 1e10), 0.002)

    assert right.objection is None
    assert fit(coupled, {"n_params": N, "tokens": D}).objection.startswith("the form of the loss law does not fit the")


def test_a_law_whose_form_is_rejected_foretells_with_twice_the_interval():
    steps, batch = (v.ravel() for v in np.meshgrid([500.0, 1000, 2000], [4096.0, 8192, 16_384, 32_768]))

    def by_critical_batch(steps, batch):
        return 1 + 0.8 * (steps * batch / (1 + batch / 16_384) / 1e6) ** -0.3

    law = fit(noisy(by_critical_batch(steps, batch), 2e-4), {"steps": steps, "batch_tokens": batch}, draws=400)
    central, low, high = law.predict({"steps": 8000.0, "batch_tokens": 8192.0}, new_run=False)
    drawn, _ = power_sum.log_prediction(law.draws_Dp, np.log([[8000.0, 8192.0]]) - law.centre_k)

    assert law.misfit.flagged
    assert "doubled" in law.interval_method
    assert np.log(central / low)[0] == pytest.approx(2 * (np.log(central[0]) - np.quantile(drawn, 0.025)), rel=0.01)
    assert low[0] < by_critical_batch(8000.0, 8192.0) < high[0]


def test_the_three_term_law_gives_its_best_batch_in_closed_form():
    n, d, b = (a.ravel() for a in np.meshgrid([2e8, 5e8, 1e9], [3e9, 1e10, 1e11], [2.0**k for k in range(16, 23)]))
    loss = 1.2 + 200 / n**0.285 + 11 / (d / b) ** 0.25 + 5 / b**0.2

    law = fit(loss, {"n_params": n, "steps": d / b, "batch_tokens": b}, draws=20)
    batches = np.geomspace(1e4, 1e8, 4000)
    searched = batches[np.argmin(11 / (1e10 / batches) ** 0.25 + 5 / batches**0.2)]

    assert law.best_batch(1e10).value == pytest.approx(searched, rel=0.03)
    assert law.best_batch_exponent().value == pytest.approx(0.25 / 0.45, abs=0.01)
    assert law.best_split() is None


def test_a_law_of_the_wrong_form_is_flagged_and_one_of_the_right_form_is_not():
    right = fit(noisy(two_term(N, D), 0.002), {"n_params": N, "tokens": D})
    coupled = noisy(two_term(N, D) + 0.04 * np.log(N / 1e9) * np.log(D / 1e10), 0.002)

    assert not right.misfit.flagged
    assert fit(coupled, {"n_params": N, "tokens": D}).misfit.flagged


def test_a_law_too_thin_to_test_is_less_sure_the_further_out():
    tokens = np.geomspace(1e9, 1e10, 5)
    law = fit(noisy(1.8 + 2085.4 / tokens**0.3658, 0.01), {"tokens": tokens})
    tested = dataclasses.replace(law, misfit=dataclasses.replace(law.misfit, p_value=1.0))

    def spread(one, at):
        return float(np.std(one.sample({"tokens": at})))

    assert law.misfit.p_value is None
    assert spread(law, 5e9) == spread(tested, 5e9)
    assert spread(law, 1e12) > spread(tested, 1e12)


def test_variable_projection_finds_the_same_exact_law_by_another_road():
    x = np.log(np.stack([N, D], axis=1))

    found = project(x - x.mean(axis=0), two_term(N, D))

    assert found.exponents_k == pytest.approx([0.3478, 0.3658], abs=1e-3)
    assert found.floor == pytest.approx(1.8172, abs=2e-3)


@pytest.mark.parametrize(
    ("loss", "sizes", "reason"),
    [
        (
            [3.0, 2.9, 2.8, 2.7],
            {"tokens": [1e9, 2e9, 3e9, 4e9]},
            "too few points: 4, and 5 are needed for 3 parameters",
        ),
        ([3.0, 2.9, 2.8, 2.7, 2.6], {"tokens": [1e9, 1e9, 1e9, 2e9, 2e9]}, "tokens takes fewer than three values"),
    ],
)
def test_what_cannot_be_fitted_is_named(loss, sizes, reason):
    law = fit_loss_law(loss, sizes)

    assert isinstance(law, Unidentified)
    assert law.not_identified == reason


def test_a_size_with_which_the_loss_rises_is_no_part_of_a_law():
    law = fit_loss_law(noisy(2 + N / 1e11 + 300 / D**0.3, 0.001), {"n_params": N, "tokens": D}, draws=5)

    assert isinstance(law, Unidentified)
    assert law.not_identified.startswith("the exponent of n_params ran to")


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match=r"loss must be finite and positive, got -1\.0 at 1"):
        fit_loss_law([3.0, -1.0], {"tokens": [1e9, 2e9]})
    with pytest.raises(ValueError, match="the law needs tokens, got n_params, steps"):
        fit(two_term(N, D), {"n_params": N, "tokens": D}, draws=2).predict({"n_params": 1e9, "steps": 1e4})
