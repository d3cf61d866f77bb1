"""Which run a worker gets next: a waiting promotion, a queued trial, one that is drawn already, or a new one.

Asking Optuna for a trial and writing its lease are two writes.  Between them the trial is an orphan: RUNNING
there, without a run here.  Whoever asks next gets it, with the values that were drawn; `ahead` makes such
trials on purpose.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

from sqlalchemy import Select, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from sweeper import endings, leases
from sweeper.errors import SweeperError
from sweeper.leases import Work
from sweeper.protocol import Grant, LeaseAnswer, LeaseRequest, NoWork, PromotionPlan, RunKind
from sweeper.search import Search, Suggestion
from sweeper.service import Service, find_study, spec_of
from sweeper.tables import PromotionRow, RunRow, StudyRow, WorkerRow

PAUSED_RETRY_SECONDS = 2.0
REFUSED_RETRY_SECONDS = 10.0


def lease(service: Service, worker_id: str, request: LeaseRequest) -> LeaseAnswer:
    """The next run for a worker, or why there is none.

    A worker whose grant got lost on the way back to it gets the same one again.

    Raises:
        Unknown: no such worker, or no such study.
    """
    with service.write() as session:
        worker = leases.find_worker(session, worker_id)
        worker.state, worker.last_seen = "idle", service.now()
        if request.study is not None:
            find_study(session, request.study)
        again, dropped = _again_or_drop(service, session, worker)
    leases.settle_runs(service, dropped)
    studies = _studies(service, request.study)
    barred = set() if request.commands else {study.id for study in studies if names_command(study)}
    if again is None and request.kind != "trial":
        again = _grant_promotion(service, worker_id, request.study, barred)
    if again is not None:
        return LeaseAnswer(grant=again)
    reasons = [_refusal(study) for study in studies if study.id in barred]
    for study in studies:
        if study.id in barred:
            continue
        answer = _grant_trial(service, worker_id, study, request.kind)
        if isinstance(answer, Grant):
            return LeaseAnswer(grant=answer)
        reasons.append(answer)
    return LeaseAnswer(no_work=_liveliest(reasons))


def names_command(study: StudyRow) -> bool:
    """Whether the study's runs are a command of its own: only workers whose owner allows that get them."""
    return study.spec.get("trainer") is not None


def _refusal(study: StudyRow) -> NoWork:
    words = study.spec["trainer"]["command"]
    message = (
        f"study {study.name} runs a command on its workers ({words!r:.200}), which this worker's owner has not "
        f"allowed: sweeper worker --allow-commands does"
    )
    return NoWork(reason="refused", message=message, retry_seconds=REFUSED_RETRY_SECONDS)


def with_runs(service: Service, study_id: int, numbers: Collection[int]) -> set[int]:
    """Those of the trial numbers that have a run."""
    trials = select(RunRow.number).where(RunRow.study_id == study_id, RunRow.kind == "trial")
    with service.read() as session:
        return set(session.scalars(trials.where(RunRow.number.in_(numbers))))


def _again_or_drop(service: Service, session: Session, worker: WorkerRow) -> tuple[Grant | None, list[RunRow]]:
    """What a worker that asks for work still holds: the same grant while it has said nothing about the run;
    after that, it has given the run up."""
    dropped: list[RunRow] = []
    for run in leases.held_by(session, worker.id):
        if run.last_seq < 0:
            worker.state = "busy"
            return leases.grant_again(service, session, run), dropped
        why = f"interrupted: worker {worker.id} asked for other work"
        endings.end_run(service, session, run, "failed", why, lease_reason=why)
        dropped.append(run)
    return None, dropped


def _studies(service: Service, name: str | None) -> Sequence[StudyRow]:
    chosen = select(StudyRow).order_by(StudyRow.id)
    with service.read() as session:
        return session.scalars(chosen if name is None else chosen.where(StudyRow.name == name)).all()


def _grant_promotion(service: Service, worker_id: str, study_name: str | None, barred: set[int]) -> Grant | None:
    """Lease the promotion that has waited longest, of studies that are not barred."""
    waiting = select(PromotionRow).join(StudyRow).where(PromotionRow.state == "waiting")
    waiting = waiting.where(StudyRow.id.not_in(barred))
    if study_name is not None:
        waiting = waiting.where(StudyRow.name == study_name)
    with service.read() as session:
        if session.scalars(waiting.limit(1)).first() is None:
            return None
    with service.write() as session:
        worker = leases.find_worker(session, worker_id)
        for run in leases.held_by(session, worker_id):
            return leases.grant_again(service, session, run)
        promotion = session.scalars(waiting.order_by(PromotionRow.id).limit(1).with_for_update(of=PromotionRow)).first()
        if promotion is None:
            return None
        promotion.state = "running"
        plan = PromotionPlan.model_validate(promotion.plan)
        attempts = session.scalars(
            select(RunRow.attempt)
            .where(RunRow.study_id == promotion.study_id, RunRow.kind == "promotion")
            .where(RunRow.number == promotion.number)
        ).all()
        work = Work(
            kind="promotion",
            number=promotion.number,
            attempt=1 + max(attempts, default=0),
            params=plan.params,
            config=plan.config,
        )
        study = session.get_one(StudyRow, promotion.study_id)
        return leases.open_lease(service, session, worker, study, work)


def _grant_trial(service: Service, worker_id: str, study: StudyRow, kind: RunKind | None) -> Grant | NoWork:
    """Lease a trial of the study, or say why there is none."""
    with service.turn(study.id):
        search = service.search(spec_of(study))
        while True:
            with service.read() as session:
                study = session.get_one(StudyRow, study.id)
                promoting = len(session.scalars(_open_promotions(study.id)).all())
            if kind == "promotion":
                return _no_promotion(study, promoting)
            search.spec = spec_of(study)
            trial = None
            if study.state == "running":
                trial = search.next_trial(partial(with_runs, service, study.id))
            if trial is None:
                return _no_trial(study, search, promoting if kind is None else 0)
            try:
                grant = _lease_trial(service, worker_id, study, search, trial)
            except IntegrityError:
                continue  # another service on this database was faster
            if grant is not None:
                return grant


def _lease_trial(service: Service, worker_id: str, study: StudyRow, search: Search, trial: Suggestion) -> Grant | None:
    """None when the values make no config: the trial has then failed, and another is due."""
    try:
        config, problem = search.spec.config(trial.params), ""
    except SweeperError as error:
        config, problem = {}, f"config: {error}"
    work = Work(kind="trial", number=trial.number, attempt=trial.attempt, params=trial.params, config=config)
    with service.write() as session:
        worker = leases.find_worker(session, worker_id)
        for run in leases.held_by(session, worker_id):
            return leases.grant_again(service, session, run)
        if not problem:
            return leases.open_lease(service, session, worker, study, work)
        run = leases.add_run(service, session, study, work)
        endings.end_run(service, session, run, "failed", problem)
    endings.settle(service, search, run)
    return None


def _open_promotions(study_id: int) -> Select[int]:
    return select(PromotionRow.number).where(
        PromotionRow.study_id == study_id, PromotionRow.state.in_(("waiting", "running"))
    )


def _no_trial(study: StudyRow, search: Search, promoting: int) -> NoWork:
    if study.state == "paused":
        message = f"study {study.name} is paused"
        return NoWork(reason="paused", message=message, retry_seconds=PAUSED_RETRY_SECONDS)
    if promoting:
        return NoWork(reason="wait", message=f"study {study.name} has {promoting} promotions under way")
    if study.state == "stopped":
        return NoWork(reason="stopped", message=f"study {study.name} is stopped")
    counts = search.counts()
    told = f"{counts.told} of {search.spec.trials} trials of study {study.name} are told"
    if counts.running or counts.waiting:
        return NoWork(reason="wait", message=f"{told}, {counts.running} still running")
    return NoWork(reason="complete", message=told)


def _no_promotion(study: StudyRow, promoting: int) -> NoWork:
    if promoting:
        return NoWork(reason="wait", message=f"study {study.name} has {promoting} promotions under way")
    return NoWork(reason="complete", message=f"no promotion of study {study.name} is waiting")


def _liveliest(reasons: Sequence[NoWork]) -> NoWork:
    """Of several studies, the answer that promises most."""
    order = ("wait", "paused", "refused", "stopped", "complete")
    nothing = NoWork(reason="wait", message="there is no study here yet")
    return min(reasons, key=lambda answer: order.index(answer.reason), default=nothing)
