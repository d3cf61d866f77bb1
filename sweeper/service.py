"""The service's hands on one database: engine, Optuna's storage, turns, clock.  It holds no state of its own.

Everything that must survive is in the database before an answer goes out; a service that is killed anywhere
is opened again and goes on.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Self

import optuna
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from sweeper import storage
from sweeper.errors import SweeperError
from sweeper.search import Search
from sweeper.settings import Settings
from sweeper.study import StudySpec
from sweeper.tables import EventRow, StudyRow


class Unknown(SweeperError):
    """There is no such study, trial, worker or lease."""


class Conflict(SweeperError):
    """It is understood, and cannot be done in the present state."""


class Service:
    """One opened database. Any number of threads may use it."""

    def __init__(self, engine: Engine, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        """
        Args:
            engine: of a migrated database; see `open`.
            clock: Unix seconds; leases are measured by it.
        """
        self.engine = engine
        self.settings = settings
        self.now = clock
        self.ending: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        """Ids of studies of which a trial nears its end: a hint for `ahead`, and lost with the process."""
        self._tables = storage.optuna_tables(engine)
        self._storage = optuna.storages.get_storage(self._tables)  # caches finished trials
        self._turns = storage.Turns(engine)

    @classmethod
    def open(cls, settings: Settings, clock: Callable[[], float] = time.time) -> Self:
        """Open the database of the settings, and bring its tables to this version.

        Raises:
            SweeperError: a storage URL that cannot be used.
        """
        engine = storage.open_engine(settings.storage)
        storage.migrate(engine)
        return cls(engine, settings, clock)

    def close(self) -> None:
        """Close all connections."""
        self._tables.remove_session()
        self._tables.engine.dispose()
        self.engine.dispose()

    @contextmanager
    def turn(self, study_id: int) -> Generator[None]:
        """Whoever asks, tells, or counts trials of a study holds its turn; not inside a transaction."""
        with self._turns.take(f"study {study_id}"):
            yield

    def search(self, spec: StudySpec) -> Search:
        """The study in Optuna; to be used within its turn."""
        return Search(self._storage, spec)

    def create_search(self, name: str) -> None:
        """Make the study in Optuna; see `Search.create`."""
        Search.create(self._storage, name)

    @contextmanager
    def write(self) -> Generator[Session]:
        """A transaction that writes."""
        with storage.write(self.engine) as session:
            yield session

    @contextmanager
    def read(self) -> Generator[Session]:
        """A transaction that only reads."""
        with storage.read(self.engine) as session:
            yield session

    def audit(self, session: Session, study_id: int | None, actor: str, verb: str, **detail: Any) -> None:
        """Add a line to the audit trail, in the transaction of what it tells of."""
        session.add(EventRow(study_id=study_id, at=self.now(), actor=actor[:200], verb=verb, detail=detail))


def find_study(session: Session, name: str) -> StudyRow:
    """The study of this name.

    Raises:
        Unknown: there is none; the message lists those there are.
    """
    row = session.scalar(select(StudyRow).where(StudyRow.name == name))
    if row is None:
        known = ", ".join(session.scalars(select(StudyRow.name).order_by(StudyRow.id)))
        raise Unknown(f"there is no study {name!r} here; known are: {known or 'none yet'}")
    return row


def spec_of(row: StudyRow) -> StudySpec:
    """The study as it was accepted."""
    return StudySpec.model_validate(row.spec)
