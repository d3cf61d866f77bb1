from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.scaling import priors
from sweeper.scaling.grouping import cells
from sweeper.scaling.optimum import fit_optimum
from sweeper.scaling.power_law import PowerLaw, fit_power_law, law_of_optima, prior_law
from sweeper.scaling.records import Estimate, Unidentified
from tests.sweeper.scaling import studies

SEED_POINTS = {"steps": [2000.0, 5000.0, 8000.0]}
"""Three tuned runs of one model: rates .06, .035, .03, decays .04, .025, .02."""


def law_of_study(**options: float) -> PowerLaw:
    runs = studies.study(**options)
    groups = cells(runs)
    optima = [fit_optimum(runs.take(rows), draws=50) for rows in groups]
    sizes = {name: getattr(runs, name)[[rows[0] for rows in groups]] for name in priors.RATE}
    law = law_of_optima(optima, sizes, "learning_rate", beliefs=priors.RATE)
    assert isinstance(law, PowerLaw)
    return law


@given(a=st.floats(-1.0, 1.0), b=st.floats(-1.0, 1.0), seed=st.integers(0, 99))
def test_an_exact_law_is_recovered(a, b, seed):
    n, d = np.exp(np.random.default_rng(seed).uniform([15, 18], [20, 24], (12, 2))).T

    law = fit_power_law(0.02 * (n / 1e7) ** a * (d / 1e9) ** b, {"n_params": n, "tokens": d}, draws=10)

    assert law.exponents["n_params"].value == pytest.approx(a, abs=2e-3)
    assert law.exponents["tokens"].value == pytest.approx(b, abs=2e-3)
    assert law.predict({"n_params": 3e7, "tokens": 2e9}).value == pytest.approx(0.02 * 3**a * 2**b, rel=1e-2)


def test_rate_batch_and_horizon_are_told_apart_in_a_noisy_study():
    law = law_of_study(noise=0.0006)

    for name, true in studies.RATE_EXPONENTS.items():
        assert law.exponents[name].value == pytest.approx(true, abs=0.03)
        assert law.exponents[name].low < true < law.exponents[name].high
    assert not law.misfit.flagged
    assert law.r_squared > 0.97


def test_the_seeds_three_points_fall_as_the_root_of_the_steps():
    rate = fit_power_law([0.06, 0.035, 0.03], SEED_POINTS)
    decay = fit_power_law([0.04, 0.025, 0.02], SEED_POINTS)

    assert rate.exponents["steps"].value == pytest.approx(-0.51, abs=0.02)
    assert decay.exponents["steps"].value == pytest.approx(-0.50, abs=0.02)


def test_few_cells_leave_exponents_at_their_prior_and_many_do_not():
    few = fit_power_law([0.02, 0.03], {"tokens": [1e9, 1.1e9]}, beliefs={"tokens": priors.Prior(-0.2, 0.15)})
    d = np.geomspace(1e8, 1e11, 12)
    many = fit_power_law(0.02 * (d / 1e9) ** 0.3, {"tokens": d}, beliefs={"tokens": priors.Prior(-0.2, 0.15)})

    assert few.exponents["tokens"].value == pytest.approx(-0.2, abs=0.05)
    assert few.learnt["tokens"] < 0.2
    assert many.exponents["tokens"].value == pytest.approx(0.3, abs=0.02)
    assert many.learnt["tokens"] > 0.95


def test_a_size_that_does_not_vary_keeps_its_prior_and_says_so():
    law = fit_power_law(
        [0.02, 0.018, 0.016], {"tokens": [1e9, 2e9, 4e9], "n_params": [1e7] * 3}, beliefs=dict(priors.RATE)
    )

    assert law.learnt["n_params"] == pytest.approx(0.0, abs=1e-9)
    assert law.exponents["n_params"].value == pytest.approx(priors.RATE["n_params"].mean, abs=1e-6)


def test_without_cells_the_law_is_the_prior_and_shifts_keep_its_deviation():
    law = prior_law(priors.RATE, {"n_params": 1e7, "batch_tokens": 131_072, "tokens": 1e9})
    here = {"n_params": 1e7, "batch_tokens": 131_072, "tokens": 1e9}

    octaves, deviation = law.shift(here, {**here, "tokens": 4e9, "batch_tokens": 262_144})

    assert octaves == pytest.approx(0.45 - 2 * 0.20)
    assert deviation == pytest.approx(np.hypot(0.20, 2 * 0.15))


def test_a_new_cell_is_less_sure_than_the_law():
    law = law_of_study(noise=0.0006, scatter=0.2)
    here = {name: value * 4 for name, value in studies.MIDDLE.items()}

    assert law.predict(here).width > law.predict(here, new_cell=False).width
    assert law.predict(here).low < law.predict(here).value < law.predict(here).high
    assert law.scatter_octaves == pytest.approx(0.2, rel=0.6)


def test_far_from_the_data_the_law_is_less_sure():
    law = law_of_study(noise=0.0006)
    near, far = ({n: v * k for n, v in studies.MIDDLE.items()} for k in (1.0, 100.0))

    assert np.log(law.predict(far).high / law.predict(far).low) > np.log(law.predict(near).high / law.predict(near).low)


def test_a_law_of_the_wrong_form_is_flagged():
    d = np.geomspace(1e8, 1e11, 24)
    bent = 0.02 * np.exp(0.05 * np.log(d / 1e9) ** 2) * np.exp(0.02 * np.random.default_rng(0).normal(size=24))

    assert fit_power_law(bent, {"tokens": d}).misfit.flagged


def test_cells_without_an_optimum_are_excluded_with_their_reason():
    runs = studies.study(rates=(0.5, 1.0, 1.5, 2.0, 2.5))
    groups = cells(runs)[:3]
    optima = [fit_optimum(runs.take(rows), draws=20) for rows in groups]

    law = law_of_optima(optima, {"tokens": [1e9, 2e9, 3e9]}, "learning_rate", beliefs={})

    assert isinstance(law, Unidentified)
    assert law.not_identified == "no cell has an optimum"
    assert "edge" in law.excluded[0].reason


def test_a_size_that_follows_another_carries_its_exponent_along():
    """rate = D^-.1 B^.3 along B = D^.5 is D^.05; an uncertain .5 makes it uncertain."""
    random = np.random.default_rng(0)
    sizes = {name: np.exp(random.uniform(18, 24, 40)) for name in ("tokens", "batch_tokens")}
    rates = sizes["tokens"] ** -0.1 * sizes["batch_tokens"] ** 0.3 * np.exp(random.normal(0, 0.02, 40))
    law = fit_power_law(rates, sizes, scatter_octaves=0.05)

    sure, unsure = (law.along("tokens", "batch_tokens", Estimate(0.5, 0.5 - w, 0.5 + w)) for w in (0.0, 0.1))

    assert sure.low < 0.05 < sure.high and sure.width < 0.02
    assert unsure.value == sure.value and unsure.width == pytest.approx(0.06, abs=0.01)


def test_intervals_are_the_same_for_the_same_seed():
    first, second = (fit_power_law([0.02, 0.03, 0.01], {"tokens": [1e9, 2e9, 5e8]}, seed=7) for _ in range(2))

    assert first.bootstrap == second.bootstrap
    assert first.exponents == second.exponents


@pytest.mark.parametrize(
    ("values", "sizes", "message"),
    [
        ([0.02], {}, "at least one size"),
        ([0.02, -1.0], {"tokens": [1e9, 2e9]}, "values must be finite and positive, got -1.0 at 1"),
        ([0.02, 0.01], {"tokens": [1e9]}, "2 values need as many"),
    ],
)
def test_wrong_input_is_refused(values, sizes, message):
    with pytest.raises(ValueError, match=message):
        fit_power_law(values, sizes)
