"""From the tables to an archive: each trial's row, and what it said put back into the order in which it said it."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from sweeper.archive import FORMAT, SUFFIX, VERSION, ArchivedRun, write_lines
from sweeper.errors import SweeperError
from sweeper.tables import ExportRow, MessageRow, OutcomeRow, PointRow, RunRow, ScoreRow, StudyRow
from trainer.events import EVENTS, Eval, Event, Export, Outcome, Sample, Score, Step

BATCH_RUNS = 100
OWN = tuple(name for name in ArchivedRun.model_fields if name != "events")
"""Columns of a run's row that go along."""

Row = TypeVar("Row", PointRow, MessageRow, OutcomeRow, ScoreRow, ExportRow)


def write(engine: Engine, study: str, folder: Path, without: Iterable[str] = ()) -> Path:
    """Write the study's archive into `folder`, which is there; returns its path.

    Nothing of a machine goes along but the device's name, the versions and what the study names itself.

    Args:
        without: keys of the runs' versions that mean something in this database alone.

    Raises:
        SweeperError: no such study.
        OSError: the folder cannot be written.
    """
    with Session(engine) as session:
        row = session.scalar(select(StudyRow).where(StudyRow.name == study))
        if row is None:
            raise SweeperError(f"there is no study {study}")
        ids = _newest(session, row.id)
        header = {"format": FORMAT, "version": VERSION, "study": study, "runs": len(ids), "spec": row.spec}
        return write_lines(folder / f"{study}{SUFFIX}", header, _runs(session, ids, frozenset(without)))


def _newest(session: Session, study_id: int) -> list[int]:
    """Runs of the trials that have ended, at their newest attempt, by trial number."""
    trials = (RunRow.study_id == study_id, RunRow.kind == "trial")
    newest = select(func.max(RunRow.id)).where(*trials).group_by(RunRow.number)
    query = select(RunRow.id).where(RunRow.id.in_(newest), RunRow.state != "running")
    return list(session.scalars(query.order_by(RunRow.number)))


def _runs(session: Session, ids: Sequence[int], without: frozenset[str]) -> Iterator[dict[str, Any]]:
    for at in range(0, len(ids), BATCH_RUNS):
        batch = ids[at : at + BATCH_RUNS]
        numbered = _events_of(session, batch)
        scored = _scored_of(session, batch)
        rows = session.scalars(select(RunRow).where(RunRow.id.in_(batch)).order_by(RunRow.number))
        for row in rows:
            told = {name: getattr(row, name) for name in OWN}
            told["versions"] = {key: value for key, value in row.versions.items() if key not in without}
            yield told | {"events": _in_order(numbered[row.id], scored[row.id])}
        session.expire_all()


def _rows(session: Session, table: type[Row], runs: Sequence[int]) -> Sequence[Row]:
    return session.scalars(select(table).where(table.run_id.in_(runs))).all()


def _events_of(session: Session, runs: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
    """By run: points and messages, by seq."""
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for point in _rows(session, PointRow, runs):
        found[point.run_id].append(_step(point) if point.val_bpb is None else _eval(point))
    for message in _rows(session, MessageRow, runs):
        if message.kind in EVENTS and message.kind != Sample.kind:
            known = {"event": message.kind, "seq": message.seq, "at": round(message.at, 3)}
            found[message.run_id].append(known | message.body)
    for events in found.values():
        events.sort(key=lambda event: event["seq"])
    return found


def _step(point: PointRow) -> dict[str, Any]:
    """To the digits that somebody reads: nothing is fitted to a training curve."""
    return _point(point, Step) | {
        "seconds": round(point.seconds, 6),
        "progress": round(point.progress, 7),
        "train_loss": _digits(point.train_loss, 7),
        "tokens_per_second": _digits(point.tokens_per_second, 4),
    }


def _eval(point: PointRow) -> dict[str, Any]:
    """Of how many tokens, and how long it took, the tables do not keep."""
    known = _point(point, Eval) | {"val_tokens": 0, "eval_seconds": 0.0}
    return known | {"val_bpb_stderr": point.val_bpb_stderr or 0.0}


def _point(point: PointRow, kind: type[Event]) -> dict[str, Any]:
    return {"event": kind.kind, "seq": point.seq} | _fields(point, kind)


def _digits(value: float | None, digits: int) -> float | None:
    return None if value is None else float(f"{value:.{digits}g}")


def _fields(row: Row, kind: type[Event]) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(kind)]
    return {name: getattr(row, name) for name in names if name in row.__table__.columns}


def _scored_of(session: Session, runs: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
    """By run: outcomes, the full one last, then scores and the artifact."""
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for outcome in sorted(_rows(session, OutcomeRow, runs), key=lambda row: (row.budget is None, row.tokens)):
        found[outcome.run_id].append({"event": Outcome.kind} | _fields(outcome, Outcome))
    for score in _rows(session, ScoreRow, runs):
        found[score.run_id].append({"event": Score.kind} | _fields(score, Score))
    for export in _rows(session, ExportRow, runs):
        found[export.run_id].append({"event": Export.kind} | _fields(export, Export))
    for events in found.values():
        for event in events:
            if "val_bpb_stderr" in event:
                event["val_bpb_stderr"] = event["val_bpb_stderr"] or 0.0  # as the protocol says what nobody knows
    return found


def _in_order(numbered: Sequence[dict[str, Any]], scored: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a run said, as it said it: the tables do not keep the places of its scores, but the clock tells them."""
    waiting = list(scored)
    events = []
    for event in numbered:
        ends = event["event"] in ("end", "failure")
        while waiting and (ends or _left(waiting[0]) < event.get("seconds", 0.0)):
            events.append(waiting.pop(0))
        events.append(event)
    return [*events, *waiting]


def _left(scored: dict[str, Any]) -> float:
    """Training seconds of the run when it had what it was scored with; endless of what only follows its end."""
    return scored["seconds"] - scored["branch_seconds"] if scored.get("budget") is not None else float("inf")
