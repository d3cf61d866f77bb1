"""`sweeper fit` and `sweeper plan`: laws and transfers in the terminal, read from the database."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console

from sweeper import display, observations_laws
from sweeper.commands.reading import database
from sweeper.errors import SweeperError
from sweeper.observations_backtest import backtest
from sweeper.observations_fits import Fits
from sweeper.observations_laws import LawLine
from sweeper.observations_plan import TransferPlan
from sweeper.observations_plan import plan as make_plan
from sweeper.observations_read import FitsStore
from sweeper.observations_speed import clock
from sweeper.observations_switches import LOSS_WORDS, RATE_WORDS, Asked
from sweeper.observations_trust import calibrations
from sweeper.plan_file import token_count
from sweeper.results import Results
from sweeper.scaling.grouping import HORIZON_TOLERANCE
from sweeper.scaling.records import Estimate
from sweeper.scaling.transfer import Candidate
from sweeper.scores import ScoreUnit
from sweeper.settings import Settings
from sweeper.transferred import MORE_TRIALS


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What `sweeper plan` was asked for."""

    study: str
    tokens: str | None
    hours: float | None
    gpu: str | None
    as_json: bool
    trial: int | None = None
    """Whose values the copy has; None takes the best one's, as `promote` does."""


def check(settings: Settings, study: str, asked: Asked, console: Console) -> None:
    """Print what the laws of a study's smaller budgets would have been worth at its longest.

    Raises:
        SweeperError: no database, or no such study.
    """
    with database(settings) as engine:
        store = FitsStore(engine, Results(engine))
        found = backtest(store.fits(study, store.switches(study, asked)))
    if isinstance(found, str):
        display.say(console, f"{study}: its laws cannot be held against a longer budget: {found}")
        return
    smaller = ", ".join(f"{budget:,.10g}" for budget in found.used)
    display.say(
        console,
        f"{study}: from budgets of {smaller} to {found.held_back:,.0f} {found.unit}, from {found.started_from}",
    )
    lines = [("", "rate", "decay", "batch", "best rate, 95 %", "loss over the best there, 95 %")]
    for one in found.worths:
        values, rate = one.values, one.best_rate
        worth = one.reason
        if one.regret is not None:
            worth = f"{one.regret.value:.2%} ({one.regret.low:.2%} to {one.regret.high:.2%})"
        told = f"{rate.value:.4g} ({rate.low:.4g} to {rate.high:.4g})"
        decay = f"{values.weight_decay:.4g}"
        lines.append((one.name, f"{values.learning_rate:.4g}", decay, f"{values.batch_tokens:,.0f}", told, worth))
    display.say(console, _aligned(lines))


def fit(settings: Settings, study: str, asked: Asked, console: Console, *, as_json: bool) -> None:
    """Print the laws of a study.

    Raises:
        SweeperError: no database, or no such study.
    """
    with database(settings) as engine:
        store = FitsStore(engine, Results(engine))
        fits = store.fits(study, store.switches(study, asked))
        if as_json:
            display.say(console, _dump(observations_laws.as_json(fits)))
            return
        rows, left_out = observations_laws.lines(fits), observations_laws.left_out(fits)
    display.say(console, f"{study}: {fits.trials.sizes}, {len(fits.groups)} cells")
    if fits.trials.moved > 1 + HORIZON_TOLERANCE:
        display.say(
            console,
            f"tokens in the same seconds differed by up to {fits.trials.moved - 1:.0%}: scores are read off along each "
            "run's own ladder at the median",
        )
    for reason, count in left_out:
        display.say(console, f"left out: {count:,} {reason}")
    display.say(
        console,
        f"parameters: {fits.trials.runs.params_convention}; rate: {RATE_WORDS[fits.study.switches.rate]}; "
        f"loss: {LOSS_WORDS[fits.study.switches.loss]}, {fits.study.unit.words}",
    )
    display.say(console, _laws_table([row for row in rows if row.value is not None]))
    display.say(console, "not identified:" if any(row.value is None for row in rows) else "everything is identified")
    for row in rows:
        if row.value is None:
            display.say(console, f"  {row.law}, {row.quantity}: {row.reason}")


def _laws_table(rows: list[LawLine]) -> str:
    lines = [("law", "quantity", "value", "95 %", "unit", "n", "left out")]
    for row in rows:
        assert row.value is not None and row.low is not None and row.high is not None
        name = row.quantity + (" (prior)" if row.reason.startswith("the runs say nothing") else "")
        bounds = f"{row.low:.4g} to {row.high:.4g}"
        lines.append((row.law, name, f"{row.value:.4g}", bounds, row.unit, str(row.used), str(row.excluded)))
    return _aligned(lines)


def _aligned(lines: Sequence[tuple[str, ...]]) -> str:
    """Columns as plain text, never wrapped: it can be searched and copied."""
    widths = [max(len(line[place]) for line in lines) for place in range(len(lines[0]))]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)


def plan(settings: Settings, order: Order, console: Console) -> None:
    """Print the three candidates of a longer run and what to confirm first.

    Raises:
        SweeperError: not exactly one of tokens and hours, a device that nothing is known of, or no run with a score.
    """
    if (order.tokens is None) == (order.hours is None):
        raise SweeperError("say how long the full run is: --tokens 3B, or --hours 20, one of the two")
    if order.gpu is not None and order.hours is None:
        raise SweeperError("--gpu says how fast --hours pass; with --tokens it has no effect")
    with database(settings) as engine:
        results = Results(engine)
        store = FitsStore(engine, results)
        fits = store.fits(order.study)
        best = results.study(order.study).best
        fitted = best is not None and best.number in fits.trials.runs.trial
        trial = best.number if order.trial is None and best is not None and fitted else order.trial
        timed = None if order.hours is None else clock(store, fits, order.hours, order.gpu)
        tokens = None if order.tokens is None else _tokens(order.tokens, fits)
        seconds, speed = (timed.seconds, timed.step_time) if timed else (None, None)
        made = make_plan(fits, tokens=tokens, seconds=seconds, step_time=speed, trial=trial)
        earlier = list(calibrations(fits))
    device = timed.device if timed else ""
    if order.as_json:
        told = plan_json(made, order.study, device, fits.study.unit)
        display.say(console, _dump(told | {"trial": trial, "earlier": [asdict(one) for one in earlier]}))
        return
    _show(made, order, device, fits.study.unit, console)
    for one in earlier:
        display.say(console, f"earlier: {one.words}")


def _tokens(text: str, fits: Fits) -> float:
    longest = fits.trials.longest_trial
    try:
        tokens = token_count(text.strip(), round(longest))
    except (ValueError, OverflowError) as error:
        raise SweeperError(str(error)) from error
    if tokens < 1:
        raise SweeperError(f"--tokens must be positive, got {text}")
    return float(tokens)


def plan_json(made: TransferPlan, study: str, device: str, unit: ScoreUnit) -> dict[str, Any]:
    """The plan for scripts."""
    return {
        "study": study,
        "device": device or None,
        "score_unit": unit.words,
        "target_tokens": made.target.tokens,
        "target_seconds": made.target.seconds,
        "start": asdict(made.start) | {"from": made.started_from},
        "candidates": [asdict(one) for one in made.candidates],
        "proposed": made.proposed.name,
        "confirm": {"needed": made.gate.needed, **asdict(made.gate)},
        "notes": list(made.notes),
    }


def _dump(values: Any) -> str:
    return json.dumps(_strict(values), indent=2, allow_nan=False)


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _strict(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(inner) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    return value if not isinstance(value, float) or np.isfinite(value) else None


def _show(made: TransferPlan, order: Order, device: str, unit: ScoreUnit, console: Console) -> None:
    hours = (made.target.seconds or 0) / 3600
    budget = f"{made.target.tokens:,.0f} tokens" if made.target.tokens else f"{hours:g} hours"
    where = f" on {device}" if device else ""
    display.say(console, f"{order.study}: a full run of {budget}{where}, {made.target.n_params:,.0f} parameters")
    start = made.start
    decay = "not identified" if start.weight_decay is None else f"{start.weight_decay:.3g}"
    display.say(
        console,
        f"from {made.started_from}: rate {start.learning_rate:.4g}, decay {decay}, batch {start.batch_tokens:,.0f}",
    )
    display.say(console, _candidates_table(made.candidates, unit.name))
    for one in made.candidates:
        for text in one.notes:
            display.say(console, f"{one.name}: {text}")
    for text in made.notes:
        display.say(console, f"note: {text}")
    if not made.gate.needed:
        display.say(console, f"confirm: not needed; proposed is the {made.proposed.name}")
        return
    cost = f" first, for {made.gate.cost_share:.0%} of the full run's cost:" if made.gate.runs else f": {MORE_TRIALS}"
    display.say(console, f"confirm the {made.proposed.name}{cost}")
    for reason in made.gate.reasons:
        display.say(console, f"  because {reason}")
    if not made.gate.runs:
        return
    for run in made.gate.runs:
        display.say(
            console,
            f"  run {run.tokens:,.0f} tokens at rate {run.learning_rate:.4g}, decay "
            f"{run.weight_decay:.3g}, batch {run.batch_tokens:,.0f} ({run.steps:,.0f} steps)",
        )
    display.say(console, f"to see what they cost here, and to start them: {_confirming(order)}")


def _confirming(order: Order) -> str:
    given = {"--trial": order.trial, "--tokens": order.tokens, "--hours": order.hours, "--gpu": order.gpu}
    return display.command_line("sweeper", "confirm", "--study", order.study, options=given)


def _candidates_table(found: tuple[Candidate, ...], predicted: str) -> str:
    """
    Args:
        predicted: ScoreUnit.name of the score.
    """
    values = [one.values for one in found]
    own = values[0]
    losses = [_interval(one.predicted_loss, ".4f") if one.predicted_loss else "no loss law" for one in found]
    return _aligned(
        [
            ("", *(one.name for one in found)),
            ("learning rate (matrix_lr)", *(f"{v.learning_rate:.4g}" for v in values)),
            ("  × the trial's, for every group", *(f"{v.learning_rate / own.learning_rate:.3g}" for v in values)),
            ("  best rate there, 95 %", *(_interval(one.best_rate, ".3g") for one in found)),
            ("  shaded, octaves", *(f"{one.shaded_octaves:+.2f}" for one in found)),
            ("  capped by divergence", *("yes" if one.capped else "no" for one in found)),
            ("weight decay", *(f"{v.weight_decay:.4g}" for v in values)),
            ("  tau, share of the run", *(f"{v.tau:.3g}" for v in values)),
            ("batch, tokens a step", *(f"{v.batch_tokens:,.0f}" for v in values)),
            ("steps", *(f"{v.steps:,.0f}" for v in values)),
            ("tokens", *(f"{v.tokens:,.0f}" for v in values)),
            ("1 - beta2, × the trial's", *(f"{v.batch_tokens / own.batch_tokens:.3g}" for v in values)),
            (f"predicted {predicted}, 95 %", *losses),
        ]
    )


def _interval(e: Estimate, form: str) -> str:
    return f"{e.value:{form}} ({e.low:{form}} to {e.high:{form}})"
