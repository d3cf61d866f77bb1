"""Leases: who executes what, until when.  Hand back, expire, renew; `handout` chooses what is handed out.

A lease is a row whose id only grows, so whoever holds an older one is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from sweeper import command, endings
from sweeper.protocol import DataSpec, Done, Goodbye, Grant, Hello, RunKind, Welcome
from sweeper.service import Service, Unknown, spec_of
from sweeper.study import StudySpec
from sweeper.tables import LeaseRow, RunRow, StudyRow, WorkerRow

LONGEST_HEARTBEAT_SECONDS = 5.0
"""Stop orders travel with heartbeats, so this is how long one may take in a quiet run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a run is to execute."""

    kind: RunKind
    number: int
    attempt: int
    params: dict[str, Any]
    config: dict[str, Any]


def hello(service: Service, words: Hello) -> Welcome:
    """Register a worker, or note that it is back."""
    now = service.now()
    with service.write() as session:
        worker = session.get(WorkerRow, words.worker)
        if worker is None:
            worker = WorkerRow(id=words.worker, first_seen=now, state="idle")
            session.add(worker)
            service.audit(session, None, words.worker, "joined", host=words.host, device=words.device)
        elif worker.state == "gone":
            worker.state = "idle"
        worker.host, worker.pid, worker.last_seen = words.host, words.pid, now
        worker.device, worker.device_name = words.device, words.device_name
    lease_seconds = service.settings.lease_seconds
    heartbeat = min(LONGEST_HEARTBEAT_SECONDS, lease_seconds / 4)
    return Welcome(heartbeat_seconds=heartbeat, lease_seconds=lease_seconds)


def goodbye(service: Service, worker_id: str, words: Goodbye) -> Done:
    """A worker leaves; what it held is repeated (trials) or resumed (promotions) elsewhere.

    Raises:
        Unknown: no such worker.
    """
    code = words.reason if words.reason in endings.LOST else "interrupted"
    with service.write() as session:
        worker = find_worker(session, worker_id)
        runs = held_by(session, worker_id)
        for run in runs:
            why = f"{code}: worker {worker_id} said goodbye ({words.reason})"
            endings.end_run(service, session, run, "failed", why, lease_reason=why)
        worker.state, worker.last_seen = "gone", service.now()
        service.audit(session, None, worker_id, "left", reason=words.reason)
    settle_runs(service, runs)
    handed_back = ", ".join(f"{run.kind} {run.number}" for run in runs)
    return Done(message=f"goodbye, {worker_id}" + (f"; handed back: {handed_back}" if runs else ""))


def expire(service: Service) -> None:
    """End leases whose worker fell silent, and mark workers that are gone."""
    now = service.now()
    with service.read() as session:
        late = session.scalars(select(LeaseRow.id).where(LeaseRow.ended_at.is_(None), LeaseRow.expires_at < now)).all()
    for lease_id in late:
        _expire_one(service, lease_id, now)
    silent = (WorkerRow.state != "gone") & (WorkerRow.last_seen < now - service.settings.lease_seconds)
    with service.read() as session:
        any_silent = session.scalar(select(WorkerRow.id).where(silent).limit(1)) is not None
    if any_silent:
        with service.write() as session:
            for worker in session.scalars(select(WorkerRow).where(silent).with_for_update()):
                worker.state = "gone"
                service.audit(session, None, worker.id, "gone", last_seen=worker.last_seen)


def _expire_one(service: Service, lease_id: int, now: float) -> None:
    with service.write() as session:
        lease = session.get(LeaseRow, lease_id, with_for_update=True)
        if lease is None or lease.ended_at is not None or lease.expires_at >= now:
            return
        run = session.get(RunRow, lease.run_id, with_for_update=True)
        assert run is not None
        silence = now - lease.expires_at + service.settings.lease_seconds
        why = f"worker_lost: no word from worker {lease.worker} for {silence:.0f} s"
        service.audit(session, run.study_id, "service", "expired", lease=lease_id, worker=lease.worker)
        endings.end_run(service, session, run, "failed", why, lease_reason=why)
    settle_runs(service, [run])


def renew_all(service: Service) -> None:
    """A fresh term for every open lease: while the service was away, its workers could not renew them."""
    now = service.now()
    with service.write() as session:
        for lease in session.scalars(select(LeaseRow).where(LeaseRow.ended_at.is_(None))):
            lease.expires_at = now + service.settings.lease_seconds
        for worker in session.scalars(select(WorkerRow).where(WorkerRow.state != "gone")):
            worker.last_seen = now


def settle_runs(service: Service, runs: Iterable[RunRow]) -> None:
    """Tell Optuna of runs that have ended."""
    for run in runs:
        if run.kind != "trial":
            continue
        with service.read() as session:
            spec = spec_of(session.get_one(StudyRow, run.study_id))
        with service.turn(run.study_id):
            endings.settle(service, service.search(spec), run)


def find_worker(session: Session, worker_id: str) -> WorkerRow:
    """The worker's row, locked until the transaction ends: one worker takes one lease at a time.

    Raises:
        Unknown: it never said hello to this database.
    """
    worker = session.get(WorkerRow, worker_id, with_for_update=True)
    if worker is None:
        raise Unknown(f"worker {worker_id!r} is not known here; it has to say hello first")
    return worker


def held_by(session: Session, worker_id: str) -> list[RunRow]:
    """Runs that the worker holds a lease on: one at most, unless something went wrong."""
    held = select(RunRow).join(LeaseRow, LeaseRow.run_id == RunRow.id)
    return list(session.scalars(held.where(LeaseRow.worker == worker_id, LeaseRow.ended_at.is_(None))))


def add_run(service: Service, session: Session, study: StudyRow, work: Work) -> RunRow:
    """A run's row, without a worker yet.

    Raises:
        IntegrityError: this attempt has a run already.
    """
    run = RunRow(
        study_id=study.id,
        kind=work.kind,
        number=work.number,
        attempt=work.attempt,
        params=work.params,
        config=work.config,
        state="running",
        reason="",
        stop_requested="",
        created_at=service.now(),
    )
    session.add(run)
    session.flush()
    return run


def open_lease(service: Service, session: Session, worker: WorkerRow, study: StudyRow, work: Work) -> Grant:
    """A run and its lease, for a worker that holds none.

    Raises:
        IntegrityError: this attempt has a run already.
    """
    run = add_run(service, session, study, work)
    run.worker, run.device, run.device_name = worker.id, worker.device, worker.device_name
    worker.state = "busy"
    now = service.now()
    expires_at = now + service.settings.lease_seconds
    lease = LeaseRow(run_id=run.id, worker=worker.id, granted_at=now, expires_at=expires_at, end_reason="")
    session.add(lease)
    session.flush()
    detail = {"lease": lease.id, "run": run.id, "kind": run.kind, "number": run.number, "attempt": run.attempt}
    service.audit(session, study.id, worker.id, "leased", **detail)
    return _grant(run, lease, study)


def grant_again(service: Service, session: Session, run: RunRow) -> Grant:
    """The grant of a run whose worker asks for it again, for a fresh term."""
    lease = session.scalars(select(LeaseRow).where(LeaseRow.run_id == run.id, LeaseRow.ended_at.is_(None))).one()
    lease.expires_at = service.now() + service.settings.lease_seconds
    return _grant(run, lease, session.get_one(StudyRow, run.study_id))


def _data_of(spec: StudySpec, run: RunRow) -> DataSpec:
    """What a run is trained on: a plan may name other data than its study."""
    of_plan = run.kind == "promotion" and bool(run.config.get("plan", {}).get("phases"))
    return spec.plan.data if of_plan and spec.plan and spec.plan.data else spec.data


def _grant(run: RunRow, lease: LeaseRow, study: StudyRow) -> Grant:
    spec = spec_of(study)
    promotion = run.kind == "promotion"
    of_command = command.to_run(run.config, keep=promotion)
    return Grant(
        lease=lease.id,
        run=run.id,
        study=study.name,
        kind="promotion" if promotion else "trial",
        number=run.number,
        attempt=run.attempt,
        config=run.config,
        command=of_command,
        data=_data_of(spec, run),
        checkpoint=f"promotions/{study.name}-{run.number}" if promotion and of_command is None else "",
        hang_seconds=spec.hang_seconds,
    )
