"""How long the fits of a study of 2,000 trials take: seconds of each with 1,000 bootstrap draws.

    python -m benchmarks.scaling [DRAWS]

A synthetic study of 2,000 trials in 60 cells, from a known law with seed noise: optima of cells, law of the rate,
collapse of tau, three-term law of the cells' best, candidates; then a two-term law of 2,000 runs.  Prints a table and
a JSON line.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from sweeper.scaling import grouping, priors
from sweeper.scaling.decay import fit_tau_collapse
from sweeper.scaling.loss_law import LossLaw, fit_loss_law
from sweeper.scaling.optimum import fit_optimum
from sweeper.scaling.power_law import PowerLaw, law_of_optima
from sweeper.scaling.records import Array, Observations, observations
from sweeper.scaling.setting import Laws, Start, Target
from sweeper.scaling.transfer import candidates

TRIALS = 2000
CELLS = 60
LIMIT_SECONDS = 5.0
"""What a page may wait for the fits that it shows."""


def study(seed: int = 0) -> Observations:
    """Rates and decays drawn at random around each cell's best, excess as bowls in log rate and log tau."""
    random = np.random.default_rng(seed)
    n, b, d = (np.exp(random.uniform(np.log(lo), np.log(hi), CELLS)) for lo, hi in ((1e7, 1e8), (3e4, 5e5), (3e8, 5e9)))
    cell = np.arange(TRIALS) % CELLS
    n, b, d = n[cell], b[cell], d[cell]
    off_rate, off_tau = random.normal(0, 0.9, (2, TRIALS))
    rate = 0.02 * (n / 3e7) ** -0.3 * (b / 131_072) ** 0.5 * (d / 1e9) ** -0.15 * 2.0**off_rate
    tau = 0.17 * (d / n / 20) ** -0.5 * 2.0**off_tau
    excess = 0.006 * off_rate**2 + 0.003 * off_tau**2 + random.normal(0, 0.001, TRIALS)
    loss = (1.2 + 40 / n**0.27 + 14 / (d / b) ** 0.24 + 6 / b**0.2) * np.exp(excess)
    decay = 1 / (tau * rate * d / b)
    return observations(n_params=n, tokens=d, batch_tokens=b, learning_rate=rate, weight_decay=decay, loss=loss)


def tuned_runs(seed: int = 0) -> tuple[Array, dict[str, Array]]:
    """2,000 runs at their best values from Chinchilla's law, 0.3 % about it: the largest fit of one kind."""
    random = np.random.default_rng(seed)
    n, d = np.exp(random.uniform(np.log([1e7, 1e9])[:, None], np.log([1e10, 1e12])[:, None], (2, TRIALS)))
    return (1.8172 + 482 / n**0.3478 + 2085 / d**0.3658) * np.exp(random.normal(0, 0.003, TRIALS)), {
        "n_params": n,
        "tokens": d,
    }


@contextmanager
def clocked(seconds: dict[str, float], what: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[what] = time.perf_counter() - began


def measure(draws: int) -> dict[str, float]:
    """Seconds of each fit, in the order of a page."""
    runs, seconds = study(), dict[str, float]()
    with clocked(seconds, "cells"):
        groups = grouping.cells(runs)
        best = grouping.best_of_cells(runs, groups)
    with clocked(seconds, f"optima of {len(groups)} cells (rate x tau)"):
        optima = [fit_optimum(runs.take(rows), ("learning_rate", "tau"), draws=draws) for rows in groups]
    sizes = {name: getattr(runs, name)[best] for name in priors.RATE}
    with clocked(seconds, "law of the rate"):
        rate = law_of_optima(optima, sizes, "learning_rate", beliefs=priors.RATE, draws=draws)
    with clocked(seconds, "collapse of tau, 2,000 trials"):
        fit_tau_collapse(runs, groups, draws=draws)
    three = {name: getattr(runs, name)[best] for name in ("n_params", "steps", "batch_tokens")}
    with clocked(seconds, "three-term law, best of cells"):
        loss = fit_loss_law(runs.loss[best], three, draws=draws)
    with clocked(seconds, "candidates"):
        known = Laws(
            rate=rate if isinstance(rate, PowerLaw) else None, loss=loss if isinstance(loss, LossLaw) else None
        )
        start = Start(n_params=3e7, tokens=1e9, batch_tokens=131_072, learning_rate=0.02, weight_decay=0.04)
        candidates(start, Target(n_params=3e7, tokens=3e9, batch_quantum=65_536), known)
    seconds["the page: sum of these"] = sum(seconds.values())
    loss_of_runs, two = tuned_runs()
    with clocked(seconds, "two-term law, 2,000 tuned runs"):
        fit_loss_law(loss_of_runs, two, draws=draws)
    return seconds


def main() -> None:
    draws = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    seconds = measure(draws)
    width = max(map(len, seconds))
    print(f"{TRIALS} trials, {draws} draws; limit {LIMIT_SECONDS:g} s a fit and for the page")
    for what, took in seconds.items():
        print(f"{what:<{width}}  {took:7.2f} s{'  OVER' if took > LIMIT_SECONDS else ''}")
    print(json.dumps({"trials": TRIALS, "draws": draws, "seconds": {k: round(v, 3) for k, v in seconds.items()}}))


if __name__ == "__main__":
    main()
