"""Runs that may be compared: the same model, horizon, batch, device, within a tolerance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sweeper.scaling.records import Array, Integers, Observations

HORIZON_TOLERANCE = 0.05
"""Cells hold runs whose horizons differ by at most this, since under a wallclock cap no two are equal."""


def cells(
    runs: Observations,
    by: Sequence[str] = ("n_params", "tokens", "batch_tokens"),
    tolerance: float = HORIZON_TOLERANCE,
) -> list[Integers]:
    """Row numbers of each cell: runs that agree in every column of `by` within `tolerance`, relative.

    Sorted by the columns in the order given.  Runs without a value (NaN) in a column form a cell of their own.
    """
    if not len(runs):
        return []
    keys = np.stack([cluster(getattr(runs, name), tolerance) for name in by], axis=1)
    _, member = np.unique(keys, axis=0, return_inverse=True)
    return [np.flatnonzero(member == number) for number in range(member.max() + 1)]


def cluster(values: Array, tolerance: float) -> Integers:
    """(n,) number of each value's cluster, in ascending order; a cluster spans at most 1 + tolerance from its least."""
    order = np.argsort(values, kind="stable")
    number = np.zeros(len(values), dtype=np.int64)
    current, start = -1, -np.inf
    for row in order:
        value = values[row]
        if current < 0 or np.isnan(value) != np.isnan(start) or value > start * (1 + tolerance):
            current, start = current + 1, value
        number[row] = current
    return number


def best_of_cells(runs: Observations, groups: Sequence[Integers]) -> Integers:
    """(k,) row of the lowest loss of each cell; cells in which every run diverged are left out."""
    best: list[int] = []
    for rows in groups:
        alive = rows[~runs.diverged[rows]]
        if len(alive):
            best.append(int(alive[np.argmin(runs.loss[alive])]))
    return np.array(best, dtype=np.int64)
