"""How much a wrong learning rate costs each architecture: one number, over rates that all of them were given."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sweeper.observations_fits import Fits
from sweeper.scaling import resample
from sweeper.scaling.records import Array, Estimate, Integers, Unidentified

BIN_OCTAVES = 0.5
FEWEST_BINS = 4
DRAWS = 200


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sensitivity:
    """Of one architecture: mean over log rate of its score above its best, in the unit of the score."""

    n_params: float
    depth: float
    tokens: float
    batch_tokens: float
    runs: int
    diverged: int
    best_trial: int
    cost: Estimate


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sensitivities:
    low: float
    high: float
    """Rates between which the mean is taken: those that every architecture was given."""
    lost: float
    """What a diverged run counts as: the worst score of all, since its loss at initialisation is not known."""
    each: tuple[Sensitivity, ...]


def sensitivities(fits: Fits) -> Sensitivities | Unidentified:
    """E over rate of min(loss, loss at initialisation) - least loss, as Wortsman et al. 2023 (arXiv:2309.14322) define
    it, over the rates tried here instead of 3e-4 to 3e-1.

    Of each size of model the cell with most rates counts.  Between half octaves, of which each has its best run, the
    score is taken as straight.  Intervals: draws over runs.
    """
    runs = fits.trials.runs
    cells = _cells(fits)
    if not cells:
        reason = f"no cell has runs in {FEWEST_BINS} half octaves of the rate"
        return Unidentified(used=0, not_identified=reason)
    low = max(float(runs.learning_rate[rows].min()) for rows in cells)
    high = min(float(runs.learning_rate[rows].max()) for rows in cells)
    if high < low * 2:
        reason = f"architectures share no octave of rates ({low:.3g} to {high:.3g})"
        return Unidentified(used=len(cells), not_identified=reason)
    lost = float(runs.loss[~runs.diverged].max())
    return Sensitivities(low=low, high=high, lost=lost, each=tuple(_of(fits, rows, low, high, lost) for rows in cells))


def _cells(fits: Fits) -> list[Integers]:
    runs = fits.trials.runs
    best: dict[int, tuple[tuple[int, int], Integers]] = {}
    for rows in fits.groups:
        bins = len(np.unique(_bins(runs.learning_rate[rows])))
        if bins < FEWEST_BINS or runs.diverged[rows].all():
            continue
        size = round(float(np.log(runs.n_params[rows]).mean()) / 0.03)
        rank = (bins, len(rows))
        if size not in best or rank > best[size][0]:
            best[size] = (rank, rows)
    return [best[size][1] for size in sorted(best)]


def _bins(rates: Array) -> Array:
    return np.asarray(np.round(np.log2(rates) / BIN_OCTAVES))


def _of(fits: Fits, rows: Integers, low: float, high: float, lost: float) -> Sensitivity:
    runs = fits.trials.runs
    rates, losses = runs.learning_rate[rows], np.where(runs.diverged[rows], lost, runs.loss[rows])
    draws = np.random.default_rng(0).integers(0, len(rows), (DRAWS, len(rows)))
    drawn = np.array([_cost(rates[d], losses[d], low, high) for d in draws])
    alive = rows[~runs.diverged[rows]]
    return Sensitivity(
        n_params=float(np.median(runs.n_params[rows])),
        depth=float(np.median(runs.depth[rows])),
        tokens=float(np.median(runs.tokens[rows])),
        batch_tokens=float(np.median(runs.batch_tokens[rows])),
        runs=len(rows),
        diverged=int(runs.diverged[rows].sum()),
        best_trial=int(runs.trial[alive[np.argmin(runs.loss[alive])]]),
        cost=resample.estimate(_cost(rates, losses, low, high), drawn),
    )


def _cost(rates: Array, losses: Array, low: float, high: float) -> float:
    number = _bins(rates)
    kept = np.unique(number)
    best = np.array([losses[number == k].min() for k in kept])
    x = np.linspace(np.log2(low), np.log2(high), 65)
    return float((np.interp(x, kept * BIN_OCTAVES, best) - losses.min()).mean())
