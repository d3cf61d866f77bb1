"""Promotion: a full run of one trial's values, on a budget of tokens.  The plan first, then the row.

No law moves the values to the longer run here: they are copied, and the plan says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from sweeper import throughput
from sweeper.command_plan import lengthen
from sweeper.errors import SweeperError
from sweeper.protocol import Done, PromoteRequest, PromotionPlan
from sweeper.pruners import is_feasible
from sweeper.service import Conflict, Service, Unknown, find_study, spec_of
from sweeper.shape import shape_of
from sweeper.study import StudySpec
from sweeper.study_file import token_count
from sweeper.tables import OutcomeRow, PromotionRow, RunRow, StudyRow
from trainer.config import TrainConfig

EVAL_SHARES = tuple(round(0.05 * share, 2) for share in range(1, 20))
"""Shares of a full run that are validated: every 5 %."""
MOST_TOKENS = 10**15


def promote(service: Service, name: str, request: PromoteRequest) -> PromotionPlan:
    """Plan a promotion and, unless `plan_only`, make it wait for a worker.

    Raises:
        Unknown: no such study or trial.
        Conflict: the trial has no score, or no trial has one yet.
        SweeperError: a token count of another form than `3B`, `500M`, `20x`, or an impossible one.
    """
    with service.read() as session:
        study = find_study(session, name)
    plan = make_plan(service, study, request)
    return plan if request.plan_only else _store(service, study.id, plan)


def _store(service: Service, study_id: int, plan: PromotionPlan) -> PromotionPlan:
    try:
        with service.write() as session:
            newest = session.scalar(select(func.max(PromotionRow.number)).where(PromotionRow.study_id == study_id))
            numbered = plan.model_copy(update={"number": 0 if newest is None else newest + 1})
            session.add(
                PromotionRow(
                    study_id=study_id,
                    number=numbered.number,
                    trial_number=plan.trial,
                    plan=numbered.model_dump(mode="json"),
                    state="waiting",
                    created_at=service.now(),
                )
            )
            session.flush()
            detail = {"promotion": numbered.number, "trial": plan.trial, "tokens": plan.tokens}
            service.audit(session, study_id, "user", "promoted", **detail)
    except IntegrityError:
        return _store(service, study_id, plan)  # another promotion took the number in this moment
    return numbered


def make_plan(service: Service, study: StudyRow, request: PromoteRequest) -> PromotionPlan:
    """What the full run would be; raises as `promote`."""
    spec = spec_of(study)
    with service.turn(study.id):
        trial = _choose(service.search(spec).trials(), study.name, request.trial)
    run, outcome, waiting = _known(service, study, trial.number)
    if spec.trainer is not None:
        return _command_plan(spec, study, request, run, outcome, waiting)
    tokens = _tokens(request.tokens or spec.promote.tokens, outcome.tokens)
    config = _config(run.config, tokens)
    batch_tokens = config.data.batch_tokens
    if tokens < batch_tokens:
        raise SweeperError(f"{tokens:,} tokens are less than one step of {batch_tokens:,}; ask for more")
    speed, whose = _speed(service, study.name, run, outcome, request.device_name)
    return PromotionPlan(
        study=study.name,
        trial=trial.number,
        config=config.to_dict(),
        params=run.params,
        tokens=tokens,
        steps=math.ceil(tokens / batch_tokens),
        tokens_per_second=speed,
        seconds=tokens / speed,
        trial_tokens=outcome.tokens,
        trial_val_bpb=outcome.val_bpb if run.score is None else run.score,
        judge=spec.judge,
        notes=[
            *_warning(run),
            *_notes(trial.number, tokens, outcome),
            whose,
            *(_goes_first(study.name, row) for row in waiting),
        ],
    )


def _known(service: Service, study: StudyRow, number: int) -> tuple[RunRow, OutcomeRow, Sequence[PromotionRow]]:
    """The run of a complete trial, its outcome, and the study's promotions that wait."""
    with service.read() as session:
        found = session.execute(
            select(RunRow, OutcomeRow)
            .join(OutcomeRow, OutcomeRow.run_id == RunRow.id)
            .where(RunRow.study_id == study.id, RunRow.kind == "trial", RunRow.number == number)
            .where(RunRow.state == "complete")
            .order_by(OutcomeRow.tokens.desc())
        ).first()
        waiting = session.scalars(
            select(PromotionRow)
            .where(PromotionRow.study_id == study.id, PromotionRow.state == "waiting")
            .order_by(PromotionRow.id)
        ).all()
    if found is None:
        raise Conflict(f"trial {number} of study {study.name} was not run here, so its speed is not known")
    return found[0], found[1], waiting


def _command_plan(
    spec: StudySpec,
    study: StudyRow,
    request: PromoteRequest,
    run: RunRow,
    outcome: OutcomeRow,
    waiting: Sequence[PromotionRow],
) -> PromotionPlan:
    asked = (request.tokens or spec.promote.tokens).strip()
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
    """The trial's config with the budget, and the evaluations of a long run."""
    evaluation = values.get("eval")
    shares = {**(evaluation if isinstance(evaluation, dict) else {}), "fractions": list(EVAL_SHARES)}
    return TrainConfig.from_dict({**values, "budget": {"tokens": tokens}, "eval": shares})


def _warning(run: RunRow) -> list[str]:
    if not run.infeasible:
        return []
    return [f"Trial {run.number} breaks a limit of the study, and the full run of it likely will: {run.infeasible}."]


def _notes(number: int, tokens: int, outcome: OutcomeRow) -> list[str]:
    longer = tokens / outcome.tokens
    notes = [
        f"The values of trial {number} are copied as they are. No law has moved them to the longer run: rates "
        "that win short runs are often not the best for long ones.",
        f"The run is {longer:,.1f} times as long as the trial ({tokens:,} tokens against {outcome.tokens:,}); "
        "the schedule stretches with it, as its parts are shares of the budget.",
    ]
    if longer < 1:
        notes.append("It is shorter than the trial was.")
    return notes


def _speed(service: Service, name: str, run: RunRow, outcome: OutcomeRow, device_name: str) -> tuple[float, str]:
    """Tokens per second of the full run, and in words whose speed that is."""
    rest = "validation, compilation and checkpoints come on top."
    with service.read() as session:
        measured = throughput.known(session, device_name or run.device_name).get(shape_of(run.config))
    if measured is not None:
        by = "`sweeper bench`" if measured.source == "bench" else f"the last {measured.source} of this shape"
        note = f"The time is that of the speed that {by} had on {measured.device_name}; {rest}"
        return measured.tokens_per_second, note
    note = f"The time is that of the trial's measured speed on {run.device_name or run.device or 'its device'}; {rest}"
    if device_name not in ("", run.device_name):
        note += f" Nothing is known of this shape on {device_name}: `sweeper bench --study {name}` measures it."
    return outcome.tokens / outcome.seconds, note


def _goes_first(name: str, waiting: PromotionRow) -> str:
    return (
        f"Promotion {waiting.number} of {waiting.plan['tokens']:,} tokens is still waiting, and runs before this one. "
        f"If it is not wanted: sweeper stop --study {name} --promotion {waiting.number}"
    )


def stop_promotion(service: Service, name: str, number: int) -> Done:
    """Stop a promotion: at once when it waits, within a step when it runs; its checkpoint stays.

    Raises:
        Unknown: no such study or promotion.
        Conflict: it has ended.
    """
    with service.write() as session:
        study = find_study(session, name)
        promotion = session.scalar(
            select(PromotionRow)
            .where(PromotionRow.study_id == study.id, PromotionRow.number == number)
            .with_for_update()
        )
        if promotion is None:
            raise Unknown(f"study {name} has no promotion {number}")
        if promotion.state not in ("waiting", "running"):
            raise Conflict(f"promotion {number} of study {name} has ended: it is {promotion.state}")
        if promotion.state == "waiting":
            promotion.state, promotion.ended_at = "stopped", service.now()
        runs = session.scalars(
            select(RunRow)
            .where(RunRow.study_id == study.id, RunRow.kind == "promotion", RunRow.number == number)
            .where(RunRow.state == "running")
        )
        for run in runs:
            run.stop_requested = run.stop_requested or "user"
        service.audit(session, study.id, "user", "stopped promotion", promotion=number)
        waited = promotion.state == "stopped"
    what = "is stopped; it had not started" if waited else "is told to stop; its checkpoint stays"
    return Done(message=f"promotion {number} of study {name} {what}")
