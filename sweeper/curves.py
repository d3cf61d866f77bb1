"""Curve points from database rows to flat numpy columns: thinned, cached once a run has ended, merged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Row, select

from sweeper.records import Curves, Metric
from sweeper.run_records import RunPoints
from sweeper.tables import PointRow

MOST_POINTS = 100
"""Points of one run in a study's curves, for either metric."""

RunCurve = dict[Metric, NDArray[np.float32]]
"""For each metric (2, points): progress and value."""


class CurveStore:
    """Thinned curves of runs. Those of ended runs never change, so each is read from the database once."""

    def __init__(self) -> None:
        self._ended: dict[int, RunCurve] = {}

    def curves(self, connection: Connection, metric: Metric, runs: Sequence[tuple[int, int, str]]) -> Curves:
        """The curves of `runs`, each (run id, trial number, state), in their order; one query."""
        wanted = [run for run, _, _ in runs if run not in self._ended]
        fresh = read_curves(connection, wanted)
        self._ended.update({run: fresh[run] for run, _, state in runs if state != "running" and run in fresh})
        arrays = [(fresh.get(run) or self._ended[run])[metric] for run, _, _ in runs]
        return Curves(
            metric=metric,
            numbers=tuple(number for _, number, _ in runs),
            states=tuple(state for _, _, state in runs),
            offsets=np.cumsum([0, *(array.shape[1] for array in arrays)]),
            progress=np.concatenate([array[0] for array in arrays]) if arrays else np.empty(0, np.float32),
            values=np.concatenate([array[1] for array in arrays]) if arrays else np.empty(0, np.float32),
        )


def read_curves(connection: Connection, runs: Sequence[int]) -> dict[int, RunCurve]:
    """Thinned curves of the runs with these ids; a run without points has empty ones."""
    columns = (PointRow.run_id, PointRow.progress, PointRow.fraction, PointRow.train_loss, PointRow.val_bpb)
    table = np.empty((0, len(columns)))
    if runs:
        query = select(*columns).where(PointRow.run_id.in_(runs)).order_by(PointRow.run_id, PointRow.seq)
        rows = connection.execute(query).fetchall()
        table = np.array([tuple(row) for row in rows], dtype=float).reshape(-1, len(columns))
    starts = np.searchsorted(table[:, 0], runs, side="left")
    ends = np.searchsorted(table[:, 0], runs, side="right")
    return {run: _thin_both(table[start:end]) for run, start, end in zip(runs, starts, ends, strict=True)}


def _thin_both(rows: NDArray[np.float64]) -> RunCurve:
    progress, fraction, train_loss, val_bpb = rows[:, 1:].T
    asked = np.where(np.isnan(fraction), progress, fraction)  # evals line up on the share that was asked for
    return {"train_loss": _thin(progress, train_loss), "val_bpb": _thin(asked, val_bpb)}


def _thin(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float32]:
    """(2, <= MOST_POINTS) of the finite samples: evenly spaced, first and last kept, values never averaged."""
    finite = np.isfinite(y)
    return np.array([thin(x[finite], MOST_POINTS), thin(y[finite], MOST_POINTS)], dtype=np.float32)


def thin(values: NDArray[np.float64], most: int) -> NDArray[np.float64]:
    """At most `most` evenly spaced entries, the first and the last among them."""
    if len(values) <= most:
        return values
    kept: NDArray[np.float64] = values[np.linspace(0, len(values) - 1, most).round().astype(int)]
    return kept


def read_points(connection: Connection, run: int) -> RunPoints:
    """Every point of one run, in the order of delivery."""
    names = [field.name for field in fields(RunPoints)]
    query = select(*(getattr(PointRow, name) for name in names)).where(PointRow.run_id == run)
    rows = connection.execute(query.order_by(PointRow.seq)).fetchall()
    table = np.array([tuple(row) for row in rows], dtype=float).reshape(-1, len(names))
    return RunPoints(**dict(zip(names, table.T, strict=True)))


def read_merged(connection: Connection, attempts: Iterable[Row[Any]]) -> RunPoints:
    """The one curve of a run's attempts, rows of the table of runs, oldest first."""
    started = [run for run in attempts if run.started_at is not None]
    return merge_attempts((read_points(connection, run.id), run.resumed_step) for run in started)


def merge_attempts(attempts: Iterable[tuple[RunPoints, int]]) -> RunPoints:
    """One curve from attempts that each went on from a checkpoint of the one before.

    Args:
        attempts: (points, resumed step) of each attempt that started, oldest first. What an attempt did
            beyond the step at which a later one resumed was done again, and is dropped.
    """
    kept: list[RunPoints] = []
    horizon = float("inf")
    for points, resumed_step in reversed(list(attempts)):
        keep = points.step <= horizon
        kept.insert(0, RunPoints(**{f.name: getattr(points, f.name)[keep] for f in fields(RunPoints)}))
        horizon = min(horizon, resumed_step)
    names = [field.name for field in fields(RunPoints)]
    return RunPoints(
        **{name: np.concatenate([getattr(points, name) for points in kept] or [np.empty(0)]) for name in names}
    )
