"""The best rates of many thin cells: one curvature for all, a vertex for each.

Shape key: K cells of n runs, d axes, b = 1 + d, q = d (d + 1) / 2 second derivatives, D draws.

How sharply loss rises about its optimum hardly differs between cells (an octave of rate costs as much at one horizon
as at the next); where the optimum lies does. So what a dozen runs of one cell cannot tell, its curvature, is told by
all cells together, and each cell has only its level and slope to say.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from sweeper.scaling import quadratic, resample
from sweeper.scaling.bowl import LEAST_CONVEX_DRAWS
from sweeper.scaling.optimum import DRAWS, WIDEST_BAND, Bound, Optimum, coordinates, in_band, left_out
from sweeper.scaling.records import Array, Estimate, Integers, Observations

BAND = 0.04
"""Wider than where a cell has runs enough of its own: here noise limits the vertex, and not the bowl's skew."""
SPARE = 3
"""Runs of a cell beyond its own coefficients: its next best ones, up to the widest band."""
ROUNDS = 3
WIDEST_OCTAVES = 4.0
"""An optimum known to no better than this, from low to high, is none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Part:
    """The runs of one cell that lie in its band, about their middle."""

    rows: Integers
    linear_nb: Array
    bent_nq: Array
    log_loss_n: Array
    centre_d: Array


@dataclass(frozen=True, eq=False)
class _Solved:
    linear_KDb: list[Array]
    bent_Dq: Array
    residuals_KDn: list[Array]


def fit_pooled(
    runs: Observations,
    cells: Sequence[Integers],
    axes: tuple[str, ...] = ("learning_rate",),
    *,
    band: float = BAND,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[Optimum, ...]:
    """An optimum for each cell, as `fit_optimum` gives them, where log loss has the same second derivatives in all.

    Robust as there (Huber weights). Intervals: draws that reweigh trials, each with all its rows, widened for the
    coefficients and for few degrees of freedom. The first axis's optimum must lie within what the cell tried; the
    others are held to that.

    Args:
        runs: of all cells.
        cells: rows of each.
        axes: columns of Observations, or "tau".
    """
    x_nd = coordinates(runs, axes)
    parts = [_part(runs, rows, x_nd, band) for rows in cells]
    thin = [part is None for part in parts]
    whole = [part for part in parts if part is not None]
    about = [_about(runs, rows, x_nd, axes, part) for rows, part in zip(cells, parts, strict=True)]
    count = sum(len(part.rows) for part in whole)
    free = count - len(whole) * (1 + len(axes)) - quadratic.count(len(axes)) + 1 + len(axes)
    reason = "" if len(whole) > 1 and free > 1 else f"too few points: {count} of {len(whole)} cells share a curvature"
    found = None if reason else _fit(whole, runs.trial, free, draws, seed)
    if found is not None and found.convex < LEAST_CONVEX_DRAWS:
        reason = f"flat within noise: {1 - found.convex:.0%} of draws of the shared bowl do not curve upwards"
    made, place = [], 0
    for rows, facts, is_thin in zip(cells, about, thin, strict=True):
        if is_thin:
            needed = len(axes) + 2
            few = f"too few points: fewer than {needed} within {WIDEST_BAND:.0%} of the least loss"
            made.append(Optimum(**facts, not_identified=few))
        elif reason or found is None:
            made.append(Optimum(**facts, not_identified=reason))
        else:
            made.append(_optimum(facts, found, place, x_nd[rows], f"{draws} draws that reweigh trials"))
        place += not is_thin
    return tuple(made)


def _part(runs: Observations, rows: Integers, x_nd: Array, band: float) -> _Part | None:
    alive = rows[np.isfinite(x_nd[rows]).all(axis=1) & ~runs.diverged[rows]]
    chosen, _ = in_band(runs.loss, alive, band, x_nd.shape[1] + 1 + SPARE)
    if len(chosen) < x_nd.shape[1] + 2 or (np.ptp(x_nd[chosen], axis=0) == 0).any():
        return None
    centre = x_nd[chosen].mean(axis=0)
    basis = quadratic.basis(x_nd[chosen] - centre)
    split = 1 + x_nd.shape[1]
    return _Part(
        rows=chosen,
        linear_nb=basis[:, :split],
        bent_nq=basis[:, split:],
        log_loss_n=np.log(runs.loss[chosen]),
        centre_d=centre,
    )


def _about(
    runs: Observations, rows: Integers, x_nd: Array, axes: tuple[str, ...], part: _Part | None
) -> dict[str, Any]:
    """What every Optimum says of itself; its rows are numbered within the cell, as `fit_optimum` does."""
    alive = np.flatnonzero(np.isfinite(x_nd[rows]).all(axis=1) & ~runs.diverged[rows])
    used = np.array([], dtype=np.int64) if part is None else np.flatnonzero(np.isin(rows, part.rows))
    losses = runs.loss[rows]
    width = float(np.log(losses[used].max() / losses[used].min())) if len(used) else BAND
    return {
        "axes": axes,
        "used": len(used),
        "excluded": left_out(runs.take(rows), alive, used, width),
        "band": width,
        "rows": used,
        "highest_stable": tuple(map(float, 2.0 ** x_nd[rows][alive].max(axis=0))) if len(alive) else (),
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class _Found:
    """First the fit itself, then its draws."""

    solved: _Solved
    curvature_Ddd: Array
    vertices_KDd: list[Array]
    centres_Kd: list[Array]
    convex: float
    noise: float
    widen: float


def _fit(parts: Sequence[_Part], trials: Integers, free: int, draws: int, seed: int) -> _Found:
    names, member = np.unique(np.concatenate([trials[part.rows] for part in parts]), return_inverse=True)
    by_trial = np.vstack([np.ones((1, len(names))), resample.smooth_weights(len(names), draws, seed)])
    edges = np.cumsum([0, *(len(part.rows) for part in parts)])
    weights = [by_trial[:, member[low:high]] for low, high in itertools.pairwise(edges)]
    axes = len(parts[0].centre_d)
    solved = _robust(parts, weights, free)
    coefficients = np.hstack([np.zeros((len(by_trial), 1 + axes)), solved.bent_Dq])
    _, curvature = quadratic.derivatives(coefficients, axes)
    inverse = np.linalg.pinv(curvature, hermitian=True)
    vertices = [
        part.centre_d - np.einsum("Dij,Dj->Di", inverse, linear[:, 1:])
        for part, linear in zip(parts, solved.linear_KDb, strict=True)
    ]
    least = np.linalg.eigvalsh(curvature)[:, 0]
    count = int(edges[-1])
    residuals = np.concatenate([residual[0] for residual in solved.residuals_KDn])
    return _Found(
        solved=solved,
        curvature_Ddd=curvature,
        vertices_KDd=vertices,
        centres_Kd=[part.centre_d for part in parts],
        convex=float((least[1:] > 0).mean()) if least[0] > 0 else 0.0,
        noise=float(np.sqrt((residuals**2).sum() / free)),
        widen=float(np.sqrt(count / free) * stats.t.ppf(0.975, free) / stats.norm.ppf(0.975)),
    )


def _robust(parts: Sequence[_Part], weights_KDn: Sequence[Array], free: int) -> _Solved:
    """Least squares with Huber's weights, the scale that of all residuals of a draw."""
    solved = _solve(parts, weights_KDn)
    for _ in range(ROUNDS):
        sizes = [np.abs(residual) for residual in solved.residuals_KDn]
        together = np.hstack(sizes)
        scale = 1.4826 * np.median(together, axis=1, keepdims=True) * np.sqrt(together.shape[1] / free)
        trust = [np.minimum(1.0, quadratic.HUBER * scale / np.maximum(size, 1e-300)) for size in sizes]
        if (scale <= 1e-12).any():
            break
        solved = _solve(parts, [w * t for w, t in zip(weights_KDn, trust, strict=True)])
    return solved


def _solve(parts: Sequence[_Part], weights_KDn: Sequence[Array]) -> _Solved:
    """Weighted least squares: each cell's level and slopes are taken out first, what is left tells the curvature."""
    draws, bent = len(weights_KDn[0]), parts[0].bent_nq.shape[1]
    gram, right = np.zeros((draws, bent, bent)), np.zeros((draws, bent))
    cleared: list[tuple[Array, Array, Array, Array]] = []
    for part, weights in zip(parts, weights_KDn, strict=True):
        weighted = np.einsum("Dn,ni->Dni", weights, part.linear_nb)
        inverse = np.linalg.pinv(np.einsum("Dni,nj->Dij", weighted, part.linear_nb), hermitian=True)
        of_bent = inverse @ np.einsum("Dni,nq->Diq", weighted, part.bent_nq)
        of_loss = np.einsum("Dij,Dj->Di", inverse, np.einsum("Dni,n->Di", weighted, part.log_loss_n))
        bent_left = part.bent_nq - np.einsum("ni,Diq->Dnq", part.linear_nb, of_bent)
        loss_left = part.log_loss_n - np.einsum("ni,Di->Dn", part.linear_nb, of_loss)
        gram += np.einsum("Dn,Dnq,Dnr->Dqr", weights, bent_left, bent_left, optimize=True)
        right += np.einsum("Dn,Dnq,Dn->Dq", weights, bent_left, loss_left, optimize=True)
        cleared.append((of_bent, of_loss, bent_left, loss_left))
    shared = np.einsum("Dqr,Dr->Dq", np.linalg.pinv(gram, hermitian=True), right)
    return _Solved(
        [of_loss - np.einsum("Diq,Dq->Di", of_bent, shared) for of_bent, of_loss, _, _ in cleared],
        shared,
        [loss_left - np.einsum("Dnq,Dq->Dn", bent_left, shared) for _, _, bent_left, loss_left in cleared],
    )


def _optimum(facts: dict[str, Any], found: _Found, place: int, tried_md: Array, method: str) -> Optimum:
    tried = tried_md[np.isfinite(tried_md).all(axis=1)]
    low, high = tried.min(axis=0), tried.max(axis=0)
    free = found.vertices_KDd[place]
    drawn, held = _held(free, found.curvature_Ddd, low, high)
    vertex = drawn[0]
    kept = vertex + found.widen * (np.clip(drawn[1:], *_room(low, high)) - vertex)
    under, over = resample.bounds(kept)
    under, over = np.minimum(under, vertex), np.maximum(over, vertex)
    curvature = found.curvature_Ddd[0]
    method += f"; curvature shared by {len(found.vertices_KDd)} cells"
    for axis in np.flatnonzero(held):
        method += f"; {facts['axes'][axis]} held at the edge of what was tried, as its best lies beyond"
    made = Optimum(
        **facts,
        interval_method=method,
        curvature_dd=curvature,
        noise=found.noise,
        residuals_n=found.solved.residuals_KDn[place][0],
    )
    if not low[0] <= vertex[0] <= high[0]:
        side = Bound(
            facts["axes"][0],
            *(("at or above", 2.0 ** high[0]) if vertex[0] > high[0] else ("at or below", 2.0 ** low[0])),
        )
        where = ", ".join(f"{value:.4g}" for value in 2.0 ** free[0])
        return replace(made, not_identified=f"the vertex ({where}) lies outside what was tried", bounds=(side,))
    if (worst := float((over - under)[0])) > WIDEST_OCTAVES:
        return replace(made, not_identified=f"known to {worst:.1f} octaves only, {WIDEST_OCTAVES:g} is a number")
    away = vertex - found.centres_Kd[place]
    linear = found.solved.linear_KDb[place][0]
    return replace(
        made,
        at=tuple(Estimate(*map(float, v)) for v in 2.0 ** np.stack([vertex, under, over], axis=1)),
        log2_at_d=vertex,
        covariance_dd=np.atleast_2d(np.cov(kept.T)),
        loss_at=float(np.exp(linear[0] + linear[1:] @ away + 0.5 * away @ curvature @ away)),
    )


def _held(vertices_Dd: Array, curvature_Ddd: Array, low_d: Array, high_d: Array) -> tuple[Array, Array]:
    """The vertices with all axes but the first held to what was tried, the first where it is best given those; and
    which axes of the fit itself are held.

    A study that tried too little decay still knows its best rate: with decay at the edge, not with one that none had.
    """
    held = np.clip(vertices_Dd, low_d, high_d)
    held[:, 0] = vertices_Dd[:, 0]
    pull = np.einsum("Dj,Dj->D", curvature_Ddd[:, 0, 1:], held[:, 1:] - vertices_Dd[:, 1:])
    held[:, 0] -= pull / np.where(curvature_Ddd[:, 0, 0] > 0, curvature_Ddd[:, 0, 0], np.inf)
    return held, np.abs(held[0] - vertices_Dd[0]) * (np.arange(len(low_d)) > 0) > 0


def _room(low_d: Array, high_d: Array) -> tuple[Array, Array]:
    """A draw's vertex counts no further away than the width of what was tried."""
    spread = high_d - low_d
    return low_d - spread, high_d + spread
