"""A study's laws against its own longest budget: what would they have said, had it not been run?

A ladder gives every trial's score at smaller budgets too. From those alone the three candidates of a plan are made for
the longest one, where what each of them is worth is then known: it was measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from sweeper.errors import SweeperError
from sweeper.observations import bridge
from sweeper.observations_cells import Cell
from sweeper.observations_facts import BudgetScore, RunFacts
from sweeper.observations_fits import Fits
from sweeper.observations_plan import TransferPlan, plan
from sweeper.observations_start import SAME_HORIZON, SAME_MODEL
from sweeper.scaling.records import Estimate
from sweeper.scaling.step_time import StepTime
from sweeper.scaling.transfer import Values

FEWEST_BUDGETS = 3
"""Two to make a law of, one to hold it against."""
NEAREST = 0.75
"""Octaves between a candidate's batch and the nearest one tried, beyond which there is no telling."""
FURTHEST = 2.0
"""A candidate's rate this many times beyond what was tried at the longest budget is worth nobody knows what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """One candidate at the budget that was held back."""

    name: str
    values: Values
    best_rate: Estimate
    regret: Estimate | None
    """Relative excess of its loss over the best of all cells there; None where nothing near was tried."""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Backtest:
    held_back: float
    """The longest budget, in the study's unit."""
    unit: str
    used: tuple[float, ...]
    """The smaller ones."""
    worths: tuple[Worth, ...]
    started_from: str


def backtest(fits: Fits) -> Backtest | str:
    """The candidates that the smaller budgets give for the longest; or why there is no telling.

    A candidate is worth what the bowl of its cell says at its rate and tau; the cell is that of the nearest batch.
    """
    facts = [run for run in fits.study.trials if run.state == "complete"]
    budgets = sorted({outcome.budget for run in facts for outcome in run.outcomes if outcome.budget is not None})
    if len(budgets) + 1 < FEWEST_BUDGETS:
        there = f"it has {len(budgets) + 1} of {FEWEST_BUDGETS} budgets needed"
        return f"{there}: `[budget] ladder` in the study file gives them"
    if fits.study.judge != "final":
        return f"smaller budgets have no {fits.study.judge} score, by which the study judges"
    short = [cut for run in facts if (cut := _without_last(run, budgets)) is not None]
    if not short:
        return "no trial has a score at the smaller budgets"
    try:
        made = _plan(fits, tuple(short))
    except (SweeperError, ValueError) as error:  # the numerics refuse what they cannot fit
        return str(error)
    cells = _longest_cells(fits, made.target.n_params)
    if not cells:
        return "no cell of that model has an optimum at the longest budget"
    worths = tuple(_worth(one.name, one.values, one.best_rate, cells) for one in made.candidates)
    unit, longest = (
        ("s", max(run.outcomes[-1].seconds for run in facts)) if fits.study.timed else ("tokens", cells[0].tokens)
    )
    return Backtest(held_back=longest, unit=unit, used=tuple(budgets), worths=worths, started_from=made.started_from)


def _longest_cells(fits: Fits, n_params: float) -> list[Cell]:
    own = [cell for cell in fits.cells if not cell.confirming and abs(math.log(cell.n_params / n_params)) < SAME_MODEL]
    longest = max((cell.tokens for cell in own), default=0.0)
    return [cell for cell in own if cell.optimum.at and cell.tokens > longest / SAME_HORIZON]


def _without_last(run: RunFacts, budgets: list[float]) -> RunFacts | None:
    """The run as if the largest of the smaller budgets had been its whole one."""
    by_budget: dict[float | None, BudgetScore] = {outcome.budget: outcome for outcome in run.outcomes}
    if budgets[-1] not in by_budget:
        return None
    last = replace(by_budget[budgets[-1]], budget=None)
    before = tuple(by_budget[budget] for budget in budgets[:-1] if budget in by_budget)
    return replace(
        run,
        outcomes=(*before, last),
        score=last.val_bpb,
        score_stderr=last.stderr,
        streamed=last.val_bpb,
        tokens=last.tokens,
        step=last.step,
        seconds=last.seconds,
    )


def _plan(fits: Fits, short: tuple[RunFacts, ...]) -> TransferPlan:
    rows = bridge(short, fits.study.switches, fits.study.judge, fits.study.unit)
    runs = rows.runs
    if not len(runs) or runs.diverged.all():
        raise SweeperError("no trial has a score at the smaller budgets")
    study = replace(fits.study, trials=short, promotions=())
    held = Fits(rows, bridge((), fits.study.switches), study, lambda: fits.curves)
    best = int(runs.trial[np.nanargmin(np.where(runs.tokens > runs.tokens.max() / SAME_HORIZON, runs.loss, np.nan))])
    ends = [run.outcomes[-1] for run in fits.study.trials if run.number == best]
    speed = next((law for _, law in held.step_times.values() if isinstance(law, StepTime)), None)
    if fits.study.timed and speed is not None:
        return plan(held, seconds=ends[0].seconds, step_time=speed, trial=best)
    return plan(held, tokens=float(ends[0].tokens), trial=best)


def _worth(name: str, values: Values, best_rate: Estimate, cells: list[Cell]) -> Worth:
    cell = min(cells, key=lambda one: abs(math.log(one.batch_tokens / values.batch_tokens)))
    optimum = cell.optimum
    assert optimum.log2_at_d is not None and optimum.curvature_dd is not None and optimum.loss_at is not None
    tau = (
        cell.batch_tokens / (values.learning_rate * values.weight_decay * cell.tokens)
        if values.weight_decay
        else math.inf
    )
    at = np.log2([values.learning_rate, tau])[: len(optimum.log2_at_d)]
    floor = min(one.optimum.loss_at or math.inf for one in cells)
    noise = (optimum.noise or 0.0) * math.sqrt(len(at) / max(1, optimum.used))
    if (
        abs(math.log2(cell.batch_tokens / values.batch_tokens)) > NEAREST
        or values.learning_rate > FURTHEST * max(optimum.highest_stable[:1] or (math.inf,))
        or not np.isfinite(at).all()
    ):
        return Worth(name=name, values=values, best_rate=best_rate, regret=None, reason="nothing near was tried there")
    away = at - optimum.log2_at_d
    excess = math.log(optimum.loss_at / floor) + 0.5 * float(away @ optimum.curvature_dd @ away)
    bounds = (math.expm1(max(0.0, excess + k * noise)) for k in (0.0, -1.96, 1.96))
    return Worth(name=name, values=values, best_rate=best_rate, regret=Estimate(*bounds))
