"""The critical batch of a study: steps to one loss at four batches or more, from tuned outcomes at several budgets.

Losses on the way of a run are not used: before its rate comes down a run shows a loss that depends on the rate, and
batches have different best rates.  Outcomes of shorter budgets (a ladder, or runs of their own) do not have that flaw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sweeper.observations_cells import Cell
from sweeper.observations_fits import Fits
from sweeper.scaling.critical_batch import CriticalBatch, fit_critical_batch
from sweeper.scaling.grouping import cluster
from sweeper.scaling.records import Array, Unidentified

FEWEST_BATCHES = 4
DRAWS = 400
NEEDS = "a [budget] ladder, or the same study at two budgets, gives them"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepsToLoss:
    """How many steps each batch takes to the same score, one model."""

    loss: float
    """In the unit of the score."""
    batch_tokens: tuple[float, ...]
    steps: tuple[float, ...]


def critical_batch(fits: Fits) -> CriticalBatch | Unidentified:
    """Of the model with most tuned cells; see `steps_to_loss`."""
    found = steps_to_loss([cell for cell in fits.cells if cell.optimum.at])
    if isinstance(found, Unidentified):
        return found
    return fit_critical_batch(found.batch_tokens, found.steps, draws=DRAWS)


def steps_to_loss(cells: Sequence[Cell]) -> StepsToLoss | Unidentified:
    """Steps to the loss that most batches of one model pass between two of their budgets, the lowest such loss.

    Between budgets log loss is taken as straight in log steps; nothing is extrapolated.

    Args:
        cells: with an optimum, so that each loss is that of the best rate.
    """
    if not cells:
        return Unidentified(used=0, not_identified="no cell has an optimum")
    sizes = cluster(np.array([cell.n_params for cell in cells]), 0.05)
    best: StepsToLoss | None = None
    for size in np.unique(sizes):
        found = _of_model([cell for cell, own in zip(cells, sizes, strict=True) if own == size])
        if found is not None and (best is None or len(found.steps) > len(best.steps)):
            best = found
    count = 0 if best is None else len(best.steps)
    if best is None or count < FEWEST_BATCHES:
        reason = (
            f"{count} batches of one model pass the same score between two budgets with their best rates, "
            f"{FEWEST_BATCHES} needed: {NEEDS}"
        )
        return Unidentified(used=count, not_identified=reason)
    return best


def _of_model(cells: Sequence[Cell]) -> StepsToLoss | None:
    """None where no batch has two budgets."""
    batches = cluster(np.array([cell.batch_tokens for cell in cells]), 0.05)
    curves: list[tuple[float, Array, Array]] = []
    for batch in np.unique(batches):
        own = sorted((c for c, b in zip(cells, batches, strict=True) if b == batch), key=lambda c: c.tokens)
        if len(own) >= 2:
            middle = float(np.exp(np.mean([np.log(cell.batch_tokens) for cell in own])))
            steps = np.array([cell.tokens / cell.batch_tokens for cell in own])
            curves.append((middle, steps, _falling([cell.optimum.loss_at or np.nan for cell in own])))
    reached = sorted({float(loss) for _, _, losses in curves for loss in losses})
    if not reached:
        return None
    passing = {level: [c for c in curves if c[2][-1] <= level <= c[2][0]] for level in reached}
    level = max(reached, key=lambda loss: (len(passing[loss]), -loss))
    crossed = [
        float(np.exp(np.interp(-np.log(level), -np.log(losses), np.log(steps)))) for _, steps, losses in passing[level]
    ]
    return StepsToLoss(loss=level, batch_tokens=tuple(c[0] for c in passing[level]), steps=tuple(crossed))


def _falling(losses: Sequence[float]) -> Array:
    """Losses by budget, none above the one before it: noise apart, more steps do not hurt."""
    return np.minimum.accumulate(np.array(losses, dtype=np.float64))
