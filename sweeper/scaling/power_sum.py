"""log loss = log(E + sum of A_j / x_j^a_j).  Shape key: n points, k sizes, p = 1 + 2k parameters, D draws.

Parameters are (log E, log of each term at the middle of the data, each exponent): centred, so that scale and exponent
of a term do not trade against each other and the curvature is fit for a quasi-Newton method.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from sweeper.scaling.records import Array

DELTA = 1e-3
"""Huber's threshold on log loss (Hoffmann et al. 2022, arXiv:2203.15556): near least absolute deviations."""
SCALE = 1000.0
"""The SUM of the losses is minimised, times this: with the mean, optimisers stop early at their default tolerance,
which is the error in the published law (Besiroglu et al. 2024, arXiv:2404.10102)."""
STARTS = 24
ROUNDS = 500
IDLE_ROUNDS = 4
LEAST_GAIN = 1e-6
"""Relative; a round that gains less is idle."""
REACHED = 1e-5
"""A start that ends this close to the least objective, relative, has found it."""
FLOORS = (1e-3, 0.2, 0.4, 0.6, 0.75, 0.85, 0.92, 0.97)
"""Shares of the least loss at which the valley between floor and terms is walked."""
CHUNK = 150_000
"""Draws x points evaluated at once: what fits into a core's cache share and a few dozen megabytes."""


@dataclass(frozen=True, eq=False)
class Minimum:
    theta_p: Array
    objective: float
    """Sum of the Huber losses of log loss."""
    reached: float
    """Share of the starts that ended at this minimum."""


def log_prediction(theta_Dp: Array, x_nk: Array) -> tuple[Array, Array]:
    """(D, n) log loss and (D, n, 1 + k) the share of each term in the loss, floor first."""
    k = x_nk.shape[1]
    terms = theta_Dp[:, None, 1 : 1 + k] - theta_Dp[:, None, 1 + k :] * x_nk
    floor = np.broadcast_to(theta_Dp[:, None, :1], (*terms.shape[:2], 1))
    parts = np.concatenate([floor, terms], axis=2)
    top = parts.max(axis=2, keepdims=True)
    np.subtract(parts, top, out=parts)
    np.exp(parts, out=parts)
    total = parts.sum(axis=2, keepdims=True)
    return np.log(total[:, :, 0]) + top[:, :, 0], parts / total


def jacobian(shares_Dnj: Array, x_nk: Array) -> Array:
    """(D, n, p) derivatives of log loss by the parameters."""
    return np.concatenate([shares_Dnj, -shares_Dnj[:, :, 1:] * x_nk], axis=2)


def huber(residuals: Array) -> Array:
    size = np.abs(residuals)
    return np.where(size <= DELTA, 0.5 * residuals**2, DELTA * (size - 0.5 * DELTA))


def fit(x_nk: Array, log_loss_n: Array, starts: int, seed: int) -> Minimum:
    """The least of damped Gauss-Newton from random starts, all at once; then BFGS to a gradient of 1e-10 from there.

    A start splits the median loss at random between floor and terms and draws exponents in [0.05, 1]; on Chinchilla's
    points, and on ours, six of ten or more end at the best minimum, the others on a slope that ran out flat.
    """

    def objective(theta: Array) -> tuple[float, Array]:
        predicted, shares = log_prediction(theta[None], x_nk)
        residuals = predicted[0] - log_loss_n
        slope = np.clip(residuals, -DELTA, DELTA)
        return SCALE * float(huber(residuals).sum()), SCALE * (slope @ jacobian(shares, x_nk)[0])

    random, level = np.random.default_rng(seed), float(np.median(log_loss_n))
    begun = np.stack([_start(x_nk.shape[1], level, random) for _ in range(starts)])
    with np.errstate(over="ignore", invalid="ignore"):
        ended = refit(begun, x_nk, log_loss_n, np.ones((starts, len(log_loss_n))))
        values = huber(log_prediction(ended, x_nk)[0] - log_loss_n).sum(axis=1)
        nearest = ended[np.argmin(values)]
        best = minimize(objective, nearest, jac=True, method="BFGS", options={"gtol": 1e-10, "maxiter": 2000})
    least = float(best.fun) / SCALE
    reached = float(np.mean(values <= least * (1 + REACHED) + 1e-12))
    return Minimum(np.asarray(best.x), least, reached)


def along_valley(theta_p: Array, x_nk: Array, log_loss_n: Array) -> Array:
    """(K, p) the law given, and the best one at each of several floors, shares of the least loss."""
    k, weights = x_nk.shape[1], np.ones((len(FLOORS), len(log_loss_n)))
    level, least = float(np.exp(np.median(log_loss_n))), float(np.exp(log_loss_n.min()))
    floors = least * np.array(FLOORS)
    reducible = level - floors
    shares = 0.9 * np.exp(theta_p[1 : 1 + k] - np.logaddexp.reduce(theta_p[1 : 1 + k])) + 0.1 / k
    steeper = (level - min(float(np.exp(theta_p[0])), least * FLOORS[-1])) / reducible
    exponents = np.clip(theta_p[1 + k :], 0.05, 3.0) * steeper[:, None]
    begun = np.column_stack([np.log(floors), np.log(reducible[:, None] * shares), exponents])
    return np.vstack([theta_p, refit(begun, x_nk, log_loss_n, weights, floor_held=True)])


def nearest(thetas_Kp: Array, x_nk: Array, log_loss_Dn: Array, weights_Dn: Array) -> Array:
    """(D, p) for each draw that of K laws which fits it best."""
    fitted, _ = log_prediction(thetas_Kp, x_nk)
    values = np.stack([(weights_Dn * huber(one - log_loss_Dn)).sum(axis=1) for one in fitted])
    return np.asarray(thetas_Kp[values.argmin(axis=0)])


def _start(k: int, level: float, random: np.random.Generator) -> Array:
    shares = random.dirichlet(np.ones(k + 1)) * 0.98 + 0.02 / (k + 1)
    return np.concatenate([level + np.log(shares), random.uniform(0.05, 1.0, k)])


def refit(
    theta_Dp: Array,
    x_nk: Array,
    log_loss_n: Array,
    weights_Dn: Array,
    rounds: int = ROUNDS,
    floor_held: bool = False,
) -> Array:
    """(D, p) the minimum of each weighted draw, from its own start or one of all: damped Gauss-Newton, all at once.

    Rounds take turns: with points beyond Huber's threshold at weight threshold / residual, whose quadratic lies above
    the Huber loss (sure, slow along flat valleys), and with those points at a tenth of that (nearly Newton's, fast, not
    always downhill).  A step that does not go down is not taken and raises the damping; a draw is done when a few
    rounds in a row gain nothing.

    Args:
        log_loss_n: of all draws, or (D, n) of each its own.
        floor_held: the floor stays where it starts.
    """
    size = max(1, CHUNK // len(x_nk))
    starts = np.broadcast_to(theta_Dp, (len(weights_Dn), theta_Dp.shape[-1]))
    logs = np.broadcast_to(log_loss_n, weights_Dn.shape)
    pieces = [slice(i, i + size) for i in range(0, len(weights_Dn), size)]
    return np.concatenate([_refit_chunk(starts[p], x_nk, logs[p], weights_Dn[p], rounds, floor_held) for p in pieces])


def _refit_chunk(
    starts_Dp: Array, x_nk: Array, log_loss_Dn: Array, weights_Dn: Array, rounds: int, floor_held: bool
) -> Array:
    theta = starts_Dp.copy()
    damping = np.full((2, len(theta)), 1e-3)
    idle = np.zeros(len(theta), dtype=np.int64)
    active = np.arange(len(theta))
    value, gradient, grams = _normal_equations(theta, x_nk, log_loss_Dn, weights_Dn)
    unit = np.eye(theta.shape[1])
    free = np.ones(theta.shape[1])
    free[0] = 0.0 if floor_held else 1.0
    for turn in range(rounds):
        kind = turn % 2
        gram = grams[kind][active]
        scaled = np.einsum("Dpp->Dp", gram) * damping[kind, active, None] + 1e-15
        matrix, right = gram * np.outer(free, free) + scaled[:, :, None] * unit, -free * gradient[active]
        step = np.linalg.solve(matrix, right[..., None])[..., 0]
        trial = theta[active] + np.clip(step, -3.0, 3.0)
        new_value, new_gradient, new_grams = _normal_equations(trial, x_nk, log_loss_Dn[active], weights_Dn[active])
        better = new_value < value[active]
        gained = better & (new_value < value[active] * (1 - LEAST_GAIN))
        moved = active[better]
        theta[moved], value[moved], gradient[moved] = trial[better], new_value[better], new_gradient[better]
        grams[:, moved] = new_grams[:, better]
        damping[kind, active] = np.clip(damping[kind, active] * np.where(better, 0.2, 6.0), 1e-9, 1e6)
        idle[active] = np.where(gained, 0, idle[active] + 1)
        active = active[idle[active] < IDLE_ROUNDS]
        if not len(active):
            break
    return theta


def _normal_equations(theta: Array, x_nk: Array, log_loss_Dn: Array, weights: Array) -> tuple[Array, Array, Array]:
    """(D,) value, (D, p) gradient, (2, D, p, p) curvatures: the sure one and the fast one."""
    predicted, shares = log_prediction(theta, x_nk)
    residuals = predicted - log_loss_Dn
    slopes = jacobian(shares, x_nk)
    sure = np.minimum(1.0, DELTA / np.maximum(np.abs(residuals), 1e-300))
    fast = np.where(sure < 1, 0.1 * sure, 1.0)
    value = (weights * huber(residuals)).sum(axis=1)
    gradient = np.matmul((weights * sure * residuals)[:, None, :], slopes)[:, 0]
    turned = slopes.transpose(0, 2, 1)
    grams = [np.matmul(turned * (weights * trust)[:, None, :], slopes) for trust in (sure, fast)]
    return value, gradient, np.stack(grams)
