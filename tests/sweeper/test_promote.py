"""Plans of full runs, and the runs: handed out first, resumed after a loss, stopped on demand."""

from __future__ import annotations

import math
from typing import Any

import pytest
from sqlalchemy import select

from sweeper import control, endings, promote, reaper
from sweeper.errors import SweeperError
from sweeper.protocol import NoWork, PromoteRequest, PromotionPlan
from sweeper.service import Conflict, Service, Unknown
from sweeper.tables import PromotionRow, RunRow
from tests.sweeper import talk
from tests.sweeper.conftest import Clock
from trainer.config import TrainConfig

# One kind of database will do here; test_leases.py has a promotion on both.
pytestmark = pytest.mark.parametrize("storage_url", ["sqlite"], indirect=True)


@pytest.fixture
def swept(service: Service, study: object) -> Service:
    """A study with a complete trial 0 of 2.5, a better trial 1 of 2.4, a diverged 2 and a running 3."""
    for bpb in (2.5, 2.4):
        talk.say(service, talk.take(service), *talk.whole(bpb))
    talk.say(service, talk.take(service), talk.evaluation(0.3, 2.0), talk.end("diverged"))
    talk.take(service, "busy")
    return service


def plan(service: Service, **request: Any) -> PromotionPlan:
    return promote.promote(service, "tiny", PromoteRequest(**request))


def promotion(service: Service, number: int = 0) -> PromotionRow:
    with service.read() as session:
        return session.scalars(select(PromotionRow).where(PromotionRow.number == number)).one()


def test_the_best_complete_trial_is_planned_in_numbers(swept: Service) -> None:
    made = plan(swept, plan_only=True)

    assert (made.trial, made.number, made.trial_val_bpb, made.trial_tokens) == (1, None, 2.4, 10_240)
    assert (made.tokens, made.steps) == (204_800, 200), "20x, as the study says"
    assert made.tokens_per_second == pytest.approx(5120)
    assert made.seconds == pytest.approx(40)
    config = TrainConfig.from_dict(made.config)
    assert (config.budget.tokens, config.budget.seconds, config.budget.steps) == (204_800, None, None)
    assert config.eval.fractions == tuple(round(0.05 * share, 2) for share in range(1, 20))
    assert config.optim.matrix_lr == made.params["optim.matrix_lr"]
    assert "copied" in made.notes[0]
    assert "20.0 times as long" in made.notes[1]
    with swept.read() as session:
        assert session.scalars(select(PromotionRow)).all() == [], "a plan stores nothing"


@pytest.mark.parametrize(
    ("tokens", "count"),
    [("3B", 3_000_000_000), ("500M", 500_000_000), ("1.5M", 1_500_000), ("2x", 20_480), ("0.5x", 5_120)],
)
def test_tokens_are_counted_as_they_are_written(swept: Service, tokens: str, count: int) -> None:
    made = plan(swept, trial=0, tokens=tokens, plan_only=True)
    assert (made.trial, made.tokens, made.steps) == (0, count, math.ceil(count / 1024))


@pytest.mark.parametrize(
    ("tokens", "problem"),
    [
        ("lots", "must look like 3B, 500M or 20x"),
        ("", "must look like"),
        ("-3B", "must look like"),
        ("0", "must look like"),
        ("3T", "must look like"),
        ("999999999999B", "a run takes from"),
        ("9" * 400, "a run takes from|must look like|too large|infinity"),
        ("100", "less than one step of 1,024"),
    ],
)
def test_impossible_tokens_are_refused_in_words(swept: Service, tokens: str, problem: str) -> None:
    with pytest.raises(SweeperError, match=problem):
        plan(swept, tokens=tokens)


def test_only_complete_trials_are_promoted(swept: Service) -> None:
    with pytest.raises(Conflict, match=r"trial 2 of study tiny is pruned; only complete trials have a score.*0, 1"):
        plan(swept, trial=2)
    with pytest.raises(Conflict, match="is running"):
        plan(swept, trial=3)
    with pytest.raises(Unknown, match="no trial 99"):
        plan(swept, trial=99)
    with pytest.raises(Unknown, match="no study 'other' here; known are: tiny"):
        promote.promote(swept, "other", PromoteRequest())


def test_a_study_without_scores_has_nothing_to_promote(service: Service, study: object) -> None:
    with pytest.raises(Conflict, match="no complete trial yet"):
        plan(service)


def test_a_plan_names_the_promotions_that_run_before_it(swept: Service) -> None:
    assert not any("waiting" in note for note in plan(swept, tokens="2x").notes)
    plan(swept, trial=0)

    first, second = plan(swept, plan_only=True).notes[-2:]
    assert first.startswith("Promotion 0 of 20,480 tokens is still waiting, and runs before this one.")
    assert first.endswith("sweeper stop --study tiny --promotion 0")
    assert second.startswith("Promotion 1 of 204,800 tokens")
    promote.stop_promotion(swept, "tiny", 0)
    promote.stop_promotion(swept, "tiny", 1)
    assert not any("waiting" in note for note in plan(swept, plan_only=True).notes)


def test_a_promotion_goes_before_trials_and_names_its_checkpoint(swept: Service) -> None:
    made = plan(swept, tokens="2x")
    assert made.number == 0
    assert plan(swept).number == 1
    control.set_state(swept, "tiny", "stop")  # of trials; the promotion runs all the same

    talk.join(swept, "w1")
    assert isinstance(talk.ask(swept, kind="trial"), NoWork)
    grant = talk.take(swept)
    assert (grant.kind, grant.number, grant.attempt) == ("promotion", 0, 1)
    assert grant.checkpoint == "promotions/tiny-0"
    assert grant.config["budget"]["tokens"] == 20_480
    assert promotion(swept).state == "running"
    talk.say(swept, grant, *talk.whole(2.1))

    row = promotion(swept)
    assert row.state == "complete"
    assert row.ended_at is not None
    assert talk.states(swept) == ["COMPLETE", "COMPLETE", "PRUNED", "RUNNING"], "Optuna hears nothing of it"
    assert talk.take(swept, kind="promotion").number == 1


def test_workers_of_promotions_alone_leave_when_there_is_none(swept: Service) -> None:
    talk.join(swept, "w1")
    answer = talk.ask(swept, study="tiny", kind="promotion")
    assert isinstance(answer, NoWork)
    assert answer.reason == "complete"
    plan(swept)
    grant = talk.take(swept, study="tiny", kind="promotion")
    talk.join(swept, "w2")
    waiting = talk.ask(swept, "w2", study="tiny", kind="promotion")
    assert isinstance(waiting, NoWork)
    assert waiting.reason == "wait", "the other worker may yet be lost"
    talk.say(swept, grant, *talk.whole(2.1))
    done = talk.ask(swept, "w2", study="tiny", kind="promotion")
    assert isinstance(done, NoWork)
    assert done.reason == "complete"


def test_a_lost_promotion_is_resumed_under_the_same_checkpoint(swept: Service, clock: Clock) -> None:
    plan(swept)
    first = talk.take(swept)
    talk.say(swept, first, talk.start(), talk.step(0.4))
    clock.advance(100)
    reaper.sweep(swept)
    assert promotion(swept).state == "waiting"
    again = talk.take(swept, "w2")

    assert (again.number, again.attempt, again.checkpoint) == (0, 2, first.checkpoint)
    assert again.config == first.config
    talk.say(swept, again, *talk.whole(2.1))
    assert promotion(swept).state == "complete"
    with swept.read() as session:
        kinds = session.scalars(select(RunRow.state).where(RunRow.kind == "promotion").order_by(RunRow.id))
        assert list(kinds) == ["failed", "complete"]


@pytest.mark.parametrize(
    ("said", "state"),
    [
        (talk.end("diverged", "loss is nan"), "diverged"),
        (talk.end("stopped"), "waiting"),  # by a signal: it saved a checkpoint, and goes on elsewhere
        (talk.failure("died"), "waiting"),
        (talk.failure("out_of_memory"), "failed"),
    ],
)
def test_how_else_promotions_end(swept: Service, said: dict[str, Any], state: str) -> None:
    plan(swept)
    talk.say(swept, talk.take(swept), talk.start(), said)
    assert promotion(swept).state == state


def test_promotions_that_keep_failing_are_given_up(swept: Service) -> None:
    plan(swept)
    for _ in range(2):  # retries = 1
        assert promotion(swept).state == "waiting"
        talk.say(swept, talk.take(swept), talk.failure("died"))
    assert promotion(swept).state == "failed"

    plan(swept)
    for _ in range(endings.MOST_LOSSES + 1):
        assert promotion(swept, 1).state == "waiting"
        talk.take(swept)
        talk.leave(swept, "w1")
    assert promotion(swept, 1).state == "failed"


def test_a_promotion_that_came_further_before_it_failed_again_is_not_given_up(swept: Service) -> None:
    plan(swept)
    for share in (0.1, 0.3, 0.5, 0.7):
        talk.say(swept, talk.take(swept), talk.start(), talk.step(share), talk.failure("died"))
        assert promotion(swept).state == "waiting"
    talk.say(swept, talk.take(swept), talk.start(), talk.step(0.7), talk.failure("died"))
    assert promotion(swept).state == "failed"


def test_promotions_are_stopped_waiting_or_running(swept: Service) -> None:
    plan(swept)
    assert "had not started" in promote.stop_promotion(swept, "tiny", 0).message
    assert promotion(swept).state == "stopped"
    with pytest.raises(Conflict, match="has ended: it is stopped"):
        promote.stop_promotion(swept, "tiny", 0)
    with pytest.raises(Unknown, match="no promotion 7"):
        promote.stop_promotion(swept, "tiny", 7)

    plan(swept)
    grant = talk.take(swept, kind="promotion")
    assert "its checkpoint stays" in promote.stop_promotion(swept, "tiny", 1).message
    assert talk.say(swept, grant).command == "stop"
    talk.say(swept, grant, talk.end("stopped"))
    assert promotion(swept, 1).state == "stopped"
