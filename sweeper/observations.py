"""From runs to the columns that `sweeper.scaling` fits, and why each run that is not among them was left out.

A run gives one row for every budget at which it has a score of a cooled model: its own, and the smaller ones of a
ladder, those of runs that were stopped later among them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweeper.observations_level import Row, levelled
from sweeper.observations_switches import PARAMS_WORDS, RATE_WORDS, RateConvention, Switches
from sweeper.scaling.records import Array, Observations, observations
from sweeper.transferred import Transfer

MATCHED_UPDATE = 0.2
"""Root mean square of an AdamW update (Liu et al. 2025, arXiv:2502.16982): Muon's orthogonal one times this and
√(larger side) moves weights as far, so that its rates compare with AdamW's."""
LEAST_PROGRESS = 0.02
"""A run that diverged earlier does not tell how long it would have been."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetScore:
    """What a run had reached, cooled, at one budget."""

    tokens: int
    step: int
    seconds: float
    val_bpb: float
    stderr: float | None
    budget: float | None = None
    """Of a branch that was cooled on the way: the smaller budget; None for the run's whole one."""

    @property
    def full(self) -> bool:
        """Whether this is the run's whole budget."""
        return self.budget is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What of a run's values decides its place in a law; None where they do not say."""

    counts: Mapping[str, float] | None
    """Parameters by ParamsCount."""
    learning_rate: float | None
    weight_decay: float | None
    batch_tokens: float | None
    depth: float | None
    width: float | None
    optimizer: str
    mean_rate: float
    """Mean of rate / peak over the schedule."""
    seed: int
    seq_len: int
    repeats: str
    """Equal for runs with equal values but for their seeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """One trial or promotion at its newest attempt."""

    number: int
    trial: int | None
    """Of a promotion: the trial whose values it took."""
    state: str
    reason: str
    progress: float
    recipe: Recipe
    tokens: int
    step: int
    seconds: float
    device_name: str
    score: float | None
    score_stderr: float | None
    streamed: float | None
    outcomes: tuple[BudgetScore, ...]
    """By tokens, ascending."""
    transfer: Transfer | None = None
    """Of a promotion: the candidate that was taken, and what it was foretold."""


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
    def flops(self) -> Array:
        """6 N D, with N as the switch counts it (Kaplan et al. 2020, arXiv:2001.08361)."""
        return 6 * self.runs.n_params * self.runs.tokens


def bridge(facts: Sequence[RunFacts], switches: Switches, judge: str = "final") -> Bridged:
    """The rows of these runs.

    Args:
        facts: of trials, or of promotions, each at its newest attempt.
        judge: which score ranks in the study; where it is not the plain one, shorter budgets of a ladder have none.
    """
    rows: list[Row] = []
    excluded: list[LeftOut] = []
    optimizer = _usual_optimizer(facts)
    horizons = _horizons(facts)
    for run in facts:
        reason = _refusal(run, switches, optimizer)
        made = [] if reason else _rows(run, switches, judge, horizons)
        if reason or not made:
            excluded.append(LeftOut(run.number, reason or _no_score(run)))
        rows += made
    level, moved = levelled(rows)
    return _bridged(level, switches, tuple(excluded), moved)


def _usual_optimizer(facts: Sequence[RunFacts]) -> str:
    found = Counter(run.recipe.optimizer for run in facts)
    return found.most_common(1)[0][0] if found else ""


def _horizons(facts: Sequence[RunFacts]) -> dict[tuple[Any, ...], float]:
    """Median tokens of complete runs by what decides their speed: where a diverged one would have ended."""
    reached: dict[tuple[Any, ...], list[float]] = {}
    for run in facts:
        ends = [outcome.tokens for outcome in run.outcomes if outcome.full]
        if run.state == "complete" and ends:
            reached.setdefault(_speed_key(run), []).append(float(ends[-1]))
    return {key: float(np.median(tokens)) for key, tokens in reached.items()}


def _speed_key(run: RunFacts) -> tuple[Any, ...]:
    recipe = run.recipe
    return (None if recipe.counts is None else recipe.counts["all"], recipe.batch_tokens, recipe.depth, run.device_name)


def _refusal(run: RunFacts, switches: Switches, optimizer: str) -> str:
    recipe = run.recipe
    if run.state not in ("complete", "diverged") and all(outcome.full for outcome in run.outcomes):
        told = f": {run.reason}" if run.reason else ""
        return f"{run.state} at {run.progress:.0%} of the budget, so it has no final score{told}"
    if recipe.counts is None:
        return "its number of parameters is not known"
    if recipe.learning_rate is None or not recipe.learning_rate > 0:
        return "its learning rate is not known"
    if recipe.optimizer != optimizer and switches.rate == "as_given":
        return f"its matrices are trained by {recipe.optimizer}, most by {optimizer}: rates of two cannot be compared"
    if switches.rate == "adamw" and recipe.optimizer != "adamw" and recipe.width is None:
        return "its width is not known, which the rate's convention needs"
    return ""


def _no_score(run: RunFacts) -> str:
    if run.state == "diverged":
        return f"diverged at {run.progress:.1%} of the budget, and no complete run shows how long it would have been"
    return "complete, but without the score that was asked for"


def _rows(run: RunFacts, switches: Switches, judge: str, horizons: Mapping[tuple[Any, ...], float]) -> list[Row]:
    if run.state == "diverged":
        known = horizons.get(_speed_key(run))
        if known is None and run.progress >= LEAST_PROGRESS:
            known = run.tokens / run.progress
        batch = run.recipe.batch_tokens or (run.tokens / run.step if run.step else None)
        if not known or not batch:
            return []
        return [_row(run, switches, tokens=known, batch=batch)]
    rows = []
    for outcome in run.outcomes:
        loss, stderr = _score_of(run, outcome, switches, judge)
        if loss is None or not math.isfinite(loss) or loss <= 0 or outcome.tokens <= 0 or outcome.step <= 0:
            continue
        batch = outcome.tokens / outcome.step
        made = _row(run, switches, tokens=outcome.tokens, batch=batch, loss=loss)
        if outcome.seconds > 0:
            made |= {"seconds": outcome.seconds, "step_seconds": outcome.seconds / outcome.step}
        if stderr is not None:
            made["loss_stderr"] = stderr
        rows.append(made | {"budget": outcome.budget})
    return rows


def _score_of(run: RunFacts, outcome: BudgetScore, switches: Switches, judge: str) -> tuple[float | None, float | None]:
    if outcome.full:
        if run.state != "complete":
            return None, None
        return (run.streamed, None) if switches.loss == "streamed" else (run.score, run.score_stderr)
    return (outcome.val_bpb, outcome.stderr) if judge == "final" and switches.loss == "judged" else (None, None)


def _row(run: RunFacts, switches: Switches, *, tokens: float, batch: float, loss: float = math.nan) -> Row:
    """Of a run at its whole budget, of which neither the seconds nor the score's error are known."""
    recipe = run.recipe
    assert recipe.counts is not None and recipe.learning_rate is not None
    factor = rate_factor(recipe, switches.rate)
    decay = math.nan if recipe.weight_decay is None else recipe.weight_decay / factor
    return {
        "n_params": recipe.counts[switches.params],
        "tokens": tokens,
        "batch_tokens": batch,
        "learning_rate": recipe.learning_rate * factor,
        "weight_decay": decay,  # rate x decay, and so tau, is the same in every convention
        "depth": math.nan if recipe.depth is None else recipe.depth,
        "step_seconds": math.nan,
        "seconds": math.nan,
        "loss": loss,
        "loss_stderr": math.nan,
        "budget": None,
        "diverged": run.state == "diverged",
        "trial": run.number,
        "seed": recipe.seed,
        "device": run.device_name,
        "repeats": recipe.repeats,
        "mean_rate": recipe.mean_rate,
        "width": math.nan if recipe.width is None else recipe.width,
    }


def rate_factor(recipe: Recipe, convention: RateConvention) -> float:
    """What a given rate is multiplied by to stand in `convention`."""
    if convention == "as_given" or recipe.optimizer == "adamw":
        return 1.0
    assert recipe.width is not None
    return 1 / (MATCHED_UPDATE * math.sqrt(recipe.width))


def _bridged(rows: Sequence[Row], switches: Switches, excluded: tuple[LeftOut, ...], moved: float) -> Bridged:
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
            unit="bpb",
            params_convention=PARAMS_WORDS[switches.params],
            rate_convention=RATE_WORDS[switches.rate],
        ),
        devices=tuple(row["device"] for row in rows),
        repeats=tuple(row["repeats"] for row in rows),
        mean_rate=mean_rate,
        width=width,
        seconds=seconds,
        moved=moved,
        excluded=excluded,
    )
