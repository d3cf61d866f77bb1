"""Many robust quadratics at once.  Shape key: D draws, n points, d axes, p = 1 + d + d(d+1)/2 coefficients."""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
from scipy.optimize import nnls

from sweeper.scaling.records import Array

ROUNDS = 6
HUBER = 1.345
"""Residuals beyond this many standard deviations weigh less: 95 % efficient on normal noise (Huber 1964)."""

SINGULAR = 1e-12
"""Eigenvalues below this share of the largest count as none: a direction without data."""
WELL_CONDITIONED = 1e10
"""Condition number below which a plain inverse is as good as one by eigenvalues."""


def count(axes: int) -> int:
    """Coefficients of a full quadratic in that many axes."""
    return 1 + axes + axes * (axes + 1) // 2


def basis(x_nd: Array) -> Array:
    """(n, p): one, each axis, each product of two axes (squares halved: coefficients are second derivatives)."""
    axes = x_nd.shape[1]
    products = [
        x_nd[:, i] * x_nd[:, j] * (0.5 if i == j else 1.0) for i, j in combinations_with_replacement(range(axes), 2)
    ]
    return np.stack([np.ones(len(x_nd)), *x_nd.T, *products], axis=1)


def solve(design_np: Array, y_Dn: Array, weights_Dn: Array) -> Array:
    """(D, p) weighted least squares of each draw; directions without data get zero, not an error."""
    outer = (design_np[:, :, None] * design_np[:, None, :]).reshape(len(design_np), -1)
    gram = (weights_Dn @ outer).reshape(-1, design_np.shape[1], design_np.shape[1])
    right = (weights_Dn * y_Dn) @ design_np
    return np.asarray(np.einsum("Dpq,Dq->Dp", inverses(gram), right))


def inverses(gram_Dpp: Array) -> Array:
    """(D, p, p) inverse of each matrix, none of which has a negative eigenvalue; of those that are singular or nearly
    so the pseudo-inverse.

    An eigendecomposition of every small matrix took most of a page's fits, and hardly any matrix needs one.
    """
    try:
        found = np.asarray(np.linalg.inv(gram_Dpp))
    except np.linalg.LinAlgError:  # one of them is singular to the last bit
        return np.asarray(np.linalg.pinv(gram_Dpp, rcond=SINGULAR, hermitian=True))
    with np.errstate(over="ignore", invalid="ignore"):
        condition = np.trace(gram_Dpp, axis1=1, axis2=2) * np.trace(found, axis1=1, axis2=2)  # never below the true one
    bad = ~((condition > 0) & (condition < WELL_CONDITIONED))
    if bad.any():
        found[bad] = np.linalg.pinv(gram_Dpp[bad], rcond=SINGULAR, hermitian=True)
    return found


def robust(design_np: Array, y_Dn: Array, weights_Dn: Array, rounds: int = ROUNDS) -> tuple[Array, Array]:
    """Iteratively reweighted least squares with Huber's weights, scale by the median absolute residual.

    Returns:
        (D, p) coefficients and (D, n) the robust weights in [0, 1]; those are 1 where a point more than the
        coefficients leaves nothing to reweigh.
    """
    n, p = design_np.shape
    trust = np.ones_like(weights_Dn)
    coefficients = solve(design_np, y_Dn, weights_Dn)
    if n < p + 2:
        return coefficients, trust
    for _ in range(rounds):
        residuals = np.abs(y_Dn - coefficients @ design_np.T)
        scale = 1.4826 * np.median(residuals, axis=1, keepdims=True) * np.sqrt(n / (n - p))
        trust = np.minimum(1.0, HUBER * scale / np.maximum(residuals, 1e-300))
        trust[(scale <= 1e-12).ravel()] = 1.0
        coefficients = solve(design_np, y_Dn, weights_Dn * trust)
    return coefficients, trust


def derivatives(coefficients_Dp: Array, axes: int) -> tuple[Array, Array]:
    """(D, d) gradient at the origin and (D, d, d) second derivatives."""
    curvature = np.zeros((len(coefficients_Dp), axes, axes))
    for k, (i, j) in enumerate(combinations_with_replacement(range(axes), 2)):
        curvature[:, i, j] = curvature[:, j, i] = coefficients_Dp[:, 1 + axes + k]
    return coefficients_Dp[:, 1 : 1 + axes], curvature


def vertices(coefficients_Dp: Array, axes: int) -> tuple[Array, Array]:
    """(D, d) stationary points and (D,) the least eigenvalue of the curvature; a minimum where that is > 0."""
    gradient, curvature = derivatives(coefficients_Dp, axes)
    least = np.asarray(np.linalg.eigvalsh(curvature)[:, 0], dtype=np.float64)
    return np.asarray(-np.einsum("Dij,Dj->Di", np.linalg.pinv(curvature, hermitian=True), gradient)), least


def inside(x_nd: Array, point_d: Array) -> bool:
    """Whether the point is a mean, with weights that are not negative, of the rows: lies in their convex hull."""
    scale = np.ptp(x_nd, axis=0)
    if (scale == 0).any():
        return False
    rows = np.vstack([((x_nd - x_nd.mean(axis=0)) / scale).T, np.ones(len(x_nd))])
    target = np.append((point_d - x_nd.mean(axis=0)) / scale, 1.0)
    return bool(nnls(rows, target)[1] < 1e-7)
