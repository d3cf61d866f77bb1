"""Engines, migrations, transactions, and that Optuna's own tools read the database."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, make_server

import httpx
import pytest
from optuna_dashboard import wsgi  # type: ignore[import-untyped]  # it ships no types
from sqlalchemy import select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError

from sweeper import storage
from sweeper.errors import SweeperError
from sweeper.service import Service
from sweeper.tables import MessageRow, RunRow, StudyRow, WorkerRow
from tests.sweeper import talk
from tests.sweeper.conftest import Opener


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("nonsense", "must be a database URL"),
        ("sqlite://", "SQLite in a file"),
        ("sqlite:///:memory:", "SQLite in a file"),
        ("mysql://localhost/x", "got a URL for 'mysql'"),
    ],
)
def test_a_url_that_cannot_work_is_named(url: str, problem: str) -> None:
    with pytest.raises(SweeperError, match=problem):
        storage.open_engine(url)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_spelling_of_postgresql_means_psycopg_3(scheme: str) -> None:
    url = storage.parse_url(f"{scheme}://user:secret@host/db")
    assert (url.drivername, url.password) == ("postgresql+psycopg", "secret")


def test_sqlite_is_set_up_for_many_readers(tmp_path: Path) -> None:
    engine = storage.open_engine(f"sqlite:///{tmp_path / 'new' / 'sweeper.db'}")
    with engine.connect() as connection:
        values = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        ]
    engine.dispose()
    assert values == ["wal", 1, 1, 60_000]


def test_transactions_that_read_and_write_do_not_lose_each_others_work(service: Service) -> None:
    with service.write() as session:
        session.add(WorkerRow(id="w", host="", pid=0, device="", device_name="", first_seen=0, last_seen=0))
    problems: list[Exception] = []

    def count_up() -> None:
        try:
            for _ in range(20):
                with service.write() as session:
                    session.get_one(WorkerRow, "w", with_for_update=True).pid += 1
        except Exception as error:  # noqa: BLE001 - handed to the main thread
            problems.append(error)

    threads = [threading.Thread(target=count_up) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    with service.read() as session:
        assert (problems, session.get_one(WorkerRow, "w").pid) == ([], 80)


def test_a_failed_transaction_leaves_nothing(service: Service) -> None:
    with pytest.raises(RuntimeError), service.write() as session:
        session.add(StudyRow(name="x", spec={}, fingerprint="", created_at=0.0))
        session.flush()
        raise RuntimeError
    with service.read() as session:
        assert session.scalars(select(StudyRow)).all() == []


def test_rows_are_inserted_once(service: Service, study: object) -> None:
    grant = talk.take(service)
    for body in ({"n": 1}, {"n": 2}):
        with service.write() as session:
            row = {"run_id": grant.run, "seq": 0, "at": 0.0, "kind": "log", "body": body}
            storage.insert_once(session, MessageRow, [row])
            storage.insert_once(session, MessageRow, [])
    with service.read() as session:
        assert session.scalars(select(MessageRow.body)).all() == [{"n": 1}]


def sweep(service: Service) -> list[tuple[int, str, float | None]]:
    """A small sweep with every kind of ending; its trials as Optuna in this process has them."""
    talk.say(service, talk.take(service), *talk.whole(2.5))
    talk.say(service, talk.take(service), talk.evaluation(0.3, 2.9), talk.end("diverged"))
    talk.say(service, talk.take(service), talk.failure("died"))
    talk.take(service)
    return [(trial.number, trial.state.name, trial.value) for trial in talk.trials(service)]


def test_another_process_loads_the_same_study(service: Service, study: object) -> None:
    told = sweep(service)
    url = service.engine.url.render_as_string(hide_password=False)
    code = (
        "import json, optuna\n"
        f"study = optuna.load_study(study_name='tiny', storage={url!r})\n"
        "print(json.dumps([(t.number, t.state.name, t.value) for t in study.trials]))\n"
        "print(study.best_trial.number)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    trials, best = done.stdout.splitlines()

    assert [tuple(trial) for trial in json.loads(trials)] == told
    assert [state for _, state, _ in told] == ["COMPLETE", "PRUNED", "FAIL", "RUNNING"]
    assert best == "0"


class Quiet(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def test_optuna_dashboard_shows_the_same_trials(service: Service, study: object) -> None:
    told = sweep(service)
    tables = storage.optuna_tables(service.engine)
    server = make_server("127.0.0.1", 0, wsgi(tables), handler_class=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{server.server_port}", trust_env=False) as client:
            studies = client.get("/api/studies").json()["study_summaries"]
            shown = client.get(f"/api/studies/{studies[0]['study_id']}").json()["trials"]
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()
        tables.remove_session()
        tables.engine.dispose()

    assert [study["study_name"] for study in studies] == ["tiny"]
    names = {"Complete": "COMPLETE", "Pruned": "PRUNED", "Fail": "FAIL", "Running": "RUNNING"}
    assert [
        (trial["number"], names[trial["state"]], trial["values"][0] if trial.get("values") else None) for trial in shown
    ] == told


def test_the_service_opens_again_where_it_was(service: Service, study: object, opener: Opener) -> None:
    told = sweep(service)
    again = opener()
    assert [(trial.number, trial.state.name, trial.value) for trial in talk.trials(again)] == told
    with again.read() as session:
        assert len(session.scalars(select(RunRow)).all()) == 4


def test_foreign_keys_hold(service: Service) -> None:
    with pytest.raises(IntegrityError), service.write() as session:
        session.add(MessageRow(run_id=99, seq=0, at=0.0, kind="log", body={}))


def test_the_password_is_kept_for_the_driver_and_hidden_elsewhere() -> None:
    engine = storage.open_engine("postgresql://user:secret@localhost/db")
    assert make_url(engine.url).password == "secret"
    assert "secret" not in engine.url.render_as_string(hide_password=True)
