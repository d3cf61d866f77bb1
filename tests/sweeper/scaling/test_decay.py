from __future__ import annotations

import numpy as np
import pytest

from sweeper.scaling.decay import fit_tau_collapse, fit_tau_law
from sweeper.scaling.grouping import cells
from sweeper.scaling.optimum import fit_optimum
from sweeper.scaling.records import Observations, observations


def swept(best_tau=lambda steps: 0.22, noise=0.0005, horizons=(1000, 2000, 4000, 8000), rates=(0.01, 0.02, 0.04)):
    """Rate x decay grids at several horizons; the best decay follows tau, the best rate falls with the horizon."""
    random = np.random.default_rng(0)
    rows = []
    for steps in horizons:
        for rate in rates:
            for decay in 0.025 * 2.0 ** np.arange(-4, 5, 1.0):
                x = np.log2(1 / (rate * decay * steps) / best_tau(steps))
                z = np.log2(rate / 0.02 / (steps / 2000) ** -0.3)
                log_loss = 1.1 - 0.02 * np.log(steps) + 0.004 * x**2 + 0.006 * z**2 + noise * random.normal()
                rows.append((steps, rate, decay, np.exp(log_loss)))
    steps, rate, decay, loss = np.array(rows).T
    return observations(
        n_params=2e7, steps=steps, batch_tokens=131_072, learning_rate=rate, weight_decay=decay, loss=loss
    )


def optima(runs: Observations):
    return [fit_optimum(runs.take(rows), ("learning_rate", "tau"), draws=100) for rows in cells(runs)]


def test_horizons_share_one_tau_and_lie_on_one_bowl():
    runs = swept()

    found = fit_tau_collapse(runs, cells(runs))

    assert found.tau.low < 0.22 < found.tau.high
    assert found.tau.value == pytest.approx(0.22, rel=0.05)
    assert found.curvature == pytest.approx(0.008, rel=0.15)
    assert found.same_tau_p > 0.01
    assert np.abs(found.excess_n - 0.004 * (found.log2_tau_n - np.log2(0.22)) ** 2).max() < 0.02


def test_a_tau_that_moves_with_the_horizon_is_noticed():
    runs = swept(lambda steps: 0.22 * (steps / 2000) ** -0.5)

    assert fit_tau_collapse(runs, cells(runs)).same_tau_p < 1e-3


def test_decay_that_only_moves_with_the_rate_is_not_identified():
    runs = swept(horizons=(1000, 2000))
    tied = observations(
        n_params=2e7,
        steps=runs.steps,
        batch_tokens=131_072,
        learning_rate=runs.learning_rate,
        weight_decay=0.05,
        loss=runs.loss,
    )

    found = fit_tau_collapse(tied, cells(tied))

    assert found.tau is None
    assert found.not_identified.startswith("decay was not varied by itself")


def test_a_tau_beyond_what_was_tried_is_not_identified():
    runs = swept(lambda steps: 200.0, noise=0.0)

    found = fit_tau_collapse(runs, cells(runs), band=0.5)

    assert found.tau is None
    assert "above what was tried" in found.not_identified


def test_runs_without_decay_are_excluded():
    runs = observations(
        n_params=2e7, steps=1000, batch_tokens=1024, learning_rate=0.01, weight_decay=[0.0, 0.1], loss=[3.0, 3.0]
    )

    found = fit_tau_collapse(runs, cells(runs))

    assert found.not_identified.startswith("too few runs with decay")
    assert found.excluded[0].reason == "no decay, or not known"


def test_tau_of_cells_follows_tokens_per_parameter():
    def law(steps):
        return 0.17 * (steps * 131_072 / 2e7 / 20) ** -0.5

    runs = swept(law, rates=tuple(0.02 * 2.0 ** np.arange(-1.5, 1.6, 0.5)))
    sizes = [runs.tokens_per_param[rows[0]] for rows in cells(runs)]

    fitted = fit_tau_law(optima(runs), sizes)

    assert fitted.used == 4
    assert fitted.exponents["tokens_per_param"].low < -0.5 < fitted.exponents["tokens_per_param"].high
    assert fitted.predict({"tokens_per_param": 20.0}).value == pytest.approx(0.17, rel=0.1)


def test_without_optima_the_tau_law_is_the_literatures():
    law = fit_tau_law([], np.ones(1))

    assert law.used == 0
    assert law.predict({"tokens_per_param": 20.0}).value == pytest.approx(0.17, rel=1e-6)
    assert law.exponents["tokens_per_param"].value == pytest.approx(-0.55, abs=1e-6)


def test_the_seeds_three_points_have_one_tau():
    runs = observations(
        n_params=2e7,
        steps=[2000, 5000, 8000],
        batch_tokens=131_072,
        learning_rate=[0.06, 0.035, 0.03],
        weight_decay=[0.04, 0.025, 0.02],
        loss=[3.0, 2.9, 2.8],
    )

    assert ((runs.tau > 0.208) & (runs.tau < 0.229)).all()
