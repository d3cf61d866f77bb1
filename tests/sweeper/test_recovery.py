"""What a kill -9 leaves: each test does the first writes of a sequence, then opens the database anew."""

from __future__ import annotations

from typing import Any

import pytest

from sweeper import control, endings, ingest, reaper
from sweeper.protocol import Enqueue, NoWork
from sweeper.service import Service, spec_of
from sweeper.tables import (
    LeaseRow,
    RunRow,
)
from tests.sweeper import talk
from tests.sweeper.conftest import Clock, Opener

pytestmark = pytest.mark.usefixtures("study")


def test_killed_between_ask_and_lease(service: Service, opener: Opener) -> None:
    row = talk.study_row(service)
    asked = service.search(spec_of(row)).next_trial(lambda numbers: set())
    assert asked is not None

    grant = talk.take(opener())
    assert grant.number == asked.number == 0
    assert grant.config["optim"]["matrix_lr"] == asked.params["optim.matrix_lr"]
    assert talk.states(service) == ["RUNNING"]


def test_killed_in_the_middle_of_ask(service: Service, opener: Opener) -> None:
    values: dict[str, Any] = {"optim.matrix_lr": 0.02, "model.num_layers": 2}
    control.enqueue(service, "tiny", Enqueue(params=values))
    search = service.search(spec_of(talk.study_row(service)))
    trial = search._study.ask()  # taken from the queue, no value drawn yet
    trial.suggest_float("optim.matrix_lr", 0.005, 0.1, log=True)

    talk.take(opener())
    assert talk.trials(service)[0].params == values


def test_killed_between_our_commit_and_optunas(service: Service, opener: Opener) -> None:
    grants = [talk.take(service, f"w{place}") for place in range(3)]
    ends = [talk.whole(2.5), [talk.failure("died")], [talk.evaluation(0.3, 2.9), talk.end("diverged")]]
    for grant, said in zip(grants, ends, strict=True):
        with service.write() as session:
            run, lease = session.get_one(RunRow, grant.run), session.get_one(LeaseRow, grant.lease)
            ingest._store(service, session, run, lease, talk.delivery(*said))
    assert talk.states(service) == ["RUNNING"] * 3

    after = opener()
    reaper.recover(after)
    assert talk.states(after) == ["COMPLETE", "FAIL", "PRUNED", "WAITING"]
    assert [trial.value for trial in talk.trials(after)] == [2.5, None, 2.9, None]
    reaper.recover(after)
    assert talk.states(after) == ["COMPLETE", "FAIL", "PRUNED", "WAITING"]


def test_a_repeated_delivery_settles_what_the_first_did_not(service: Service, opener: Opener) -> None:
    grant = talk.take(service)
    with service.write() as session:
        run, lease = session.get_one(RunRow, grant.run), session.get_one(LeaseRow, grant.lease)
        ingest._store(service, session, run, lease, talk.delivery(*talk.whole(2.5)))

    talk.say(opener(), grant, *talk.whole(2.5))
    assert talk.states(service) == ["COMPLETE"]


def test_killed_between_repeat_and_fail(service: Service, opener: Opener) -> None:
    grant = talk.take(service)
    with service.write() as session:
        run = session.get_one(RunRow, grant.run)
        endings.end_run(service, session, run, "failed", "died: signal 9")
    endings._repeat(service, service.search(spec_of(talk.study_row(service))), run)
    assert talk.states(service) == ["RUNNING", "WAITING"]

    after = opener()
    reaper.recover(after)
    assert talk.states(after) == ["FAIL", "WAITING"], "one repeat, not two"


def test_killed_between_rung_and_order(service: Service, opener: Opener) -> None:
    first, second = talk.take(service, "w1"), talk.take(service, "w2")
    talk.say(service, first, talk.evaluation(0.3, 3.0))
    with service.write() as session:
        run, lease = session.get_one(RunRow, second.run), session.get_one(LeaseRow, second.lease)
        ingest._store(service, session, run, lease, talk.delivery(talk.evaluation(0.3, 3.1)))
    endings.report_rungs(service, service.search(spec_of(talk.study_row(service))), run)
    assert talk.runs(service)[1].stop_requested == ""

    after = opener()
    reaper.recover(after)
    assert [run.stop_requested for run in talk.runs(after)] == ["", "pruned"]


def test_killed_between_optunas_study_and_ours(service: Service, opener: Opener) -> None:
    spec = {**talk.SPEC, "name": "other"}
    service.create_search("other")
    assert "created" in control.create_study(opener(), spec).message


def test_open_leases_get_a_fresh_term_when_the_service_comes_back(
    service: Service, opener: Opener, clock: Clock
) -> None:
    grant = talk.take(service)
    clock.advance(3600)
    after = opener()
    reaper.recover(after)
    reaper.sweep(after)

    assert talk.say(after, grant, *talk.whole(2.5)).through == 4
    assert talk.states(after) == ["COMPLETE"]


def test_a_stopped_study_leaves_no_orphan_running(service: Service, opener: Opener) -> None:
    service.search(spec_of(talk.study_row(service))).next_trial(lambda numbers: set())
    control.set_state(service, "tiny", "stop")
    assert talk.states(service) == ["FAIL"]


def test_two_services_on_one_database_share_the_work(service: Service, opener: Opener) -> None:
    other = opener()
    grants = [talk.take(service, "a"), talk.take(other, "b"), talk.take(service, "c"), talk.take(other, "d")]
    assert [grant.number for grant in grants] == [0, 1, 2, 3]
    talk.join(other, "e")
    assert isinstance(talk.ask(other, "e"), NoWork)
    for grant in grants:
        talk.say(other, grant, *talk.whole(3.0))
    assert talk.states(service) == ["COMPLETE"] * 4
