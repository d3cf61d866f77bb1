"""The best rate (or rate and batch, rate and decay) of one cell.  Shape key: n runs, d axes, D draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from sweeper.scaling import quadratic
from sweeper.scaling.bowl import Bowl, RefusedError, fit_bowl
from sweeper.scaling.records import Array, Estimate, Excluded, Fit, Integers, Observations

BAND = 0.02
"""Points within this of the least loss: beyond it the bowl is skewed, and skew, not noise, limits the vertex."""
WIDEST_BAND = 0.10
"""A cell with too few points in the band takes its next best ones up to here."""
DRAWS = 1000


@dataclass(frozen=True, slots=True)
class Bound:
    """One side of an optimum that lies beyond what was tried."""

    axis: str
    side: Literal["at or below", "at or above"]
    value: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Optimum(Fit):
    """Vertex of log loss as a quadratic in log2 of the axes, or why there is none."""

    axes: tuple[str, ...]
    at: tuple[Estimate, ...] = ()
    """The optimum of each axis, in the axis's own unit."""
    log2_at_d: Array | None = None
    covariance_dd: Array | None = None
    """Of log2_at_d, in octaves squared."""
    curvature_dd: Array | None = None
    """Second derivatives of log loss by log2 of the axes: half of it is the relative excess an octave away."""
    loss_at: float | None = None
    band: float = BAND
    """Relative excess over the least loss up to which points were used."""
    noise: float | None = None
    """Standard deviation of log loss about the bowl: of the residuals, or what the runs state if that is more."""
    r_squared: float | None = None
    rows: Integers | None = None
    """The runs used, and their residuals in log loss."""
    residuals_n: Array | None = None
    bounds: tuple[Bound, ...] = ()
    highest_stable: tuple[float, ...] = ()
    """Largest value of each axis at which a run did not diverge."""


def fit_optimum(
    runs: Observations,
    axes: tuple[str, ...] = ("learning_rate",),
    *,
    band: float = BAND,
    fewest: int | None = None,
    trust_edges: bool = False,
    draws: int = DRAWS,
    seed: int = 0,
) -> Optimum:
    """Where log loss = c + g.x + x.H.x / 2, with x = log2 of the axes, is least; coupled terms included.

    A robust fit (Huber weights, reweighted) to the points within `band` of the least loss; a vertex only where H is
    positive definite and the vertex lies inside the convex hull of what was tried, as in Bjorck et al. 2024
    (arXiv:2409.19913), who fit the same parabola without the checks.  Covariance: half of the draws resample
    residuals, half reweigh cases.

    Args:
        runs: the runs of one cell: equal in all that matters but the axes.
        axes: columns of Observations, or "tau".
        fewest: points needed; one more than the coefficients unless given.  A fit through as many points as it has
            coefficients needs runs that state their `loss_stderr`.
        trust_edges: take a vertex inside the hull even though the best run is at its edge.  Off, since noise of one
            run at an edge makes such vertices; on for grids of three, as the literature has them.

    Raises:
        ValueError: no axis, or a band or number of draws that is not positive.
    """
    if not axes or band <= 0 or draws < 1:
        raise ValueError(f"one axis, a positive band and a draw are needed, got {axes}, {band}, {draws}")
    x_nd = coordinates(runs, axes)
    alive = np.flatnonzero(np.isfinite(x_nd).all(axis=1) & ~runs.diverged)
    coefficients = quadratic.count(len(axes))
    needed = coefficients + 1 if fewest is None else max(fewest, coefficients)
    chosen, width = in_band(runs.loss, alive, band, needed)
    about: dict[str, Any] = {
        "axes": axes,
        "used": len(chosen),
        "excluded": left_out(runs, alive, chosen, width),
        "band": width,
        "rows": chosen,
        "highest_stable": tuple(float(top) for top in 2.0 ** x_nd[alive].max(axis=0)) if len(alive) else (),
    }
    if len(chosen) < needed:
        reason = f"too few points: {len(chosen)} within {WIDEST_BAND:.0%} of the least loss, {needed} needed"
        return Optimum(**about, not_identified=reason)
    edges = _edges(axes, x_nd[alive], int(np.argmin(runs.loss[alive])))
    if edges and not trust_edges:
        where = " and ".join(f"{edge.axis} {edge.side} {edge.value:.4g}" for edge in edges)
        return Optimum(**about, not_identified=f"the best run is at the edge of what was tried: {where}", bounds=edges)
    try:
        stated = float(np.median(runs.loss_stderr[chosen] / runs.loss[chosen]))
        bowl = fit_bowl(x_nd[chosen], np.log(runs.loss[chosen]), x_nd[alive], stated, draws, seed, skewed=True)
    except RefusedError as refused:
        return Optimum(**about, not_identified=str(refused))
    return _found(about, bowl, draws)


def _found(about: dict[str, Any], bowl: Bowl, draws: int) -> Optimum:
    return Optimum(
        **about,
        interval_method=f"{draws} draws, half residual, half case bootstrap",
        at=tuple(Estimate(*map(float, v)) for v in 2.0 ** np.stack([bowl.vertex_d, bowl.low_d, bowl.high_d], axis=1)),
        log2_at_d=bowl.vertex_d,
        covariance_dd=bowl.covariance_dd,
        curvature_dd=bowl.curvature_dd,
        loss_at=float(np.exp(bowl.bottom)),
        noise=bowl.noise,
        r_squared=bowl.r_squared,
        residuals_n=bowl.residuals_n,
    )


def coordinates(runs: Observations, axes: tuple[str, ...]) -> Array:
    """(n, d) log2 of the axes, NaN where there is none."""
    return np.stack([_log2(getattr(runs, axis)) for axis in axes], axis=1)


def _log2(values: Array) -> Array:
    """log2, NaN where there is none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log2(values)
    return np.where(np.isfinite(logs), logs, np.nan)


def in_band(loss: Array, alive: Integers, band: float, needed: int) -> tuple[Integers, float]:
    """The rows within `band` of the least loss, or the best `needed` where those are closer than the widest band."""
    if not len(alive):
        return alive, band
    excess = np.log(loss[alive] / loss[alive].min())
    width = band
    if (excess <= band).sum() < needed <= len(alive):
        width = min(max(band, float(np.sort(excess)[needed - 1])), WIDEST_BAND)
    return alive[excess <= width * (1 + 1e-9)], width


def left_out(runs: Observations, alive: Integers, chosen: Integers, width: float) -> tuple[Excluded, ...]:
    """The rows that are not among the chosen, and why."""

    def reason(row: int) -> str:
        if runs.diverged[row]:
            return "diverged"
        return f"more than {width:.1%} above the least loss" if row in alive else "no value on an axis"

    others = np.setdiff1d(np.arange(len(runs)), chosen)
    return tuple(Excluded(int(row), reason(int(row))) for row in others)


def _edges(axes: tuple[str, ...], x_md: Array, best: int) -> tuple[Bound, ...]:
    found: list[Bound] = []
    for axis, x in zip(axes, x_md.T, strict=True):
        if x[best] >= x.max() - 1e-9:
            found.append(Bound(axis, "at or above", float(2.0 ** x.max())))
        elif x[best] <= x.min() + 1e-9:
            found.append(Bound(axis, "at or below", float(2.0 ** x.min())))
    return tuple(found)
