"""How long the full run of a command is: more of what its trials are measured in, as it has no tokens of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sweeper.errors import SweeperError
from sweeper.plan_file import token_count
from sweeper.study import StudySpec
from sweeper.study_file import BudgetTable
from sweeper.tables import OutcomeRow, RunRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Length:
    """A full run of a command: its config, and what it comes to as far as the trial's log told."""

    config: dict[str, Any]
    tokens: int
    """0 where the log does not say how many a step has."""
    steps: int
    seconds: float | None
    """None where the trial's are not known."""
    notes: list[str]


def lengthen(spec: StudySpec, run: RunRow, outcome: OutcomeRow, asked: str) -> Length:
    """The trial's values on a longer budget.

    Args:
        asked: `20x`, or tokens such as `3B` where a step's are known.

    Raises:
        SweeperError: another form, less than a step, a trial of unknown steps, or tokens of which nobody knows how
            many a step has.
    """
    try:
        factor = token_count(asked, 1_000_000) / 1_000_000 if asked.endswith("x") else _factor(asked, outcome)
    except (ValueError, OverflowError) as error:
        raise SweeperError(str(error)) from error
    if not 0 < factor <= 1e6:
        raise SweeperError(f"{asked!r} is {factor:g} times the trial; a full run may be up to a million times as long")
    if not outcome.step:
        raise SweeperError(
            f"trial {run.number} does not say its steps, of which a longer run is to have more: import it with a "
            "column of steps (--map COLUMN=steps), or with its batch (--map COLUMN=data.batch_tokens)"
        )
    steps, seconds = math.ceil(factor * outcome.step), factor * outcome.seconds if outcome.seconds > 0 else None
    if steps < 1:
        raise SweeperError(f"{asked!r} is less than one step; ask for more")
    # A multiple of trials that end by the clock ends by the clock; tokens are steps.
    by_clock = spec.budget.seconds is not None and asked.endswith("x")
    if by_clock:
        assert spec.budget.seconds is not None
        seconds = factor * spec.budget.seconds
        budget = BudgetTable(seconds=seconds)
    else:
        budget = BudgetTable(steps=steps)
    assert spec.trainer is not None
    return Length(
        config=spec.command_config(run.params, budget),
        tokens=round(factor * outcome.tokens),
        steps=steps,
        seconds=seconds,
        notes=[
            f"The command is {spec.trainer.command!r}, given "
            + (f"{seconds:g} s" if by_clock else f"{steps:,} steps")
            + f", {factor:,.3g} times the trial's; its files stay in the worker's home.",
            f"The values of trial {run.number} are copied as they are; what the script counts in steps, as it does "
            "WARMDOWN_ITERS, does not stretch with the run.",
            "sweeper cannot resume a command: a run that is broken off starts over.",
        ],
    )


def _factor(asked: str, outcome: OutcomeRow) -> float:
    if not outcome.tokens:
        raise SweeperError(
            f"{asked!r} asks for tokens, and the log of this study's command does not say how many a step has: ask for "
            f"a multiple such as 20x, or set data.batch_tokens in base"
        )
    return token_count(asked, outcome.tokens) / outcome.tokens
