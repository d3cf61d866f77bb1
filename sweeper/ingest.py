"""Taking in what trainers say: each event stored once, the run's figures brought up to date, orders given.

One delivery is one transaction of ours.  Optuna hears of rungs and endings after it; what a crash leaves
undone there, `endings.settle` catches up with.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from sweeper import endings, judging, throughput, verdicts, wire
from sweeper.protocol import Delivery, Numbered, Receipt
from sweeper.search import Search
from sweeper.service import Conflict, Service, Unknown, spec_of
from sweeper.storage import insert_once
from sweeper.tables import ExportRow, LeaseRow, MessageRow, OutcomeRow, PointRow, RunRow, ScoreRow, StudyRow, WorkerRow
from trainer.events import SCORES, End, Eval, Export, Failure, Outcome, Score, Start, Step


@dataclass
class Batch:
    """Rows to insert, and what the delivery means for the run."""

    points: list[dict[str, Any]] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    outcomes: list[dict[str, Any]] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)
    exports: list[dict[str, Any]] = field(default_factory=list)
    ending: End | Failure | None = None
    judgeable: bool = False
    """Whether something is among it that trials are judged by."""


def deliver(service: Service, lease_id: int, delivery: Delivery) -> Receipt:
    """Store a delivery, renew the lease, and say whether the run goes on.

    `through` is the highest seq stored: a worker delivers in order and repeats what it has no receipt for,
    so a gap holds only events that it dropped itself, and waiting for those would never end.  An event that
    arrives late all the same is stored.

    Raises:
        Unknown: no such lease.
        Conflict: the lease has ended, and this is no repeat of what was stored before it did.
    """
    with service.write() as session:
        lease = session.get(LeaseRow, lease_id, with_for_update=True)
        if lease is None:
            raise Unknown(f"there is no lease {lease_id} here")
        run = session.get(RunRow, lease.run_id, with_for_update=True)
        study = session.get(StudyRow, run.study_id) if run else None
        assert run is not None and study is not None
        batch = Batch()
        was_near = endings.nears_end(run)
        if lease.ended_at is None:
            batch = _store(service, session, run, lease, delivery)
        elif lease.end_reason != endings.FINISHED or any(item.seq > run.last_seq for item in delivery.events):
            raise Conflict(f"lease {lease_id} of {run.kind} {run.number} has ended: {lease.end_reason}")
    ended, ordered = run.state != "running", False
    if run.kind == "trial" and (ended or batch.judgeable):
        with service.turn(study.id):
            search = service.search(spec_of(study))
            if ended:
                endings.settle(service, search, run)
            else:
                ordered = judge(service, search, run)
    if run.kind == "trial" and not ended and not was_near and (ordered or endings.nears_end(run)):
        service.ending.put(study.id)
    return _receipt(service, run)


def _receipt(service: Service, run: RunRow) -> Receipt:
    with service.read() as session:
        ordered = session.scalar(select(RunRow.stop_requested).where(RunRow.id == run.id)) or ""
    command: Literal["continue", "stop"] = "stop" if ordered and run.state == "running" else "continue"
    return Receipt(through=run.last_seq, command=command, reason=ordered if command == "stop" else "")


def judge(service: Service, search: Search, run: RunRow, *, again: bool = False) -> bool:
    """Report new rungs to Optuna and order a trial that is behind to stop; within the study's turn.

    Args:
        again: also where nothing is new: the service may have died between the report and the order.

    Returns:
        Whether it gave the order.
    """
    new = endings.report_rungs(service, search, run)
    if not (new or again):
        return False
    found = judging.verdict(service, search, run)
    if not found.behind:
        return False
    with service.write() as session:
        current = session.get(RunRow, run.id, with_for_update=True)
        assert current is not None
        if current.state != "running" or current.stop_requested:
            return False
        current.stop_requested, current.reason = "pruned", found.words
        detail = {"trial": run.number, "at_percent": found.percent} | ({"by": found.basis} if found.basis else {})
        service.audit(session, run.study_id, "service", "pruned", **detail)
    return True


def _store(service: Service, session: Session, run: RunRow, lease: LeaseRow, delivery: Delivery) -> Batch:
    now = service.now()
    batch = Batch()
    for item in delivery.events:
        _take(service, run, item, batch)
    insert_once(session, PointRow, batch.points)
    insert_once(session, MessageRow, batch.messages)
    _store_outcomes(session, batch.outcomes)
    insert_once(session, ScoreRow, batch.scores)
    insert_once(session, ExportRow, batch.exports)
    run.last_seq = max([run.last_seq, *(item.seq for item in delivery.events)])
    run.wall_seconds = now - lease.granted_at
    lease.expires_at = now + service.settings.lease_seconds
    worker = session.get(WorkerRow, lease.worker)
    if worker is not None:
        worker.last_seen, worker.state = now, "busy"
    if batch.ending is not None:
        _end(service, session, run, batch.ending)
    return batch


def _store_outcomes(session: Session, outcomes: list[dict[str, Any]]) -> None:
    """A smaller budget can come to the same tokens as the full one where a step takes long: the full one counts."""
    for values in outcomes:
        if values["budget"] is None:
            same = (OutcomeRow.run_id == values["run_id"], OutcomeRow.tokens == values["tokens"])
            session.execute(delete(OutcomeRow).where(*same, OutcomeRow.budget.is_not(None)))
        insert_once(session, OutcomeRow, [values])


def _end(service: Service, session: Session, run: RunRow, ending: End | Failure) -> None:
    session.flush()
    if isinstance(ending, Failure):
        endings.end_run(service, session, run, "failed", f"{ending.reason}: {ending.message}")
        return
    run.peak_memory_bytes = max(run.peak_memory_bytes, ending.peak_memory_bytes)
    if ending.reason == "diverged":
        endings.end_run(service, session, run, "diverged", ending.detail or "diverged")
    elif ending.reason == "stopped" and run.stop_requested:
        endings.end_run(service, session, run, endings.ordered_state(run), run.reason or run.stop_requested)
    elif ending.reason == "stopped":
        endings.end_run(service, session, run, "failed", "interrupted: the trainer stopped without an order")
    elif verdicts.outcome(session, run.id) is None:
        endings.end_run(service, session, run, "failed", f"crash: it ended as {ending.reason} without an outcome")
    else:
        _complete(service, session, run)
    throughput.store_run(session, run, service.now())


def _complete(service: Service, session: Session, run: RunRow) -> None:
    """End a run at its full budget, with the score that judges it; failed where it has none of that name."""
    spec = spec_of(session.get_one(StudyRow, run.study_id))
    score = verdicts.judged(session, run, spec.judge)
    measured = verdicts.measure(session, run, spec.constraints)
    problem = verdicts.lacking(spec.judge, score, spec.constraints, measured)
    if problem or score is None:
        endings.end_run(service, session, run, "failed", problem)
        return
    run.score, run.score_stderr, run.infeasible = score.val_bpb, score.stderr, verdicts.breaches(measured)
    endings.end_run(service, session, run, "complete", "")


def _take(service: Service, run: RunRow, item: Numbered, batch: Batch) -> None:
    """Sort one event into the batch and let the run's figures follow it."""
    kind, event, body = wire.parse(item.event)
    key = {"run_id": run.id, "seq": item.seq}
    if isinstance(event, (Step, Eval)):
        batch.points.append(key | _point(event))
        _advance(run, event)
        batch.judgeable = batch.judgeable or isinstance(event, Eval)
        return
    if isinstance(event, Outcome):
        batch.outcomes.append({"run_id": run.id} | _values(event))
        if event.budget is None:
            _advance(run, event)
        else:  # a branch's steps are none of the run's
            batch.judgeable = True
        return
    if isinstance(event, Score) and event.name in SCORES:  # of others, which a newer trainer may have, the message
        batch.scores.append({"run_id": run.id} | _values(event))
        return
    if isinstance(event, Export):
        short = {"scheme": event.scheme[:32], "codec": event.codec[:32]}
        batch.exports.append({"run_id": run.id} | dataclasses.asdict(event) | short)
        return
    batch.messages.append(key | {"at": item.at, "kind": kind, "body": body})
    if isinstance(event, Start):
        run.started_at = run.started_at or service.now()
        run.device, run.device_name = event.device, event.device_name
        run.versions, run.parameters = cast(dict[str, Any], event.versions), event.parameters
        run.resumed_step, run.git_commit = event.resumed_step, event.git_commit[:64]
    elif isinstance(event, (End, Failure)):
        batch.ending = batch.ending or event
        if isinstance(event, End):
            _advance(run, event)


def _values(event: Outcome | Score) -> dict[str, Any]:
    return dataclasses.asdict(event) | {"val_bpb_stderr": event.val_bpb_stderr or None}  # 0 where it does not know


def _point(event: Step | Eval) -> dict[str, Any]:
    shared = ("step", "tokens", "seconds", "progress")
    own = ("fraction", "train_loss", "lr_factor", "tokens_per_second", "val_loss", "val_bpb")
    stderr = {"val_bpb_stderr": getattr(event, "val_bpb_stderr", None) or None}  # 0 from a trainer that does not know
    return {name: getattr(event, name) for name in shared} | {name: getattr(event, name, None) for name in own} | stderr


def _advance(run: RunRow, event: Step | Eval | Outcome | End) -> None:
    """Let the run's latest figures follow an event, unless a later one was seen before it."""
    if event.step < run.step:
        return
    run.step, run.tokens, run.seconds = event.step, event.tokens, event.seconds
    if isinstance(event, (Step, Eval)):
        run.progress = event.progress
    if isinstance(event, Step):
        run.train_loss = event.train_loss
    if isinstance(event, (Eval, Outcome)):
        run.val_bpb = event.val_bpb
    if isinstance(event, Outcome):
        run.progress = 1.0
