"""One database, two owners: Optuna's tables through Optuna, ours through SQLAlchemy.  SQLite or PostgreSQL.

SQLite runs in WAL mode, and every transaction that means to write takes the write lock at once
(BEGIN IMMEDIATE): a transaction that read first and wrote later could fail with `database is locked`, which
no time-out mends.
"""

from __future__ import annotations

import fcntl
import threading
import zlib
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.orm import Session

from sweeper.errors import SweeperError
from sweeper.tables import Base

VERSION_TABLE = "sweeper_alembic_version"
"""Ours; Optuna keeps `alembic_version`."""
BUSY_SECONDS = 60
_WRITES = "sweeper_writes"


def parse_url(url: str) -> URL:
    """The SQLAlchemy URL of a database that sweeper can use.

    Raises:
        SweeperError: not a URL, no SQLite or PostgreSQL, or an SQLite database in memory.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise SweeperError(
            f"SWEEPER_STORAGE must be a database URL such as sqlite:////path/to/sweeper.db or "
            f"postgresql://user:password@host/database, got {url!r}"
        ) from error
    if parsed.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername in ("sqlite", "sqlite+pysqlite"):
        if parsed.database in (None, "", ":memory:"):
            raise SweeperError(f"sweeper needs SQLite in a file, such as sqlite:////path/sweeper.db, got {url!r}")
        return parsed
    raise SweeperError(f"sweeper stores in SQLite or PostgreSQL, got a URL for {parsed.drivername!r}")


def open_engine(url: str) -> Engine:
    """The engine of our own tables; see `write` for transactions that write.

    Raises:
        SweeperError: a URL that cannot be used; see `parse_url`.
    """
    parsed = parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        assert parsed.database is not None
        Path(parsed.database).absolute().parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed, **_engine_arguments(parsed))
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "connect", _leave_transactions_to_us)
        event.listen(engine, "begin", _begin)
    return engine


def _engine_arguments(url: URL) -> dict[str, Any]:
    common = {"pool_size": 10, "max_overflow": 40}
    if url.get_backend_name() == "sqlite":
        return common | {"connect_args": {"timeout": BUSY_SECONDS}}
    return common | {"pool_pre_ping": True}


def _prepare_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _leave_transactions_to_us(connection: Any, _record: object) -> None:
    # pysqlite would begin only before the first INSERT, and never for a SELECT.
    connection.isolation_level = None


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def write(engine: Engine) -> Generator[Session]:
    """A transaction that writes: committed at the end of the block, rolled back by any error."""
    with Session(engine.execution_options(**{_WRITES: True}), expire_on_commit=False) as session, session.begin():
        yield session


@contextmanager
def read(engine: Engine) -> Generator[Session]:
    """A transaction that only reads; objects stay readable after it."""
    with Session(engine, expire_on_commit=False) as session:
        yield session


def insert_once(session: Session, table: type[Base], rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert the rows; one whose key is already there is left as it was."""
    if rows:
        session.execute(_insert(session, table).on_conflict_do_nothing(), list(rows))


def insert_or_update(session: Session, table: type[Base], row: Mapping[str, Any], key: Sequence[str]) -> None:
    """Insert the row, or give the one of the same key, a unique constraint, the other values."""
    statement = _insert(session, table)
    others = {name: statement.excluded[name] for name in row if name not in key}
    session.execute(statement.on_conflict_do_update(index_elements=key, set_=others), dict(row))


def _insert(session: Session, table: type[Base]) -> sqlite.Insert | postgresql.Insert:
    return sqlite.insert(table) if session.get_bind().dialect.name == "sqlite" else postgresql.insert(table)


def migrate(engine: Engine) -> None:
    """Bring our tables to this version, and create Optuna's where they are missing.

    Safe to run from several services at once: on PostgreSQL they take turns, on SQLite the write lock
    makes them.

    Raises:
        SweeperError: the tables are those of a newer sweeper.
    """
    config = alembic_config()
    with advisory_lock(engine, "migrate"):
        with engine.execution_options(**{_WRITES: True}).begin() as connection:
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
            except CommandError as error:
                raise SweeperError(
                    f"{engine.url.render_as_string()} is at revision {revision(connection)}, which this sweeper, at "
                    f"{newest_revision()}, does not know: install the newer one that wrote it"
                ) from error
        optuna_tables(engine, create=True).engine.dispose()


def alembic_config() -> Config:
    """Where Alembic finds our revisions; `env.py` takes the connection from its attributes."""
    config = Config()
    config.set_main_option("script_location", "sweeper:migrations")
    config.set_main_option("path_separator", "os")
    return config


def newest_revision() -> str:
    """The revision of this version's tables."""
    newest = ScriptDirectory.from_config(alembic_config()).get_current_head()
    assert newest is not None
    return newest


def revision(connection: Connection) -> str | None:
    """The revision of our tables in the database; None where there are none yet."""
    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()


def optuna_tables(engine: Engine, *, create: bool = False) -> optuna.storages.RDBStorage:
    """Optuna's tables on the same database; `.engine` is its own pool, to be disposed of.

    Args:
        create: make them where they are missing, and check that their version is this Optuna's.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    rdb = optuna.storages.RDBStorage(
        engine.url.render_as_string(hide_password=False),
        engine_kwargs=_engine_arguments(engine.url),
        skip_table_creation=not create,
        skip_compatibility_check=not create,
    )
    if engine.dialect.name == "sqlite":
        rdb.engine.dispose()  # connections made before the listener lack its settings
        event.listen(rdb.engine, "connect", _prepare_sqlite)
    return rdb


@contextmanager
def advisory_lock(engine: Engine, name: str) -> Generator[None]:
    """Hold `name` against every other service on the same database; it is freed when this process dies.

    On SQLite all names are one lock, on a file beside the database: do not nest them.
    """
    if engine.dialect.name == "sqlite":
        with Path(f"{engine.url.database}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
        return
    key = {"space": zlib.crc32(b"sweeper") >> 1, "name": zlib.crc32(name.encode()) >> 1}
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SELECT pg_advisory_lock(:space, :name)"), key)
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:space, :name)"), key)


class Turns:
    """Mutual exclusion by name, between the threads of this process and between services."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()

    @contextmanager
    def take(self, name: str) -> Generator[None]:
        """Hold `name` for the block. Turns are not nested, and none is taken inside a transaction."""
        with self._guard:
            lock = self._locks.setdefault(name, threading.Lock())
        # Threads of this process first: those that wait must not hold connections of the pool.
        with lock, advisory_lock(self._engine, name):
            yield
