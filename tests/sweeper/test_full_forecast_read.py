"""Full runs' forecasts from the database: which earlier runs are peers, what the service says, what status prints."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from sqlalchemy import select, update

from sweeper.commands import reading
from sweeper.full_forecast_read import FullForecasts
from sweeper.full_forecast_watch import BACK, LEFT, Watch
from sweeper.results import Results, UnknownError
from sweeper.service import Service
from sweeper.settings import Settings
from sweeper.tables import EventRow, RunRow
from tests.dashboard.synthetic import Writer
from tests.sweeper import annealed, annealed_rows


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service.open(Settings(home=tmp_path, storage=f"sqlite:///{tmp_path / 'sweeper.db'}"))
    yield service
    service.close()


@pytest.fixture
def writer(service: Service) -> Writer:
    made = Writer(service.engine)
    annealed_rows.sweep(made)
    return made


def forecasts(writer: Writer) -> FullForecasts:
    return FullForecasts(writer.engine, Results(writer.engine))


def test_runs_of_the_same_model_and_batch_that_had_ended_are_peers(writer: Writer) -> None:
    annealed_rows.full_run(writer, 0, 0.8)
    store = forecasts(writer)
    found = store.of(writer.name, 0)
    assert found.state == "inside" and [band.peers for band in found.bands] == [6, 6, 6, 6]
    again = store.of(writer.name, 0)
    assert all(a is b for a, b in zip(found.bands, again.bands, strict=True)), "each is made once"


@pytest.mark.parametrize(
    ("part", "value", "why"),
    [
        ("data", {"batch_tokens": 32_768}, "another batch"),
        ("model", {"num_layers": 3}, "another model"),
        ("data", {"path": "elsewhere"}, "other data"),
        ("optim", {"matrix_lr": 0.5}, "a rate far from its own"),
    ],
)
def test_others_are_not_and_it_says_why(writer: Writer, part: str, value: dict[str, object], why: str) -> None:
    config = annealed.config()
    config[part] |= value
    with writer.engine.begin() as connection:
        connection.execute(update(RunRow).where(RunRow.kind == "trial").values(config=config))
    annealed_rows.full_run(writer, 0, 0.8)
    found = forecasts(writer).of(writer.name, 0)
    assert all(band.peers == 0 for band in found.bands)
    assert f"0 earlier runs of this model, batch and data whose rate falls, 3 needed (6 with {why})" in found.words


def test_trials_that_ended_later_say_nothing(writer: Writer) -> None:
    annealed_rows.full_run(writer, 0, 0.4)
    with writer.engine.begin() as connection:
        connection.execute(update(RunRow).where(RunRow.kind == "trial").values(ended_at=writer.now))
    assert forecasts(writer).of(writer.name, 0).bands[0].peers == 0


def test_an_unknown_one_is_refused(writer: Writer) -> None:
    with pytest.raises(UnknownError, match="no started promotion number 7"):
        forecasts(writer).of(writer.name, 7)


def events(service: Service) -> list[EventRow]:
    with service.read() as session:
        return list(session.scalars(select(EventRow).where(EventRow.verb.in_((LEFT, BACK))).order_by(EventRow.id)))


def test_the_service_says_once_that_a_run_left_its_band_and_once_that_it_is_back(
    service: Service, writer: Writer
) -> None:
    annealed_rows.full_run(writer, 0, 0.75)
    run = annealed_rows.full_run(writer, 1, 0.75, raised=0.12)
    watch = Watch(service)
    watch.look()
    (left,) = events(service)
    assert left.verb == LEFT and left.detail["promotion"] == 1 and left.detail["side"] == "above"
    assert left.detail["since_step"] >= 0.55 * annealed.LONG / annealed.BATCH and left.detail["by"] > 0.01
    watch.look()
    Watch(service).look()
    assert len(events(service)) == 1, "neither again, nor by a service that starts anew"

    writer.advance(run, number=2, state="failed")
    annealed_rows.full_run(writer, 3, 0.75)
    with service.write() as session:
        session.execute(update(EventRow).where(EventRow.id == left.id).values(detail={"promotion": 3, "side": "above"}))
    Watch(service).look()
    assert [event.verb for event in events(service)] == [LEFT, BACK]


def test_status_says_it(service: Service, writer: Writer, tmp_path: Path) -> None:
    annealed_rows.full_run(writer, 0, 0.75, raised=0.12)
    annealed_rows.full_run(writer, 1, 0.1)
    console = Console(file=StringIO(), width=120)
    reading.status(service.settings, writer.name, console)
    assert isinstance(console.file, StringIO)
    told = console.file.getvalue()
    assert "The train loss is above its band since step" in told
    assert "No band: one is made from 20% of the run on, and it is at 10%." in told
