"""Promotions by a plan of phases: what is planned, what a worker is given, what is kept of what it says."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from sweeper import control, promote
from sweeper.errors import SweeperError
from sweeper.protocol import PromoteRequest, PromotionPlan
from sweeper.service import Service
from sweeper.tables import MessageRow, OutcomeRow, PromotionRow
from tests.sweeper import talk
from trainer import events
from trainer.config import TrainConfig

pytestmark = pytest.mark.parametrize("storage_url", ["sqlite"], indirect=True)

PLAN: dict[str, Any] = {
    "name": "full",
    "study": "tiny",
    "phases": [
        {"name": "first", "tokens": "100K"},
        {"name": "chat", "kind": "instruct", "tokens": "20K", "lr": 0.1, "data": "/chats", "windows": "documents"},
    ],
    "values": {"optim.matrix_lr": 0.05, "model.num_layers": 2},
    "data": {"name": "/much", "tokenizer": "gpt2"},
    "base": {"model": {"vocab_size": 50_304}},
    "success": {"tokens": 100_000, "hours": 2.0},
}


def planned(service: Service, **changes: Any) -> Service:
    control.create_study(service, talk.SPEC | {"plan": PLAN | changes})
    return service


def plan(service: Service, **request: Any) -> PromotionPlan:
    return promote.promote(service, "tiny", PromoteRequest(**request))


def test_the_best_trial_is_promoted_by_the_studys_plan(service: Service) -> None:
    planned(service)
    talk.say(service, talk.take(service), *talk.whole(2.4))
    made = plan(service)
    config = TrainConfig.from_dict(made.config)
    assert (made.trial, made.name, made.tokens, made.steps) == (0, "full", 120_000, 118)
    assert [phase.name for phase in config.plan.phases] == ["first", "chat"]
    assert config.optim.matrix_lr == made.params["optim.matrix_lr"]
    assert made.success is not None and made.success.hours == 2.0
    assert any("2 phases of full" in note for note in made.notes)

    grant = talk.take(service, kind="promotion")
    assert (grant.data.name, grant.data.tokenizer) == ("/much", "gpt2"), "a plan may name data of its own"
    assert grant.config["plan"]["phases"][1]["data"] == "/chats"


def test_tokens_that_are_asked_for_leave_the_plan_aside(service: Service) -> None:
    planned(service)
    talk.say(service, talk.take(service), *talk.whole(2.4))
    made = plan(service, tokens="20x", plan_only=True)
    assert (made.name, made.success, made.tokens) == ("", None, 204_800)
    assert not TrainConfig.from_dict(made.config).plan.phases


def test_a_plan_runs_by_its_own_values_without_a_trial(service: Service) -> None:
    planned(service)
    made = plan(service, by_hand=True)
    config = TrainConfig.from_dict(made.config)
    assert (made.trial, made.trial_val_bpb, made.tokens_per_second, made.seconds) == (None, None, None, None)
    assert (config.optim.matrix_lr, config.optim.scalar_lr, config.model.num_layers) == (0.05, 0.05, 2)
    assert (config.model.vocab_size, config.budget.tokens) == (50_304, 120_000)
    with service.read() as session:
        assert session.scalars(select(PromotionRow)).one().trial_number is None
    grant = talk.take(service, kind="promotion")
    said = [
        talk.start(),
        events.to_dict(events.Phase(name="first", index=0, step=0, tokens=0, seconds=0.0)),
        events.to_dict(events.Sample(step=1, tokens=9, prompt_ids=[1], ids=[2], prompt="a", text="b")),
        {**talk.outcome(2.1), "targets": 119_000},
        talk.end(),
    ]
    talk.say(service, grant, *said)
    with service.read() as session:
        assert session.scalars(select(PromotionRow)).one().state == "complete"
        assert session.scalars(select(OutcomeRow)).one().targets == 119_000
        kinds = session.scalars(select(MessageRow.kind).order_by(MessageRow.seq)).all()
    assert kinds == ["start", "phase", "sample", "end"]


def test_values_by_hand_need_every_axis(service: Service) -> None:
    planned(service, values={})
    with pytest.raises(SweeperError, match=r"no plan with a value for each of its axes.*optim.matrix_lr"):
        plan(service, by_hand=True)


def test_a_changed_plan_is_taken_up_and_told_by_path(service: Service) -> None:
    planned(service)
    phases = [PLAN["phases"][0] | {"tokens": "200K"}, PLAN["phases"][1]]
    done = control.create_study(service, talk.SPEC | {"plan": PLAN | {"phases": phases}})
    assert "plan.phases.0.tokens 100K → 200K" in done.message.replace(":", "")
    assert plan(service, by_hand=True, plan_only=True).tokens == 220_000


@pytest.mark.parametrize(("base", "expected"), [({}, 0), ({"micro_batch_tokens": 512}, 512)])
def test_a_full_run_takes_the_largest_micro_batch_unless_the_study_names_one(
    service: Service, base: dict[str, int], expected: int
) -> None:
    batches = {"data.batch_tokens": {"choice": [1024, 2048]}}
    changes = {
        "profile": "gpu",
        "space": talk.SPEC["space"] | batches,
        "base": {"data": {"seq_len": 512} | base},
    }
    control.create_study(service, talk.SPEC | changes)
    grant = talk.take(service)
    assert grant.config["data"]["micro_batch_tokens"] == (expected or 1024)
    talk.say(service, grant, *talk.whole(2.4))

    assert plan(service, tokens="20x", plan_only=True).config["data"]["micro_batch_tokens"] == expected
