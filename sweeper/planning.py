"""What a promotion would be, in numbers: a trial's values as a full run, by the study's plan or on more tokens.

They are copied as they are, or moved as a law proposes: which, the caller decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from sweeper import plan_notes, throughput
from sweeper.command_plan import lengthen
from sweeper.errors import SweeperError
from sweeper.moved import Destination, moved
from sweeper.picking import scored
from sweeper.plan_file import Plan, token_count
from sweeper.protocol import PromoteRequest, PromotionPlan
from sweeper.service import Service, spec_of
from sweeper.shape import shape_of
from sweeper.study import StudySpec
from sweeper.tables import OutcomeRow, PromotionRow, RunRow, StudyRow
from sweeper.transferred import Transfer
from trainer.config import ConfigError, TrainConfig

EVAL_SHARES = tuple(round(0.05 * share, 2) for share in range(1, 20))
"""Shares of a full run without phases that are validated: every 5 %."""
MOST_TOKENS = 10**15


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """The trial that is to run in full, and how long."""

    spec: StudySpec
    run: RunRow
    outcome: OutcomeRow
    phases: Plan | None
    """None for one schedule."""
    copied: TrainConfig
    """The full run by the trial's own values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Whose values the full run takes."""

    transfer: Transfer
    notes: tuple[str, ...] = ()
    """For the reader, of what earlier promotions came to."""


def make_plan(
    service: Service,
    study: StudyRow,
    request: PromoteRequest,
    choose: Callable[[Basis], Choice],
    held: Callable[[RunRow], int] | None = None,
) -> PromotionPlan:
    """What the full run would be.

    Args:
        choose: decides whether a law moves the trial's values; it is not asked of values by hand and of commands.
        held: tokens of a trial's own values that the hours of the request hold; None where it has none.

    Raises:
        Unknown: no such trial.
        Conflict: the trial has no score, or no trial has one yet.
        SweeperError: a token count of another form than `3B`, `500M`, `20x`, or an impossible one; or values by hand
            of a study whose plan has none.
    """
    spec = spec_of(study)
    waits = waiting(service, study)
    if request.by_hand:
        return _by_hand(service, study, spec, request, waits)
    run, outcome = scored(service, study, request.trial)
    if spec.trainer is not None:
        return _command_plan(spec, study, request, run, outcome, waits)
    phases = spec.plan if request.tokens is None and held is None else None
    tokens = 0 if phases else asked_tokens(spec, request, run, outcome, held)
    basis = Basis(
        spec=spec, run=run, outcome=outcome, phases=phases, copied=full_config(spec, phases, run.config, tokens)
    )
    choice = choose(basis)
    taken = choice.transfer.taken if choice.transfer.chosen != "copied" else None
    made = lay_out(service, basis, taken, request.device_name)
    own = [*plan_notes.warning(run), plan_notes.whose(run.number, taken)]
    notes = [*own, *plan_notes.length(made.tokens, outcome, phases), *made.notes, *choice.notes]
    notes += [plan_notes.goes_first(study.name, row) for row in waits]
    return made.model_copy(update={"hours": request.hours, "transfer": choice.transfer, "notes": notes})


def asked_tokens(
    spec: StudySpec,
    request: PromoteRequest,
    run: RunRow,
    outcome: OutcomeRow,
    held: Callable[[RunRow], int] | None,
) -> int:
    """Of a full run by one schedule, where the trial's own values are copied.

    Raises:
        SweeperError: a count of another form than `3B`, `500M`, `20x`, or an impossible one.
    """
    asked = spec.promote.tokens if request.tokens is None else request.tokens
    return held(run) if held else _tokens(asked, outcome.tokens)


def lay_out(service: Service, basis: Basis, to: Destination | None, device_name: str) -> PromotionPlan:
    """The run of the basis's trial in numbers, with a note on its time.

    Args:
        to: values that a law has moved, and their tokens; None copies the trial's.
        device_name: that is to run it; empty takes the trial's own.

    Raises:
        SweeperError: values that make no config, or less than a step.
    """
    spec, run, outcome, config = basis.spec, basis.run, basis.outcome, basis.copied
    values, params = run.config, run.params
    if to is not None:
        values, params = moved(run.config, run.params, config.optim, to, spec.space)
        config = full_config(spec, basis.phases, values, to.tokens)
    with service.read() as session:
        speed = throughput.of_full_run(session, spec.name, run, outcome, values, device_name)
    return PromotionPlan(
        study=spec.name,
        trial=run.number,
        params=params,
        trial_tokens=outcome.tokens,
        trial_val_bpb=outcome.val_bpb if run.score is None else run.score,
        judge=spec.judge,
        notes=[speed.note],
        **_common(config, speed.tokens_per_second, basis.phases),
    )


def full_config(spec: StudySpec, phases: Plan | None, values: dict[str, Any], tokens: int) -> TrainConfig:
    """A trial's values as a full run: by the phases, or by one schedule over so many tokens.

    Raises:
        SweeperError: they make no config.
    """
    values = _alone(spec, values)
    try:
        return _with_phases(phases, values) if phases else _config(values, tokens)
    except ConfigError as error:
        raise SweeperError(f"these values cannot run in full: {error}") from error


def _alone(spec: StudySpec, values: dict[str, Any]) -> dict[str, Any]:
    """Without the micro-batch that a study's trials share so that one compilation serves all: a run by itself takes the
    largest that fits."""
    if "micro_batch_tokens" in spec.base.get("data", {}):
        return values
    return {**values, "data": {**values["data"], "micro_batch_tokens": 0}}


def _by_hand(
    service: Service, study: StudyRow, spec: StudySpec, request: PromoteRequest, waiting: Sequence[PromotionRow]
) -> PromotionPlan:
    """The plan's own values, of no trial."""
    if spec.plan is None or set(spec.plan.values) != set(spec.space):
        raise SweeperError(
            f"study {study.name} has no plan with a value for each of its axes under [values]: "
            f"{', '.join(spec.space)}; add them, or promote a trial"
        )
    config = _with_phases(spec.plan, _alone(spec, spec.config(spec.plan.values)))
    with service.read() as session:
        measured = throughput.known(session, request.device_name).get(shape_of(config.to_dict()))
    speed = None if measured is None else measured.tokens_per_second
    notes = ["The values are those of the plan file; no trial of the study has chosen them."]
    if speed is None:
        notes.append(f"How long it takes is not known: `sweeper bench --study {study.name}` measures such shapes.")
    return PromotionPlan(
        study=study.name,
        trial=None,
        params=spec.plan.values,
        trial_tokens=0,
        trial_val_bpb=None,
        judge=spec.judge,
        notes=[*notes, *(plan_notes.goes_first(study.name, row) for row in waiting)],
        **_common(config, speed, spec.plan),
    )


def _common(config: TrainConfig, speed: float | None, phases: Plan | None) -> dict[str, Any]:
    """What every plan of our own trainer says."""
    tokens, batch_tokens = config.budget.tokens, config.data.batch_tokens
    assert tokens is not None, "full runs are measured in tokens"
    if tokens < batch_tokens:
        raise SweeperError(f"{tokens:,} tokens are less than one step of {batch_tokens:,}; ask for more")
    return {
        "config": config.to_dict(),
        "tokens": tokens,
        "steps": math.ceil(tokens / batch_tokens),
        "tokens_per_second": speed,
        "seconds": None if speed is None else tokens / speed,
        "name": phases.name if phases else "",
        "success": phases.success if phases else None,
    }


def _with_phases(phases: Plan, values: dict[str, Any]) -> TrainConfig:
    try:
        return TrainConfig.from_dict(phases.lay_over(values))
    except ConfigError as error:
        raise SweeperError(f"plan {phases.name}: {error}") from error


def waiting(service: Service, study: StudyRow) -> Sequence[PromotionRow]:
    """The study's promotions that no worker has taken yet."""
    chosen = select(PromotionRow).where(PromotionRow.study_id == study.id, PromotionRow.state == "waiting")
    with service.read() as session:
        return session.scalars(chosen.order_by(PromotionRow.id)).all()


def _command_plan(
    spec: StudySpec,
    study: StudyRow,
    request: PromoteRequest,
    run: RunRow,
    outcome: OutcomeRow,
    waiting: Sequence[PromotionRow],
) -> PromotionPlan:
    if request.hours is not None:
        raise SweeperError(f"study {study.name} trains by a command, whose speed no law knows: use --tokens")
    if request.by not in (None, "copied"):
        raise SweeperError(f"study {study.name} trains by a command, whose values no law moves: leave --by out")
    asked = (spec.promote.tokens if request.tokens is None else request.tokens).strip()
    length = lengthen(spec, run, outcome, asked)
    return PromotionPlan(
        study=study.name,
        trial=run.number,
        config=length.config,
        params=run.params,
        tokens=length.tokens,
        steps=length.steps,
        tokens_per_second=outcome.tokens / outcome.seconds if outcome.seconds > 0 else None,
        seconds=length.seconds,
        trial_tokens=outcome.tokens,
        trial_val_bpb=outcome.val_bpb if run.score is None else run.score,
        judge=spec.judge,
        length=asked,
        notes=[*plan_notes.warning(run), *length.notes, *(plan_notes.goes_first(study.name, row) for row in waiting)],
    )


def _tokens(text: str, trial_tokens: int) -> int:
    try:
        tokens = token_count(text.strip(), trial_tokens)
    except (ValueError, OverflowError) as error:
        raise SweeperError(str(error)) from error
    if not 0 < tokens <= MOST_TOKENS:
        raise SweeperError(f"{text!r} is {tokens:,} tokens; a run takes from 1 to {MOST_TOKENS:,}")
    return tokens


def _config(values: dict[str, object], tokens: int) -> TrainConfig:
    """The trial's config with the budget alone, and the evaluations of a long run."""
    evaluation = values.get("eval")
    shares = {**(evaluation if isinstance(evaluation, dict) else {}), "fractions": list(EVAL_SHARES)}
    return TrainConfig.from_dict({**values, "budget": {"tokens": tokens}, "ladder": {}, "eval": shares})
