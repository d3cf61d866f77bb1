"""The Multi-Power Law's terms, and their fit.  Shape key: n points, j drops, D draws or starts, p = 7 parameters.

loss = L0 + A s^-alpha - B sum_j fall_j (1 - (1 + C rate_j^-gamma (s - s_j))^-beta), s the sum of rates up to a point
(Luo et al. 2025, arXiv:2503.12811; the sum of the warm-up is part of s).  Rates are in units of the peak of all runs,
sums in units of the longest.  Parameters are log L0, log A, log alpha, log B, log C, log beta, gamma.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from sweeper.scaling.power_sum import DELTA, huber
from sweeper.scaling.rates import Drops
from sweeper.scaling.records import Array

CENTRE = np.array([0.0, 0.0, np.log(0.5), 0.0, np.log(30.0), np.log(0.5), 0.5])
SPREAD = np.array([3.0, 3.0, 0.7, 3.0, 3.0, 0.7, 0.5])
"""Centre and deviation of priors that keep what the data do not hold from running off: published fits of curves that
look alike have gamma .08 to 2, and predict alike."""
PRIOR_WORTH = 40.0
"""Points that a prior is worth: neighbours on a curve err alike, so that hundreds of points say no more than dozens."""
ROUNDS = 120
IDLE_ROUNDS = 4
LEAST_GAIN = 1e-5


@dataclass(frozen=True, eq=False)
class Points:
    """Points of one run in the law's units."""

    sum_n: Array
    drops: Drops
    log_loss_n: Array
    """Log of loss over the runs' median loss."""


def predict(theta_Dp: Array, sum_n: Array, drops: Drops) -> tuple[Array, Array]:
    """(D, n) log losses and (D, n, p) their derivatives by the parameters."""
    floor, scale, alpha, gain = (np.exp(theta_Dp[:, i, None]) for i in (0, 1, 2, 3))
    log_sum = np.log(sum_n)
    power = scale * np.exp(-alpha * log_sum)
    collected, slopes = _collected(theta_Dp, sum_n, drops)
    loss = floor + power - gain * collected
    positive = np.maximum(loss, 1e-3 * floor)
    parts = [
        np.broadcast_to(floor, loss.shape),
        power,
        -power * alpha * log_sum,
        -gain * collected,
        *(-gain * slope for slope in slopes),
    ]
    return np.log(positive), np.stack(parts, axis=2) / positive[:, :, None]


def _collected(theta_Dp: Array, sum_n: Array, drops: Drops) -> tuple[Array, tuple[Array, Array, Array]]:
    """(D, n) sum over drops, and its derivatives by log C, log beta and gamma."""
    shape = (len(theta_Dp), len(sum_n))
    total, by_c, by_beta, by_gamma = (np.zeros(shape) for _ in range(4))
    since = sum_n[:, None] - drops.sum_j
    rows = np.flatnonzero((since > 0).any(axis=1)) if len(drops.fall_j) else np.empty(0, dtype=np.int64)
    if not len(rows):
        return total, (by_c, by_beta, by_gamma)
    with np.errstate(divide="ignore"):
        log_since = np.log(np.maximum(since[rows], 0.0))
    log_rate = np.log(drops.rate_j)
    beta = np.exp(theta_Dp[:, 5, None, None])
    z = theta_Dp[:, 4, None, None] - theta_Dp[:, 6, None, None] * log_rate + log_since
    grown = np.logaddexp(0.0, z)
    left = np.exp(-beta * grown)
    slope = beta * left * np.exp(z - grown)
    total[:, rows] = (1 - left) @ drops.fall_j
    by_c[:, rows] = slope @ drops.fall_j
    by_beta[:, rows] = (beta * grown * left) @ drops.fall_j
    by_gamma[:, rows] = -(slope @ (drops.fall_j * log_rate))
    return total, (by_c, by_beta, by_gamma)


def starts(runs: Sequence[Points], count: int, seed: int) -> Array:
    """(D, p) places to begin: shapes drawn from broad ranges, floor, scale and gain by least squares given these."""
    random = np.random.default_rng(seed)
    alpha, beta = random.uniform(0.2, 1.0, count), random.uniform(0.2, 0.9, count)
    log_c, gamma = random.uniform(np.log(2.0), np.log(500.0), count), random.uniform(0.1, 0.9, count)
    loss = np.exp(np.concatenate([run.log_loss_n for run in runs]))
    zero = np.zeros(count)
    theta = np.stack([zero, zero, np.log(alpha), zero, log_c, np.log(beta), gamma], axis=1)
    sums = np.concatenate([run.sum_n for run in runs])
    collected = np.concatenate([_collected(theta, run.sum_n, run.drops)[0] for run in runs], axis=1)
    for d in range(count):
        design = np.column_stack([np.ones(len(loss)), sums ** -alpha[d], -collected[d]])
        found, _ = nnls(design / loss[:, None], np.ones(len(loss)))
        theta[d, [0, 1, 3]] = np.log(np.maximum(found, 1e-2))
    return theta


def minimise(
    theta_Dp: Array, runs: Sequence[Points], log_loss_Dn: Array, weights_Dn: Array, rounds: int = ROUNDS
) -> tuple[Array, Array]:
    """(D, p) minima of the weighted sums of Huber losses and (D,) their values: damped Gauss-Newton, all at once."""
    theta, damping = theta_Dp.copy(), np.full(len(theta_Dp), 1e-2)
    value, gradient, gram = _normal_equations(theta, runs, log_loss_Dn, weights_Dn)
    idle, active = np.zeros(len(theta), dtype=np.int64), np.arange(len(theta))
    for _ in range(rounds):
        curvature = gram[active]
        scaled = np.einsum("Dpp->Dp", curvature) * damping[active, None] + 1e-15
        step = np.linalg.solve(curvature + scaled[:, :, None] * np.eye(theta.shape[1]), -gradient[active, :, None])
        trial = theta[active] + np.clip(step[..., 0], -1.0, 1.0)
        new_value, new_gradient, new_gram = _normal_equations(trial, runs, log_loss_Dn[active], weights_Dn[active])
        better = new_value < value[active]
        gained = better & (new_value < value[active] * (1 - LEAST_GAIN))
        moved = active[better]
        theta[moved], value[moved] = trial[better], new_value[better]
        gradient[moved], gram[moved] = new_gradient[better], new_gram[better]
        damping[active] = np.clip(damping[active] * np.where(better, 0.3, 5.0), 1e-9, 1e6)
        idle[active] = np.where(gained, 0, idle[active] + 1)
        active = active[idle[active] < IDLE_ROUNDS]
        if not len(active):
            break
    return theta, value


def _normal_equations(theta: Array, runs: Sequence[Points], log_loss: Array, weights: Array) -> tuple[Array, ...]:
    """(D,) value, (D, p) gradient, (D, p, p) curvature; beyond Huber's threshold points weigh threshold / residual."""
    off = (theta - CENTRE) / SPREAD
    worth = PRIOR_WORTH * DELTA**2
    value = 0.5 * worth * (off**2).sum(axis=1)
    gradient = worth * off / SPREAD
    gram = np.tile(np.diag(worth / SPREAD**2), (len(theta), 1, 1))
    begin = 0
    for run in runs:
        rows = slice(begin, begin + len(run.sum_n))
        begin = rows.stop
        predicted, slopes = predict(theta, run.sum_n, run.drops)
        residuals = predicted - log_loss[:, rows]
        trust = weights[:, rows] * np.minimum(1.0, DELTA / np.maximum(np.abs(residuals), 1e-300))
        value = value + (weights[:, rows] * huber(residuals)).sum(axis=1)
        gradient = gradient + np.matmul((trust * residuals)[:, None, :], slopes)[:, 0]
        gram = gram + np.matmul(slopes.transpose(0, 2, 1) * trust[:, None, :], slopes)
    return value, gradient, gram
