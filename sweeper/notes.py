"""Remarks of people on a study or one of its trials: written once, shown on its pages."""

from __future__ import annotations

from sqlalchemy import Connection, select

from sweeper.errors import SweeperError
from sweeper.run_records import Note
from sweeper.service import Service, Unknown, find_study
from sweeper.tables import NoteRow, RunRow
from sweeper.wire import tidy

LONGEST = 10_000
"""Characters of one note."""


def add(service: Service, name: str, text: str, trial: int | None = None) -> None:
    """Store a note; it needs no turn, as nothing that runs looks at notes.

    Raises:
        Unknown: no such study or trial.
        SweeperError: an empty or endless text.
    """
    kept = tidy(text.strip())
    if not 0 < len(kept) <= LONGEST:
        raise SweeperError(f"a note has 1 to {LONGEST:,} characters, got {len(kept):,}")
    with service.write() as session:
        study = find_study(session, name)
        if trial is not None:
            known = (RunRow.study_id == study.id, RunRow.kind == "trial", RunRow.number == trial)
            if session.scalar(select(RunRow.id).where(*known).limit(1)) is None:
                raise Unknown(f"study {name} has no trial {trial} that was started")
        session.add(NoteRow(study_id=study.id, trial_number=trial, text=kept, created_at=service.now()))
        detail = {} if trial is None else {"trial": trial}
        service.audit(session, study.id, "user", "noted", **detail)


def read(connection: Connection, study_id: int, trial: int | None = None) -> tuple[Note, ...]:
    """Notes of a study, those of its trials among them, or of one trial; the newest first."""
    query = select(NoteRow.trial_number, NoteRow.text, NoteRow.created_at).where(NoteRow.study_id == study_id)
    if trial is not None:
        query = query.where(NoteRow.trial_number == trial)
    found = connection.execute(query.order_by(NoteRow.id.desc()))
    return tuple(Note(trial=row.trial_number, text=row.text, created_at=row.created_at) for row in found)
