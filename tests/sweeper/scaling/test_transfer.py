"""The seven steps from a short run to a long one, and the worked example of the reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.scaling import priors
from sweeper.scaling.batch import choose_batch
from sweeper.scaling.gate import confirmation
from sweeper.scaling.loss_law import LossLaw, fit_loss_law
from sweeper.scaling.power_law import fit_power_law, prior_law
from sweeper.scaling.setting import Given, Laws, Start, Target
from sweeper.scaling.shading import excess, shade
from sweeper.scaling.step_time import StepTime, fit_step_time
from sweeper.scaling.transfer import candidates

TOKENS = 4781 * 131_072.0
SHORT = Start(n_params=TOKENS / 29, tokens=TOKENS, batch_tokens=131_072, learning_rate=0.035, weight_decay=0.025)
LONG = Target(n_params=SHORT.n_params, tokens=3.0e9, batch_quantum=65_536)


def by_name(start=SHORT, target=LONG, laws=None):
    return {one.name: one for one in candidates(start, target, laws or Laws())}


def rate_law(exponents=(-0.3, 0.5, -0.15), noise=0.05):
    random = np.random.default_rng(0)
    n, b, d = np.exp(random.uniform([16, 10, 19], [18, 13, 22], (30, 3))).T
    logs = sum(e * np.log2(x) for e, x in zip(exponents, (n, b, d), strict=True)) + noise * random.normal(size=30)
    sizes = {"n_params": n, "batch_tokens": b, "tokens": d}
    return fit_power_law(2.0 ** (logs - 10), sizes, beliefs=priors.RATE)


def three_term_law() -> LossLaw:
    s, b = (a.ravel() for a in np.meshgrid(np.geomspace(1e3, 3e4, 6), 2.0 ** np.arange(15, 21)))
    loss = (1.5 + 11 / s**0.25 + 16 / b**0.2) * np.exp(0.001 * np.random.default_rng(0).normal(size=len(s)))
    law = fit_loss_law(loss, {"steps": s, "batch_tokens": b}, draws=200)
    assert isinstance(law, LossLaw)
    return law


def device(speed=1.0) -> StepTime:
    depth, batch = (a.ravel() for a in np.meshgrid([6.0, 8.0, 12.0], 2.0 ** np.arange(15, 20)))
    law = fit_step_time(depth, batch, (0.01 + 0.002 * depth + 4e-8 * batch * depth) / speed)
    assert isinstance(law, StepTime)
    return law


def test_the_worked_example_of_the_reference():
    prior = by_name()["prior law"]

    assert SHORT.tau == pytest.approx(0.239, abs=0.001)
    assert prior.values.batch_tokens == 262_144
    assert prior.values.steps == pytest.approx(11_444, abs=1)
    assert prior.best_rate.value == pytest.approx(0.035, rel=0.02)
    assert prior.rate_deviation == pytest.approx(0.5, abs=0.05)
    assert prior.shaded_octaves == pytest.approx(-0.2, abs=0.02)
    assert prior.values.learning_rate == pytest.approx(0.030, abs=0.0007)


def test_the_worked_examples_decay_with_its_own_exponent_of_tau():
    tau = prior_law({"tokens_per_param": priors.Prior(-0.5, 0.15)}, {"tokens_per_param": 20.0})
    prior = prior_law(priors.RATE, {"n_params": SHORT.n_params, "tokens": TOKENS, "batch_tokens": 131_072})

    fitted = by_name(laws=Laws(rate=prior, tau=tau))["fitted law"]

    assert fitted.values.tau == pytest.approx(0.11, abs=0.002)
    assert fitted.values.weight_decay == pytest.approx(0.027, abs=0.001)


def test_the_copy_keeps_rate_batch_and_decay():
    copied = by_name()["copied"].values

    assert (copied.learning_rate, copied.batch_tokens, copied.weight_decay) == (0.035, 131_072, 0.025)
    assert copied.steps == pytest.approx(22_888, abs=1)
    assert copied.rate_factor == 1


def test_a_copy_has_what_the_run_was_given_and_is_judged_from_its_cells_optimum():
    given = Given(learning_rate=0.07, batch_tokens=65_536, weight_decay=0.0)
    start, laws = replace(SHORT, given=given), Laws(rate=rate_law(), loss=three_term_law())
    copied, _, fitted = candidates(start, LONG, laws)

    assert (copied.values.learning_rate, copied.values.batch_tokens, copied.values.weight_decay) == (0.07, 65_536, 0.0)
    assert (copied.values.tau, copied.values.rate_factor) == (np.inf, 2.0)
    assert fitted == candidates(SHORT, LONG, laws)[2], "the law starts from the optimum all the same"
    tuned = candidates(replace(start, given=replace(given, learning_rate=0.02)), LONG, laws)[0]
    assert copied.predicted_loss.value > tuned.predicted_loss.value
    assert confirmation(replace(start, censored=True), LONG, laws, copied).runs[0].weight_decay == 0
    with pytest.raises(ValueError, match="weight_decay must not be negative, got -1"):
        replace(given, weight_decay=-1)


def test_decay_keeps_tau_where_tokens_per_parameter_stay():
    bigger = replace(LONG, n_params=SHORT.n_params * 3e9 / TOKENS)

    assert by_name(target=bigger)["prior law"].values.tau == pytest.approx(SHORT.tau)


@given(rate=st.floats(1e-3, 0.1), decay=st.floats(1e-3, 0.3), reach=st.floats(1.0, 50))
def test_every_candidate_says_the_tau_of_its_own_values(rate, decay, reach):
    start = replace(SHORT, learning_rate=rate, weight_decay=decay)

    for one in candidates(start, replace(LONG, tokens=TOKENS * reach), Laws()):
        v = one.values
        assert 1 / (v.learning_rate * v.weight_decay * v.steps) == pytest.approx(v.tau)
        assert v.steps * v.batch_tokens == pytest.approx(v.tokens)


def test_a_schedule_of_another_shape_counts_by_its_mean_rate():
    half = by_name(target=replace(LONG, mean_rate=0.5))["prior law"].values

    assert half.weight_decay == pytest.approx(2 * by_name()["prior law"].values.weight_decay)


def test_unknown_decay_falls_back_to_a_default_and_says_so():
    one = by_name(start=replace(SHORT, weight_decay=None))["prior law"]

    assert one.values.tau == pytest.approx(0.2 * (3.0e9 / SHORT.n_params / 20) ** -0.55)
    assert "decay was never identified" in one.notes[0]


def test_a_fitted_law_moves_the_rate_as_its_cells_did():
    fitted = by_name(laws=Laws(rate=rate_law()))["fitted law"]
    octaves = 0.5 * 1 - 0.15 * np.log2(3.0e9 / TOKENS)

    assert fitted.best_rate.value == pytest.approx(0.035 * 2**octaves, rel=0.03)
    assert fitted.rate_deviation < by_name()["prior law"].rate_deviation
    assert fitted.best_rate.low < fitted.best_rate.value < fitted.best_rate.high


def test_the_rate_stays_half_an_octave_below_the_largest_that_held():
    one = by_name(laws=Laws(stable_rate=0.03))["prior law"]

    assert one.capped
    assert one.values.learning_rate == pytest.approx(0.03 / 2**0.5)
    assert "half an octave" in by_name(laws=Laws(stable_rate=0.03))["copied"].notes[0]


def test_beyond_twice_the_best_batch_the_rate_hardly_grows():
    small = by_name(target=replace(LONG, least_batch=2_097_152))["prior law"]
    free = 0.45 * 4 - 0.20 * np.log2(3.0e9 / TOKENS)

    assert small.values.batch_tokens == 2_097_152
    assert np.log2(small.best_rate.value / 0.035) < free - 0.5


def test_batches_are_multiples_of_the_quantum_inside_their_limits():
    law = prior_law(priors.BATCH, {"tokens": TOKENS})

    assert choose_batch(SHORT, replace(LONG, batch_quantum=100_000), law) % 100_000 == 0
    assert choose_batch(SHORT, replace(LONG, largest_batch=200_000), law) == 196_608
    with pytest.raises(ValueError, match="no multiple of 65536 tokens lies between 70000 and 100000"):
        choose_batch(SHORT, replace(LONG, least_batch=70_000, largest_batch=100_000), law)


def test_a_budget_in_seconds_is_steps_by_the_devices_step_time():
    target = replace(LONG, tokens=None, seconds=600.0, depth=8.0, step_time=device())

    v = by_name(target=target)["prior law"].values

    assert v.steps * device().seconds(8, v.batch_tokens).value == pytest.approx(600)


def test_a_faster_device_enters_only_through_its_steps():
    """lambda x rate ~ 1 / S at fixed batch and tokens a parameter, whatever makes the steps."""
    timed = replace(LONG, tokens=None, seconds=600.0, depth=8.0, step_time=device(), largest_batch=131_072)
    timed = replace(timed, batch_quantum=131_072)

    slow = by_name(target=timed)["prior law"].values
    fast = by_name(target=replace(timed, step_time=device(4.0), n_params=SHORT.n_params * 4))["prior law"].values

    assert fast.steps == pytest.approx(4 * slow.steps)
    product = (fast.learning_rate * fast.weight_decay) / (slow.learning_rate * slow.weight_decay)
    assert product == pytest.approx(1 / 4, rel=1e-6)


def test_on_a_time_budget_the_batch_is_that_of_least_predicted_loss():
    law, speed = three_term_law(), device()
    target = replace(LONG, tokens=None, seconds=600.0, depth=8.0, step_time=speed, batch_quantum=8192)

    chosen = choose_batch(SHORT, target, prior_law(priors.BATCH, {"tokens": TOKENS}), law)
    steps = {b: 600 / speed.seconds(8, b).value for b in (chosen, chosen / 3, chosen * 3)}
    losses = {b: law.predict({"steps": s, "batch_tokens": b})[0][0] for b, s in steps.items()}

    assert losses[chosen] == min(losses.values())


def test_candidates_are_judged_by_one_belief_with_intervals():
    found = by_name(laws=Laws(rate=rate_law(), loss=three_term_law()))

    for one in found.values():
        assert one.predicted_loss.low < one.predicted_loss.value < one.predicted_loss.high
    assert found["fitted law"].predicted_loss.value < found["copied"].predicted_loss.value


def test_a_prediction_says_what_its_law_rests_on_and_that_its_form_was_rejected():
    law = three_term_law()
    doubted = replace(law, basis="of the best batch of each horizon", misfit=replace(law.misfit, flagged=True))

    assert by_name(laws=Laws(loss=law))["copied"].notes == ()
    basis, doubt = by_name(laws=Laws(loss=doubted))["copied"].notes
    assert basis == "the predicted loss is of the best batch of each horizon"
    assert doubt.startswith("do not trust the predicted loss: the form of the loss law does not fit the runs")


def test_without_a_loss_law_there_is_no_predicted_loss():
    assert by_name()["copied"].predicted_loss is None


def test_the_same_seed_gives_the_same_candidates():
    laws = Laws(rate=rate_law(), loss=three_term_law())

    assert candidates(SHORT, LONG, laws, seed=1) == candidates(SHORT, LONG, laws, seed=1)


@pytest.mark.parametrize(("sigma", "shift"), [(0.0, 0.0), (0.5, -0.2), (0.75, -0.4), (1.0, -0.67), (1.5, -1.6)])
def test_estimates_are_shaded_by_the_table(sigma, shift):
    assert shade(sigma) == pytest.approx(shift)


@pytest.mark.parametrize("sigma", [0.5, 0.75, 1.0])
def test_the_table_is_near_the_least_expected_excess_over_its_bowl(sigma):
    normal = np.random.default_rng(0).normal(size=20_000)
    costs = {shift: excess(shift - sigma * normal).mean() for shift in np.arange(-2.0, 0.5, 0.05)}

    assert min(costs, key=costs.__getitem__) == pytest.approx(shade(sigma), abs=0.25)


def test_a_bad_deviation_is_refused():
    with pytest.raises(ValueError, match="must be finite and not negative, got -1"):
        shade(-1)


def test_the_gate_opens_for_a_near_target_and_a_sure_law():
    laws = Laws(rate=rate_law())

    assert not confirmation(SHORT, LONG, laws, by_name(laws=laws)["fitted law"]).needed


@pytest.mark.parametrize(
    ("start", "target", "reason"),
    [
        (SHORT, replace(LONG, tokens=30 * TOKENS), "30.0 times the tokens of the short run"),
        (replace(SHORT, rate_deviation=0.6), LONG, "the best rate is known to ±"),
        (replace(SHORT, censored=True), LONG, "the short run's best rate lies at the edge"),
    ],
)
def test_what_is_not_sure_is_to_be_confirmed_for_a_reason(start, target, reason):
    laws = Laws(rate=rate_law(noise=0.01))
    fitted = by_name(start, target, laws)["fitted law"]

    found = confirmation(start, target, laws, fitted)

    assert any(one.startswith(reason) for one in found.reasons), found.reasons
    assert [round(run.learning_rate / found.runs[1].learning_rate, 3) for run in found.runs] == [0.7, 1.0, 1.4]
    assert all(start.tokens * 1.4 < run.tokens < target.tokens for run in found.runs)
    assert all(run.learning_rate * run.weight_decay * run.steps * run.tau == pytest.approx(1) for run in found.runs)


def test_a_confirmation_of_a_far_target_costs_three_eighths():
    laws, far = Laws(), replace(LONG, tokens=30 * TOKENS)

    found = confirmation(SHORT, far, laws, by_name(target=far)["prior law"])

    assert found.cost_share == pytest.approx(3 / 8)
    assert found.runs[0].tokens == pytest.approx(30 / 8 * TOKENS)


def test_censored_cells_call_for_confirmation():
    laws = Laws(rate=rate_law(), censored=2)

    found = confirmation(SHORT, LONG, laws, by_name(laws=laws)["fitted law"])

    assert "2 cells have their optimum at the edge" in found.reasons[0]


@pytest.mark.parametrize(
    ("record", "change", "message"),
    [
        (SHORT, {"tokens": 0.0}, "tokens must be finite and positive, got 0.0"),
        (SHORT, {"weight_decay": 0.0}, "weight_decay must be positive, or None"),
        (LONG, {"tokens": None}, "a budget is tokens or seconds"),
        (LONG, {"tokens": None, "seconds": 600.0}, "needs the step_time of the device"),
        (LONG, {"least_batch": 10.0, "largest_batch": 5.0}, "least_batch 10.0 is above"),
    ],
)
def test_ends_that_make_no_sense_are_refused(record, change, message):
    with pytest.raises(ValueError, match=message):
        replace(record, **change)


def test_a_batch_that_may_be_too_large_already_is_not_grown():
    law, timed = prior_law(priors.BATCH, {"tokens": TOKENS}), {"tokens": None, "seconds": 6000.0, "depth": 8.0}
    target = replace(LONG, **timed, step_time=device())

    assert choose_batch(SHORT, target, law) > SHORT.batch_tokens
    for one in (target, LONG):
        assert choose_batch(replace(SHORT, least_batch=True), one, law) == SHORT.batch_tokens


def test_a_loss_law_of_an_untested_form_leaves_the_batch_to_the_power_law():
    law, prior = three_term_law(), prior_law(priors.BATCH, {"tokens": TOKENS})
    target = replace(LONG, tokens=None, seconds=600.0, depth=8.0, step_time=device(), batch_quantum=8192)
    untested = replace(law, misfit=replace(law.misfit, p_value=None))

    chosen = choose_batch(SHORT, target, prior, untested)

    assert chosen == choose_batch(SHORT, target, prior) != choose_batch(SHORT, target, prior, law)


def test_a_loss_law_that_is_not_sure_leaves_the_batch_to_the_power_law():
    law, prior = three_term_law(), prior_law(priors.BATCH, {"tokens": TOKENS})
    target = replace(LONG, tokens=None, seconds=600.0, depth=8.0, step_time=device(), batch_quantum=8192)
    spread = law.draws_Dp + np.random.default_rng(0).normal(size=law.draws_Dp.shape) * [0, 0, 0, 0.3, 0.3]

    unsure = choose_batch(SHORT, target, prior, replace(law, draws_Dp=spread))

    assert unsure == choose_batch(SHORT, target, prior) != choose_batch(SHORT, target, prior, law)
