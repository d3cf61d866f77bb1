"""A robust quadratic bowl: its vertex, how sure that is, when there is none.  Shape key: n points, d axes, D draws."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from sweeper.scaling import quadratic, resample
from sweeper.scaling.misfit import r_squared
from sweeper.scaling.records import Array, Booleans

LEAST_CONVEX_DRAWS = 0.95
"""Share of the bootstrap draws that must curve upwards for the curvature to count as known."""
FLAT = 4.0
"""A bowl that falls by less than this many standard errors of its own fitted values is no bowl."""


HIGHEST_DEGREE = 4
SPARE_POINTS = 2
"""Points beyond its coefficients that a polynomial of more than two degrees needs."""
ENOUGH_POINTS = 8
LEAST_ODDS = 1.5
"""With fewer points than enough, a polynomial of more than two degrees must be so much likelier than the quadratic:
else it follows their noise."""
ONE_SIGMA = (0.159, 0.841)
"""Half of what lies between is a normal's deviation: polynomials have long tails, which a law of many cells would take
for width."""
EXACT = 1e-9
"""Deviation of points about a quadratic below which they are one."""
GRID = 401
"""Places between the points at which its least is looked for."""


class RefusedError(Exception):
    """There is no vertex; the message says why."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Bowl:
    vertex_d: Array
    covariance_dd: Array
    low_d: Array
    high_d: Array
    curvature_dd: Array
    """Of the quadratic, where the bowl is skewed: what an octave off costs, not the bend of its very bottom."""
    bottom: float
    noise: float
    r_squared: float
    residuals_n: Array


def fit_bowl(
    x_nd: Array, y_n: Array, tried_md: Array, stated_noise: float, draws: int, seed: int, *, skewed: bool = False
) -> Bowl:
    """The vertex of y as a quadratic in x; of one axis, where `skewed`, as the mean of polynomials up to the fourth
    degree, each as likely as the points make it.

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
    kept = _drawn(_draws(design, fitted, residuals, noise, free, draws, seed), tried_md - centre)
    widen = _student(free, stated_noise)
    lower, upper = (vertex[0] + widen * (bound - vertex[0]) for bound in resample.bounds(kept))
    gradient, curvature = quadratic.derivatives(coefficients, axes)
    plain = Bowl(
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
    if not skewed or axes > 1:
        return plain
    return _skewed(plain, kept[:, 0], widen, x_nd[:, 0], y_n, stated_noise, seed)


def _drawn(coefficients_Dp: Array, tried_md: Array) -> Array:
    """(at most D, d) vertices of the draws that have one, held to twice the spread of what was tried."""
    vertices, eigenvalues = quadratic.vertices(coefficients_Dp, tried_md.shape[1])
    convex = eigenvalues > 0
    if convex.mean() < LEAST_CONVEX_DRAWS:
        raise RefusedError(f"flat within noise: {1 - convex.mean():.0%} of bootstrap draws do not curve upwards")
    spread = np.ptp(tried_md, axis=0)
    return np.clip(vertices[convex], tried_md.min(axis=0) - spread, tried_md.max(axis=0) + spread)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Polynomial:
    """Of one axis, about the middle of the points."""

    odds: float
    """How likely, against the quadratic."""
    vertex: float
    bottom: float
    drawn_D: Array
    """Vertices of draws, in random order."""
    widen: float
    """For few degrees of freedom."""
    fitted_n: Array
    noise: float


def _skewed(plain: Bowl, drawn_D: Array, widen: float, x_n: Array, y_n: Array, stated_noise: float, seed: int) -> Bowl:
    """The mean over polynomials: rates too high cost two to three times as much as rates too low, so that a quadratic's
    vertex lies up to half an octave low; and few points do not say surely which degree is right.

    Args:
        drawn_D: vertices of draws of the quadratic, about the middle of the points.
        widen: how much wider an interval is for few degrees of freedom.
    """
    middle = float(x_n.mean())
    made = [
        _Polynomial(
            odds=1.0,
            vertex=float(plain.vertex_d[0]) - middle,
            bottom=plain.bottom,
            drawn_D=_shuffled(drawn_D, seed),
            widen=widen,
            fitted_n=y_n - plain.residuals_n,
            noise=plain.noise,
        )
    ]
    for degree in range(3, min(HIGHEST_DEGREE, len(x_n) - 1 - SPARE_POINTS) + 1):
        found = _polynomial(x_n - middle, y_n, degree, stated_noise, len(drawn_D), seed)
        if found and (len(x_n) >= ENOUGH_POINTS or found.odds >= LEAST_ODDS):
            made.append(found)
    if len(made) == 1:
        return plain
    shares = np.array([one.odds for one in made]) / sum(one.odds for one in made)
    counts = np.maximum(1, np.round(shares * len(drawn_D))).astype(int)
    drawn = [one.drawn_D[:count] for one, count in zip(made, counts, strict=True)]
    wider = [one.vertex + one.widen * (some - one.vertex) for one, some in zip(made, drawn, strict=True)]
    vertex = float(shares @ [one.vertex for one in made])
    low, high = map(float, resample.bounds(np.concatenate(wider)))
    deviation = float(np.ptp(np.quantile(np.concatenate(drawn), ONE_SIGMA)) / 2)
    fitted = shares @ np.stack([one.fitted_n for one in made])
    return replace(
        plain,
        vertex_d=np.array([vertex + middle]),
        covariance_dd=np.array([[deviation**2]]),
        low_d=np.array([min(low, vertex) + middle]),
        high_d=np.array([max(high, vertex) + middle]),
        bottom=float(shares @ [one.bottom for one in made]),
        noise=float(np.sqrt(shares @ [one.noise**2 for one in made])),
        r_squared=r_squared(y_n, fitted),
        residuals_n=y_n - fitted,
    )


def _polynomial(x_n: Array, y_n: Array, degree: int, stated_noise: float, draws: int, seed: int) -> _Polynomial | None:
    """Of more than two degrees; None where the points do not hold its least."""
    n, free = len(x_n), len(x_n) - degree - 1
    by_quadratic = _left_over(x_n, y_n, 2)
    if by_quadratic < n * EXACT**2:
        return None
    design = np.vander(x_n, degree + 1, increasing=True)
    coefficients, trust = quadratic.robust(design, y_n[None], np.ones((1, n)))
    fitted = coefficients[0] @ design.T
    noise = _noise(y_n - fitted, trust[0], free, stated_noise)
    (vertex,), (bottom,), (inside,) = _lowest(coefficients, x_n)
    places, _, held = _lowest(_draws(design, fitted, y_n - fitted, noise, free, draws, seed), x_n)
    if not inside or held.mean() < LEAST_CONVEX_DRAWS:
        return None
    return _Polynomial(
        odds=_odds(_left_over(x_n, y_n, degree) / by_quadratic, degree - 2, n),
        vertex=float(vertex),
        bottom=float(bottom),
        drawn_D=_shuffled(places, seed),
        widen=_student(free, stated_noise),
        fitted_n=fitted,
        noise=noise,
    )


def _shuffled(values_D: Array, seed: int) -> Array:
    """Draws come by kind, residuals before cases: the first so many would be of one kind."""
    return np.asarray(np.random.default_rng(seed).permutation(values_D))


def _odds(left: float, terms: int, n: int) -> float:
    """Of a bowl with more terms, which leaves that share of the quadratic's sum of squares: the Bayes factor under
    Zellner's prior at g = n (Liang et al. 2008, equation 6)."""
    return float(np.exp((n - 3 - terms) / 2 * np.log1p(n) - (n - 3) / 2 * np.log1p(n * min(left, 1.0))))


def _left_over(x_n: Array, y_n: Array, degree: int) -> float:
    """Sum of squares about a robust polynomial, by the trust in each point."""
    design = np.vander(x_n, degree + 1, increasing=True)
    coefficients, trust = quadratic.robust(design, y_n[None], np.ones((1, len(x_n))))
    return float((trust[0] * (y_n - coefficients[0] @ design.T) ** 2).sum())


def _lowest(coefficients_Dp: Array, x_n: Array) -> tuple[Array, Array, Booleans]:
    """(D,) where each polynomial is least between the points, how low, and whether that is not at an end."""
    grid = np.linspace(x_n.min(), x_n.max(), GRID)
    values = coefficients_Dp @ np.vander(grid, coefficients_Dp.shape[1], increasing=True).T
    at = values.argmin(axis=1)
    inside = (at > 0) & (at < GRID - 1)
    rows, middle = np.arange(len(at)), np.clip(at, 1, GRID - 2)
    before, here, after = (values[rows, middle + step] for step in (-1, 0, 1))
    bend = np.maximum(before - 2 * here + after, 1e-300)
    shift = np.where(inside, np.clip((before - after) / (2 * bend), -1, 1), 0.0)
    return grid[at] + shift * (grid[1] - grid[0]), values[rows, at], inside


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
