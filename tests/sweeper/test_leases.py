"""Hand-out, retries by reason, expiry, goodbyes."""

from __future__ import annotations

from typing import Any

import pytest
from optuna.trial import TrialState
from sqlalchemy import select

from sweeper import control, endings, leases, promote, reaper
from sweeper.protocol import Enqueue, Grant, NoWork, PromoteRequest
from sweeper.service import Service, Unknown
from sweeper.tables import (
    EventRow,
    LeaseRow,
    PromotionRow,
    WorkerRow,
)
from tests.sweeper import talk
from tests.sweeper.conftest import Clock

pytestmark = pytest.mark.usefixtures("study")


def verbs(service: Service) -> list[str]:
    with service.read() as session:
        return list(session.scalars(select(EventRow.verb).order_by(EventRow.id)))


def test_a_grant_holds_all_that_a_run_needs(service: Service) -> None:
    grant = talk.take(service)

    assert (grant.study, grant.kind, grant.number, grant.attempt) == ("tiny", "trial", 0, 1)
    assert grant.config["budget"]["tokens"] == 10_240
    assert grant.config["optim"]["scalar_lr"] == grant.config["optim"]["matrix_lr"]
    assert grant.data.tokenizer == "sweeper1024"
    assert grant.checkpoint == ""
    assert [run.state for run in talk.runs(service)] == ["running"]


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
    assert {run.state for run in talk.runs(service)} == {"complete"}


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
    assert talk.runs(service)[0].reason == "died: signal 9"


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
    assert talk.study_row(service).state == "running"


def test_five_failures_in_a_row_pause_the_study(service: Service) -> None:
    def fail(times: int) -> str:
        for _ in range(times):
            talk.say(service, talk.take(service), talk.failure("config", "no such thing"))
        return talk.study_row(service).state

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

    assert [run.state for run in talk.runs(service)] == ["failed", "running"]
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

    assert talk.runs(service)[0].reason == "interrupted: worker w1 said goodbye (interrupted)"
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


def test_leases_end_with_their_runs(service: Service) -> None:
    talk.say(service, talk.take(service), *talk.whole(3.0))
    with service.read() as session:
        lease = session.scalars(select(LeaseRow)).one()
        worker = session.get_one(WorkerRow, "w1")
    assert lease.ended_at is not None
    assert lease.end_reason == endings.FINISHED
    assert worker.state == "idle"
    assert service.settings.lease_seconds > leases.LONGEST_HEARTBEAT_SECONDS
