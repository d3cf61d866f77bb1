"""Our tables over the versions: made, compared with the metadata, brought up from older ones."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from rich.console import Console
from sqlalchemy import MetaData, inspect, text

from sweeper import storage
from sweeper.commands import reading
from sweeper.errors import SweeperError
from sweeper.results import Results
from sweeper.settings import Settings
from sweeper.tables import Base, OutcomeRow
from tests.sweeper import talk

OLD_RUN: dict[str, Any] = {
    "id": 1,
    "study_id": 1,
    "kind": "trial",
    "number": 0,
    "attempt": 1,
    "state": "complete",
    "reason": "",
    "params": {"optim.matrix_lr": 0.02},
    "config": {},
    "stop_requested": "",
    "created_at": 1.0,
    "started_at": 1.0,
    "ended_at": 9.0,
    "last_seq": 4,
    "device": "cpu",
    "device_name": "old",
    "versions": {},
    "git_commit": "",
    "resumed_step": 0,
    "step": 10,
    "tokens": 100,
    "seconds": 5.0,
    "wall_seconds": 8.0,
    "progress": 1.0,
    "val_bpb": 2.5,
    "peak_memory_bytes": 0,
}
PLACE = {"run_id": 1, "step": 10, "tokens": 100, "seconds": 5.0}
OLD_ROWS: dict[str, dict[str, Any]] = {
    "sweeper_studies": {
        "id": 1,
        "name": "old",
        "spec": talk.SPEC,
        "fingerprint": "",
        "state": "running",
        "created_at": 1.0,
    },
    "sweeper_runs": OLD_RUN,
    "sweeper_points": {**PLACE, "seq": 1, "progress": 1.0, "fraction": 1.0, "val_loss": 5.0, "val_bpb": 2.6},
    "sweeper_outcomes": {**PLACE, "val_loss": 5.0, "val_bpb": 2.5, "val_tokens": 9},
    "sweeper_messages": {"run_id": 1, "seq": 0, "at": 1.0, "kind": "start", "body": {"event": "start"}},
}
"""What a service of the first revision left: one complete trial."""


def ours(name: str | None, kind: str, _parents: object) -> bool:
    return kind != "table" or ((name or "").startswith("sweeper_") and name != storage.VERSION_TABLE)


def test_migrations_make_the_tables_of_the_metadata(empty_url: str) -> None:
    engine = storage.open_engine(empty_url)
    storage.migrate(engine)
    storage.migrate(engine)  # again changes nothing
    with engine.connect() as connection:
        options = {"version_table": storage.VERSION_TABLE, "include_name": ours, "compare_type": True}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata) == []
        tables = set(inspect(connection).get_table_names())
    engine.dispose()

    assert tables >= {"sweeper_runs", storage.VERSION_TABLE, "trials", "alembic_version"}


def test_a_difference_between_migrations_and_metadata_is_seen(empty_url: str) -> None:
    engine = storage.open_engine(empty_url)
    storage.migrate(engine)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE sweeper_notes DROP COLUMN text"))
    with engine.connect() as connection:
        options = {"version_table": storage.VERSION_TABLE, "include_name": ours}
        difference = compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata)
    engine.dispose()
    assert [change[0] for change in difference] == ["add_column"]


def test_a_database_of_the_first_revision_keeps_its_trials(empty_url: str, tmp_path: Path) -> None:
    engine = storage.open_engine(empty_url)
    config = storage.alembic_config()
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        tables = MetaData()
        tables.reflect(connection)
        for name, values in OLD_ROWS.items():
            connection.execute(tables.tables[name].insert().values(values))
        assert storage.revision(connection) == "0001" != storage.newest_revision()
    engine.dispose()

    lines = io.StringIO()
    reading.status(Settings(home=tmp_path, storage=empty_url), "old", Console(file=lines, width=200))
    assert "trial 0 final val_bpb 2.5000" in lines.getvalue(), "a command that only reads can be the first to look"
    engine = storage.open_engine(empty_url)
    results = Results(engine)
    (trial,) = results.trials("old")
    assert (trial.final_val_bpb, trial.final_val_bpb_stderr) == (2.5, None)
    assert (trial.score, trial.infeasible, trial.artifact_bytes) == (2.5, "", None), "the outcome judged every study"
    detail = results.run("old", "trial", 0)
    assert (detail.points.val_bpb.tolist(), detail.streamed_val_bpb_stderr) == ([2.6], None)
    assert [(score.name, score.val_bpb, score.judges) for score in detail.scores] == [
        ("streamed", 2.6, False),
        ("final", 2.5, True),
    ]
    assert detail.artifact is None
    assert [(outcome.budget, outcome.val_bpb, outcome.branch_seconds) for outcome in detail.outcomes] == [
        (None, 2.5, 0)
    ]
    assert (detail.compiled_graphs, detail.graph_breaks, detail.devices) == (None, None, 1)
    with engine.begin() as connection:
        smaller = {**OLD_ROWS["sweeper_outcomes"], "tokens": 50, "budget": 2.5, "branch_seconds": 1.0}
        connection.execute(OutcomeRow.__table__.insert().values(smaller))
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
        left = connection.execute(text("SELECT tokens FROM sweeper_outcomes")).scalars().all()
        assert left == [100], "an older service would take a smaller budget for the full one"
        columns = {column["name"] for column in inspect(connection).get_columns("sweeper_points")}
        columns |= {column["name"] for column in inspect(connection).get_columns("sweeper_runs")}
        columns |= {column["name"] for column in inspect(connection).get_columns("sweeper_outcomes")}
        tables_left = set(inspect(connection).get_table_names())
    engine.dispose()
    assert not columns & {"val_bpb_stderr", "score", "score_stderr", "infeasible", "budget", "branch_seconds"}
    assert not tables_left & {"sweeper_scores", "sweeper_exports"}


def test_promotions_of_an_earlier_revision_keep_their_plans_and_say_whose_values_they_ran(empty_url: str) -> None:
    engine = storage.open_engine(empty_url)
    config = storage.alembic_config()
    old = {"study_id": 1, "plan": {"tokens": 7}, "state": "complete", "created_at": 1.0}
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0005")
        tables = MetaData()
        tables.reflect(connection)
        connection.execute(tables.tables["sweeper_studies"].insert().values(OLD_ROWS["sweeper_studies"]))
        promotions = tables.tables["sweeper_promotions"]
        connection.execute(promotions.insert().values({**old, "id": 1, "number": 0, "trial_number": 3}))
        connection.execute(promotions.insert().values({**old, "id": 2, "number": 1, "trial_number": None}))
    storage.migrate(engine)
    found = Results(engine).promotions("old")
    assert [(one.trial, one.planned_tokens, one.state) for one in found] == [(3, 7, "complete"), (None, 7, "complete")]
    assert [(one.by, one.foretold) for one in found] == [("copied", None), ("own", None)]
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0005")
        assert connection.execute(text("SELECT count(*) FROM sweeper_promotions")).scalar() == 2
    engine.dispose()


def test_a_database_of_a_newer_sweeper_is_refused_in_words(empty_url: str) -> None:
    engine = storage.open_engine(empty_url)
    storage.migrate(engine)
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {storage.VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(SweeperError, match=r"revision 9999, which this sweeper.*does not know: install the newer"):
        storage.migrate(engine)
    engine.dispose()


def test_services_that_start_together_migrate_once(empty_url: str) -> None:
    problems: list[Exception] = []

    def start() -> None:
        engine = storage.open_engine(empty_url)
        try:
            storage.migrate(engine)
        except Exception as error:  # noqa: BLE001 - handed to the main thread
            problems.append(error)
        finally:
            engine.dispose()

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert problems == []
