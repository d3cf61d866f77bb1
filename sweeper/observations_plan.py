"""A study's fits moved to a longer budget: where it starts, what three laws would run there, what to confirm first."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np

from sweeper.errors import SweeperError
from sweeper.observations_batch import critical_batch
from sweeper.observations_cells import Cell
from sweeper.observations_fits import Fits
from sweeper.scaling import priors
from sweeper.scaling.critical_batch import CriticalBatch
from sweeper.scaling.gate import Confirmation, confirmation
from sweeper.scaling.power_law import PowerLaw
from sweeper.scaling.setting import Given, Laws, Start, Target
from sweeper.scaling.step_time import StepTime
from sweeper.scaling.transfer import Candidate, candidates

BEYOND_TRIED = 4
"""Batches up to this many times the largest tried are considered: where it stops helping was not measured."""
SAME_MODEL = 0.05
"""Of the log of parameters: cells that differ by less are of one model."""
SAME_BATCH = 1.05
SAME_HORIZON = 1.3
"""In the same seconds batches of different sizes train this many times the tokens of each other, or less."""
NO_SCORE = "no predicted val_bpb"
"""How the note begins that says why."""
FEWEST_CELLS = 3
"""Cells with a vertex from which the law that was fitted to them is a candidate of its own."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TransferPlan:
    """What a full run could be given, by each of the laws."""

    start: Start
    started_from: str
    """Whose values those are, in words."""
    target: Target
    laws: Laws
    candidates: tuple[Candidate, ...]
    proposed: Candidate
    """The fitted law's where there is one, else the prior's."""
    gate: Confirmation
    notes: tuple[str, ...]

    def gate_of(self, one: Candidate) -> Confirmation:
        """Whether that candidate needs confirming."""
        return self.gate if one is self.proposed else confirmation(self.start, self.target, self.laws, one)


def plan(
    fits: Fits,
    *,
    tokens: float | None = None,
    seconds: float | None = None,
    step_time: StepTime | None = None,
    trial: int | None = None,
    n_params: float | None = None,
    mean_rate: float | None = None,
) -> TransferPlan:
    """Copied, prior law and fitted law at a target of tokens, or of seconds on the device of `step_time`.

    Args:
        trial: whose model is to be trained for longer, and whose values a copy has; None: the best cell's.
        n_params: of the full run, as the fits count them, where it has another model than the trial.
        mean_rate: mean of rate / peak over the full run, where its schedule has another shape than the trials'.

    Raises:
        SweeperError: no run has a score, the trial is not among the runs that were fitted, or no batch fits.
    """
    notes: list[str] = []
    with fits.lock:
        start, said = _start(fits) if trial is None else _start_of(fits, trial)
        if mean_rate is not None:
            start = replace(start, mean_rate=_mean_rate(fits, trial))
        try:
            target = Target(
                n_params=n_params or start.n_params,
                tokens=tokens,
                seconds=seconds,
                step_time=step_time,
                depth=start.depth,
                batch_quantum=_quantum(fits),
                mean_rate=mean_rate or start.mean_rate,
            )
            target = _limited(target, start, fits, notes)
            laws = _laws(fits, notes)
            made = candidates(start, target, laws)
            chosen = made[-1]
            gate = confirmation(start, target, laws, chosen)
        except ValueError as error:
            raise SweeperError(f"no plan for study {fits.study.name}: {error}") from error
    notes += _of_seconds(start, target, chosen.values.batch_tokens)
    return TransferPlan(
        start=start,
        started_from=said,
        target=target,
        laws=laws,
        candidates=made,
        proposed=chosen,
        gate=gate,
        notes=tuple(notes),
    )


def _of_seconds(start: Start, target: Target, batch: float) -> Iterator[str]:
    """What the reader of a plan in seconds should know of its batch."""
    if target.step_time is None:
        return
    if start.least_batch:
        yield (
            f"the batch is not grown: {start.batch_tokens:,.0f} is the smallest tried and the best, so that the best "
            "one may be smaller still"
        )
    low, high = target.step_time.batches
    if not low <= batch <= high:
        yield f"the time of a step is extrapolated: measured were batches of {low:,.0f} to {high:,.0f}"


def data_hash(fits: Fits) -> str:
    """SHA-256 of the rows that were fitted, their trials and conventions: equal for equal data, wherever computed."""
    runs, found = fits.trials.runs, hashlib.sha256()
    for field in fields(runs):
        value = getattr(runs, field.name)
        found.update(field.name.encode())
        if isinstance(value, np.ndarray):
            little = value.astype("<f8") if value.dtype.kind == "f" else value.astype("<i8")
            found.update(little.tobytes())
        else:
            found.update(str(value).encode())
    return found.hexdigest()


def _quantum(fits: Fits) -> int:
    """The largest size of which all batches tried are multiples."""
    return max(1, math.gcd(*(round(float(batch)) for batch in fits.trials.runs.batch_tokens)))


def _limited(target: Target, start: Start, fits: Fits, notes: list[str]) -> Target:
    """With the largest batch: where more data a step saves few steps, where that is known, and near those tried.

    B_crit grows with the tokens to the loss at hand (Zhang et al. 2024, arXiv:2410.21676; Power Lines, 2505.13738), so
    that one measured in short runs is moved by the exponent of the best batch.
    """
    largest = BEYOND_TRIED * float(fits.trials.runs.batch_tokens.max())
    said = f"up to {largest:,.0f}: {BEYOND_TRIED} times the largest tried"
    found = fits.get(critical_batch)
    if isinstance(found, CriticalBatch):
        reach = max(1.0, target.tokens_at(start.batch_tokens) / found.fewest_tokens.value)
        critical = found.batch_tokens.value * reach ** priors.BATCH["tokens"].mean
        if critical < largest:
            largest = max(critical, target.batch_quantum)
            said = f"up to the critical batch there, {largest:,.0f}: beyond it more data a step saves few steps"
    notes.append(f"batches are multiples of {target.batch_quantum:,} tokens, {said}")
    return replace(target, largest_batch=largest)


def _mean_rate(fits: Fits, trial: int | None) -> float:
    """Of the trial's schedule, else of the usual one."""
    own = fits.trials.mean_rate[fits.trials.runs.trial == (-1 if trial is None else trial)]
    return float(np.median(own if len(own) else fits.trials.mean_rate))


def _start_of(fits: Fits, trial: int) -> tuple[Start, str]:
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
        weight_decay=decay if math.isfinite(decay) else 0.0,
    )
    alike = [c for c in fits.cells if c.optimum.at and abs(math.log(c.n_params / runs.n_params[row])) < SAME_MODEL]
    if not alike:
        start, said = _of_row(fits, row), f"trial {trial}: no cell of its model has an optimum"
        return replace(start, given=given), f"{said}, so that its rate is known to an octave"
    batch = given.batch_tokens
    longest = max(cell.tokens for cell in alike)
    cell = max(
        alike,
        key=lambda c: (row in c.rows, c.tokens > longest / SAME_HORIZON, -abs(math.log(c.batch_tokens / batch))),
    )
    start, said = _of_cell(fits, cell)
    return replace(start, given=given), said


def _start(fits: Fits) -> tuple[Start, str]:
    """The vertex of the best cell at the longest horizon that has one; else the best run."""
    runs = fits.trials.runs
    if not len(runs) or runs.diverged.all():
        raise SweeperError(
            f"study {fits.study.name} has no run with a score to start from; "
            f"run `sweeper launch --study {fits.study.name}`"
        )
    found = [cell for cell in fits.cells if cell.optimum.at]
    if found:
        longest = max(_horizon(fits, cell) for cell in found)
        near = [cell for cell in found if _horizon(fits, cell) > longest / SAME_HORIZON]
        cell = min(near, key=lambda one: one.optimum.loss_at or math.inf)
        return _of_cell(fits, cell)
    row = int(np.nanargmin(np.where(runs.diverged, np.nan, runs.loss)))
    said = f"trial {runs.trial[row]}, the best: no cell has an optimum, so its rate is known to an octave"
    return _of_row(fits, row), said


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


def _laws(fits: Fits, notes: list[str]) -> Laws:
    law = fits.rate_law
    rate = law if isinstance(law, PowerLaw) and law.used >= FEWEST_CELLS else None
    if rate is None:
        notes.append(f"no fitted law of the rate: {law.used} cells with an optimum, {FEWEST_CELLS} needed")
    if fits.loss_law is None:
        notes.append(f"{NO_SCORE}: {fits.loss_tries[0][1].not_identified}")
    return Laws(
        rate=rate,
        batch=fits.batch_law,
        tau=fits.tau_law if fits.tau_law.used >= FEWEST_CELLS else None,
        loss=fits.loss_law,
        rate_beliefs=priors.RATE,
        stable_rate=fits.stable_rate,
        censored=fits.censored,
    )
