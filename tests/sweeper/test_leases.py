"""Hand-out, retries, expiry, and what a kill -9 between two writes leaves behind."""

from __future__ import annotations

from typing import Any

import pytest
from optuna.trial import TrialState
from sqlalchemy import func, select

from sweeper import control, endings, ingest, leases, promote, reaper
from sweeper.protocol import Enqueue, Grant, NoWork, PromoteRequest
from sweeper.service import Conflict, Service, Unknown, find_study, spec_of
from sweeper.tables import (
    EventRow,
    LeaseRow,
    MessageRow,
    OutcomeRow,
    PointRow,
    PromotionRow,
    RunRow,
    StudyRow,
    WorkerRow,
)
from tests.sweeper import talk
from tests.sweeper.conftest import Clock, Opener

pytestmark = pytest.mark.usefixtures("study")


def runs(service: Service) -> list[RunRow]:
    with service.read() as session:
        return list(session.scalars(select(RunRow).order_by(RunRow.id)))


def study_row(service: Service) -> StudyRow:
    with service.read() as session:
        return find_study(session, "tiny")


def verbs(service: Service) -> list[str]:
    with service.read() as session:
        return list(session.scalars(select(EventRow.verb).order_by(EventRow.id)))


def count(service: Service, table: Any) -> int:
    with service.read() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_a_grant_holds_all_that_a_run_needs(service: Service) -> None:
    grant = talk.take(service)

    assert (grant.study, grant.kind, grant.number, grant.attempt) == ("tiny", "trial", 0, 1)
    assert grant.config["budget"]["tokens"] == 10_240
    assert grant.config["optim"]["scalar_lr"] == grant.config["optim"]["matrix_lr"]
    assert grant.data.tokenizer == "sweeper1024"
    assert grant.checkpoint == ""
    assert [run.state for run in runs(service)] == ["running"]


def test_a_study_ends_after_its_trials(service: Service) -> None:
    for number in range(4):
        grant = talk.take(service)
        assert grant.number == number
        receipt = talk.say(service, grant, *talk.whole(3.0 - number / 10))
        assert (receipt.through, receipt.command) == (4, "continue")

    answer = talk.ask(service)
    assert isinstance(answer, NoWork)
    assert answer.reason == "complete"
    assert [(trial.state, trial.value) for trial in talk.trials(service)] == [
        (TrialState.COMPLETE, 3.0 - number / 10) for number in range(4)
    ]
    assert {run.state for run in runs(service)} == {"complete"}


def test_the_last_trials_are_waited_for(service: Service) -> None:
    grants = [talk.take(service, f"w{place}") for place in range(4)]
    talk.join(service, "late")
    answer = talk.ask(service, "late")
    assert isinstance(answer, NoWork)
    assert answer.reason == "wait"
    talk.say(service, grants[0], talk.start(), talk.failure("died"))

    assert talk.take(service, "late").number == 4


@pytest.mark.parametrize(("verb", "reason"), [("pause", "paused"), ("stop", "stopped")])
def test_a_study_that_does_not_run_gives_no_work(service: Service, verb: Any, reason: str) -> None:
    control.set_state(service, "tiny", verb)
    talk.join(service, "w1")

    answer = talk.ask(service)
    assert isinstance(answer, NoWork)
    assert answer.reason == reason
    control.set_state(service, "tiny", "resume")
    assert isinstance(talk.ask(service), Grant)


def test_a_lost_grant_is_given_again(service: Service) -> None:
    first = talk.take(service)
    again = talk.ask(service)
    assert again.model_dump_json() == first.model_dump_json()

    talk.say(service, first, talk.start())
    other = talk.ask(service)
    assert isinstance(other, Grant)
    assert (other.number, other.attempt) == (1, 2), "the abandoned trial is repeated first"
    assert other.config["optim"] == first.config["optim"]


def test_delivered_twice_is_stored_once(service: Service) -> None:
    grant = talk.take(service)
    said = [talk.start(), talk.step(0.1), talk.evaluation(0.3, 3.0), {"event": "log", "text": "hello"}]
    first = talk.say(service, grant, *said)
    assert talk.say(service, grant, *said) == first
    rest = [talk.evaluation(1.0, 2.9), talk.outcome(2.9), talk.end()]
    last = talk.say(service, grant, *rest, first=4)

    assert talk.say(service, grant, *rest, first=4) == last, "the lease has ended, but this was stored under it"
    assert (count(service, PointRow), count(service, MessageRow), count(service, OutcomeRow)) == (3, 3, 1)
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
    assert count(service, PointRow) == 0


def test_events_after_a_gap_are_stored_and_so_is_what_arrives_late(service: Service) -> None:
    grant = talk.take(service)
    assert talk.say(service, grant, talk.step(0.5, 3.5), first=5).through == 5
    assert talk.say(service, grant, talk.start(), talk.step(0.1, 4.5)).through == 5

    assert count(service, PointRow) == 2
    (run,) = runs(service)
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
    assert count(service, PointRow) == 1


def test_text_that_no_database_holds_is_made_fit(service: Service) -> None:
    grant = talk.take(service)
    talk.say(service, grant, {"event": "log", "text": "a\x00b\ud800" + "x" * 200_000}, talk.failure("died", "\x00"))

    with service.read() as session:
        body = session.scalars(select(MessageRow.body).where(MessageRow.kind == "log")).one()
    assert body["text"].startswith("a\ufffdb?x")
    assert len(body["text"]) < 101_000
    assert runs(service)[0].reason == "died: \ufffd"


def test_figures_of_a_run_follow_its_events(service: Service, clock: Clock) -> None:
    grant = talk.take(service)
    clock.advance(7)
    talk.say(service, grant, talk.start(), talk.step(0.2, 4.2), talk.evaluation(0.3, 3.3))

    (run,) = runs(service)
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

    run = runs(service)[1]
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

    assert runs(service)[0].state == state
    assert talk.states(service)[0] == optuna_state
    assert talk.states(service)[1:] == (["WAITING"] if optuna_state == "FAIL" else [])


def test_a_stopped_trial_counts_as_pruned(service: Service) -> None:
    grant = talk.take(service)
    control.stop_trial(service, "tiny", 0)
    receipt = talk.say(service, grant)
    assert (receipt.command, receipt.reason) == ("stop", "user")
    talk.say(service, grant, talk.end("stopped"))

    assert runs(service)[0].state == "stopped"
    assert talk.states(service) == ["PRUNED"]


def test_a_run_that_dies_of_its_stop_order_is_not_repeated(service: Service) -> None:
    grant = talk.take(service)
    control.set_state(service, "tiny", "stop")
    assert talk.say(service, grant).reason == "study stopped"
    talk.leave(service, "w1")

    assert runs(service)[0].state == "stopped"
    assert talk.states(service) == ["PRUNED"]


def test_a_failed_trial_is_repeated_with_its_values_and_clean_rungs(service: Service) -> None:
    grant = talk.take(service)
    talk.say(service, grant, talk.start(), talk.evaluation(0.3, 3.0), talk.failure("died", "signal 9"))
    again = talk.take(service)

    assert (again.number, again.attempt, again.config) == (1, 2, grant.config)
    failed, repeat = talk.trials(service)
    assert failed.state is TrialState.FAIL
    assert repeat.params == failed.params
    assert repeat.intermediate_values == {}
    assert repeat.user_attrs == {"retry_of": 0, "attempt": 2}
    assert runs(service)[0].reason == "died: signal 9"


def test_retries_are_counted_by_reason(service: Service) -> None:
    talk.say(service, talk.take(service), talk.failure("died"))
    talk.take(service, "lost")
    talk.leave(service, "lost")  # a lost machine is not the trial's second failure
    assert talk.states(service) == ["FAIL", "FAIL", "WAITING"]
    talk.say(service, talk.take(service), talk.failure("hung"))

    assert talk.states(service) == ["FAIL"] * 3, "retries = 1"
    assert talk.take(service).attempt == 1


@pytest.mark.parametrize("reason", endings.HOPELESS)
def test_what_would_fail_again_is_not_repeated(service: Service, reason: str) -> None:
    talk.say(service, talk.take(service), talk.failure(reason))
    assert talk.states(service) == ["FAIL"]


def test_a_machine_that_is_lost_again_and_again_is_given_up(service: Service) -> None:
    for _ in range(endings.MOST_LOSSES + 1):
        talk.take(service)
        talk.leave(service, "w1")
    assert talk.states(service) == ["FAIL"] * (endings.MOST_LOSSES + 1)
    assert study_row(service).state == "running"


def test_five_failures_in_a_row_pause_the_study(service: Service) -> None:
    def fail(times: int) -> str:
        for _ in range(times):
            talk.say(service, talk.take(service), talk.failure("config", "no such thing"))
        return study_row(service).state

    assert fail(4) == "running"
    talk.take(service)
    talk.leave(service, "w1")  # neither counts nor breaks the row
    assert fail(1) == "paused"
    with service.read() as session:
        detail = session.scalars(select(EventRow.detail).where(EventRow.verb == "paused")).one()
    assert detail["reason"] == "5 runs in a row failed; the last: config: no such thing"
    assert "config: no such thing" in control.create_study(service, talk.SPEC).message

    control.set_state(service, "tiny", "resume")
    assert fail(4) == "running", "counted anew"
    talk.say(service, talk.take(service), *talk.whole(3.0))
    assert fail(1) == "running", "a success breaks the row"


def test_a_silent_worker_loses_its_trial(service: Service, clock: Clock) -> None:
    silent, alive = talk.take(service, "silent"), talk.take(service, "alive")
    clock.advance(40)
    talk.say(service, alive)
    clock.advance(30)
    reaper.sweep(service)

    assert [run.state for run in runs(service)] == ["failed", "running"]
    assert talk.states(service) == ["FAIL", "RUNNING", "WAITING"]
    assert talk.take(service, "alive 2").config == silent.config
    with service.read() as session:
        assert session.get_one(WorkerRow, "silent").state == "gone"
        assert session.get_one(WorkerRow, "alive").state == "busy"
    assert "expired" in verbs(service)


def test_a_worker_that_leaves_hands_back(service: Service) -> None:
    talk.take(service)
    assert talk.leave(service, "w1") == "goodbye, w1; handed back: trial 0"
    assert talk.leave(service, "w1") == "goodbye, w1"

    assert runs(service)[0].reason == "interrupted: worker w1 said goodbye (interrupted)"
    with pytest.raises(Unknown):
        talk.leave(service, "nobody")
    with pytest.raises(Unknown, match="say hello"):
        talk.ask(service, "nobody")


def test_queued_values_go_before_new_ones_and_past_the_target(service: Service) -> None:
    for _ in range(4):
        talk.say(service, talk.take(service), *talk.whole(3.0))
    params: dict[str, Any] = {"optim.matrix_lr": 0.02, "model.num_layers": 2}
    assert "trial 4" in control.enqueue(service, "tiny", Enqueue(params=params)).message

    grant = talk.take(service)
    assert (grant.number, grant.config["optim"]["matrix_lr"], grant.config["model"]["num_layers"]) == (4, 0.02, 2)
    talk.say(service, grant, *talk.whole(2.0))
    assert isinstance(talk.ask(service), NoWork)


# What a kill -9 leaves: each test does the first writes of a sequence, then opens the database anew.


def test_killed_between_ask_and_lease(service: Service, opener: Opener) -> None:
    row = study_row(service)
    asked = service.search(spec_of(row)).next_trial(lambda numbers: set())
    assert asked is not None

    grant = talk.take(opener())
    assert grant.number == asked.number == 0
    assert grant.config["optim"]["matrix_lr"] == asked.params["optim.matrix_lr"]
    assert talk.states(service) == ["RUNNING"]


def test_killed_in_the_middle_of_ask(service: Service, opener: Opener) -> None:
    values: dict[str, Any] = {"optim.matrix_lr": 0.02, "model.num_layers": 2}
    control.enqueue(service, "tiny", Enqueue(params=values))
    search = service.search(spec_of(study_row(service)))
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
    endings._repeat(service, service.search(spec_of(study_row(service))), run)
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
    endings.report_rungs(service, service.search(spec_of(study_row(service))), run)
    assert runs(service)[1].stop_requested == ""

    after = opener()
    reaper.recover(after)
    assert [run.stop_requested for run in runs(after)] == ["", "pruned"]


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
    service.search(spec_of(study_row(service))).next_trial(lambda numbers: set())
    control.set_state(service, "tiny", "stop")
    assert talk.states(service) == ["FAIL"]


def test_a_promotion_is_handed_out_lost_and_resumed(service: Service, clock: Clock) -> None:
    talk.say(service, talk.take(service), *talk.whole(2.5))
    promote.promote(service, "tiny", PromoteRequest())
    first = talk.take(service)
    clock.advance(61)
    reaper.sweep(service)
    again = talk.take(service, "w2", kind="promotion")

    assert (first.kind, first.attempt, again.kind, again.attempt) == ("promotion", 1, "promotion", 2)
    assert again.checkpoint == first.checkpoint == "promotions/tiny-0"
    talk.say(service, again, *talk.whole(2.4))
    with service.read() as session:
        assert session.scalars(select(PromotionRow.state)).all() == ["complete"]
    assert talk.states(service) == ["COMPLETE"]


def test_two_services_on_one_database_share_the_work(service: Service, opener: Opener) -> None:
    other = opener()
    grants = [talk.take(service, "a"), talk.take(other, "b"), talk.take(service, "c"), talk.take(other, "d")]
    assert [grant.number for grant in grants] == [0, 1, 2, 3]
    talk.join(other, "e")
    assert isinstance(talk.ask(other, "e"), NoWork)
    for grant in grants:
        talk.say(other, grant, *talk.whole(3.0))
    assert talk.states(service) == ["COMPLETE"] * 4


def test_leases_end_with_their_runs(service: Service) -> None:
    talk.say(service, talk.take(service), *talk.whole(3.0))
    with service.read() as session:
        lease = session.scalars(select(LeaseRow)).one()
        worker = session.get_one(WorkerRow, "w1")
    assert lease.ended_at is not None
    assert lease.end_reason == endings.FINISHED
    assert worker.state == "idle"
    assert service.settings.lease_seconds > leases.LONGEST_HEARTBEAT_SECONDS
