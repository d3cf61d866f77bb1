"""From runs to the columns that `sweeper.scaling` fits, and why each run that is not among them was left out.

A run gives one row for every budget at which it has a score of a cooled model: its own, and the smaller ones of a
ladder, those of runs that were stopped later among them. Confirmation runs, which are longer, have numbers below 0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sweeper.observations_counting import convention, refusal
from sweeper.observations_facts import Recipe, RunFacts
from sweeper.observations_level import Row, levelled
from sweeper.observations_rows import horizons, rows_of
from sweeper.observations_switches import RATE_WORDS, Switches
from sweeper.scaling.records import Array, Observations, observations
from sweeper.scores import BITS_PER_BYTE, ScoreUnit


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A run without a row."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bridged:
    """Rows, what else is known of each, and what has none."""

    runs: Observations
    devices: tuple[str, ...]
    repeats: tuple[str, ...]
    mean_rate: Array
    width: Array
    seconds: Array
    """Training seconds of each row; NaN where unknown."""
    moved: float
    """The largest factor by which a row's tokens were moved to those of its peers."""
    excluded: tuple[LeftOut, ...]

    @property
    def sizes(self) -> str:
        """`n scores of m trials and k confirmation runs`."""
        numbers = np.unique(self.runs.trial)
        more = int((numbers < 0).sum())
        confirming = f" and {more:,} confirmation run{'s' if more > 1 else ''}" if more else ""
        return f"{len(self.runs):,} scores of {len(numbers) - more:,} trials{confirming}"

    @property
    def longest_trial(self) -> float:
        """Tokens of the longest row of a trial, confirmation runs left aside; 0 without one."""
        return float(self.runs.tokens[self.runs.trial >= 0].max(initial=0.0))

    @property
    def flops(self) -> Array:
        """6 N D, with N as the switch counts it (Kaplan et al. 2020, arXiv:2001.08361)."""
        return 6 * self.runs.n_params * self.runs.tokens


def bridge(
    facts: Sequence[RunFacts], switches: Switches, judge: str = "final", unit: ScoreUnit = BITS_PER_BYTE
) -> Bridged:
    """The rows of these runs.

    Args:
        facts: of trials, or of promotions, each at its newest attempt.
        judge: which score ranks in the study; where it is not the plain one, shorter budgets of a ladder have none.
        unit: of the scores.
    """
    rows: list[Row] = []
    fitted: list[Recipe] = []
    excluded: list[LeftOut] = []
    optimizer = _usual_optimizer(facts)
    ends = horizons(facts)
    for run in facts:
        reason = _refusal(run, switches, optimizer)
        made = [] if reason else rows_of(run, switches, judge, ends)
        if reason or not made:
            excluded.append(LeftOut(run.number, reason or _no_score(run)))
        rows += made
        fitted += [run.recipe] if made else []
    rows, unknown = _of_what_all_say(rows)
    level, moved = levelled(rows)
    words = convention(switches.params, fitted or [run.recipe for run in facts])
    return _bridged(level, (words, RATE_WORDS[switches.rate]), unit, (*excluded, *unknown), moved)


def _of_what_all_say(rows: list[Row]) -> tuple[list[Row], list[LeftOut]]:
    """Rows without a rate, or a batch, are left out where others have one: no fit of it takes gaps, and those that do
    without it take all rows where none has one."""
    left_out: dict[int, str] = {}
    for name, words in (("learning_rate", "its learning rate"), ("batch_tokens", "its batch")):
        if any(math.isfinite(row[name]) for row in rows):
            left_out |= {row["trial"]: f"{words} is not known" for row in rows if not math.isfinite(row[name])}
    kept = [row for row in rows if row["trial"] not in left_out]
    return kept, [LeftOut(trial, reason) for trial, reason in left_out.items()]


def _usual_optimizer(facts: Sequence[RunFacts]) -> str:
    found = Counter(run.recipe.optimizer for run in facts)
    return found.most_common(1)[0][0] if found else ""


def _refusal(run: RunFacts, switches: Switches, optimizer: str) -> str:
    recipe = run.recipe
    if run.state not in ("complete", "diverged") and all(outcome.full for outcome in run.outcomes):
        told = f": {run.reason}" if run.reason else ""
        return f"{run.state} at {run.progress:.0%} of the budget, so it has no final score{told}"
    if uncounted := refusal(recipe, switches.params):
        return uncounted
    if recipe.learning_rate is None:
        return ""  # which matters where other runs have one
    if recipe.optimizer != optimizer and switches.rate == "as_given":
        own, most = recipe.optimizer or "an optimiser that is not stated", optimizer or "one that is not stated"
        return f"its matrices are trained by {own}, most by {most}: rates of two cannot be compared"
    if switches.rate == "adamw" and not recipe.optimizer:
        return "its optimiser is not stated (optim.matrix_optimizer), which the rate's convention needs"
    if switches.rate == "adamw" and recipe.optimizer != "adamw" and recipe.width is None:
        return "its width is not known, which the rate's convention needs"
    return ""


def _no_score(run: RunFacts) -> str:
    if run.state == "diverged":
        return f"diverged at {run.progress:.1%} of the budget, and no complete run shows how long it would have been"
    return "complete, but without the score that was asked for"


def _bridged(
    rows: Sequence[Row], words: tuple[str, str], unit: ScoreUnit, excluded: tuple[LeftOut, ...], moved: float
) -> Bridged:
    """
    Args:
        words: of the conventions of parameters and rate.
    """
    names = (
        "n_params",
        "tokens",
        "batch_tokens",
        "learning_rate",
        "weight_decay",
        "depth",
        "step_seconds",
        "loss",
        "loss_stderr",
        "mean_rate",
        "width",
        "seconds",
    )
    columns = {name: np.array([row[name] for row in rows], dtype=np.float64) for name in names}
    mean_rate, width, seconds = (columns.pop(name) for name in ("mean_rate", "width", "seconds"))
    return Bridged(
        runs=observations(
            **columns,
            diverged=np.array([row["diverged"] for row in rows], dtype=np.bool_),
            trial=np.array([row["trial"] for row in rows], dtype=np.int64),
            seed=np.array([row["seed"] for row in rows], dtype=np.int64),
            unit="bpb" if unit == BITS_PER_BYTE else "nats",
            params_convention=words[0],
            rate_convention=words[1],
        ),
        devices=tuple(row["device"] for row in rows),
        repeats=tuple(row["repeats"] for row in rows),
        mean_rate=mean_rate,
        width=width,
        seconds=seconds,
        moved=moved,
        excluded=excluded,
    )
