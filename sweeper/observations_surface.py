"""Score over learning rate and one more axis at once: decay inside a cell, or batch at equal tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from sweeper.observations_fits import Fits
from sweeper.observations_kept import DRAWS
from sweeper.scaling.grouping import cells
from sweeper.scaling.optimum import Optimum, fit_optimum
from sweeper.scaling.pooled import fit_pooled
from sweeper.scaling.records import Integers

Second = Literal["weight_decay", "batch_tokens"]
FEWEST = 4
"""Runs with a score from which there is something to draw."""
LEAST_OCTAVES = 0.3
"""By which both axes must vary."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Surface:
    """Runs of one model and horizon, and the quadratic in the logs of two of their values."""

    second: Second
    rows: Integers
    """With a score."""
    diverged: Integers
    optimum: Optimum


def surfaces(fits: Fits) -> tuple[Surface, ...]:
    """Rate and decay in a cell; rate and batch over the cells of one model at equal tokens.

    Of the groups in which both vary: the one with an optimum at the longest horizon, by its own runs or by a curvature
    that all groups share, else the one with most runs.
    """
    found = (_best(fits, "weight_decay", fits.groups), _best(fits, "batch_tokens", _equal_tokens(fits)))
    return tuple(one for one in found if one is not None)


def _equal_tokens(fits: Fits) -> list[Integers]:
    return cells(fits.trials.runs, ("n_params", "tokens"))


def _best(fits: Fits, second: Second, groups: list[Integers]) -> Surface | None:
    runs = fits.trials.runs
    usable = [rows for rows in groups if _varies(fits, second, rows)]
    by_horizon = sorted(usable, key=lambda rows: (round(float(np.log2(runs.tokens[rows]).mean()), 1), len(rows)))
    axes = ("learning_rate", second)
    made: list[Surface] = []
    for rows in by_horizon[::-1]:
        made.append(_surface(fits, second, rows, fit_optimum(runs.take(rows), axes, draws=DRAWS)))
        if made[-1].optimum.at:
            return made[-1]
    shared = zip(by_horizon, fit_pooled(runs, by_horizon, axes, draws=DRAWS), strict=True)
    known = [_surface(fits, second, rows, optimum) for rows, optimum in shared if optimum.at]
    return known[-1] if known else max(made, key=lambda one: len(one.rows), default=None)


def _surface(fits: Fits, second: Second, rows: Integers, optimum: Optimum) -> Surface:
    lost = fits.trials.runs.diverged[rows]
    return Surface(second=second, rows=rows[~lost], diverged=rows[lost], optimum=optimum)


def _varies(fits: Fits, second: Second, rows: Integers) -> bool:
    runs = fits.trials.runs
    alive = rows[~runs.diverged[rows]]
    other = getattr(runs, second)[alive]
    rates, other = runs.learning_rate[alive][other > 0], other[other > 0]
    return len(other) >= FEWEST and all(float(np.ptp(np.log2(v))) > LEAST_OCTAVES for v in (rates, other))
