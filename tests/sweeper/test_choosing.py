"""Promotions by laws: whose values a full run takes, what is stored with it, what its true score is held against."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from sqlalchemy import select

from sweeper import control, display, observations_laws
from sweeper.commands import promoting
from sweeper.errors import SweeperError
from sweeper.observations_batch import critical_batch
from sweeper.observations_plan import data_hash
from sweeper.observations_read import FitsStore
from sweeper.observations_trust import calibrations
from sweeper.planning import EVAL_SHARES
from sweeper.promote import promote
from sweeper.protocol import PromoteRequest, PromotionPlan
from sweeper.results import Results
from sweeper.scaling.critical_batch import CriticalBatch
from sweeper.service import Conflict, Service
from sweeper.tables import PromotionRow
from sweeper.transferred import Transfer
from tests.sweeper import lawful, talk
from tests.sweeper.test_planning import PLAN
from trainer.config import TrainConfig


def plan(service: Service, name: str = lawful.NAME, **request: Any) -> PromotionPlan:
    return promote(service, name, PromoteRequest(**request))


def chosen(made: PromotionPlan) -> Transfer:
    assert made.transfer is not None
    return made.transfer


def fits(service: Service) -> Any:
    return FitsStore(service.engine, Results(service.engine)).fits(lawful.NAME)


def test_the_fitted_law_gives_the_full_run_what_made_the_study(swept: Service) -> None:
    made = plan(swept)
    transfer, optim = chosen(made), made.config["optim"]
    taken = transfer.taken
    assert transfer.chosen == "fitted" and taken is not None
    assert "rests on 12 cells" in transfer.why

    batch = made.config["data"]["batch_tokens"]
    assert (batch, made.tokens, made.steps) == (4096, 32_768_000, 8000), "the smallest tried and the best is not grown"
    assert optim["matrix_lr"] == taken.learning_rate == pytest.approx(lawful.best_rate(batch, made.tokens), rel=0.03)
    assert taken.best_rate.low < lawful.best_rate(batch, made.tokens) < taken.best_rate.high
    trial = talk.runs(swept)[made.trial or 0].config["optim"]
    for group in ("matrix_lr", "scalar_lr", "embed_lr", "head_lr"):
        assert optim[group] / trial[group] == pytest.approx(taken.rate_factor), group
    for group in ("matrix_weight_decay", "adam_weight_decay"):
        assert optim[group] / trial[group] == pytest.approx(taken.weight_decay / lawful.DECAY), group
    assert optim["scalar_weight_decay"] == 0
    assert optim["beta2"] == 0.98, "the batch is the trial's"
    assert made.params == {"optim.matrix_lr": optim["matrix_lr"], "data.batch_tokens": batch}


def test_a_copy_is_bit_for_bit_the_trial_on_more_tokens(swept: Service) -> None:
    made = plan(swept, by="copied")
    (run,) = [run for run in talk.runs(swept) if run.number == made.trial]
    full = {"budget": {"tokens": made.tokens}, "ladder": {}}
    expected = TrainConfig.from_dict(run.config | full | {"eval": run.config["eval"] | {"fractions": EVAL_SHARES}})
    assert TrainConfig.from_dict(made.config) == expected
    assert made.params == run.params
    copied = chosen(made).taken
    assert copied is not None
    assert (copied.learning_rate, copied.rate_factor, copied.beta2) == (run.params["optim.matrix_lr"], 1.0, 0.98)
    assert "copied as they are" in made.notes[0]


def test_three_candidates_stand_side_by_side_with_what_they_foretell(swept: Service) -> None:
    made = plan(swept, plan_only=True)
    copied, prior, fitted = chosen(made).candidates
    assert [one.by for one in (copied, prior, fitted)] == ["copied", "prior", "fitted"]
    told = [one.predicted for one in (copied, prior, fitted)]
    assert all(e is not None and e.low < e.value < e.high for e in told)
    assert told[2] is not None and told[0] is not None and told[2].value < told[0].value
    lines = io.StringIO()
    Console(file=lines, width=160).print(display.plan_view(made))
    shown = lines.getvalue()
    assert "fitted law ←" in shown and "foretold val_bpb, 95 %" in shown and f"{told[2].value:.4f}" in shown
    with swept.read() as session:
        assert session.scalars(select(PromotionRow)).all() == []


def test_a_long_way_falls_back_to_the_copy_and_says_so(swept: Service) -> None:
    made = plan(swept, tokens="20x", plan_only=True)
    transfer = chosen(made)
    assert transfer.chosen == "copied"
    assert transfer.why.startswith("The values are copied, as the fitted law should be confirmed first: 20.0 times")
    assert (transfer.confirms, len(transfer.confirm), transfer.confirm_cost) == ("fitted", 3, pytest.approx(0.375))
    rates = [run.learning_rate for run in transfer.confirm]
    assert rates[0] < rates[1] < rates[2] and {run.tokens for run in transfer.confirm} == {20_480_000}

    asked = chosen(plan(swept, tokens="20x", by="fitted", plan_only=True))
    assert asked.chosen == "fitted" and "by default they would be copied" in asked.why
    assert chosen(plan(swept, tokens="20x", by="prior", plan_only=True)).confirms == "prior"


def test_a_named_trial_is_copied_unless_a_law_is_asked_for(swept: Service) -> None:
    named = plan(swept, trial=3, plan_only=True)
    assert chosen(named).chosen == "copied" and chosen(named).why.startswith("Trial 3 was named")
    moved = plan(swept, trial=3, by="fitted", plan_only=True)
    assert moved.trial == 3
    taken = chosen(moved).taken
    assert taken is not None and taken.rate_factor < 0.8, "its rate lies above its cell's best"


def test_a_study_without_a_law_of_its_own_copies_or_takes_the_literatures(service: Service) -> None:
    lawful.sweep(service, (4096,), budget={"tokens": lawful.TOKENS, "rungs": []})
    copied = chosen(plan(service, plan_only=True))
    assert copied.why.endswith("as the study holds no law of its own: 1 of 3 cells needed have an optimum.")
    assert [one.by for one in copied.candidates] == ["copied", "prior"]
    assert all(one.predicted is None and one.unpredicted for one in copied.candidates)
    prior = plan(service, by="prior", plan_only=True)
    assert prior.config["data"]["batch_tokens"] == 8192
    assert chosen(prior).laws[0].exponents["tokens"].value == pytest.approx(-0.2)
    with pytest.raises(SweeperError, match=r"1 of 3 cells needed have an optimum; --by prior does without"):
        plan(service, by="fitted")


def test_a_study_that_cannot_be_fitted_is_promoted_all_the_same(service: Service, study: object) -> None:
    talk.say(service, talk.take(service), *[said for said in talk.whole(2.4) if said["event"] != "eval"])
    fine = chosen(plan(service, "tiny", plan_only=True))
    assert fine.chosen == "copied"
    with pytest.raises(SweeperError, match="--by"):
        plan(service, "tiny", by="fitted")


def test_what_was_chosen_is_stored_and_its_score_comes_back(swept: Service) -> None:
    made = plan(swept)
    known = data_hash(fits(swept))
    with swept.read() as session:
        row = session.scalars(select(PromotionRow)).one()
    assert row.transfer is not None and "transfer" not in row.plan
    stored = Transfer.model_validate(row.transfer)
    assert (row.candidate, stored.data_hash, stored.runs) == ("fitted", known, 72)
    assert [law.quantity for law in stored.laws] == ["learning rate", "batch", "tau", "val_bpb"]
    assert stored.laws[0].exponents["batch_tokens"].value == pytest.approx(0.4, abs=0.02)
    assert stored.start is not None and stored.start.tokens == pytest.approx(lawful.TOKENS)
    told = stored.taken.predicted if stored.taken else None
    assert told is not None

    grant = talk.take(swept, kind="promotion")
    batch, rate = grant.config["data"]["batch_tokens"], grant.config["optim"]["matrix_lr"]
    actual = lawful.loss(batch, made.tokens, rate)
    said = [talk.start(), lawful.evaluation(actual, batch, made.tokens), lawful.outcome(actual, batch, made.tokens)]
    talk.say(swept, grant, *said, lawful.end(batch, made.tokens))
    after = fits(swept)
    (point,) = calibrations(after)
    assert point.stored and point.by == "fitted" and point.actual == pytest.approx(actual)
    assert point.predicted is not None
    assert (point.predicted.value, point.predicted.low, point.predicted.high) == (told.value, told.low, told.high)
    assert told.low < actual < told.high, "of a known law"
    assert data_hash(after) == known, "promotions feed no law"
    again = plan(swept, tokens="2x", plan_only=True)
    (earlier,) = [note for note in again.notes if note.startswith("Earlier")]
    assert f"foretold {told.value:.4f} [{told.low:.4f}, {told.high:.4f}], came to {actual:.4f}, inside" in earlier
    results = Results(swept.engine)
    (record,) = results.promotions(lawful.NAME)
    assert (record.by, record.foretold) == ("fitted", told)
    standing = results.standing(results.run(lawful.NAME, "promotion", 0))
    assert standing.foretold_loss is not None and standing.transfer == stored
    assert standing.foretold_loss.value == pytest.approx(2 * told.value), "nats a token of such text"


def test_the_laws_that_were_agreed_to_are_those_that_run(swept: Service) -> None:
    shown = plan(swept, plan_only=True)
    agreed = {"by": "fitted", "data_hash": chosen(shown).data_hash, "trial": shown.trial}
    spec = lawful.SPEC | {"points": lawful.points(), "trials": 25}
    control.create_study(swept, spec)
    grant = talk.take(swept, kind="trial")
    talk.say(swept, grant, *lawful.run(grant.config, np.random.default_rng(0)))
    with pytest.raises(Conflict, match="another run has ended since this plan was shown"):
        plan(swept, **agreed)
    assert chosen(plan(swept, **agreed | {"by": "copied"})).chosen == "copied", "copies do not depend on laws"


def test_the_reason_that_was_shown_is_the_one_that_is_kept(swept: Service) -> None:
    shown = chosen(plan(swept, plan_only=True))
    agreed = {"by": shown.chosen, "data_hash": shown.data_hash, "why": shown.why, "trial": 3}
    assert chosen(plan(swept, **agreed)).why == shown.why


def test_the_same_command_resumes_whatever_was_chosen(swept: Service) -> None:
    made = plan(swept)
    summary = {"promotions": [{"trial": made.trial, "planned_tokens": made.tokens, "state": "running", "by": "fitted"}]}
    now = plan(swept, plan_only=True, trial=made.trial, by="copied")
    for asked, found in ((None, True), ("fitted", True), ("copied", False)):
        assert (promoting._unfinished(now, asked, summary) is not None) is found, asked
    first = talk.take(swept, kind="promotion")
    talk.say(swept, first, talk.start(), talk.step(0.4), talk.failure("died"))
    again = talk.take(swept, kind="promotion")
    assert (again.attempt, again.config, again.checkpoint) == (2, first.config, first.checkpoint)


def test_a_plan_of_phases_takes_the_laws_values_as_the_base_of_its_rates(swept: Service) -> None:
    phases = [{"name": "a", "tokens": "20M"}, {"name": "b", "tokens": "10M", "lr": 0.5}]
    full = PLAN | {"study": lawful.NAME, "phases": phases, "base": {}, "values": {}, "data": None, "success": {}}
    spec = lawful.SPEC | {"points": lawful.points()}
    control.create_study(swept, spec | {"plan": full})
    made = plan(swept)
    transfer = chosen(made)
    assert transfer.taken is not None and transfer.chosen == "fitted"
    assert made.config["optim"]["matrix_lr"] == transfer.taken.learning_rate
    assert [phase["lr"] for phase in made.config["plan"]["phases"]] == [1.0, 0.5]
    assert transfer.taken.predicted is None and "a plan of phases is another" in transfer.taken.unpredicted
    one = chosen(plan(swept, tokens="30M", plan_only=True)).candidates[2]
    mean = (20 * 1.0 + 10 * 0.5) / 30 / 0.8  # over that of the trials' trapezoid
    assert transfer.taken.weight_decay * mean == pytest.approx(one.weight_decay, rel=1e-3), "decay by the mean rate"

    control.create_study(swept, spec | {"plan": full | {"base": {"optim": {"matrix_lr": 0.01}}}})
    assert chosen(plan(swept, plan_only=True)).why.endswith("the plan full sets optim.matrix_lr itself.")
    with pytest.raises(SweeperError, match=r"sets optim.matrix_lr itself: take it out of the plan's \[base\]"):
        plan(swept, by="fitted")


def test_the_critical_batch_is_told_and_caps_the_plan(swept: Service) -> None:
    found = critical_batch(fits(swept))
    assert isinstance(found, CriticalBatch)
    assert found.batch_tokens.value == pytest.approx(16_384, rel=0.1)
    (line,) = [line for line in observations_laws.lines(fits(swept)) if line.quantity == "critical batch"]
    assert line.value == found.batch_tokens.value and line.used == 4
    assert any("up to the critical batch there" in note for note in chosen(plan(swept, plan_only=True)).notes)
