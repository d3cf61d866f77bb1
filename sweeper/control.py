"""What people may do to a study: create or extend it, pause, resume, stop, queue values, stop a trial.

Every verb leaves a line in the audit trail and answers in words for the user.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

from optuna.trial import TrialState
from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from sweeper import handout, space, study_checks
from sweeper.errors import SweeperError
from sweeper.protocol import Done, Enqueue
from sweeper.search import Counts, Search
from sweeper.service import Conflict, Service, Unknown, find_study, spec_of
from sweeper.study import StudySpec, incompatibilities, verify
from sweeper.tables import EventRow, RunRow, StudyRow

Verb = Literal["pause", "resume", "stop"]

_STATE_AFTER = {"pause": "paused", "resume": "running", "stop": "stopped"}


def create_study(service: Service, values: dict[str, Any]) -> Done:
    """Create the study, or confirm or extend the one of this name.

    Raises:
        SweeperError: no valid study.
        Conflict: the study is there with other values of what may not change; the message has each.
    """
    spec = parse_spec(values)
    with service.read() as session:
        known = session.scalar(select(StudyRow.id).where(StudyRow.name == spec.name))
    if known is not None:
        return _extend(service, known, spec)
    service.create_search(spec.name)
    try:
        with service.write() as session:
            row = StudyRow(
                name=spec.name,
                spec=spec.model_dump(mode="json"),
                fingerprint=spec.fingerprint(),
                state="running",
                created_at=service.now(),
            )
            session.add(row)
            session.flush()
            service.audit(session, row.id, "user", "created", trials=spec.trials, profile=spec.profile)
            study_id = row.id
    except IntegrityError:
        return create_study(service, values)  # someone else created it in this moment
    with service.turn(study_id):  # a kill before this leaves them to the next `create`, which looks what is there
        queued = service.search(spec).enqueue_points()
    first = f", {queued} of them the points of its file" if queued else ""
    return Done(message=f"created study {spec.name}: {spec.trials} trials to do{first}")


def parse_spec(values: dict[str, Any]) -> StudySpec:
    """The study in plain values, checked as one from a file is.

    Raises:
        SweeperError: with the path, the value and the expectation.
    """
    try:
        spec = StudySpec.model_validate(values)
    except ValidationError as error:
        raise SweeperError(f"the study is not valid: {study_checks.explain(error, StudySpec)}") from error
    verify(spec)
    return spec


def _extend(service: Service, study_id: int, spec: StudySpec) -> Done:
    with service.turn(study_id):
        with service.write() as session:
            row = session.get_one(StudyRow, study_id, with_for_update=True)
            old = spec_of(row)
            differences = incompatibilities(old, spec)
            if differences:
                listed = "\n".join(f"  {line}" for line in differences)
                raise Conflict(
                    f"study {spec.name} exists with other values, and its trials could not be compared with new "
                    f"ones:\n{listed}\nGive the study another name, or undo the change."
                )
            changed = _changes(old, spec)
            if changed:
                row.spec = spec.model_dump(mode="json")
                service.audit(session, study_id, "user", "changed", **changed)
        search = service.search(spec)
        search.enqueue_points()
        search.drop_surplus(partial(handout.with_runs, service, study_id))
        counts = search.counts()
        why = _why(service, study_id) if row.state == "paused" else ""
    return Done(message=_standing(spec, row.state, why, counts, changed))


def _changes(old: StudySpec, new: StudySpec) -> dict[str, str]:
    before, after = (dict(_flat("", spec.model_dump(mode="json"))) for spec in (old, new))
    paths = [path for path in dict.fromkeys([*before, *after]) if before.get(path) != after.get(path)]
    return {path: f"{before.get(path, '(absent)')} → {after.get(path, '(absent)')}" for path in paths}


def _flat(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Dotted path and value of everything in nested tables and in lists of tables."""
    if isinstance(value, list) and any(isinstance(part, dict) for part in value):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        yield path, value
        return
    for key, part in value.items():
        yield from _flat(f"{path}.{key}" if path else str(key), part)


def _standing(spec: StudySpec, state: str, why: str, counts: Counts, changed: dict[str, str]) -> str:
    """How far a study is, and what to do about it."""
    told = f"study {spec.name}: {counts.told} of {spec.trials} trials told"
    if changed:
        told += "; changed: " + ", ".join(f"{key} {value}" for key, value in changed.items())
    if state != "running":
        return f"{told}; it is {state}{f' ({why})' if why else ''}: resume it to go on"
    if counts.told >= spec.trials and not counts.running and not counts.waiting:
        more = 2 * spec.trials
        return f"{told}; it is complete. To extend it, raise `trials` in its file, or launch it with --trials {more}"
    return f"{told}; it goes on"


def _why(service: Service, study_id: int) -> str:
    with service.read() as session:
        detail = session.scalar(
            select(EventRow.detail)
            .where(EventRow.study_id == study_id, EventRow.verb == "paused")
            .order_by(EventRow.id.desc())
            .limit(1)
        )
    return str((detail or {}).get("reason", ""))


def set_state(service: Service, name: str, verb: Verb) -> Done:
    """Pause (runs go on, no new ones), resume, or stop (running trials are told to stop, and count as pruned).

    Promotions are not touched: they have a stop of their own.

    Raises:
        Unknown: no such study.
    """
    state = _STATE_AFTER[verb]
    with service.read() as session:
        study_id = find_study(session, name).id
    with service.turn(study_id):
        with service.write() as session:
            row = session.get_one(StudyRow, study_id, with_for_update=True)
            if row.state == state:
                return Done(message=f"study {name} is {state} already")
            row.state = state
            running = _running_trials(session, study_id)
            if verb == "stop":
                for run in running:
                    run.stop_requested = run.stop_requested or "study stopped"
            service.audit(session, study_id, "user", "resumed" if verb == "resume" else state)
        if verb == "stop":
            drop_orphans(service, service.search(spec_of(row)), study_id)
    return Done(message=_state_message(name, state, len(running)))


def _state_message(name: str, state: str, running: int) -> str:
    if state == "running":
        return f"study {name} is running again"
    if state == "paused":
        return f"study {name} is paused; trials still running to their end: {running}"
    return f"study {name} is stopped; running trials told to stop: {running}"


def _running_trials(session: Session, study_id: int) -> list[RunRow]:
    """Running trials of the study, locked."""
    running = select(RunRow).where(RunRow.study_id == study_id, RunRow.kind == "trial", RunRow.state == "running")
    return list(session.scalars(running.order_by(RunRow.id).with_for_update()))


def drop_orphans(service: Service, search: Search, study_id: int) -> None:
    """Of a stopped study, no trial stays RUNNING that nobody will run; within the study's turn."""
    for number in search.orphans(partial(handout.with_runs, service, study_id)):
        search.tell(number, TrialState.FAIL)


def enqueue(service: Service, name: str, request: Enqueue) -> Done:
    """Queue one set of values to be tried next.

    Raises:
        Unknown: no such study.
        SweeperError: an unknown or missing axis, a value out of range, or values that make no config.
    """
    with service.read() as session:
        row = find_study(session, name)
    spec = spec_of(row)
    params = space.check(spec.space, request.params)
    spec.config(params)
    with service.turn(row.id):
        number = service.search(spec).enqueue(params, enqueued_by="user")
        with service.write() as session:
            service.audit(session, row.id, "user", "enqueued", trial=number, params=params)
    later = "" if row.state == "running" else f" when the study, now {row.state}, is resumed"
    return Done(message=f"queued as trial {number} of study {name}: it runs next{later}")


def stop_trial(service: Service, name: str, number: int) -> Done:
    """Tell a running trial to stop (it counts as pruned), or take a queued one out of the queue.

    Raises:
        Unknown: no such study or trial.
        Conflict: the trial has ended.
    """
    with service.read() as session:
        row = find_study(session, name)
    with service.turn(row.id):
        search = service.search(spec_of(row))
        if number not in {trial.number for trial in search.trials()}:
            raise Unknown(f"study {name} has no trial {number}")
        if search.withdraw(number):
            with service.write() as session:
                service.audit(session, row.id, "user", "withdrew", trial=number)
            return Done(message=f"trial {number} is taken out of the queue")
        with service.write() as session:
            run = next((run for run in _running_trials(session, row.id) if run.number == number), None)
            if run is None:
                raise Conflict(f"trial {number} of study {name} is not running: there is nothing to stop")
            if not run.stop_requested:
                run.stop_requested = "user"
                service.audit(session, row.id, "user", "stopped trial", trial=number)
                service.ending.put(row.id)
    return Done(message=f"trial {number} of study {name} is told to stop")
