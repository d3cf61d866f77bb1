"""The rows of one run: a score at each of its budgets, in the conventions that were asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sweeper.observations_facts import BudgetScore, Recipe, RunFacts
from sweeper.observations_level import Row
from sweeper.observations_switches import RateConvention, Switches
from sweeper.scaling.records import Array

MATCHED_UPDATE = 0.2
"""Root mean square of an AdamW update (Liu et al. 2025, arXiv:2502.16982): Muon's orthogonal one times this and
√(larger side) moves weights as far, so that its rates compare with AdamW's."""
LEAST_PROGRESS = 0.02
"""A run that diverged earlier does not tell how long it would have been."""
NEAR_HORIZON = 1.3
"""Factor within which the ends of a diverged run's like are its own: in equal seconds they differ a little."""
SAME_BATCH = 0.05
"""Log ratio up to which the tokens a step that are counted are those that were stated."""


def horizons(facts: Sequence[RunFacts]) -> dict[tuple[Any, ...], Array]:
    """Tokens of complete runs by what decides their speed: one of these is where a diverged one would have ended."""
    reached: dict[tuple[Any, ...], list[float]] = {}
    for run in facts:
        ends = [outcome.tokens for outcome in run.outcomes if outcome.full]
        if run.state == "complete" and ends and run.planned is None:
            reached.setdefault(_speed_key(run), []).append(float(ends[-1]))
    return {key: np.array(tokens) for key, tokens in reached.items()}


def _would_have_ended(run: RunFacts, peers: Array | None) -> float | None:
    """Tokens: where its like ended that it would have come nearest to, else as far as its own progress tells."""
    if run.planned is not None:
        return run.planned
    own = run.tokens / run.progress if run.progress >= LEAST_PROGRESS else None
    if peers is None:
        return own
    near = peers if own is None else peers[np.abs(np.log(peers / own)) < math.log(NEAR_HORIZON)]
    return float(np.median(near)) if len(near) else own


def _speed_key(run: RunFacts) -> tuple[Any, ...]:
    recipe = run.recipe
    largest = None if recipe.counts is None else max(recipe.counts.values())
    return (largest, recipe.batch_tokens, recipe.depth, run.device_name)


def rows_of(run: RunFacts, switches: Switches, judge: str, ends: Mapping[tuple[Any, ...], Array]) -> list[Row]:
    """None where it has no score of the kind that is asked for.

    Args:
        ends: of `horizons`.
    """
    if run.state == "diverged":
        known = _would_have_ended(run, ends.get(_speed_key(run)))
        batch = run.recipe.batch_tokens or (run.tokens / run.step if run.step else math.nan)
        if not known:
            return []
        return [_row(run, switches, tokens=known, batch=batch)]
    rows = []
    for outcome in run.outcomes:
        loss, stderr = _score_of(run, outcome, switches, judge)
        if loss is None or not math.isfinite(loss) or loss <= 0 or outcome.tokens <= 0:
            continue
        batch = _batch(run.recipe, outcome)
        made = _row(run, switches, tokens=outcome.tokens, batch=batch, loss=loss)
        if outcome.seconds > 0:
            each = outcome.seconds / outcome.step if outcome.step > 0 else math.nan  # made elsewhere, steps unsaid
            made |= {"seconds": outcome.seconds, "step_seconds": each}
        if stderr is not None:
            made["loss_stderr"] = stderr
        rows.append(made | {"budget": outcome.budget or run.planned})  # it is no peer of the trials at their own
    return rows


def _batch(recipe: Recipe, outcome: BudgetScore) -> float:
    """Tokens a step: as stated, unless that is in another unit; steps of runs made elsewhere may be rounded."""
    if outcome.step <= 0:
        return recipe.batch_tokens or math.nan
    counted = outcome.tokens / outcome.step
    stated = recipe.batch_tokens
    return stated if stated and abs(math.log(stated / counted)) < SAME_BATCH else counted


def _score_of(run: RunFacts, outcome: BudgetScore, switches: Switches, judge: str) -> tuple[float | None, float | None]:
    if outcome.full:
        if run.state != "complete":
            return None, None
        return (run.streamed, None) if switches.loss == "streamed" else (run.score, run.score_stderr)
    return (outcome.val_bpb, outcome.stderr) if judge == "final" and switches.loss == "judged" else (None, None)


def _row(run: RunFacts, switches: Switches, *, tokens: float, batch: float, loss: float = math.nan) -> Row:
    """Of a run at its whole budget, of which neither the seconds nor the score's error are known."""
    recipe = run.recipe
    assert recipe.counts is not None
    rate = recipe.learning_rate if recipe.learning_rate and recipe.learning_rate > 0 else math.nan
    factor = 1.0 if math.isnan(rate) else rate_factor(recipe, switches.rate)
    decay = math.nan if recipe.weight_decay is None else recipe.weight_decay / factor
    return {
        "n_params": recipe.counts[switches.params],
        "tokens": tokens,
        "batch_tokens": batch,
        "learning_rate": rate * factor,
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
