"""A robust quadratic bowl: its vertex, how sure that is, when there is none.  Shape key: n points, d axes, D draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from sweeper.scaling import quadratic, resample
from sweeper.scaling.misfit import r_squared
from sweeper.scaling.records import Array

LEAST_CONVEX_DRAWS = 0.95
"""Share of the bootstrap draws that must curve upwards for the curvature to count as known."""
FLAT = 4.0
"""A bowl that falls by less than this many standard errors of its own fitted values is no bowl."""


class RefusedError(Exception):
    """There is no vertex; the message says why."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Bowl:
    vertex_d: Array
    covariance_dd: Array
    low_d: Array
    high_d: Array
    curvature_dd: Array
    bottom: float
    noise: float
    r_squared: float
    residuals_n: Array


def fit_bowl(x_nd: Array, y_n: Array, tried_md: Array, stated_noise: float, draws: int, seed: int) -> Bowl:
    """The vertex of y as a quadratic in x.

    Args:
        x_nd: coordinates of the points fitted.
        tried_md: coordinates of all that was tried, whose convex hull must hold the vertex.
        stated_noise: standard deviation of y that the data state; NaN if they do not.

    Raises:
        RefusedError: wrong curvature, flat within noise, vertex outside, or no way to say how sure it is.
    """
    n, axes = x_nd.shape
    centre = x_nd.mean(axis=0)
    design = quadratic.basis(x_nd - centre)
    free = n - design.shape[1]
    coefficients, trust = quadratic.robust(design, y_n[None], np.ones((1, n)))
    vertex, least = quadratic.vertices(coefficients, axes)
    fitted = coefficients[0] @ design.T
    residuals = y_n - fitted
    noise = _noise(residuals, trust[0], free, stated_noise)
    _refuse(fitted, noise * float(np.sqrt(design.shape[1] / n)), float(least[0]), vertex[0] + centre, tried_md)
    many = _draws(design, fitted, residuals, noise, free, draws, seed)
    vertices, eigenvalues = quadratic.vertices(many, axes)
    convex = eigenvalues > 0
    if convex.mean() < LEAST_CONVEX_DRAWS:
        raise RefusedError(f"flat within noise: {1 - convex.mean():.0%} of bootstrap draws do not curve upwards")
    spread = np.ptp(tried_md, axis=0)
    low, high = tried_md.min(axis=0) - spread - centre, tried_md.max(axis=0) + spread - centre
    kept = np.clip(vertices[convex], low, high)
    lower, upper = (vertex[0] + _student(free, stated_noise) * (b - vertex[0]) for b in resample.bounds(kept))
    gradient, curvature = quadratic.derivatives(coefficients, axes)
    return Bowl(
        vertex_d=vertex[0] + centre,
        covariance_dd=np.atleast_2d(np.cov(kept.T)),
        low_d=np.minimum(lower, vertex[0]) + centre,
        high_d=np.maximum(upper, vertex[0]) + centre,
        curvature_dd=curvature[0],
        bottom=float(coefficients[0, 0] + 0.5 * gradient[0] @ vertex[0]),
        noise=noise,
        r_squared=r_squared(y_n, fitted),
        residuals_n=residuals,
    )


def _noise(residuals_n: Array, trust_n: Array, free: int, stated: float) -> float:
    measured = float(np.sqrt((trust_n * residuals_n**2).sum() / free)) if free else 0.0
    if not free and not np.isfinite(stated):
        raise RefusedError("as many points as coefficients: needs one more, or runs that state their loss_stderr")
    return max(measured, stated) if np.isfinite(stated) else measured


def _refuse(fitted_n: Array, error: float, least: float, vertex_d: Array, tried_md: Array) -> None:
    fall = float(np.ptp(fitted_n))
    if least <= 1e-9:
        raise RefusedError(f"wrong curvature: the bowl does not curve upwards (least eigenvalue {least:.2g})")
    if fall < FLAT * error:
        raise RefusedError(f"flat within noise: falls by {fall:.2g} of log loss, known to {error:.2g}")
    if not quadratic.inside(tried_md, vertex_d):
        where = ", ".join(f"{value:.4g}" for value in 2.0**vertex_d)
        raise RefusedError(f"the vertex ({where}) lies outside what was tried")


def _draws(design: Array, fitted: Array, residuals: Array, noise: float, free: int, draws: int, seed: int) -> Array:
    """(D, p) coefficients of half residual draws, half case draws; residual draws alone where nothing is free."""
    n = len(fitted)
    random = np.random.default_rng([seed, n])
    by_residual = draws if free == 0 else draws - draws // 2
    drawn = residuals[random.integers(0, n, (by_residual, n))]
    spread = float(np.sqrt((residuals**2).mean()))
    errors = drawn * (noise / spread) if free and spread > 1e-12 else random.normal(0.0, noise, (by_residual, n))
    first, _ = quadratic.robust(design, fitted + errors, np.ones((by_residual, n)), rounds=2)
    if by_residual == draws:
        return first
    weights = resample.smooth_weights(n, draws - by_residual, seed)
    second, _ = quadratic.robust(design, np.broadcast_to(fitted + residuals, weights.shape), weights, rounds=2)
    whole, _ = quadratic.robust(design, (fitted + residuals)[None], np.ones((1, n)))
    return np.vstack([first, whole + (second - whole) * np.sqrt(n / free)])


def _student(free: int, stated: float) -> float:
    """How much wider than the normal's an interval is whose noise was measured with so few degrees of freedom."""
    return 1.0 if np.isfinite(stated) or not free else float(stats.t.ppf(0.975, free) / stats.norm.ppf(0.975))
