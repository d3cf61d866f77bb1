"""A study's fits moved to a longer budget: where it starts, what three laws would run there, what to confirm first."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sweeper.errors import SweeperError
from sweeper.observations_fits import Cell, Fits
from sweeper.scaling import priors
from sweeper.scaling.gate import Confirmation, confirmation
from sweeper.scaling.power_law import PowerLaw
from sweeper.scaling.setting import Laws, Start, Target
from sweeper.scaling.step_time import StepTime
from sweeper.scaling.transfer import Candidate, candidates

BEYOND_TRIED = 4
"""Batches up to this many times the largest tried are considered: where it stops helping was not measured."""
FEWEST_CELLS = 3
"""Cells with a vertex from which the law that was fitted to them is a candidate of its own."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TransferPlan:
    """What a full run could be given, by each of the laws."""

    start: Start
    started_from: str
    """Whose values those are, in words."""
    target: Target
    candidates: tuple[Candidate, ...]
    proposed: Candidate
    """The fitted law's where there is one, else the prior's."""
    gate: Confirmation
    notes: tuple[str, ...]


def plan(
    fits: Fits, *, tokens: float | None = None, seconds: float | None = None, step_time: StepTime | None = None
) -> TransferPlan:
    """Copied, prior law and fitted law at a target of tokens, or of seconds on the device of `step_time`.

    Raises:
        SweeperError: no run has a score, or no batch fits.
    """
    with fits.lock:
        start, said = _start(fits)
        runs = fits.trials.runs
        notes: list[str] = []
        quantum = math.gcd(*(round(float(batch)) for batch in runs.batch_tokens))
        target = Target(
            n_params=start.n_params,
            tokens=tokens,
            seconds=seconds,
            step_time=step_time,
            depth=start.depth,
            batch_quantum=max(quantum, 1),
            largest_batch=BEYOND_TRIED * float(runs.batch_tokens.max()),
        )
        laws = _laws(fits, notes)
        try:
            made = candidates(start, target, laws)
            chosen = made[-1]
            gate = confirmation(start, target, laws, chosen)
        except ValueError as error:
            raise SweeperError(f"no plan for study {fits.study.name}: {error}") from error
        if step_time is not None and not step_time.batches[0] <= chosen.values.batch_tokens <= step_time.batches[1]:
            low, high = step_time.batches
            notes.append(f"the time of a step is extrapolated: measured were batches of {low:,.0f} to {high:,.0f}")
        notes.append(
            f"batches are multiples of {target.batch_quantum:,} tokens, up to {target.largest_batch:,.0f}: "
            f"{BEYOND_TRIED} times the largest tried"
        )
    return TransferPlan(
        start=start,
        started_from=said,
        target=target,
        candidates=made,
        proposed=chosen,
        gate=gate,
        notes=tuple(notes),
    )


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
        longest = max(cell.tokens for cell in found)
        near = [cell for cell in found if cell.tokens >= longest / 1.05]
        cell = min(near, key=lambda one: one.optimum.loss_at or math.inf)
        return _of_cell(fits, cell)
    row = int(np.nanargmin(np.where(runs.diverged, np.nan, runs.loss)))
    start = Start(
        n_params=float(runs.n_params[row]),
        tokens=float(runs.tokens[row]),
        batch_tokens=float(runs.batch_tokens[row]),
        learning_rate=float(runs.learning_rate[row]),
        weight_decay=_decay(float(runs.weight_decay[row])),
        rate_deviation=1.0,
        depth=_decay(float(runs.depth[row])),
        censored=True,
    )
    return start, f"trial {runs.trial[row]}, the best: no cell has an optimum, so its rate is known to an octave"


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
    )
    which = f"{len(cell.rows)} runs at {cell.tokens:,.0f} tokens, the best of them trial {runs.trial[best]}"
    return start, f"the best rate of {which}"


def _decay(value: float) -> float | None:
    return value if math.isfinite(value) and value > 0 else None


def _laws(fits: Fits, notes: list[str]) -> Laws:
    law = fits.rate_law
    rate = law if isinstance(law, PowerLaw) and law.used >= FEWEST_CELLS else None
    if rate is None:
        notes.append(f"no fitted law of the rate: {law.used} cells with an optimum, {FEWEST_CELLS} needed")
    if fits.loss_law is None:
        notes.append(f"no predicted val_bpb: {fits.loss_tries[0][1].not_identified}")
    return Laws(
        rate=rate,
        batch=fits.batch_law,
        tau=fits.tau_law if fits.tau_law.used >= FEWEST_CELLS else None,
        loss=fits.loss_law,
        rate_beliefs=priors.RATE,
        stable_rate=fits.stable_rate,
        censored=fits.censored,
    )
