"""What trials are pruned on: raw values, cooled outcomes, forecasts; what Optuna holds, and what the reason says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sweeper import control, ingest, study
from sweeper.errors import SweeperError
from sweeper.service import Service, spec_of
from tests.sweeper import talk
from tests.sweeper.test_ladder import rung
from tests.sweeper.test_study import HEAD, RATE, load
from trainer.config import TrainConfig

__all__ = ["load"]
SHARES = (0.15, 0.225, 0.3, 0.45, 0.6, 0.8, 1.0)


def made(service: Service, on: str, **changes: Any) -> Service:
    pruner = {"type": "halving", "factor": 2, "on": on}
    control.create_study(service, talk.SPEC | {"pruner": pruner, "trials": 20} | changes)
    return service


def curve(level: float, slope: float) -> list[dict[str, Any]]:
    """A power law through `level` at 30 %: the steeper, the lower its end."""
    return [talk.evaluation(share, level * (share / 0.3) ** -slope) for share in SHARES]


def finish(service: Service, level: float, slope: float) -> None:
    said = curve(level, slope)
    end = level * (1 / 0.3) ** -slope
    talk.say(service, talk.take(service), talk.start(), *said, talk.outcome(end), talk.end())


@pytest.fixture
def foretelling(service: Service) -> Service:
    """Six finished trials whose value at 30 % says nothing of their end, and whose slope says all."""
    made(service, "forecast", pruner={"type": "none"})
    for level, slope in zip((3.0, 3.1, 2.9, 3.0, 3.05, 2.95), np.linspace(0.1, 0.35, 6), strict=True):
        finish(service, level, float(slope))
    row = talk.study_row(service)
    spec = row.spec | {"pruner": {"type": "halving", "factor": 2, "on": "forecast"}}
    with service.write() as session:
        session.merge(row).spec = spec
    return service


def said_until(service: Service, share: float, level: float, slope: float) -> tuple[Any, Any]:
    grant = talk.take(service, f"w{len(talk.runs(service))}")
    until = [event for event in curve(level, slope) if event["progress"] <= share]
    return grant, talk.say(service, grant, talk.start(), *until)


def test_a_slow_starter_goes_on_where_the_forecast_says_that_it_ends_low(foretelling: Service) -> None:
    _, receipt = said_until(foretelling, 0.3, 3.2, 0.34)
    assert receipt.command == "continue", "the worst of all at 30 %, among the best at the end"
    grant, receipt = said_until(foretelling, 0.3, 2.8, 0.11)
    assert (receipt.command, receipt.reason) == ("stop", "pruned")
    talk.say(foretelling, grant, talk.end("stopped"), first=9)

    run = talk.runs(foretelling)[-1]
    assert run.reason.startswith("behind at 30 % by the forecast of its end, 2.4")
    assert talk.trials(foretelling)[-1].intermediate_values == {30: pytest.approx(2.8)}, "Optuna holds raw values"
    assert talk.trials(foretelling)[-2].intermediate_values == {30: pytest.approx(3.2)}


def test_too_few_finished_trials_are_judged_on_raw_values_and_it_says_so(service: Service) -> None:
    made(service, "forecast")
    assert said_until(service, 0.3, 3.0, 0.1)[1].command == "continue"
    assert said_until(service, 0.3, 3.1, 0.3)[1].command == "stop"
    assert talk.runs(service)[1].reason == (
        "behind at 30 % by the raw value 3.1000, as there is no forecast: 0 finished trials to foretell from, 5 needed"
    )


def test_a_forecast_moves_with_what_has_finished(foretelling: Service) -> None:
    """The same curve, judged before and after steep ones finished: rank among them is what counts."""
    assert said_until(foretelling, 0.3, 3.0, 0.26)[1].command == "continue"
    for level in (3.0, 3.02, 2.98, 3.04, 2.96):
        finish(foretelling, level, 0.4)
    assert said_until(foretelling, 0.3, 3.0, 0.26)[1].command == "stop"


def test_a_restarted_service_judges_the_same(foretelling: Service) -> None:
    said_until(foretelling, 0.3, 2.8, 0.11)
    run = talk.runs(foretelling)[-1]
    with foretelling.write() as session:
        kept = session.merge(run)
        kept.stop_requested, kept.reason = "", ""
    row = talk.study_row(foretelling)
    with foretelling.turn(row.id):
        assert ingest.judge(foretelling, foretelling.search(spec_of(row)), talk.runs(foretelling)[-1], again=True)


def test_a_trial_is_judged_by_its_cooled_outcomes_at_the_ladders_budgets(service: Service) -> None:
    made(service, "cooled", budget={"tokens": 10_240, "ladder": [2048, 5120], "rungs": [0.3, 0.6]})
    first, second = talk.take(service, "w1"), talk.take(service, "w2")
    talk.say(service, first, talk.start(), talk.evaluation(0.3, 3.5), rung(2048, 2.5, 2048))
    receipt = talk.say(service, second, talk.start(), talk.evaluation(0.3, 3.6), rung(2048, 2.4, 2048))
    assert receipt.command == "continue", "behind on the raw value, ahead on the cooled one"
    assert [trial.intermediate_values for trial in talk.trials(service)] == [{20: 2.5}, {20: 2.4}]

    talk.say(service, second, rung(5120, 2.0, 5120), first=3)
    receipt = talk.say(service, first, talk.evaluation(0.6, 3.0), rung(5120, 2.1, 5120), first=3)
    assert (receipt.command, receipt.reason) == ("stop", "pruned")
    assert talk.runs(service)[0].reason == "behind at 50 % by the cooled outcome of 5120 tokens"


def test_raw_is_what_a_study_without_a_word_of_it_does(load) -> None:
    plain = load(HEAD + RATE)
    assert (plain.pruned_on, plain.reported_rungs) == ("raw", (0.3, 0.6))
    assert load('pruner = { type = "none" }' + HEAD + RATE).pruned_on is None


def test_forecasts_are_given_the_validations_that_a_slope_needs(load) -> None:
    plain, foretold = load(HEAD + RATE), load('pruner = { type = "halving", on = "forecast" }' + HEAD + RATE)
    shares = [TrainConfig.from_dict(s.config({"optim.matrix_lr": 0.02})).eval.fractions for s in (plain, foretold)]
    assert set(shares[1]) - set(shares[0]) == {0.15, 0.225, 0.45} - set(shares[0])
    assert study.incompatibilities(plain, foretold) == [], "the values that Optuna holds are the same"


def test_values_of_another_kind_do_not_come_into_a_study_that_has_trials(load) -> None:
    text = HEAD + "ladder = [20]" + RATE
    raw, cooled = load(text), load('pruner = { type = "median", on = "cooled" }' + text)
    assert study.incompatibilities(raw, cooled) == ["pruner.on: (absent) → cooled"]


COOLED = 'pruner = { type = "halving", on = "cooled" }' + HEAD
FORETOLD = 'pruner = { type = "halving", on = "forecast" }' + HEAD


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (COOLED + RATE, 'on is "cooled", and there are no cooled outcomes'),
        (COOLED + "ladder = [6]" + RATE + "[cpu.budget]\nseconds = 5", "cpu.*there are no cooled outcomes"),
        (COOLED + "ladder = [6, 6.1]" + RATE, "1 % apart; got 10 %, 10 %"),
        (FORETOLD + "rungs = []" + RATE, "pruning needs a rung"),
        (FORETOLD + RATE + '"schedule.warmdown" = { uniform = [0.1, 0.5] }', "schedule.warmdown differs between tri"),
        ('pruner = { type = "halving", on = "loss" }' + HEAD + RATE, "pruner.on: .*got 'loss'"),
        ('pruner = { type = "none", on = "cooled" }' + HEAD + RATE, "pruner.on: unknown key"),
    ],
)
def test_what_cannot_be_judged_is_refused(load, text, said) -> None:
    with pytest.raises(SweeperError, match=rf"(?s)trial-run\.toml.*{said}"):
        load(text)
