"""What a promotion would be, in numbers: a trial's values as a full run, by the study's plan or on more tokens.

They are copied as they are, or moved as a law proposes: which, the caller decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import select

from sweeper import throughput
from sweeper.command_plan import lengthen
from sweeper.errors import SweeperError
from sweeper.moved import moved
from sweeper.plan_file import Plan, token_count
from sweeper.protocol import PromoteRequest, PromotionPlan
from sweeper.pruners import is_feasible
from sweeper.service import Conflict, Service, Unknown, spec_of
from sweeper.shape import shape_of
from sweeper.study import StudySpec
from sweeper.tables import OutcomeRow, PromotionRow, RunRow, StudyRow
from sweeper.transferred import WORDS, Proposal, Transfer
from trainer.config import ConfigError, TrainConfig

EVAL_SHARES = tuple(round(0.05 * share, 2) for share in range(1, 20))
"""Shares of a full run without phases that are validated: every 5 %."""
MOST_TOKENS = 10**15


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """The trial that is to run in full, and how long."""

    spec: StudySpec
    run: RunRow
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
    service: Service, study: StudyRow, request: PromoteRequest, choose: Callable[[Basis], Choice]
) -> PromotionPlan:
    """What the full run would be.

    Args:
        choose: decides whether a law moves the trial's values; it is not asked of values by hand and of commands.

    Raises:
        Unknown: no such trial.
        Conflict: the trial has no score, or no trial has one yet.
        SweeperError: a token count of another form than `3B`, `500M`, `20x`, or an impossible one; or values by hand
            of a study whose plan has none.
    """
    spec = spec_of(study)
    waiting = _waiting(service, study)
    if request.by_hand:
        return _by_hand(service, study, spec, request, waiting)
    with service.turn(study.id):
        trial = _choose(service.search(spec).trials(), study.name, request.trial)
    run, outcome = _known(service, study, trial.number)
    if spec.trainer is not None:
        if request.by not in (None, "copied"):
            raise SweeperError(f"study {study.name} trains by a command, whose values no law moves: leave --by out")
        return _command_plan(spec, study, request, run, outcome, waiting)
    phases = spec.plan if request.tokens is None else None
    tokens = 0 if phases else _tokens(spec.promote.tokens if request.tokens is None else request.tokens, outcome.tokens)
    copied = _full(spec, phases, run.config, tokens)
    choice = choose(Basis(spec=spec, run=run, phases=phases, copied=copied))
    taken = choice.transfer.taken if choice.transfer.chosen != "copied" else None
    values, params = run.config, run.params
    if taken is not None:
        values, params = moved(run.config, run.params, copied.optim, taken, spec.space)
    config = copied if taken is None else _full(spec, phases, values, tokens)
    assert config.budget.tokens is not None
    with service.read() as session:
        speed = throughput.of_full_run(session, study.name, run, outcome, values, request.device_name)
    notes = [*_warning(run), _whose(trial.number, taken), *_notes(config.budget.tokens, outcome, phases), speed.note]
    return PromotionPlan(
        study=study.name,
        trial=trial.number,
        params=params,
        trial_tokens=outcome.tokens,
        trial_val_bpb=outcome.val_bpb if run.score is None else run.score,
        judge=spec.judge,
        transfer=choice.transfer,
        notes=[*notes, *choice.notes, *(_goes_first(study.name, row) for row in waiting)],
        **_common(config, speed.tokens_per_second, phases),
    )


def _full(spec: StudySpec, phases: Plan | None, values: dict[str, Any], tokens: int) -> TrainConfig:
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
        notes=[*notes, *(_goes_first(study.name, row) for row in waiting)],
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


def _waiting(service: Service, study: StudyRow) -> Sequence[PromotionRow]:
    """The study's promotions that no worker has taken yet."""
    chosen = select(PromotionRow).where(PromotionRow.study_id == study.id, PromotionRow.state == "waiting")
    with service.read() as session:
        return session.scalars(chosen.order_by(PromotionRow.id)).all()


def _known(service: Service, study: StudyRow, number: int) -> tuple[RunRow, OutcomeRow]:
    """The run of a complete trial, and its outcome."""
    with service.read() as session:
        found = session.execute(
            select(RunRow, OutcomeRow)
            .join(OutcomeRow, OutcomeRow.run_id == RunRow.id)
            .where(RunRow.study_id == study.id, RunRow.kind == "trial", RunRow.number == number)
            .where(RunRow.state == "complete", OutcomeRow.budget.is_(None))
            .order_by(OutcomeRow.tokens.desc())
        ).first()
    if found is None:
        raise Conflict(f"trial {number} of study {study.name} was not run here, so its speed is not known")
    return found[0], found[1]


def _command_plan(
    spec: StudySpec,
    study: StudyRow,
    request: PromoteRequest,
    run: RunRow,
    outcome: OutcomeRow,
    waiting: Sequence[PromotionRow],
) -> PromotionPlan:
    asked = (spec.promote.tokens if request.tokens is None else request.tokens).strip()
    length = lengthen(spec, run, outcome, asked)
    return PromotionPlan(
        study=study.name,
        trial=run.number,
        config=length.config,
        params=run.params,
        tokens=length.tokens,
        steps=length.steps,
        tokens_per_second=outcome.tokens / outcome.seconds if outcome.seconds > 0 else 0.0,
        seconds=length.seconds,
        trial_tokens=outcome.tokens,
        trial_val_bpb=outcome.val_bpb if run.score is None else run.score,
        judge=spec.judge,
        length=asked,
        notes=[*_warning(run), *length.notes, *(_goes_first(study.name, row) for row in waiting)],
    )


def _choose(trials: list[FrozenTrial], name: str, number: int | None) -> FrozenTrial:
    """The named trial, or the best complete one that keeps the study's limits."""
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    if number is None:
        if not complete:
            raise Conflict(f"study {name} has no complete trial yet: there is nothing to promote")
        feasible = [trial for trial in complete if is_feasible(trial)]
        if not feasible:
            raise Conflict(
                f"all {len(complete)} complete trials of study {name} break a limit of the study: none is promoted "
                f"unless you name it with --trial"
            )
        return min(feasible, key=lambda trial: trial.value if trial.value is not None else math.inf)
    for trial in trials:
        if trial.number == number:
            if trial not in complete:
                raise Conflict(
                    f"trial {number} of study {name} is {trial.state.name.lower()}; only complete trials have a "
                    f"score to promote: {', '.join(str(trial.number) for trial in complete[:20]) or 'none yet'}"
                )
            return trial
    raise Unknown(f"study {name} has no trial {number}")


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


def _warning(run: RunRow) -> list[str]:
    if not run.infeasible:
        return []
    return [f"Trial {run.number} breaks a limit of the study, and the full run of it likely will: {run.infeasible}."]


def _whose(number: int, taken: Proposal | None) -> str:
    if taken is None:
        return (
            f"The values of trial {number} are copied as they are. No law has moved them to the longer run: rates "
            "that win short runs are often not the best for long ones."
        )
    return (
        f"The values of trial {number} are moved by the {WORDS[taken.by]}: all rates times {taken.rate_factor:.3g}, "
        f"decay {taken.weight_decay:.3g}, batch {taken.batch_tokens:,}, beta2 {taken.beta2:.4g}."
    )


def _notes(tokens: int, outcome: OutcomeRow, phases: Plan | None) -> list[str]:
    longer = tokens / outcome.tokens
    schedule = (
        f"its rates are those of the {len(phases.phases)} phases of {phases.name}, as shares of the values' own."
        if phases
        else "the schedule stretches with it, as its parts are shares of the budget."
    )
    said = f"The run is {longer:,.1f} times as long as the trial ({tokens:,} tokens against {outcome.tokens:,}); "
    return [said + schedule, *(["It is shorter than the trial was."] if longer < 1 else [])]


def _goes_first(name: str, waiting: PromotionRow) -> str:
    return (
        f"Promotion {waiting.number} of {waiting.plan['tokens']:,} tokens is still waiting, and runs before this one. "
        f"If it is not wanted: sweeper stop --study {name} --promotion {waiting.number}"
    )
