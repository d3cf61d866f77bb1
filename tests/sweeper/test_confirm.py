"""Confirmation runs: what the gate calls for is run, enters the laws at its own length, and closes the gate."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from sweeper import control, reaper
from sweeper.client import Client, Refused
from sweeper.confirm import confirm
from sweeper.errors import SweeperError
from sweeper.observations_backtest import backtest
from sweeper.observations_fits import Fits
from sweeper.observations_plan import data_hash
from sweeper.observations_plan import plan as transfer
from sweeper.observations_read import FitsStore
from sweeper.observations_trust import calibrations
from sweeper.promote import promote, stop_promotion
from sweeper.protocol import ConfirmationPlan, Grant, NoWork, PromoteRequest
from sweeper.results import Results
from sweeper.service import Conflict, Service
from sweeper.tables import PromotionRow, RunRow
from tests.serving import listening
from tests.sweeper import lawful, talk
from tests.sweeper.conftest import service_app

FULL = 20 * lawful.TOKENS
"""163.84 million: 20 times a trial's, where laws are trusted up to 8."""


def ask(service: Service, name: str = lawful.NAME, **request: Any) -> ConfirmationPlan:
    return confirm(service, name, PromoteRequest(**{"tokens": "20x", **request}))


def fits(service: Service) -> Fits:
    return FitsStore(service.engine, Results(service.engine)).fits(lawful.NAME)


def answer(service: Service, grant: Grant, octaves: float = 0.0) -> float:
    """Run what was granted by the law of `lawful`, its best rates moved; the score."""
    config = grant.config
    batch, rate, tokens = config["data"]["batch_tokens"], config["optim"]["matrix_lr"], config["budget"]["tokens"]
    score = lawful.loss(batch, tokens, rate * 2.0**-octaves)
    said = [talk.start(), lawful.evaluation(score, batch, tokens), lawful.outcome(score, batch, tokens)]
    talk.say(service, grant, *said, lawful.end(batch, tokens))
    return score


def run_all(service: Service, octaves: float = 0.0) -> list[float]:
    made = ask(service)
    return [answer(service, talk.take(service, kind="promotion"), octaves) for _ in made.runs]


def test_what_the_gate_calls_for_is_planned_with_its_cost(swept: Service) -> None:
    made = ask(swept, plan_only=True)
    assert (made.by, made.full_tokens, made.cost_share) == ("fitted", FULL, pytest.approx(0.375))
    assert made.because[0].startswith("20.0 times the tokens of the short run")
    rates = [run.config["optim"]["matrix_lr"] for run in made.runs]
    assert [rate / rates[1] for rate in rates] == pytest.approx([0.7, 1.0, 1.4])
    batch = made.runs[0].config["data"]["batch_tokens"]
    assert rates[1] == pytest.approx(lawful.best_rate(batch, FULL / 8), rel=0.1)
    for run, factor in zip(made.runs, (0.7, 1.0, 1.4), strict=True):
        assert run.confirms is not None and run.confirms.factor == factor and run.confirms.full_tokens == FULL
        assert run.tokens == math.ceil(FULL / 8 / batch) * batch == run.config["budget"]["tokens"]
        assert run.seconds == pytest.approx(run.tokens / 5e5, rel=0.05)
        assert not run.config["ladder"]["budgets"]
    taus = [run.config["optim"]["matrix_weight_decay"] * rate for run, rate in zip(made.runs, rates, strict=True)]
    assert taus == pytest.approx([taus[0]] * 3), "the decay keeps the timescale"
    assert talk.count(swept, PromotionRow) == 0, "a plan stores nothing"


def test_confirmation_runs_close_the_gate_and_the_law_is_taken_unasked(swept: Service) -> None:
    before, known = fits(swept), data_hash(fits(swept))
    assert promote(swept, lawful.NAME, PromoteRequest(tokens="20x", plan_only=True)).transfer.chosen == "copied"  # type: ignore[union-attr]
    scores = run_all(swept)

    after = fits(swept)
    assert data_hash(after) != known, "they are fitted"
    assert len(after.trials.runs) == len(before.trials.runs) + 3
    rows = np.flatnonzero(after.trials.runs.trial < 0)
    assert sorted(after.trials.runs.trial[rows].tolist()) == [-3, -2, -1]
    assert sorted(after.trials.runs.loss[rows].tolist()) == pytest.approx(sorted(scores))
    (cell,) = [cell for cell in after.cells if cell.confirming]
    true = lawful.best_rate(cell.batch_tokens, cell.tokens)
    assert cell.optimum.at[0].low < true < cell.optimum.at[0].high
    assert cell.optimum.at[0].value == pytest.approx(true, rel=0.05)

    made = transfer(after, tokens=FULL, trial=3)
    assert made.start.confirmed and made.start.tokens == pytest.approx(FULL / 8)
    assert "3 confirmation runs at 20,480,000 tokens, the best of them confirmation run" in made.started_from
    assert not made.gate.needed
    full = promote(swept, lawful.NAME, PromoteRequest(tokens="20x", plan_only=True))
    assert full.transfer is not None and full.transfer.chosen == "fitted"
    batch = full.config["data"]["batch_tokens"]
    assert full.config["optim"]["matrix_lr"] == pytest.approx(lawful.best_rate(batch, FULL), rel=0.1)
    closed = ask(swept)
    assert (closed.because, closed.runs) == ([], [])
    assert ask(swept, tokens="200x", plan_only=True).because, "farther away they are needed again"
    nearer = transfer(after, tokens=1.5 * lawful.TOKENS)
    assert not nearer.start.confirmed, "a target short of them starts from the trials"


def test_they_rank_nothing_of_the_study(swept: Service) -> None:
    results = Results(swept.engine)
    before = results.study(lawful.NAME)
    optuna = [(trial.number, trial.state, trial.value) for trial in talk.trials(swept, lawful.NAME)]
    held = backtest(fits(swept))
    scores = run_all(swept)
    after = results.study(lawful.NAME)
    assert after.best == before.best and before.best is not None and min(scores) < before.best.val_bpb
    assert (after.counts, results.trials(lawful.NAME)[-1].number) == (before.counts, 23)
    assert [(trial.number, trial.state, trial.value) for trial in talk.trials(swept, lawful.NAME)] == optuna
    assert {one.by for one in after.promotions} == {"confirm"} and not calibrations(fits(swept))
    again = backtest(fits(swept))
    assert not isinstance(held, str) and not isinstance(again, str)
    assert [one.regret for one in again.worths] == [one.regret for one in held.worths], (
        "the longest budget is the study's"
    )
    multiple = promote(swept, lawful.NAME, PromoteRequest(tokens="4x", plan_only=True))
    assert multiple.tokens == 4 * lawful.TOKENS, "of a trial's tokens"


@pytest.mark.parametrize(
    ("octaves", "side"), [pytest.param(-0.8, "at or below", marks=pytest.mark.slow), (0.8, "at or above")]
)
def test_an_optimum_at_the_edge_of_them_calls_for_more_beyond_that_edge(
    swept: Service, octaves: float, side: str
) -> None:
    first = [run.config["optim"]["matrix_lr"] for run in ask(swept, plan_only=True).runs]
    run_all(swept, octaves)
    (cell,) = [cell for cell in fits(swept).cells if cell.confirming]
    assert not cell.optimum.at and cell.optimum.bounds[0].side == side
    made = ask(swept, plan_only=True)
    assert "the confirmation runs' best rate lies at the edge of what was tried" in made.because
    rates = [run.config["optim"]["matrix_lr"] for run in made.runs]
    assert (min(rates) < 0.75 * min(first)) if octaves < 0 else (max(rates) > 1.3 * max(first))
    assert {run.tokens for run in made.runs} == {20_480_000}, "as long as those before"
    run_all(swept, octaves)
    after = transfer(fits(swept), tokens=FULL, trial=3)
    assert after.start.confirmed and after.gate.reasons == ()
    true = lawful.best_rate(after.start.batch_tokens, after.start.tokens) * 2.0**octaves
    assert after.start.learning_rate == pytest.approx(true, rel=0.1)


def test_a_run_that_diverges_is_a_result_of_its_own_length(swept: Service) -> None:
    made = ask(swept)
    for place in range(3):
        grant = talk.take(swept, kind="promotion")
        if place == 2:
            talk.say(swept, grant, talk.start(), talk.step(0.2), talk.end("diverged", "loss is nan"))
        else:
            answer(swept, grant)
    after = fits(swept)
    runs = after.trials.runs
    (lost,) = np.flatnonzero(runs.diverged)
    assert (runs.tokens[lost], runs.trial[lost]) == (made.runs[2].tokens, -3)
    rates = [run.config["optim"]["matrix_lr"] for run in made.runs]
    assert after.stable_rate == pytest.approx(rates[1]), "a ceiling for the full run"
    (cell,) = [cell for cell in after.cells if cell.confirming]
    assert cell.optimum.used == 2
    full = transfer(after, tokens=FULL, trial=3)
    assert full.proposed.values.learning_rate <= rates[1] / 2**0.5 * 1.0001


def test_they_are_resumed_after_a_loss_and_made_once(swept: Service) -> None:
    made = ask(swept)
    assert [run.number for run in made.runs] == [0, 1, 2]
    again = ask(swept)
    assert (again.runs, again.there) == ([], [0, 1, 2])
    first = talk.take(swept, kind="promotion")
    assert (first.number, first.checkpoint) == (0, f"promotions/{lawful.NAME}-0")
    talk.say(swept, first, talk.start(), talk.step(0.4), talk.failure("died"))
    reaper.sweep(swept)
    resumed = talk.take(swept, kind="promotion")
    assert (resumed.number, resumed.attempt, resumed.config) == (0, 2, first.config)
    answer(swept, resumed)
    assert "had not started" in stop_promotion(swept, lawful.NAME, 1).message
    answer(swept, talk.take(swept, kind="promotion"))
    done = talk.ask(swept, study=lawful.NAME, kind="promotion")
    assert isinstance(done, NoWork) and done.reason == "complete"
    with swept.read() as session:
        rows = session.scalars(select(PromotionRow).order_by(PromotionRow.number)).all()
        attempts = session.scalars(select(RunRow.attempt).where(RunRow.kind == "promotion")).all()
    assert [(row.candidate, row.state) for row in rows] == [
        ("confirm", "complete"), ("confirm", "stopped"), ("confirm", "complete")
    ]  # fmt: skip
    assert sorted(attempts) == [1, 1, 2]


def test_what_was_agreed_to_is_what_runs(swept: Service) -> None:
    shown = ask(swept, plan_only=True)
    run_all(swept)
    with pytest.raises(Conflict, match="another run has ended since this plan was shown"):
        ask(swept, data_hash=shown.data_hash)


def test_what_holds_nothing_to_confirm_says_so(swept: Service) -> None:
    near = ask(swept, tokens="2x")
    assert (near.because, near.runs) == ([], [])
    with pytest.raises(SweeperError, match="a copy rests on no law"):
        ask(swept, by="copied")
    with pytest.raises(SweeperError, match="say one of the two"):
        ask(swept, hours=1.0)
    control.create_study(swept, talk.SPEC)
    with pytest.raises(Conflict, match="no complete trial yet"):
        ask(swept, "tiny")


def test_a_study_without_a_law_confirms_the_literatures_on_either_database(service: Service) -> None:
    lawful.sweep(service, (4096,), budget={"tokens": lawful.TOKENS, "rungs": []})
    with pytest.raises(SweeperError, match="no law of its own yet"):
        ask(service, by="fitted")
    made = ask(service, tokens="30B")
    assert made.by == "prior" and [run.number for run in made.runs] == [0, 1, 2]
    grant = talk.take(service, kind="promotion")
    talk.say(service, grant, talk.start(), talk.step(0.2), talk.end("diverged", "loss is nan"))
    runs = fits(service).trials.runs
    assert runs.tokens[runs.trial == -1].tolist() == [made.runs[0].tokens], "more than an integer of PostgreSQL holds"
    assert made.runs[0].tokens > 2**31


def test_what_waits_before_them_is_named_and_agreed_to_over_http(swept: Service) -> None:
    promote(swept, lawful.NAME, PromoteRequest(tokens="2x"))
    with listening(service_app(swept.settings)) as url, Client(url) as client:
        shown = client.confirm(lawful.NAME, PromoteRequest(tokens="20x", plan_only=True))
        assert shown.notes[0].startswith("Promotion 0 of 16,384,000 tokens is still waiting, and runs before this one")
        made = client.confirm(lawful.NAME, PromoteRequest(tokens="20x", data_hash=shown.data_hash))
        assert [run.number for run in made.runs] == [1, 2, 3]
        with pytest.raises(Refused, match="a copy rests on no law"):
            client.confirm(lawful.NAME, PromoteRequest(tokens="20x", by="copied"))
        with pytest.raises(Refused, match="no study 'nowhere' here"):
            client.confirm("nowhere", PromoteRequest())
    listed = [(one.by, one.confirms) for one in Results(swept.engine).promotions(lawful.NAME)]
    assert listed[0] == ("fitted", "")
    assert listed[1] == ("confirm", "at 0.7 times the rate of the fitted law, for a full run of 163,840,000 tokens")
    waiting = promote(swept, lawful.NAME, PromoteRequest(tokens="4x", plan_only=True)).notes
    assert any(note.startswith("Confirmation run 1 of 20,480,000 tokens is still waiting") for note in waiting)


def test_hours_of_the_full_run_are_confirmed_in_an_eighth_of_them(swept: Service) -> None:
    hours = FULL / 5e5 / 3600
    made = ask(swept, tokens=None, hours=hours, plan_only=True)
    assert made.full_tokens == pytest.approx(FULL, rel=0.05)
    assert sum(run.seconds or 0 for run in made.runs) == pytest.approx(3600 * hours * 3 / 8, rel=0.05)
