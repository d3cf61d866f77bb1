"""The cells of a study, runs that may be compared, and the best rate of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sweeper.observations_kept import DECAY_OCTAVES, DRAWS, Kept, best_rate
from sweeper.scaling.lent import fit_lent
from sweeper.scaling.optimum import Optimum
from sweeper.scaling.pooled import fit_pooled
from sweeper.scaling.records import Integers, Observations

FEWEST_OWN = 3
"""Cells with an optimum from their own runs alone, from which no cell borrows the curvature of others."""
TERMS = ("n_params", "batch_tokens", "tokens")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cell:
    """Runs that may be compared, and their best learning rate."""

    rows: Integers
    n_params: float
    tokens: float
    batch_tokens: float
    depth: float
    optimum: Optimum
    joint: bool
    """Whether decay was fitted with the rate, as it varies inside the cell."""
    confirming: bool = False
    """Whether its runs are confirmation runs, which are longer than the study's trials."""

    @property
    def sizes(self) -> dict[str, float]:
        return {"n_params": self.n_params, "batch_tokens": self.batch_tokens, "tokens": self.tokens}


def cells_of(runs: Observations, groups: Sequence[Integers], kept: Kept) -> tuple[Cell, ...]:
    """The groups in which the rate varies.

    Where fewer than FEWEST_OWN have an optimum from their own runs, those without share a curvature with all others.
    Confirmation runs, too few for a bowl of their own, borrow that of the cells that have one.
    """
    made = tuple(_cell(runs, rows, kept) for rows in groups if _varies(runs, rows))
    made = made if sum(bool(cell.optimum.at) for cell in made) >= FEWEST_OWN else _pooled(runs, made)
    lenders = [cell.optimum for cell in made]
    return tuple(
        replace(cell, optimum=fit_lent(runs.take(cell.rows), lenders), joint=False)
        if cell.confirming and not cell.optimum.at
        else cell
        for cell in made
    )


def _varies(runs: Observations, rows: Integers) -> bool:
    return len(np.unique(np.round(np.log2(runs.learning_rate[rows]), 3))) >= 2


def _cell(runs: Observations, rows: Integers, kept: Kept) -> Cell:
    part = runs.take(rows)
    columns = (part.learning_rate, part.weight_decay, part.steps, part.loss, part.loss_stderr, part.diverged)
    found, joint = kept.get("best rate", columns, lambda: best_rate(part))
    middle = {n: float(np.exp(np.log(getattr(part, n)).mean())) for n in TERMS}
    confirming = bool((part.trial < 0).all())
    return Cell(
        rows=rows, depth=float(np.median(part.depth)), optimum=found, joint=joint, confirming=confirming, **middle
    )


def _pooled(runs: Observations, cells: tuple[Cell, ...]) -> tuple[Cell, ...]:
    rows = np.concatenate([cell.rows for cell in cells] or [np.empty(0, dtype=np.int64)])
    known = len(rows) > 0 and bool(np.isfinite(runs.tau[rows]).all())
    joint = known and bool(np.ptp(np.log2(runs.weight_decay[rows])) > DECAY_OCTAVES)
    axes = ("learning_rate", "tau") if joint else ("learning_rate",)
    shared = fit_pooled(runs, [cell.rows for cell in cells], axes, draws=DRAWS)
    return tuple(
        replace(cell, optimum=found, joint=joint) if found.at and not (cell.optimum.at or cell.optimum.bounds) else cell
        for cell, found in zip(cells, shared, strict=True)
    )
