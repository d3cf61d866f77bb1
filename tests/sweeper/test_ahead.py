"""Trials drawn before they are asked for: when, how many, and that nobody is told of them."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from sweeper import ahead, control, endings, promote, reaper
from sweeper.client import Client
from sweeper.protocol import Delivery, Enqueue, Grant, Hello, LeaseRequest, NoWork, PromoteRequest
from sweeper.results import Results
from sweeper.service import Service
from sweeper.settings import Settings
from sweeper.tables import RunRow
from tests.sweeper import talk
from tests.sweeper.conftest import Opener
from tests.sweeper.waiting import until

VALUES: dict[str, Any] = {"optim.matrix_lr": 0.0123, "model.num_layers": 3}


def near(service: Service, worker: str = "w1") -> Grant:
    """A trial in its last stretch, in the hands of `worker`."""
    grant = talk.take(service, worker)
    talk.say(service, grant, talk.start(), talk.step(0.95))
    return grant


def draw(service: Service) -> int:
    """Draw what is wanted, as the service's thread does; how many that was."""
    count = 0
    while ahead.draw(service, talk.study_row(service).id):
        count += 1
    return count


def hints(service: Service) -> int:
    return service.ending.qsize()


def finish(service: Service, grant: Grant, bpb: float = 3.0) -> None:
    talk.say(service, grant, talk.evaluation(1.0, bpb), talk.outcome(bpb), talk.end(), first=2)


@pytest.mark.usefixtures("study")
def test_the_next_trial_is_drawn_in_the_last_stretch_and_handed_out_as_drawn(service: Service) -> None:
    grant = talk.take(service)
    talk.say(service, grant, talk.start(), talk.step(0.1))
    assert (hints(service), draw(service)) == (0, 0), "too early"
    talk.say(service, grant, talk.step(0.95), first=2)
    talk.say(service, grant, talk.step(1.0), first=3)
    assert hints(service) == 1, "once a trial"

    assert draw(service) == 1
    assert talk.states(service) == ["RUNNING", "RUNNING"]
    drawn = talk.trials(service)[1].params
    assert drawn.keys() == talk.SPEC["space"].keys()
    talk.say(service, grant, talk.evaluation(1.0, 3.0), talk.outcome(3.0), talk.end(), first=4)
    following = talk.take(service)
    assert (following.number, following.config["optim"]["matrix_lr"]) == (1, drawn["optim.matrix_lr"])
    assert talk.states(service) == ["COMPLETE", "RUNNING"], "nothing else was asked of the sampler"


@pytest.mark.usefixtures("study")
def test_a_stop_order_is_an_end_that_comes_soon(service: Service) -> None:
    first, second = talk.take(service, "w1"), talk.take(service, "w2")
    talk.say(service, first, talk.evaluation(0.3, 3.0) | {"seconds": 90.0})
    assert talk.say(service, second, talk.evaluation(0.3, 3.1) | {"seconds": 90.0}).command == "stop"
    assert (hints(service), draw(service)) == (1, 1)
    control.stop_trial(service, "tiny", 0)
    assert (hints(service), draw(service)) == (2, 1)


@pytest.mark.usefixtures("study")
def test_one_is_drawn_for_each_worker_that_will_ask_and_none_beyond_the_target(service: Service) -> None:
    near(service, "w1"), near(service, "w2")
    assert draw(service) == 2
    assert draw(service) == 0
    near(service, "w3")
    near(service, "w4")
    assert draw(service) == 0, "four trials are wanted"
    talk.join(service, "late")
    answer = talk.ask(service, "late")
    assert isinstance(answer, NoWork)
    assert answer.reason == "wait"


@pytest.mark.usefixtures("study")
def test_two_services_draw_what_one_would(service: Service, opener: Opener) -> None:
    other = opener()
    near(service, "a"), near(other, "b")
    assert (draw(service), draw(other)) == (2, 0)
    grants = [talk.take(other, "c"), talk.take(service, "d")]
    assert [grant.number for grant in grants] == [2, 3]
    assert talk.states(other) == ["RUNNING"] * 4


@pytest.mark.parametrize("verb", ["pause", "stop"])
@pytest.mark.usefixtures("study")
def test_nothing_is_drawn_for_a_study_that_does_not_run(service: Service, verb: Any) -> None:
    near(service)
    control.set_state(service, "tiny", verb)
    assert draw(service) == 0


@pytest.mark.usefixtures("study")
def test_queued_trials_and_promotions_are_ready_without_a_draw(service: Service) -> None:
    finish(service, near(service))
    near(service)
    promote.promote(service, "tiny", PromoteRequest())
    assert draw(service) == 0, "the promotion goes first"
    promote.stop_promotion(service, "tiny", 0)
    control.enqueue(service, "tiny", Enqueue(params=VALUES))
    assert draw(service) == 0
    assert talk.states(service) == ["COMPLETE", "RUNNING", "WAITING"], "the queue is as the user left it"


@pytest.mark.usefixtures("study")
def test_a_drawn_trial_is_shown_as_one_to_come(service: Service) -> None:
    near(service)
    results = Results(service.engine)
    before, version = results.study("tiny"), results.version("tiny")
    assert draw(service) == 1

    after = results.study("tiny")
    assert after.counts == before.counts
    assert (after.counts.running, after.counts.waiting, after.finished) == (1, 3, False)
    assert [trial.number for trial in results.trials("tiny")] == [0]
    assert results.version("tiny") == version, "no page is drawn anew"


@pytest.mark.usefixtures("study")
def test_queued_values_go_before_a_drawn_trial_and_take_its_place(service: Service) -> None:
    grants = [near(service, f"w{place}") for place in range(3)]
    assert draw(service) == 1
    control.enqueue(service, "tiny", Enqueue(params=VALUES))
    assert talk.states(service) == ["RUNNING"] * 4 + ["WAITING"]

    queued = talk.take(service, "w4")
    assert queued.config["optim"]["matrix_lr"] == VALUES["optim.matrix_lr"]
    assert talk.states(service) == ["RUNNING"] * 3 + ["FAIL", "RUNNING"], "the target leaves no room for both"
    for grant in (*grants, queued):
        finish(service, grant)
    answer = talk.ask(service, "w4")
    assert isinstance(answer, NoWork)
    assert answer.reason == "complete"
    assert Results(service.engine).study("tiny").finished


@pytest.mark.usefixtures("study")
def test_a_repeat_goes_before_a_drawn_trial(service: Service) -> None:
    failing = near(service)
    assert draw(service) == 1
    talk.say(service, failing, talk.failure("died"), first=2)
    again = talk.take(service)
    assert (again.attempt, again.config) == (2, failing.config)
    assert talk.take(service, "w2").number == 1, "then the one that was drawn"


@pytest.mark.parametrize("by", ["the change", "the clockwork"])
@pytest.mark.usefixtures("study")
def test_a_lowered_target_leaves_nothing_behind(service: Service, by: str) -> None:
    grant = near(service)
    assert draw(service) == 1
    if by == "the change":
        control.create_study(service, {**talk.SPEC, "trials": 1})
    else:
        with service.write() as session:  # another version of the service, or a kill between two writes
            row = session.merge(talk.study_row(service))
            row.spec = {**row.spec, "trials": 1}
        reaper.sweep(service)
    assert talk.states(service) == ["RUNNING", "FAIL"]
    finish(service, grant)
    assert Results(service.engine).study("tiny").finished
    assert "it is complete" in control.create_study(service, {**talk.SPEC, "trials": 1}).message

    control.create_study(service, talk.SPEC)
    assert talk.take(service).number == 2


@pytest.mark.usefixtures("study")
def test_a_drawn_trial_waits_out_a_pause_and_ends_with_a_stop(service: Service) -> None:
    grant = near(service)
    assert draw(service) == 1
    control.set_state(service, "tiny", "pause")
    finish(service, grant)
    reaper.sweep(service)
    control.set_state(service, "tiny", "resume")
    grant = talk.take(service)
    assert grant.number == 1

    talk.say(service, grant, talk.start(), talk.step(0.95))
    assert draw(service) == 1
    control.set_state(service, "tiny", "stop")
    assert talk.states(service) == ["COMPLETE", "RUNNING", "FAIL"]


@pytest.mark.parametrize(
    ("progress", "seconds", "stop", "expected"),
    [
        (0.0, 0.0, "", False),
        (0.98, 294.0, "", False),  # six seconds to go
        (0.99, 297.0, "", True),
        (0.85, 18.7, "", False),  # of 22 seconds
        (0.91, 20.0, "", True),
        (0.3, 0.6, "", True),  # of two seconds: a delivery comes every half
        (1.0, 300.0, "", True),
        (0.1, 30.0, "pruned", True),
    ],
)
def test_when_a_run_nears_its_end(progress: float, seconds: float, stop: str, expected: bool) -> None:
    run = RunRow(progress=progress, seconds=seconds, stop_requested=stop)
    assert endings.nears_end(run) is expected


@pytest.mark.usefixtures("study")
def test_a_running_service_draws_by_itself(service: Service, settings: Settings, server: str) -> None:
    with Client(server) as client:
        client.hello(Hello(**talk.HELLO))
        grant = client.lease("w1", LeaseRequest())
        assert isinstance(grant, Grant)
        client.deliver(grant.lease, talk.delivery(talk.start(), talk.step(0.95)))
        until(lambda: len(talk.trials(service)) == 2, "a trial to be drawn")
        client.deliver(grant.lease, Delivery())
        client.deliver(grant.lease, talk.delivery(talk.evaluation(1.0, 3.0), talk.outcome(3.0), talk.end(), first=2))
        following = client.lease("w1", LeaseRequest())
    assert isinstance(following, Grant)
    assert following.number == 1
    with service.read() as session:
        assert session.scalars(select(RunRow.number).order_by(RunRow.id)).all() == [0, 1]
    assert len(talk.trials(service)) == 2
