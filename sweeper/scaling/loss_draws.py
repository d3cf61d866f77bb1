"""Bootstrap draws of a loss law, each at its own minimum.  Shape key: n runs, k sizes, p parameters, D draws."""

from __future__ import annotations

import numpy as np

from sweeper.scaling import power_sum
from sweeper.scaling.records import Array, Integers

RUNS_PER_PARAMETER = 5
"""From here on half of the draws resample cases; with fewer runs a case draw often leaves less than it takes to fit."""


def bootstrap(
    theta_p: Array, x_nk: Array, log_loss_n: Array, clusters: Integers | None, draws: int, seed: int
) -> Array:
    """(D, p) refits of draws: residuals about the law and, where there are runs enough, cases.

    Each starts at the best of several laws along the valley in which floor and terms trade against each other: at a
    floor that has vanished the objective is flat in its logarithm, so that a draw started there would stay.  Residuals
    are scaled for the degrees of freedom that the fit took and for how badly few of them tell the noise (as Student's
    t does), and refitted: to spread the parameters of draws instead would lead out of that valley.

    Args:
        clusters: (n,) cases drawn together, and then cases alone are drawn; each run by itself where None.
    """
    n, p = len(log_loss_n), len(theta_p)
    names = np.arange(n) if clusters is None else clusters
    by_case = 0 if clusters is None and n < RUNS_PER_PARAMETER * p else draws
    drawn = _residual_draws(theta_p, x_nk, log_loss_n, draws - by_case, seed)
    logs = np.vstack([drawn, np.broadcast_to(log_loss_n, (by_case, n))])
    weights = np.vstack([np.ones_like(drawn), _case_draws(names, p, by_case, seed)])
    valley = power_sum.along_valley(theta_p, x_nk, log_loss_n)
    return power_sum.refit(power_sum.nearest(valley, x_nk, logs, weights), x_nk, logs, weights)


def untested(x_mk: Array, x_nk: Array, scatter: float, draws: int) -> Array:
    """(D, m) log errors of a law whose form the runs are too few to test: beyond them it may bend as far as they lie
    off it, for each e-fold further out.  One sign and size in all places of a draw."""
    beyond = np.maximum(0.0, np.maximum(x_mk - x_nk.max(axis=0), x_nk.min(axis=0) - x_mk))
    folds = np.sqrt((beyond**2).sum(axis=1))
    return np.asarray(np.random.default_rng(draws).normal(size=(draws, 1)) * scatter * folds)


def _residual_draws(theta_p: Array, x_nk: Array, log_loss_n: Array, draws: int, seed: int) -> Array:
    """(D, n) log losses that the law might have given."""
    n, random = len(log_loss_n), np.random.default_rng([seed, len(log_loss_n)])
    fitted = power_sum.log_prediction(theta_p[None], x_nk)[0][0]
    free = max(n - len(theta_p), 1)
    scale = np.sqrt(n / free) * np.sqrt(free / random.chisquare(free, (draws, 1)))
    return np.asarray(fitted + random.choice(log_loss_n - fitted, size=(draws, n)) * scale)


def _case_draws(clusters: Integers, parameters: int, draws: int, seed: int) -> Array:
    """(D, n) weights of cases, of mean 1 and variance m / (m - p) for m clusters: what the fit took is given back."""
    names, member = np.unique(clusters, return_inverse=True)
    shape = max(len(names) - parameters, 1) / len(names)
    return np.asarray(np.random.default_rng(seed).gamma(shape, 1 / shape, (draws, len(names)))[:, member])
