"""A study's fits moved to a longer budget: where it starts, what three laws would run there, what to confirm first."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import numpy as np

from sweeper.errors import SweeperError
from sweeper.observations_batch import critical_batch
from sweeper.observations_cells import Cell
from sweeper.observations_fits import Fits
from sweeper.observations_start import mean_rate as usual_rate
from sweeper.observations_start import start_of
from sweeper.scaling import priors
from sweeper.scaling.critical_batch import CriticalBatch
from sweeper.scaling.gate import Confirmation, confirmation
from sweeper.scaling.power_law import PowerLaw
from sweeper.scaling.setting import Laws, Start, Target
from sweeper.scaling.step_time import StepTime
from sweeper.scaling.transfer import Candidate, candidates

BEYOND_TRIED = 4
"""Batches up to this many times the largest tried are considered: where it stops helping was not measured."""
NO_SCORE = "no predicted score"
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
    reference: Start | None = None,
) -> TransferPlan:
    """Copied, prior law and fitted law at a target of tokens, or of seconds on the device of `step_time`.

    Args:
        trial: whose model is to be trained for longer, and whose values a copy has; None: the best cell's.
        n_params: of the full run, as the fits count them, where it has another model than the trial.
        mean_rate: mean of rate / peak over the full run, where its schedule has another shape than the trials'.
        reference: whose values are moved, in place of those that lie nearest to the target.

    Raises:
        SweeperError: no run has a score, the trial is not among the runs that were fitted, or no batch fits.
    """
    notes: list[str] = []
    with fits.lock:
        start, said = (reference, "") if reference else start_of(fits, trial, _held(tokens, seconds, step_time))
        if mean_rate is not None:
            start = replace(start, mean_rate=usual_rate(fits, trial))
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
    notes += _of_batch(start, target, chosen.values.batch_tokens)
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


def _held(tokens: float | None, seconds: float | None, step_time: StepTime | None) -> Callable[[Cell], float]:
    """Tokens of the target at the depth and batch of a cell."""

    def held(cell: Cell) -> float:
        if tokens is not None:
            return tokens
        if seconds is None or step_time is None or not cell.depth > 0:
            return 0.0  # the target says what is missing
        return seconds / step_time.seconds(cell.depth, cell.batch_tokens).value * cell.batch_tokens

    return held


def _of_batch(start: Start, target: Target, batch: float) -> Iterator[str]:
    """What the reader of a plan should know of its batch."""
    if start.least_batch and batch < start.batch_tokens + target.batch_quantum:
        yield (
            f"the batch is not grown: {start.batch_tokens:,.0f} is the smallest tried and the best, so that the best "
            "one may be smaller still"
        )
    elif batch <= target.least_batch:
        yield f"the batch is the smallest tried, {batch:,.0f} tokens: a smaller one may be better"
    if target.step_time is None:
        return
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
    """With the smallest batch, which is that tried, and the largest: where more data a step saves few steps, where that
    is known, and near those tried.

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
    least = min(float(fits.trials.runs.batch_tokens.min()), largest)
    return replace(target, least_batch=least, largest_batch=largest)


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
