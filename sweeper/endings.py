"""How runs end: first in our tables, in one transaction, then in Optuna, any number of times.

The order is the crash safety.  A run that ended while its Optuna trial is still RUNNING is one that nobody
settled yet; `settle` does so now or after a restart, and doing it twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from optuna.trial import TrialState
from sqlalchemy import select
from sqlalchemy.orm import Session

from sweeper import verdicts
from sweeper.search import Search, rung_step
from sweeper.service import Service, spec_of
from sweeper.tables import EventRow, LeaseRow, OutcomeRow, PointRow, PromotionRow, RunRow, StudyRow, WorkerRow

EndState = Literal["complete", "pruned", "diverged", "stopped", "failed"]

FINISHED = "finished"
"""End reason of a lease whose run said End or Failure; other reasons mean that it was taken away."""
LOST = ("worker_lost", "interrupted")
"""The machine's doing, not the trial's: repeated up to MOST_LOSSES times, and no reason to pause."""
HOPELESS = ("config", "data", "checkpoint", "out_of_memory", "score")
"""A repeat would fail the same way."""
MOST_LOSSES = 10
FAILURES_THAT_PAUSE = 5
LAST_SHARE = 0.1
LAST_SECONDS = (1.5, 5.0)
"""A run nears its end in this share of its budget, taken for no less and no more than so many seconds: deliveries
come twice a second, and drawing a trial takes a tenth of one."""


def end_run(
    service: Service, session: Session, run: RunRow, state: EndState, reason: str, *, lease_reason: str = FINISHED
) -> None:
    """Record that a run ended: the run, its lease, its worker, its promotion, the audit trail.

    A failure of a run that was ordered to stop is the stop: nobody wants it repeated.

    Args:
        reason: in words; of a failure `code: message`.
        lease_reason: why the lease ended, for whoever still delivers under it.
    """
    assert run.state == "running", f"run {run.id} has ended already"
    if state == "failed" and run.stop_requested:
        state = ordered_state(run)
        reason = f"{run.reason or run.stop_requested} ({reason})"
    now = service.now()
    run.state, run.reason, run.ended_at = state, reason, now
    for lease in session.scalars(select(LeaseRow).where(LeaseRow.run_id == run.id, LeaseRow.ended_at.is_(None))):
        lease.ended_at, lease.end_reason = now, lease_reason
        run.wall_seconds = now - lease.granted_at
    worker = session.get(WorkerRow, run.worker or "")
    if worker is not None and worker.state == "busy":
        worker.state = "idle"
    if run.kind == "promotion":
        _end_promotion(service, session, run)
    actor = run.worker or "service"
    service.audit(
        session,
        run.study_id,
        actor,
        "finished",
        run=run.id,
        kind=run.kind,
        number=run.number,
        state=state,
        reason=reason,
    )
    if state == "failed":
        session.flush()
        _pause_after_failures(service, session, run.study_id)


def ordered_state(run: RunRow) -> EndState:
    """What a run is that stopped because it was told to."""
    return "pruned" if run.stop_requested == "pruned" else "stopped"


def nears_end(run: RunRow) -> bool:
    """Whether the run's worker will ask for another soon."""
    if run.stop_requested:
        return True
    if run.progress <= 0:
        return False
    whole_seconds = run.seconds / run.progress
    shortest, longest = LAST_SECONDS
    return whole_seconds - run.seconds <= min(longest, max(shortest, LAST_SHARE * whole_seconds))


def may_repeat(reasons: Sequence[str], retries: int) -> bool:
    """Whether a trial or promotion that failed for these reasons, oldest first, is tried again.

    Args:
        retries: of the study; counts failures of the trainer, not lost machines.
    """
    codes = [reason.split(":")[0] for reason in reasons]
    if codes[-1] in HOPELESS:
        return False
    losses = sum(code in LOST for code in codes)
    if codes[-1] in LOST:
        return losses <= MOST_LOSSES
    return len(codes) - losses <= retries


def _end_promotion(service: Service, session: Session, run: RunRow) -> None:
    promotion = session.scalars(
        select(PromotionRow).where(PromotionRow.study_id == run.study_id, PromotionRow.number == run.number)
    ).one()
    if run.state != "failed":
        promotion.state, promotion.ended_at = run.state, run.ended_at
        return
    study = session.get(StudyRow, run.study_id)
    assert study is not None
    session.flush()
    failures = session.execute(
        select(RunRow.reason, RunRow.step)
        .where(RunRow.study_id == run.study_id, RunRow.kind == "promotion", RunRow.number == run.number)
        .where(RunRow.state == "failed")
        .order_by(RunRow.attempt)
    ).all()
    if may_repeat(_at_one_place([(row.reason, row.step) for row in failures]), spec_of(study).retries):
        promotion.state = "waiting"
        service.audit(session, run.study_id, "service", "retried", promotion=run.number, reason=run.reason)
    else:
        promotion.state, promotion.ended_at = "failed", run.ended_at


def _at_one_place(failures: Sequence[tuple[str, int]]) -> list[str]:
    """Reasons of the failures since the run last came further than before: a long run has many nights to live through.

    Args:
        failures: reason and last step of each, oldest first.
    """
    reasons: list[str] = []
    furthest = -1
    for reason, step in failures:
        reasons = [reason] if step > furthest else [*reasons, reason]
        furthest = max(furthest, step)
    return reasons


def _pause_after_failures(service: Service, session: Session, study_id: int) -> None:
    study = session.get(StudyRow, study_id)
    assert study is not None
    if study.state != "running":
        return
    resumed_at = session.scalar(
        select(EventRow.at)
        .where(EventRow.study_id == study_id, EventRow.verb == "resumed")
        .order_by(EventRow.id.desc())
        .limit(1)
    )
    recent = session.execute(
        select(RunRow.state, RunRow.reason)
        .where(RunRow.study_id == study_id, RunRow.kind == "trial", RunRow.ended_at > (resumed_at or 0.0))
        .order_by(RunRow.ended_at.desc(), RunRow.id.desc())
        .limit(FAILURES_THAT_PAUSE + MOST_LOSSES)
    ).all()
    blamed = [(state, reason) for state, reason in recent if reason.split(":")[0] not in LOST]
    row = blamed[:FAILURES_THAT_PAUSE]
    if len(row) == FAILURES_THAT_PAUSE and all(state == "failed" for state, _ in row):
        study.state = "paused"
        why = f"{FAILURES_THAT_PAUSE} runs in a row failed; the last: {row[0][1]}"
        service.audit(session, study_id, "service", "paused", reason=why)


def settle(service: Service, search: Search, run: RunRow) -> None:
    """Tell Optuna how a trial's run ended, and queue a repeat where one is due; within the study's turn."""
    if run.kind != "trial" or search.trial(run.number).state is not TrialState.RUNNING:
        return
    report_rungs(service, search, run)
    if run.state == "complete":
        assert run.score is not None, f"run {run.id} is complete without a score"
        with service.read() as session:
            measured = verdicts.measure(session, run, search.spec.constraints)
        search.constrain(run.number, {item.name: item.excess for item in measured})
        search.tell(run.number, TrialState.COMPLETE, run.score)
    elif run.state == "failed":
        _repeat(service, search, run)
        search.tell(run.number, TrialState.FAIL)
    else:
        search.tell(run.number, TrialState.PRUNED)


def _repeat(service: Service, search: Search, run: RunRow) -> None:
    """Queue a copy of a failed trial, before it becomes FAIL: whatever kills us now, it is not lost."""
    if search.retry_of(run.number) is not None:
        return
    chain = [run.number]
    while (earlier := search.trial(chain[-1]).user_attrs.get("retry_of")) is not None:
        chain.append(earlier)
    with service.read() as session:
        rows = session.execute(
            select(RunRow.number, RunRow.reason).where(
                RunRow.study_id == run.study_id, RunRow.kind == "trial", RunRow.number.in_(chain)
            )
        ).all()
    reasons = {row.number: row.reason for row in rows}
    if not may_repeat([reasons[number] for number in reversed(chain)], search.spec.retries):
        return
    repeat = search.enqueue(run.params, retry_of=run.number, attempt=run.attempt + 1)
    with service.write() as session:
        service.audit(session, run.study_id, "service", "retried", trial=run.number, repeat=repeat, reason=run.reason)


def report_rungs(service: Service, search: Search, run: RunRow) -> list[float]:
    """Bring Optuna up to date with the rungs that a trial has passed; returns the new ones, ascending.

    All trials of a study report values of one kind: validations at shares of the budget, from which forecasts are made
    when a trial is judged, or outcomes of the ladder.
    """
    spec = search.spec
    if spec.pruned_on == "cooled":
        length = getattr(spec.budget, spec.budget.unit)
        query = select(OutcomeRow.budget / length, OutcomeRow.val_bpb).where(OutcomeRow.budget.is_not(None))
        query = query.where(OutcomeRow.run_id == run.id).order_by(OutcomeRow.budget)
    else:
        query = select(PointRow.fraction, PointRow.val_bpb).where(PointRow.run_id == run.id).order_by(PointRow.fraction)
        query = query.where(PointRow.fraction.is_not(None), PointRow.val_bpb.is_not(None))
    with service.read() as session:
        passed = session.execute(query).all()
    if not passed:
        return []
    known, new = search.trial(run.number).intermediate_values, []
    for fraction, value in passed:
        assert fraction is not None and value is not None, "the query leaves them out"
        rung = next((rung for rung in spec.reported_rungs if abs(rung - fraction) < 1e-6), None)
        if rung is not None and rung_step(rung) not in known and search.report(run.number, rung, value):
            new.append(rung)
    return new
