"""The best size for each budget: parabolas at equal budget, the envelope of curves.  Shape key: n runs, k budgets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sweeper.scaling.bowl import RefusedError, fit_bowl
from sweeper.scaling.grouping import cluster
from sweeper.scaling.power_law import PowerLaw, fit_power_law
from sweeper.scaling.records import Array, Estimate, Excluded, Fit, Integers, Unidentified, positive

WINDOW = 4.0
"""Sizes within this factor of the best one enter a parabola: wide or lopsided windows bias its vertex."""
FEWEST_SIZES = 4
FEWEST_BUDGETS = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class BudgetOptimum(Fit):
    """The parabola of one budget."""

    budget: float
    size: Estimate | None = None
    loss: float | None = None
    curvature: float | None = None
    """Second derivative of log loss by log2 size."""
    variance: float = 0.0
    """Of log2 size."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Frontier(Fit):
    """Best size against budget; `used` counts budgets."""

    budgets: tuple[BudgetOptimum, ...] = ()
    law: PowerLaw | None = None
    """size = level x (budget / centre)^a; the term is "budget"."""


def fit_iso_budget(
    size: ArrayLike,
    loss: ArrayLike,
    budget: ArrayLike,
    *,
    window: float = WINDOW,
    tolerance: float = 0.1,
    fewest: int = FEWEST_SIZES,
    draws: int = 1000,
    seed: int = 0,
) -> Frontier:
    """Approach 2 of Hoffmann et al. 2022 (arXiv:2203.15556): a parabola in log size a budget, a law of vertices.

    Args:
        size: (n,) parameters, depth or tokens of each run; say in the interface which parameters they count.
        loss: (n,) final losses.
        budget: (n,) FLOPs or seconds; runs within `tolerance` of each other share one.
        window: factor about the best size within which runs enter.

    Raises:
        ValueError: unequal lengths or values that are not finite and positive.
    """
    sizes, losses, costs = positive("size", size), positive("loss", loss), positive("budget", budget)
    if not len(sizes) == len(losses) == len(costs):
        raise ValueError(f"as many of each are needed, got {len(sizes)}, {len(losses)} and {len(costs)}")
    member = cluster(costs, tolerance)
    groups = [np.flatnonzero(member == number) for number in range(member.max() + 1)]
    found = tuple(_parabola(sizes, losses, costs, rows, window, fewest, draws, seed) for rows in groups)
    kept = [one for one in found if one.size is not None]
    left_out = tuple(Excluded(k, str(one.not_identified)) for k, one in enumerate(found) if one.size is None)
    if len(kept) < FEWEST_BUDGETS:
        reason = f"{len(kept)} budgets have a best size inside what was tried, {FEWEST_BUDGETS} needed"
        return Frontier(used=len(kept), excluded=left_out, not_identified=reason, budgets=found)
    law = fit_power_law(
        [one.size.value for one in kept if one.size],
        {"budget": [one.budget for one in kept]},
        log2_variance=[one.variance for one in kept],
        draws=draws,
        seed=seed,
    )
    method = law.interval_method
    return Frontier(used=len(kept), excluded=left_out, interval_method=method, budgets=found, law=law)


def _parabola(
    sizes: Array, losses: Array, costs: Array, rows: Integers, window: float, fewest: int, draws: int, seed: int
) -> BudgetOptimum:
    budget = float(np.exp(np.log(costs[rows]).mean()))
    x = np.log2(sizes[rows])
    best = int(np.argmin(losses[rows]))
    near = np.abs(x - x[best]) <= np.log2(window) + 1e-9
    left_out = tuple(Excluded(int(r), f"more than x{window:g} from the best size") for r in rows[~near])
    about: dict[str, Any] = {"budget": budget, "excluded": left_out, "used": int(near.sum())}
    distinct = len(np.unique(np.round(x[near], 3)))
    if distinct < fewest:
        return BudgetOptimum(**about, not_identified=f"{distinct} sizes near the best one, {fewest} needed")
    if x[best] in (x.max(), x.min()):
        side = "largest" if x[best] == x.max() else "smallest"
        return BudgetOptimum(**about, not_identified=f"the best size is the {side} tried")
    try:
        chosen = x[near, None]
        bowl = fit_bowl(chosen, np.log(losses[rows][near]), x[:, None], np.nan, draws, seed)
    except RefusedError as refused:
        return BudgetOptimum(**about, not_identified=str(refused))
    triple = (bowl.vertex_d[0], bowl.low_d[0], bowl.high_d[0])
    return BudgetOptimum(
        **about,
        interval_method=f"{draws} draws, half residual, half case bootstrap",
        size=Estimate(*(float(2.0**v) for v in triple)),
        loss=float(np.exp(bowl.bottom)),
        curvature=float(bowl.curvature_dd[0, 0]),
        variance=float(bowl.covariance_dd[0, 0]),
    )


def fit_envelope(
    run: ArrayLike, size: ArrayLike, budget: ArrayLike, loss: ArrayLike, *, draws: int = 1000, seed: int = 0
) -> PowerLaw | Unidentified:
    """Approach 1 of Hoffmann et al. 2022: which model's curve is lowest at each budget, and a power law through those.

    A model counts once, at the middle of the budgets at which it is lowest; the smallest and the largest one do not
    count, since where they stop being best was not seen.

    Args:
        run: (n,) integer, the curve that each point belongs to; size: (n,) its model's size.
        budget: (n,) spent up to the point; loss: (n,) there, with the rate decayed, or with equal schedules at least.

    Raises:
        ValueError: unequal lengths or values that are not finite and positive.
    """
    ids = np.asarray(run)
    columns = [positive(n, v) for n, v in (("size", size), ("budget", budget), ("loss", loss))]
    if any(len(column) != len(ids) for column in columns):
        raise ValueError(f"as many of each are needed, got {[len(ids), *map(len, columns)]}")
    sizes, costs, losses = columns
    grid = np.linspace(np.log(costs.min()), np.log(costs.max()), 1500)
    names = np.unique(ids)
    curves = np.full((len(names), len(grid)), np.inf)
    for k, name in enumerate(names):
        points = np.flatnonzero(ids == name)
        points = points[np.argsort(costs[points])]
        seen = (grid >= np.log(costs[points[0]])) & (grid <= np.log(costs[points[-1]]))
        curves[k, seen] = np.interp(grid[seen], np.log(costs[points]), np.log(losses[points]))
    model = np.array([sizes[ids == name][0] for name in names])
    lowest = model[curves.argmin(axis=0)]
    winners = np.unique(lowest)
    left_out = tuple(Excluded(k, "never lowest, or at an end") for k, s in enumerate(model) if s not in winners[1:-1])
    if len(winners) < FEWEST_BUDGETS + 2:
        reason = (
            f"{max(0, len(winners) - 2)} models are lowest between a smaller and a larger one, {FEWEST_BUDGETS} needed"
        )
        return Unidentified(used=len(winners), excluded=left_out, not_identified=reason)
    middles = [float(np.exp(grid[lowest == s].mean())) for s in winners[1:-1]]
    return fit_power_law(winners[1:-1], {"budget": middles}, excluded=left_out, draws=draws, seed=seed)
