"""Where a transfer starts: the optimum of the study's longest comparable runs, or of confirmation runs nearer to it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from sweeper.errors import SweeperError
from sweeper.observations_cells import Cell
from sweeper.observations_fits import Fits
from sweeper.observations_names import run_name
from sweeper.scaling.gate import LADDER
from sweeper.scaling.optimum import Bound
from sweeper.scaling.setting import Given, Start

SAME_MODEL = 0.05
"""Of the log of parameters: cells that differ by less are of one model."""
SAME_BATCH = 1.05
BEYOND_OCTAVES = 0.5
"""How surely a best rate beyond the edge of confirmation runs is known: a step of their rates."""
SLACK = 1.05
"""A device is not always equally fast: confirmation runs this much longer than the target are not beyond it."""
SAME_HORIZON = 1.3
"""In the same seconds batches of different sizes train this many times the tokens of each other, or less."""


def mean_rate(fits: Fits, trial: int | None) -> float:
    """Of the trial's schedule, else of the usual one."""
    known = fits.trials.mean_rate
    own = known[:0] if trial is None else known[fits.trials.runs.trial == trial]
    return float(np.median(own if len(own) else known))


def start_of(fits: Fits, trial: int | None, held: Callable[[Cell], float]) -> tuple[Start, str]:
    """Where a transfer starts, and whose values those are in words: confirmation runs of the model where there are any
    between the trials and the target, else the study's own.

    Args:
        trial: whose model is to be trained for longer, and whose values a copy has; None: the best cell's.
        held: tokens of the target at a cell's depth and batch.

    Raises:
        SweeperError: no run has a score, none states its rate, or its batch, or the trial is not among the runs that
            were fitted.
    """
    for name, path in (("learning_rate", "optim.matrix_lr"), ("batch_tokens", "data.batch_tokens")):
        if not fits.states(name):
            raise SweeperError(f"no run of study {fits.study.name} states its {name}, without which there is no longer "
                               f"run to plan: import them with {path} mapped or set")  # fmt: skip
    start, said = _start(fits, held) if trial is None else _start_of(fits, trial, held)
    found = [
        cell
        for cell in fits.cells
        if cell.confirming
        and (cell.optimum.at or cell.optimum.bounds)
        and abs(math.log(cell.n_params / start.n_params)) < SAME_MODEL
        and start.tokens < cell.tokens <= held(cell) * SLACK
    ]
    if not found:
        return start, said
    longest = max(cell.tokens for cell in found)
    near = [cell for cell in found if cell.tokens > longest / SAME_HORIZON]
    cell = min(near, key=lambda one: (not one.optimum.at, one.optimum.loss_at or math.inf))
    return _of_confirmations(fits, cell, start)


def _of_confirmations(fits: Fits, cell: Cell, before: Start) -> tuple[Start, str]:
    """Their best rate, or one step of their rates beyond the edge at which it lies; decay by their own tau, which is
    that of the law at their length.

    Args:
        before: where the transfer would start without them.
    """
    runs, optimum = fits.trials.runs, cell.optimum
    alive = cell.rows[~runs.diverged[cell.rows]]
    best = int(alive[np.argmin(runs.loss[alive])])
    rate = optimum.at[0].value if optimum.at else _beyond(optimum.bounds[0])
    covariance = optimum.covariance_dd
    start = replace(
        before,
        tokens=cell.tokens,
        batch_tokens=cell.batch_tokens,
        learning_rate=rate,
        weight_decay=_decay(float(runs.weight_decay[best] * runs.learning_rate[best] / rate)),
        rate_deviation=BEYOND_OCTAVES if covariance is None else float(np.sqrt(covariance[0, 0])),
        censored=not optimum.at,
        least_batch=before.least_batch and cell.batch_tokens < before.batch_tokens * SAME_BATCH,
        confirmed=True,
    )
    name = run_name(int(runs.trial[best]))
    return start, f"{len(cell.rows)} confirmation runs at {cell.tokens:,.0f} tokens, the best of them {name}"


def _beyond(edge: Bound) -> float:
    return edge.value * (LADDER[-1] if edge.side == "at or above" else LADDER[0])


def _start_of(fits: Fits, trial: int, held: Callable[[Cell], float]) -> tuple[Start, str]:
    """The vertex of the trial's own cell; else of its model at the longest horizon that has one; else the trial."""
    runs = fits.trials.runs
    rows = np.flatnonzero((runs.trial == trial) & ~runs.diverged)
    if not len(rows):
        why = next((one.reason for one in fits.trials.excluded if one.number == trial), "it has no score")
        raise SweeperError(f"trial {trial} of study {fits.study.name} is not among the runs that were fitted: {why}")
    row = int(rows[np.argmax(runs.tokens[rows])])
    decay = float(runs.weight_decay[row])
    given = Given(
        learning_rate=float(runs.learning_rate[row]),
        batch_tokens=float(runs.batch_tokens[row]),
        weight_decay=decay if math.isfinite(decay) else None,
    )
    alike = [c for c in _own(fits) if abs(math.log(c.n_params / runs.n_params[row])) < SAME_MODEL]
    if not alike:
        start, said = _of_row(fits, row), f"trial {trial}: no cell of its model has an optimum"
        return replace(start, given=given), f"{said}, so that its rate is known to an octave"
    batch = given.batch_tokens
    longest = max(cell.tokens for cell in alike)
    cell = max(
        alike,
        key=lambda c: (row in c.rows, c.tokens > longest / SAME_HORIZON, -abs(math.log(c.batch_tokens / batch))),
    )
    start, said = _of_cell(fits, _within(alike, cell, held))
    return replace(start, given=given), said


def _start(fits: Fits, held: Callable[[Cell], float]) -> tuple[Start, str]:
    """The vertex of the best cell at the longest horizon that has one; else the best run."""
    runs = fits.trials.runs
    if not len(runs) or (runs.diverged | (runs.trial < 0)).all():
        launch = f"run `sweeper launch --study {fits.study.name}`"
        do = "import runs that state score, parameters and tokens" if fits.study.foreign else launch
        raise SweeperError(f"study {fits.study.name} has no run with a score to start from; {do}")
    found = _own(fits)
    if found:
        longest = max(_horizon(fits, cell) for cell in found)
        near = [cell for cell in found if _horizon(fits, cell) > longest / SAME_HORIZON]
        cell = min(near, key=lambda one: one.optimum.loss_at or math.inf)
        return _of_cell(fits, _within(found, cell, held))
    row = int(np.nanargmin(np.where(runs.diverged | (runs.trial < 0), np.nan, runs.loss)))
    said = f"trial {runs.trial[row]}, the best: no cell has an optimum, so its rate is known to an octave"
    return _of_row(fits, row), said


def _own(fits: Fits) -> list[Cell]:
    """The cells of the study's trials that have an optimum."""
    return [cell for cell in fits.cells if cell.optimum.at and not cell.confirming]


def _within(found: list[Cell], cell: Cell, held: Callable[[Cell], float]) -> Cell:
    """The cell, or where its runs are longer than the target the longest of its model that are not, of like batch."""
    model = [one for one in found if abs(math.log(one.n_params / cell.n_params)) < SAME_MODEL]
    within = [one for one in model if one.tokens <= held(one) * SAME_HORIZON]
    if cell in within or not within:
        return cell
    longest = max(one.tokens for one in within)
    near = [one for one in within if one.tokens > longest / SAME_HORIZON]
    return min(near, key=lambda one: abs(math.log(one.batch_tokens / cell.batch_tokens)))


def _horizon(fits: Fits, cell: Cell) -> float:
    """Length of a cell's runs by what the study's budget counts: in the same seconds a small model sees more tokens."""
    seconds = fits.trials.seconds[cell.rows]
    return float(np.nanmedian(seconds)) if fits.study.timed and np.isfinite(seconds).any() else cell.tokens


def _of_row(fits: Fits, row: int) -> Start:
    runs = fits.trials.runs
    return Start(
        n_params=float(runs.n_params[row]),
        tokens=float(runs.tokens[row]),
        batch_tokens=float(runs.batch_tokens[row]),
        learning_rate=float(runs.learning_rate[row]),
        weight_decay=_decay(float(runs.weight_decay[row])),
        rate_deviation=1.0,
        depth=_decay(float(runs.depth[row])),
        censored=True,
    )


def _of_cell(fits: Fits, cell: Cell) -> tuple[Start, str]:
    runs, optimum = fits.trials.runs, cell.optimum
    assert optimum.covariance_dd is not None
    rate = optimum.at[0].value
    alive = cell.rows[~runs.diverged[cell.rows]]
    best = int(alive[np.argmin(runs.loss[alive])])
    tau = optimum.at[1].value if cell.joint else fits.tau_collapse.tau.value if fits.tau_collapse.tau else None
    steps = cell.tokens / cell.batch_tokens
    decay = _decay(float(runs.weight_decay[best])) if tau is None else 1 / (tau * rate * steps)
    start = Start(
        n_params=cell.n_params,
        tokens=cell.tokens,
        batch_tokens=cell.batch_tokens,
        learning_rate=rate,
        weight_decay=decay,
        rate_deviation=float(np.sqrt(optimum.covariance_dd[0, 0])),
        depth=_decay(cell.depth),
        least_batch=_least_batch(fits, cell),
    )
    which = f"{len(cell.rows)} runs at {cell.tokens:,.0f} tokens, the best of them trial {runs.trial[best]}"
    return start, f"the best rate of {which}"


def _least_batch(fits: Fits, cell: Cell) -> bool:
    """Whether the cell's batch is the smallest of several tried in its budget, and its best run the best of theirs."""
    runs, rows = fits.trials.runs, fits.best_rows
    near = np.abs(np.log(runs.tokens[rows] / cell.tokens)) < math.log(SAME_HORIZON)
    peers = rows[near & (np.abs(np.log(runs.n_params[rows] / cell.n_params)) < SAME_MODEL)]
    batches = runs.batch_tokens[peers]
    if not len(peers) or batches.max() < batches.min() * SAME_BATCH:
        return False
    best = float(batches[np.argmin(runs.loss[peers])])
    return max(best, cell.batch_tokens) < float(batches.min()) * SAME_BATCH


def _decay(value: float) -> float | None:
    return value if math.isfinite(value) and value > 0 else None
