"""What deliveries do: stored once, figures followed, orders given, runs ended."""

from __future__ import annotations

from typing import Any

import pytest
from optuna.trial import TrialState
from sqlalchemy import select

from sweeper import control, reaper
from sweeper.results import Results
from sweeper.service import Conflict, Service, Unknown
from sweeper.tables import (
    MessageRow,
    OutcomeRow,
    PointRow,
)
from tests.sweeper import talk
from tests.sweeper.conftest import Clock

pytestmark = pytest.mark.usefixtures("study")


def test_delivered_twice_is_stored_once(service: Service) -> None:
    grant = talk.take(service)
    said = [talk.start(), talk.step(0.1), talk.evaluation(0.3, 3.0), {"event": "log", "text": "hello"}]
    first = talk.say(service, grant, *said)
    assert talk.say(service, grant, *said) == first
    rest = [talk.evaluation(1.0, 2.9), talk.outcome(2.9), talk.end()]
    last = talk.say(service, grant, *rest, first=4)

    assert talk.say(service, grant, *rest, first=4) == last, "the lease has ended, but this was stored under it"
    assert (talk.count(service, PointRow), talk.count(service, MessageRow), talk.count(service, OutcomeRow)) == (
        3,
        3,
        1,
    )
    assert talk.states(service) == ["COMPLETE"]


def test_an_ended_lease_takes_nothing_new(service: Service, clock: Clock) -> None:
    grant = talk.take(service)
    talk.say(service, grant, talk.start())
    clock.advance(61)
    reaper.sweep(service)

    with pytest.raises(Conflict, match="worker_lost: no word from worker w1 for 61 s"):
        talk.say(service, grant, talk.step(0.1), first=1)
    with pytest.raises(Conflict):
        talk.say(service, grant)
    with pytest.raises(Unknown):
        talk.say(service, grant.model_copy(update={"lease": 999}))
    assert talk.count(service, PointRow) == 0


def test_events_after_a_gap_are_stored_and_so_is_what_arrives_late(service: Service) -> None:
    grant = talk.take(service)
    assert talk.say(service, grant, talk.step(0.5, 3.5), first=5).through == 5
    assert talk.say(service, grant, talk.start(), talk.step(0.1, 4.5)).through == 5

    assert talk.count(service, PointRow) == 2
    (run,) = talk.runs(service)
    assert (run.step, run.train_loss, run.device_name) == (5, 3.5, "test processor"), "late events do not turn back"


@pytest.mark.parametrize(
    "garbled",
    [
        {},
        {"event": "from the future", "x": 1},
        {"event": "step", "step": "ten"},
        talk.step(0.1) | {"step": 2**40},
        talk.step(0.1) | {"tokens": 10**30},
        talk.step(0.1) | {"train_loss": float("inf")},
        talk.step(0.1) | {"train_loss": None},
        talk.start() | {"versions": [1]},
        {"event": "\ud800\x00", "deep": {"nul": "\x00", "list": [float("nan")]}},
    ],
)
def test_what_is_no_event_is_kept_for_the_reader(service: Service, garbled: dict[str, Any]) -> None:
    grant = talk.take(service)
    assert talk.say(service, grant, garbled, talk.step(0.1)).through == 1

    with service.read() as session:
        kinds = session.scalars(select(MessageRow.kind)).all()
    assert kinds == ["invalid"]
    assert talk.count(service, PointRow) == 1


def test_text_that_no_database_holds_is_made_fit(service: Service) -> None:
    grant = talk.take(service)
    talk.say(service, grant, {"event": "log", "text": "a\x00b\ud800" + "x" * 200_000}, talk.failure("died", "\x00"))

    with service.read() as session:
        body = session.scalars(select(MessageRow.body).where(MessageRow.kind == "log")).one()
    assert body["text"].startswith("a\ufffdb?x")
    assert len(body["text"]) < 101_000
    assert talk.runs(service)[0].reason == "died: \ufffd"


def test_figures_of_a_run_follow_its_events(service: Service, clock: Clock) -> None:
    grant = talk.take(service)
    clock.advance(7)
    talk.say(service, grant, talk.start(), talk.step(0.2, 4.2), talk.evaluation(0.3, 3.3))

    (run,) = talk.runs(service)
    assert (run.step, run.tokens, run.progress, run.train_loss, run.val_bpb) == (3, 3072, 0.3, 4.2, 3.3)
    assert (run.device_name, run.parameters) == ("test processor", 1000)
    assert run.started_at == pytest.approx(clock(), abs=1)
    assert run.wall_seconds == pytest.approx(7, abs=0.1)


def test_a_trial_behind_its_peers_is_told_to_stop(service: Service) -> None:
    first, second = talk.take(service, "w1"), talk.take(service, "w2")
    assert talk.say(service, first, talk.start(), talk.evaluation(0.3, 3.0)).command == "continue"
    receipt = talk.say(service, second, talk.start(), talk.evaluation(0.3, 3.1))
    assert (receipt.command, receipt.reason) == ("stop", "pruned")
    talk.say(service, second, talk.end("stopped"), first=2)

    run = talk.runs(service)[1]
    assert (run.state, run.reason) == ("pruned", "behind at 30 %")
    pruned = talk.trials(service)[1]
    assert (pruned.state, pruned.value, pruned.intermediate_values) == (TrialState.PRUNED, 3.1, {30: 3.1})


def test_a_trial_that_ends_before_its_order_arrives_is_complete(service: Service) -> None:
    first, second = talk.take(service, "w1"), talk.take(service, "w2")
    talk.say(service, first, talk.evaluation(0.3, 3.0))
    talk.say(service, second, talk.evaluation(0.3, 3.1))
    talk.say(service, second, talk.outcome(3.05), talk.end(), first=1)

    assert talk.states(service) == ["RUNNING", "COMPLETE"]


@pytest.mark.parametrize(
    ("said", "state", "optuna_state"),
    [
        ([talk.end("diverged", "loss is nan at step 3")], "diverged", "PRUNED"),
        ([talk.end("complete")], "failed", "FAIL"),  # without an outcome there is no score
        ([talk.end("stopped")], "failed", "FAIL"),  # nobody had ordered it: the machine did
    ],
)
def test_how_else_runs_end(service: Service, said: list[dict[str, Any]], state: str, optuna_state: str) -> None:
    talk.say(service, talk.take(service), talk.start(), *said)

    assert talk.runs(service)[0].state == state
    assert talk.states(service)[0] == optuna_state
    assert talk.states(service)[1:] == (["WAITING"] if optuna_state == "FAIL" else [])


def test_a_stopped_trial_counts_as_pruned(service: Service) -> None:
    grant = talk.take(service)
    control.stop_trial(service, "tiny", 0)
    receipt = talk.say(service, grant)
    assert (receipt.command, receipt.reason) == ("stop", "user")
    talk.say(service, grant, talk.end("stopped"))

    assert talk.runs(service)[0].state == "stopped"
    assert talk.states(service) == ["PRUNED"]


def test_a_run_that_dies_of_its_stop_order_is_not_repeated(service: Service) -> None:
    grant = talk.take(service)
    control.set_state(service, "tiny", "stop")
    assert talk.say(service, grant).reason == "study stopped"
    talk.leave(service, "w1")

    assert talk.runs(service)[0].state == "stopped"
    assert talk.states(service) == ["PRUNED"]


def test_standard_errors_are_kept_with_points_and_outcomes_and_none_is_made_up(service: Service) -> None:
    sure, silent = talk.take(service, "w1"), talk.take(service, "w2")
    evaluation = talk.evaluation(1.0, 2.5) | {"val_bpb_stderr": 0.004}
    score = talk.outcome(2.4) | {"val_bpb_stderr": 0.002}
    start = talk.start() | {"compiled_graphs": 3, "graph_breaks": 1, "devices": 8}
    talk.say(service, sure, start, talk.step(0.5), evaluation, score, talk.end())
    talk.say(service, silent, *talk.whole(2.6))  # 0 on the wire

    results = Results(service.engine)
    assert [trial.final_val_bpb_stderr for trial in results.trials("tiny")] == [0.002, None]
    told = results.run("tiny", "trial", 0)
    assert (told.streamed_val_bpb_stderr, told.compiled_graphs, told.graph_breaks, told.devices) == (0.004, 3, 1, 8)
    assert results.run("tiny", "trial", 1).streamed_val_bpb_stderr is None
