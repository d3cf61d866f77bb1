"""Curves for an annealing law: whether they can hold it, in its units, what is left.  Shape key: n points, p = 7."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from sweeper.scaling import annealing_fit
from sweeper.scaling.annealing_fit import Points
from sweeper.scaling.misfit import SIGNIFICANCE, Misfit
from sweeper.scaling.rates import Drops, Rates
from sweeper.scaling.records import Array, positive

FEWEST_POINTS = 20
"""Seven parameters, and as much again for their scatter."""
LEAST_RANGE = 2.0
"""Sum of rates at the last point over that at the first: below it every power looks like a straight line."""
LIKE_PEAKS = 1.5
"""Peak rates further apart than this have laws of their own: the law sums rates, and is blind to what is too high."""
BLOCKS = 8
"""Pieces of a curve whose errors are taken for independent."""
TOLERANCE = 0.002
"""A form is called wrong where residuals have a pattern larger than this (.006 nats at a loss of 3)."""


@dataclass(frozen=True, eq=False)
class Annealed:
    """A run: its rates, and losses on the way."""

    rates: Rates
    step_n: Array
    loss_n: Array


def check(run: Annealed) -> None:
    steps, loss = positive("step", run.step_n), positive("loss", run.loss_n)
    if len(steps) != len(loss) or (np.diff(steps) <= 0).any():
        raise ValueError(f"as many losses as ascending steps are needed, got {len(loss)} losses at {steps}")


def too_little(runs: Sequence[Annealed]) -> str | None:
    points = sum(len(run.loss_n) for run in runs)
    if points < FEWEST_POINTS:
        return f"{points} points, {FEWEST_POINTS} needed"
    sums = [run.rates.sums(run.step_n) for run in runs]
    grown = max(float(s[-1]) for s in sums) / max(min(float(s[0]) for s in sums), 1e-300)
    if grown < LEAST_RANGE:
        return f"the sum of rates grows by x{grown:.2f} over the points, x{LEAST_RANGE:g} needed"
    peaks = [run.rates.peak for run in runs]
    if max(peaks) > LIKE_PEAKS * min(peaks):
        return f"peak rates of {min(peaks):.3g} to {max(peaks):.3g} have laws of their own; fit runs of one peak"
    falling = [float((run.rates.drops().step_j[:1] < run.step_n[:, None]).any(axis=1).mean()) for run in runs]
    if max(falling) == 0:
        return "no rate falls: what a decay gains cannot be told"
    if len(runs) == 1 and falling[0] > 0.8:
        return "one run whose rate falls all along: time and decay cannot be told apart; add one with another schedule"
    return None


def points(run: Annealed, peak: float, longest: float, typical: float) -> Points:
    drops = run.rates.drops()
    scaled = Drops(drops.fall_j / peak, drops.rate_j / peak, drops.sum_j / longest, drops.step_j)
    return Points(run.rates.sums(run.step_n) / longest, scaled, np.log(run.loss_n / typical))


def thin(run: Annealed, most: int) -> Annealed:
    kept = np.unique(np.linspace(0, len(run.loss_n) - 1, most).round().astype(int))
    return Annealed(run.rates, run.step_n[kept], run.loss_n[kept])


def target(points: Sequence[Points]) -> Array:
    return np.concatenate([run.log_loss_n for run in points])


def residuals(theta_p: Array, points: Sequence[Points]) -> list[Array]:
    return [run.log_loss_n - annealing_fit.predict(theta_p[None], run.sum_n, run.drops)[0][0] for run in points]


def block_means(residuals_n: Array) -> Array:
    return np.array([block.mean() for block in np.array_split(residuals_n, min(BLOCKS, len(residuals_n)))])


def form(residuals: Sequence[Array], parameters: int) -> Misfit:
    """Do means over blocks stray further than the scatter between neighbours lets them, and by more than matters?"""
    blocks = [block for off in residuals for block in np.array_split(off, min(BLOCKS, max(1, len(off) // 3)))]
    means, sizes = np.array([b.mean() for b in blocks]), np.array([len(b) for b in blocks])
    steps = np.concatenate([np.diff(off) for off in residuals if len(off) > 1])
    variance, free = float((steps**2).mean()) / 2, len(means) - parameters
    if free < 1:
        return Misfit(p_value=None, flagged=False, detail=f"{len(means)} blocks are too few to test the form")
    p = float(stats.chi2.sf(float((sizes * means**2).sum()) / max(variance, 1e-300), free))
    size = float(np.sqrt((means**2).mean()))
    pattern = f"residuals keep a pattern of {size:.2%} of the loss (p = {p:.2g})"
    small = f"{pattern}, below the {TOLERANCE:.1%} that matter" if p < SIGNIFICANCE else f"no pattern (p = {p:.2g})"
    flagged = p < SIGNIFICANCE and size > TOLERANCE
    return Misfit(p_value=p, flagged=flagged, detail=pattern if flagged else small)
