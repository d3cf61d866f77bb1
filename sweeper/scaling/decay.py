"""Weight decay as a timescale: tau = 1 / (rate x decay x steps).  Shape key: n runs, p coefficients, D draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from sweeper.scaling import priors, quadratic, resample
from sweeper.scaling.optimum import BAND, Optimum
from sweeper.scaling.power_law import PowerLaw, fit_power_law, prior_law
from sweeper.scaling.records import Array, Estimate, Excluded, Fit, Integers, Observations, positive

FEWEST_CELLS_TO_DRAW = 6
"""With fewer cells than this the bootstrap reweighs runs, since few cells drawn whole say little."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TauCollapse(Fit):
    """One bowl in log2 tau, laid over the cells."""

    tau: Estimate | None = None
    curvature: float | None = None
    """Second derivative of log loss by log2 tau."""
    same_tau_p: float | None = None
    """p-value of each cell having the tau of all: small means that tau* moves, fit it on tokens per parameter."""
    excess_n: Array | None = None
    """Log loss over the bottom of each run's own cell, one for each run used; against log2_tau_n it is the figure."""
    log2_tau_n: Array | None = None
    rows: Integers | None = None


def fit_tau_collapse(
    runs: Observations, groups: Sequence[Integers], *, band: float = BAND, draws: int = 1000, seed: int = 0
) -> TauCollapse:
    """Log loss = cell + g x + h x^2 / 2, x = log2 tau, one bowl for all cells (Wang & Aitchison, arXiv:2405.13698).

    Where the rate varies inside cells its own bowl, about each cell's best rate, is taken out at the same time.

    Args:
        groups: rows of each cell, as `grouping.cells` makes them.
        band: relative excess over the least loss of its cell up to which a run counts.
    """
    x = np.log2(np.where(np.isfinite(runs.tau), runs.tau, np.nan))
    rows, member = _rows(runs, groups, x, band)
    left_out = tuple(Excluded(int(r), _why(runs, x, int(r))) for r in np.setdiff1d(np.arange(len(runs)), rows))
    design, bowl = _design(runs, rows, member, x)
    n, p = design.shape
    if n < p + 2:
        reason = f"too few runs with decay near the best of their cell: {n}, {p + 2} needed"
        return TauCollapse(used=n, excluded=left_out, not_identified=reason)
    if np.linalg.matrix_rank(design) < p:
        reason = "decay was not varied by itself: tau changes only as the rate does"
        return TauCollapse(used=n, excluded=left_out, not_identified=reason)
    y = np.log(runs.loss[rows])
    cells = member.max() + 1
    by_cell = cells >= FEWEST_CELLS_TO_DRAW
    draw = resample.cluster_weights(member, draws, seed) if by_cell else resample.smooth_weights(n, draws, seed)
    coefficients, trust = quadratic.robust(design, y[None], np.ones((1, n)))
    many, _ = quadratic.robust(design, np.broadcast_to(y, draw.shape), draw, rounds=2)
    slope, curve = coefficients[0, bowl], many[:, bowl[1]]
    vertex = -slope[0] / slope[1]
    refusal = _refusal(vertex, slope[1], float((curve > 0).mean()), x[rows])
    if refusal:
        return TauCollapse(used=n, excluded=left_out, not_identified=refusal)
    drawn = np.clip(-many[curve > 0, bowl[0]] / curve[curve > 0], x[rows].min() - 4, x[rows].max() + 4)
    shared = resample.estimate(vertex, drawn)
    excess = y - coefficients[0] @ design.T + 0.5 * slope[1] * (x[rows] - vertex) ** 2
    return TauCollapse(
        used=n,
        excluded=left_out,
        interval_method=f"{draws} draws over {'cells' if by_cell else 'runs, reweighed'}",
        tau=Estimate(*(float(2.0**v) for v in (shared.value, shared.low, shared.high))),
        curvature=float(slope[1]),
        same_tau_p=_same_tau(design, y, trust[0], member, x[rows]),
        excess_n=excess,
        log2_tau_n=x[rows],
        rows=rows,
    )


def fit_tau_law(optima: Sequence[Optimum], tokens_per_param: ArrayLike, **options: Any) -> PowerLaw:
    """tau* = c x (tokens per parameter)^m, from c = 0.17 x/: 1.6 at 20 and m = -0.55 +- 0.15 a priori.

    Power Lines (arXiv:2505.13738) finds tau* = 1.084 TPP^-0.527 with R2 .975 for AdamW; Muon lies near it.

    Args:
        optima: of each cell, with "tau" among the axes; those without one are excluded with their reason.
        tokens_per_param: (k,) of each cell.
    """
    sizes = positive("tokens_per_param", tokens_per_param)
    level = priors.Prior(float(np.log2(priors.TAU_AT_20)), priors.TAU_AT_20_OCTAVES)
    kept = [k for k, optimum in enumerate(optima) if optimum.at]
    left_out = tuple(Excluded(k, str(o.not_identified)) for k, o in enumerate(optima) if not o.at)
    if not kept:
        return prior_law(priors.TAU, {"tokens_per_param": 20.0}, level)
    places = [optima[k].axes.index("tau") for k in kept]
    variances = [float(np.asarray(optima[k].covariance_dd)[i, i]) for k, i in zip(kept, places, strict=True)]
    return fit_power_law(
        [optima[k].at[i].value for k, i in zip(kept, places, strict=True)],
        {"tokens_per_param": sizes[kept]},
        log2_variance=variances,
        beliefs=priors.TAU,
        centre={"tokens_per_param": 20.0},
        level=level,
        excluded=left_out,
        **options,
    )


def _rows(runs: Observations, groups: Sequence[Integers], x: Array, band: float) -> tuple[Integers, Integers]:
    """Rows in the band of their cell, and the number of the cell of each."""
    chosen: list[Integers] = []
    member: list[Integers] = []
    for rows in groups:
        alive = rows[~runs.diverged[rows] & np.isfinite(x[rows])]
        if len(alive):
            near = alive[np.log(runs.loss[alive] / runs.loss[alive].min()) <= band]
            if len(near) >= 2:
                chosen.append(near)
                member.append(np.full(len(near), len(member)))
    if not chosen:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    return np.concatenate(chosen), np.concatenate(member)


def _why(runs: Observations, x: Array, row: int) -> str:
    if runs.diverged[row]:
        return "diverged"
    return "far above the least loss of its cell" if np.isfinite(x[row]) else "no decay, or not known"


def _design(runs: Observations, rows: Integers, member: Integers, x: Array) -> tuple[Array, list[int]]:
    """Columns of cells, bowl in tau, bowl in the rate where it varies; and which columns are the bowl in tau."""
    cells = (member[:, None] == np.arange(member.max(initial=-1) + 1)).astype(np.float64)
    rate = np.log2(runs.learning_rate[rows])
    for cell in range(cells.shape[1]):
        inside = member == cell
        rate[inside] -= rate[inside][np.argmin(runs.loss[rows][inside])]
    columns = [cells, x[rows, None], 0.5 * x[rows, None] ** 2]
    if len(rate) and np.ptp(rate) > 1e-6:
        columns += [rate[:, None], 0.5 * rate[:, None] ** 2]
    return np.hstack(columns), [cells.shape[1], cells.shape[1] + 1]


def _refusal(vertex: float, curvature: float, convex: float, x_n: Array) -> str | None:
    if curvature <= 0 or convex < 0.9:
        return f"flat within noise: {1 - convex:.0%} of draws do not curve upwards in log tau"
    if not x_n.min() < vertex < x_n.max():
        side = "below" if vertex <= x_n.min() else "above"
        return f"the best tau lies {side} what was tried ({2.0 ** x_n.min():.3g} to {2.0 ** x_n.max():.3g})"
    return None


def _same_tau(design: Array, y: Array, trust_n: Array, member: Integers, x: Array) -> float | None:
    """F test of a slope in log tau of each cell's own."""
    own = (member[:, None] == np.arange(member.max() + 1)) * x[:, None]
    root = np.sqrt(trust_n)[:, None]
    before, rank_before = _left_over(design * root, y * root[:, 0])
    after, rank_after = _left_over(np.hstack([design, own]) * root, y * root[:, 0])
    gained, free = rank_after - rank_before, len(y) - rank_after
    if gained < 1 or free < 2 or after <= 1e-18:
        return None
    return float(stats.f.sf((before - after) / gained / (after / free), gained, free))


def _left_over(columns: Array, y: Array) -> tuple[float, int]:
    solution, _, rank, _ = np.linalg.lstsq(columns, y, rcond=1e-10)
    return float(((y - columns @ solution) ** 2).sum()), int(rank)
