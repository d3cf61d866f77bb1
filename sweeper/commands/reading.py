"""Commands that read the database directly, so that they work with and without a running service."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Generator
from pathlib import Path

from rich.console import Console
from sqlalchemy import Engine, inspect

from sweeper import display, storage
from sweeper import export as exporting
from sweeper.errors import SweeperError
from sweeper.full_forecast_read import FullForecasts
from sweeper.results import Results
from sweeper.settings import Settings
from sweeper.storage import open_engine, parse_url
from sweeper.tables import StudyRow


@contextlib.contextmanager
def database(settings: Settings) -> Generator[Engine]:
    """The engine of a database that holds our tables, brought to this version; it is not created.

    Raises:
        SweeperError: there is none yet, or it is of a newer sweeper.
    """
    url = parse_url(settings.storage)
    missing = SweeperError(
        f"{url.render_as_string()} holds no studies yet; start one with `sweeper launch --study lr-wd-batch`, "
        f"or set SWEEPER_HOME or SWEEPER_STORAGE to where they are"
    )
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        raise missing
    engine = open_engine(settings.storage)
    try:
        if not inspect(engine).has_table(StudyRow.__tablename__):
            raise missing
        with engine.connect() as connection:
            current = storage.revision(connection) == storage.newest_revision()
        if not current:
            storage.migrate(engine)
        yield engine
    finally:
        engine.dispose()


def status(settings: Settings, study: str | None, console: Console) -> None:
    """Print all studies, or one with its running runs, its best trial and its promotions."""
    with database(settings) as engine:
        results = Results(engine)
        if study is None:
            console.print(display.studies_table([dataclasses.asdict(found) for found in results.studies()]))
            return
        summary = dataclasses.asdict(results.study(study))
        started = [found["number"] for found in summary["promotions"] if found["attempt"]]
        tables = {number: results.standing(results.run(study, "promotion", number)).success for number in started}
        forecasts = FullForecasts(engine, results)
        foretold = {number: forecasts.of(study, number) for number in started}
    state, unit = "complete" if summary["finished"] else summary["state"], summary["unit"]
    lines = [f"{study}: {state} ({summary['profile']} profile)", display.counts_line(summary)]
    lines += [display.best_line(summary)]
    lines += [display.run_line(run, unit) for run in summary["running"]]
    display.say(console, "\n".join(lines))
    for promotion in summary["promotions"]:
        display.say(console, display.promotion_line(promotion, unit))
        told = foretold.get(promotion["number"])
        if told is not None:
            display.say(console, f"  {told.words}", "bold red" if told.alarm else "")
        table = tables.get(promotion["number"])
        if table is not None and table.rows:
            console.print(display.success_view(dataclasses.asdict(table)))


def export_study(settings: Settings, study: str, form: exporting.Format, folder: Path) -> list[Path]:
    """Write the study's files; see export.export."""
    with database(settings) as engine:
        return exporting.export(engine, study, form, folder)
