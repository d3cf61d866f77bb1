"""The batch beyond which more data a step saves few steps.  Shape key: n points, D draws, G grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sweeper.scaling import resample
from sweeper.scaling.misfit import Misfit, check_form, r_squared
from sweeper.scaling.records import Array, Estimate, Fit, Unidentified, positive

GRID = 2000
BEYOND = 7.0
"""Octaves beyond the batches tried that are searched; an answer at the end of them is none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CriticalBatch(Fit):
    """(S / S_min - 1)(E / E_min - 1) = 1 with S steps and E tokens to a loss; B_crit = E_min / S_min."""

    batch_tokens: Estimate
    """B_crit in tokens: there steps and tokens are both twice their least."""
    fewest_steps: Estimate
    fewest_tokens: Estimate
    r_squared: float
    misfit: Misfit

    def overhead_batch(self, overhead: float = 0.2) -> Estimate:
        """Batch at which tokens are `overhead` above the least: 20 % is the CBS of Zhang et al. (arXiv:2410.21676)."""
        b = self.batch_tokens
        return Estimate(overhead * b.value, overhead * b.low, overhead * b.high)


def fit_critical_batch(
    batch_tokens: ArrayLike, steps_to_loss: ArrayLike, *, draws: int = 1000, seed: int = 0
) -> CriticalBatch | Unidentified:
    """The hyperbola of McCandlish et al. 2018 (arXiv:1812.06162), as steps = S_min (1 + B_crit / B), in logs.

    Given B_crit the log of S_min is a mean, so that one search over log B_crit serves all draws at once.  Each
    point must be tuned: at a fixed rate what is found is where that rate stops fitting.

    Args:
        batch_tokens: (n,) batches, tokens.
        steps_to_loss: (n,) optimiser steps after which each reached the same loss.

    Returns:
        Unidentified with fewer than four batches, or when all lie on one side of B_crit.

    Raises:
        ValueError: unequal lengths or values that are not finite and positive.
    """
    b, s = positive("batch_tokens", batch_tokens), positive("steps_to_loss", steps_to_loss)
    if len(b) != len(s):
        raise ValueError(f"as many steps as batches are needed, got {len(s)} and {len(b)}")
    if len(np.unique(np.round(np.log2(b), 2))) < 4:
        return Unidentified(used=0, not_identified="fewer than four batch sizes")
    logs = np.log(s)
    low, high = np.log(b.min()) - BEYOND * np.log(2), np.log(b.max()) + BEYOND * np.log(2)
    grid = np.linspace(low, high, GRID)
    shape = np.log1p(np.exp(grid[:, None] - np.log(b)))
    at, floor = _least(shape, grid, logs, np.ones((1, len(b))))
    places, floors = _least(shape, grid, logs, resample.smooth_weights(len(b), draws, seed))
    stuck = float(((places < grid[2]) | (places > grid[-3])).mean())
    if stuck > 0.05 or not np.log(b.min()) - np.log(16) < at[0] < np.log(b.max()) + np.log(16):
        side = "below" if at[0] < np.log(b).mean() else "above"
        return Unidentified(used=len(b), not_identified=f"B_crit lies far {side} the batches tried")
    fitted = floor[0] + np.log1p(np.exp(at[0]) / b)
    share = 1 / (1 + b / np.exp(at[0]))
    jacobian = np.stack([np.ones_like(share), share], axis=1)
    return CriticalBatch(
        used=len(b),
        interval_method=f"{draws} draws that reweigh points",
        batch_tokens=resample.estimate(float(np.exp(at[0])), np.exp(places)),
        fewest_steps=resample.estimate(float(np.exp(floor[0])), np.exp(floors)),
        fewest_tokens=resample.estimate(float(np.exp(floor[0] + at[0])), np.exp(floors + places)),
        r_squared=r_squared(logs, fitted),
        misfit=check_form(logs - fitted, jacobian, {"batch_tokens": np.log(b)}),
    )


def _least(shape_Gn: Array, grid_G: Array, logs_n: Array, weights_Dn: Array) -> tuple[Array, Array]:
    """(D,) log B_crit and log S_min of least weighted squares, between the points of the grid by a parabola."""
    rest = logs_n - shape_Gn
    weights = weights_Dn / weights_Dn.sum(axis=1, keepdims=True)
    means = weights @ rest.T
    costs = weights @ (rest**2).T - means**2
    best = np.clip(costs.argmin(axis=1), 1, len(grid_G) - 2)
    row = np.arange(len(best))
    before, here, after = costs[row, best - 1], costs[row, best], costs[row, best + 1]
    bend = before - 2 * here + after
    shift = np.where(bend > 0, 0.5 * (before - after) / np.where(bend > 0, bend, 1.0), 0.0)
    shift = np.clip(shift, -1, 1)
    place = grid_G[best] + shift * (grid_G[1] - grid_G[0])
    slope = (means[row, best + 1] - means[row, best - 1]) / 2
    return place, means[row, best] + slope * shift
