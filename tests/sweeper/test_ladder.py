"""Outcomes at smaller budgets: taken in, kept apart from the one that judges, and handed out."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from sweeper import study
from sweeper.commands import forecasting
from sweeper.errors import SweeperError
from sweeper.plan_file import Plan
from sweeper.promote import promote
from sweeper.protocol import PromoteRequest
from sweeper.results import Results
from sweeper.service import Service
from sweeper.tables import OutcomeRow
from tests.sweeper import talk
from tests.sweeper.test_study import HEAD, RATE, load
from trainer import events
from trainer.config import TrainConfig

__all__ = ["load"]


def rung(budget: float, bpb: float, tokens: int, step: int = 5) -> dict[str, Any]:
    return events.to_dict(
        events.Outcome(
            step=step,
            tokens=tokens,
            seconds=budget,
            val_loss=2 * bpb,
            val_bpb=bpb,
            val_tokens=100,
            val_bpb_stderr=0.01,
            budget=budget,
            branch_seconds=0.4 * budget,
        )
    )


@pytest.mark.usefixtures("study")
def test_an_outcome_of_the_ladder_moves_and_judges_nothing(service: Service) -> None:
    grant = talk.take(service)
    talk.say(service, grant, talk.start(), talk.step(0.2), talk.evaluation(0.2, 3.5), rung(0.5, 2.0, 4096))
    (run,) = talk.runs(service)
    assert (run.step, run.tokens, run.seconds, run.progress, run.val_bpb) == (2, 2048, 0.4, 0.2, 3.5)
    (trial,) = Results(service.engine).trials("tiny")
    assert (trial.state, trial.final_val_bpb, trial.score) == ("running", None, None)

    talk.say(service, grant, rung(1.0, 1.5, 20_480), talk.evaluation(1.0, 2.9), talk.outcome(2.8), talk.end(), first=4)
    (trial,) = Results(service.engine).trials("tiny")
    assert (trial.state, trial.score, trial.final_val_bpb) == ("complete", 2.8, 2.8), "though a branch had more tokens"
    assert talk.trials(service)[0].value == 2.8
    detail = Results(service.engine).run("tiny", "trial", 0)
    assert [(o.budget, o.tokens, o.seconds, o.val_bpb, o.stderr, o.branch_seconds) for o in detail.outcomes] == [
        (0.5, 4096, 0.5, 2.0, 0.01, 0.2),
        (1.0, 20_480, 1.0, 1.5, 0.01, 0.4),
        (None, talk.TOKENS, 2.0, 2.8, None, 0.0),
    ]
    assert {score.name: score.val_bpb for score in detail.scores} == {"streamed": 2.9, "final": 2.8}
    plan = promote(service, "tiny", PromoteRequest(trial=0, plan_only=True))
    assert (plan.trial_tokens, plan.trial_val_bpb) == (talk.TOKENS, 2.8)


@pytest.mark.usefixtures("study")
def test_a_run_with_outcomes_of_the_ladder_alone_is_not_complete(service: Service) -> None:
    talk.say(service, talk.take(service), talk.start(), rung(0.5, 2.0, 4096), talk.end())
    (run,) = talk.runs(service)
    assert (run.state, run.score) == ("failed", None)
    assert "without an outcome" in run.reason


@pytest.mark.usefixtures("study")
def test_where_budgets_come_to_the_same_tokens_the_full_one_stays(service: Service) -> None:
    """A step that takes longer than what lies between two budgets in seconds."""
    said = [talk.start(), rung(1.0, 2.0, talk.TOKENS), talk.outcome(2.8), talk.end()]
    grant = talk.take(service)
    talk.say(service, grant, *said)
    talk.say(service, grant, *said)
    with service.read() as session:
        assert session.execute(select(OutcomeRow.budget, OutcomeRow.val_bpb)).all() == [(None, 2.8)]
    assert talk.runs(service)[0].score == 2.8


def test_a_ladder_reaches_every_config_and_keeps_other_studies_comparable(load) -> None:
    plain, stepped = load(HEAD + RATE), load(HEAD + "ladder = [6, 18]" + RATE)
    config = TrainConfig.from_dict(stepped.config({"optim.matrix_lr": 0.02}))
    assert [budget.seconds for budget in config.rungs] == [6.0, 18.0]
    assert TrainConfig.from_dict(plain.config({"optim.matrix_lr": 0.02})).rungs == ()
    assert study.incompatibilities(plain, stepped) == ["budget.ladder: (absent) → [6.0, 18.0]"]
    assert "budget.ladder" not in plain._comparable(), "as stored studies of earlier versions have it"
    assert study.StudySpec.model_validate_json(stepped.model_dump_json()) == stepped


def test_a_ladder_goes_with_the_length_that_it_belongs_to(load) -> None:
    text = HEAD + "ladder = [6, 18]" + RATE
    assert load(text, "cpu").budget.ladder == (6.0, 18.0)
    shorter = text + "[cpu.budget]\nseconds = 5\n"
    assert load(shorter, "cpu").budget.ladder == () and load(shorter, "gpu").budget.ladder == (6.0, 18.0)
    assert load(shorter + "ladder = [1]", "cpu").budget.ladder == (1.0,)


def test_a_forecast_says_that_branches_are_not_in_it(load) -> None:
    (plain,), (stepped,) = (forecasting.lines(load(HEAD + more + RATE), 2, 1, {}) for more in ("", "ladder = [6]"))
    assert stepped == f"{plain}; the branches of the ladder come on top"


def test_a_full_run_has_no_ladder(load) -> None:
    spec = load(HEAD + "ladder = [6, 18]" + RATE)
    plan = Plan.model_validate({"study": spec.name, "phases": [{"name": "all", "tokens": "1M"}]})
    assert TrainConfig.from_dict(plan.lay_over(spec.config({"optim.matrix_lr": 0.02}))).rungs == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HEAD + "ladder = [18, 6]" + RATE, r"budget.ladder: a ladder holds positive budgets, ascending, got \[18"),
        (HEAD + "ladder = [0, 6]" + RATE, "budget.ladder: .*positive"),
        (HEAD + "ladder = [6, 60]" + RATE, r"budget: ladder holds budgets below seconds = 60, got \[6.0, 60.0\]"),
        (HEAD + "ladder = 6" + RATE, "budget.ladder: .*got 6"),
        (HEAD.replace("seconds = 60", "steps = 60\nladder = [2.5]") + RATE, "whole numbers where the budget is in st"),
        (HEAD + RATE + "[base.ladder]\nbudgets = [6]", "ladder.budgets is set by budget.ladder, not here"),
        (
            HEAD + "ladder = [6]" + RATE.replace(', tie = { "optim.embed_lr" = 1.25 }', "")
            + '[trainer]\ncommand = "python train.py"',
            r"budget.ladder is \[6.0\], but this study trains by a \[trainer\] command",
        ),
    ],
)  # fmt: skip
def test_a_ladder_that_cannot_be_is_refused(load, text, said) -> None:
    with pytest.raises(SweeperError, match=rf"(?s)trial-run\.toml.*{said}"):
        load(text)
