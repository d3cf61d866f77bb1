"""Do 95 % intervals hold the truth 95 times of 100?  Two hundred studies from known laws say."""

from __future__ import annotations

import numpy as np
import pytest

from sweeper.scaling import priors
from sweeper.scaling.grouping import cells
from sweeper.scaling.loss_forms import choose
from sweeper.scaling.loss_law import LossLaw, fit_loss_law
from sweeper.scaling.optimum import fit_optimum
from sweeper.scaling.power_law import PowerLaw, law_of_optima
from sweeper.scaling.records import Array, Estimate
from tests.sweeper.scaling import studies

STUDIES = 200
SEED_NOISE = 0.001
"""Relative deviation of a loss between seeds: 0.0006 to 0.0017 bpb measured, of about 1.2."""


def holds(interval: Estimate, truth: float) -> bool:
    return interval.low <= truth <= interval.high


def law_of_rates(seed: int, scatter: float) -> PowerLaw:
    runs = studies.study(noise=SEED_NOISE, scatter=scatter, seed=seed)
    groups = cells(runs)
    optima = [fit_optimum(runs.take(rows), draws=100, seed=seed) for rows in groups]
    first = [rows[0] for rows in groups]
    sizes = {name: getattr(runs, name)[first] for name in priors.RATE}
    law = law_of_optima(optima, sizes, "learning_rate", beliefs=priors.RATE, draws=100, seed=seed)
    assert isinstance(law, PowerLaw)
    return law


@pytest.mark.slow
@pytest.mark.parametrize("scatter", [0.0, 0.15, 0.3])
def test_exponents_of_the_best_rate_lie_in_their_intervals_90_to_99_times_of_100(scatter):
    laws = [law_of_rates(seed, scatter) for seed in range(STUDIES)]

    hits = {n: np.mean([holds(law.exponents[n], t) for law in laws]) for n, t in studies.RATE_EXPONENTS.items()}

    assert 0.90 <= np.mean(list(hits.values())) <= 0.99, hits
    assert min(hits.values()) >= 0.88, hits


@pytest.mark.slow
def test_exponents_of_the_loss_law_lie_in_their_intervals_90_to_99_times_of_100():
    n_params, tokens = (axis.ravel() for axis in np.meshgrid(np.geomspace(5e6, 5e8, 8), np.geomspace(1e8, 1e11, 8)))
    true = studies.loss_at(n_params, tokens)
    hits = []
    for seed in range(STUDIES):
        noisy = true * np.exp(0.002 * np.random.default_rng(seed).normal(size=len(true)))
        law = fit_loss_law(noisy, {"n_params": n_params, "tokens": tokens}, draws=300, starts=8, seed=seed)
        assert isinstance(law, LossLaw)
        hits.append((holds(law.exponents["n_params"], 0.25), holds(law.exponents["tokens"], 0.3)))

    assert 0.90 <= np.mean(hits) <= 0.99, np.mean(hits, axis=0)


def batch_without_effect(random: np.random.Generator) -> tuple[Array, Array, float]:
    steps, batch = np.exp(random.uniform(np.log(500), np.log(5000), 40)), 2.0 ** random.integers(15, 19, 40)
    return np.stack([steps, batch]), 1.2 + 20 / steps**0.45, 0.003


def short_ladder(random: np.random.Generator) -> tuple[Array, Array, float]:
    steps, batch = (axis.ravel() for axis in np.meshgrid([500.0, 1500, 4500], [65_536.0, 131_072, 262_144]))
    return np.stack([steps, batch]), 0.9 + 8 / steps**0.4 + 15 / batch**0.3, 0.002


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runs_of", "floor", "exponents", "ahead"),
    [
        (batch_without_effect, 1.2, {"steps": 0.45}, 1.2 + 20 / 40_000**0.45),
        (short_ladder, 0.9, {"steps": 0.4, "batch_tokens": 0.3}, 0.9 + 8 / 36_000**0.4 + 15 / 131_072**0.3),
    ],
)
def test_the_chosen_loss_law_holds_floor_exponents_and_eight_times_the_horizon(runs_of, floor, exponents, ahead):
    """Or says that it does not know the floor."""
    hits: dict[str, list[bool]] = {"floor": [], "ahead": [], **{name: [] for name in exponents}}
    for seed in range(80):
        random = np.random.default_rng(seed)
        (steps, batch), true, noise = runs_of(random)
        columns = {"n_params": np.full_like(steps, 1e7), "steps": steps, "batch_tokens": batch, "tokens": steps * batch}
        law = choose(true * np.exp(noise * random.normal(size=len(true))), columns, starts=16, draws=200).law
        assert law is not None
        hits["floor"].append(law.floor is None or holds(law.floor, floor))
        if set(law.sizes) == set(exponents):
            for name, truth in exponents.items():
                hits[name].append(holds(law.exponents[name], truth))
        there = {"steps": 8.0 * (5000 if len(steps) == 40 else 4500), "batch_tokens": 131_072.0, "n_params": 1e7}
        there["tokens"] = there["steps"] * there["batch_tokens"]
        _, low, high = law.predict({name: there[name] for name in law.sizes}, new_run=False)
        hits["ahead"].append(bool(low[0] <= ahead <= high[0]))

    shares = {name: float(np.mean(found)) for name, found in hits.items()}
    assert min(len(found) for found in hits.values()) >= 60
    assert min(shares.values()) >= 0.88, shares
