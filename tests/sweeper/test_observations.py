"""From trials to fits: what becomes a row, in which convention, and what is left out and why."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine

from sweeper import observations_laws
from sweeper.errors import SweeperError
from sweeper.observations import bridge
from sweeper.observations_facts import BudgetScore, RunFacts
from sweeper.observations_plan import plan
from sweeper.observations_read import FitsStore
from sweeper.observations_recipe import counted, mean_rate, recipe
from sweeper.observations_switches import Switches
from sweeper.observations_trust import Noise, RungTable, rung_table, seed_noise
from sweeper.results import Results, UnknownError
from sweeper.scaling.power_law import PowerLaw
from tests.dashboard import scaled
from tests.dashboard.synthetic import Writer, new_engine
from trainer.config import TrainConfig


def run(number: int = 0, state: str = "complete", **changes: Any) -> RunFacts:
    values = {"optim.matrix_lr": 0.02, "optim.matrix_weight_decay": 0.1, "data.batch_tokens": 131_072}
    full = BudgetScore(tokens=131_072_000, step=1000, seconds=100.0, val_bpb=1.3, stderr=0.002)
    facts: dict[str, Any] = {
        "number": number,
        "trial": None,
        "state": state,
        "reason": "",
        "progress": 1.0 if state == "complete" else 0.3,
        "recipe": recipe(values, TrainConfig().to_dict(), None),
        "tokens": 131_072_000,
        "step": 1000,
        "seconds": 100.0,
        "device_name": "H100",
        "score": 1.29 if state == "complete" else None,
        "score_stderr": 0.001,
        "streamed": 1.31,
        "outcomes": (full,) if state == "complete" else (),
    }
    return RunFacts(**{**facts, **changes})


def branch(share: float, val_bpb: float) -> BudgetScore:
    step = round(1000 * share)
    return BudgetScore(
        tokens=131_072 * step, step=step, seconds=100.0 * share, val_bpb=val_bpb, stderr=0.003, budget=100.0 * share
    )


def test_a_complete_run_is_a_row_with_its_judged_score():
    made = bridge([run(7)], Switches(), "sliding")
    runs = made.runs
    assert (runs.trial.tolist(), runs.loss.tolist(), runs.loss_stderr.tolist()) == ([7], [1.29], [0.001])
    assert (runs.steps[0], runs.batch_tokens[0], runs.depth[0]) == (1000, 131_072, 9)
    assert runs.step_seconds[0] == pytest.approx(0.1)
    assert runs.unit == "bpb"
    assert made.excluded == ()
    assert bridge([run()], Switches(loss="streamed")).runs.loss.tolist() == [1.31]


def test_parameters_are_counted_as_the_switch_says():
    counts = counted(TrainConfig().to_dict())
    assert counts is not None
    assert counts["all"] == 17_059_912, "the figure that the model's own docstring gives"
    assert counts["all"] - counts["non_embedding"] == 1024 * 512
    assert counts["matrices"] < counts["non_embedding"] < counts["all"]
    for name in ("all", "non_embedding", "matrices"):
        assert bridge([run()], Switches(params=name)).runs.n_params.tolist() == [counts[name]]
    assert counted({"command": ["python", "train.py"]}) is None
    partial = {"model": {"num_layers": 7}, "optim": {"matrix_lr": 0.02}}
    assert counted(partial) is None, "an import's config is not filled in with our defaults"
    assert recipe({}, partial, 5_000_000).counts == dict.fromkeys(counts, 5e6)


def test_the_adamw_convention_rescales_the_rate_and_leaves_tau_as_it_is():
    given, adamw = (bridge([run()], Switches(rate=name)).runs for name in ("as_given", "adamw"))
    assert adamw.learning_rate[0] == pytest.approx(0.02 / (0.2 * math.sqrt(512)))
    assert adamw.tau[0] == pytest.approx(given.tau[0])
    assert given.tau[0] == pytest.approx(1 / (0.02 * 0.1 * 1000))


def test_rates_of_two_optimisers_are_not_mixed_unless_they_are_converted():
    other = dataclasses.replace(run().recipe, optimizer="adamw")
    facts = [run(0), run(1), run(2, recipe=other)]
    kept = bridge(facts, Switches())
    assert kept.runs.trial.tolist() == [0, 1]
    assert "trained by adamw, most by muon" in kept.excluded[0].reason
    assert bridge(facts, Switches(rate="adamw")).runs.learning_rate[2] == pytest.approx(0.02)


@pytest.mark.parametrize("state", ["pruned", "running", "failed", "stopped"])
def test_runs_without_a_final_score_are_left_out_with_the_reason(state):
    made = bridge([run(3, state, reason="behind at 30 %")], Switches())
    assert len(made.runs) == 0
    assert made.excluded[0].number == 3
    assert made.excluded[0].reason == f"{state} at 30% of the budget, so it has no final score: behind at 30 %"


def test_a_diverged_run_stands_at_the_horizon_of_its_like():
    early = run(1, "diverged", progress=0.001, tokens=131_072, step=1)
    made = bridge([run(0), early], Switches())
    assert made.runs.diverged.tolist() == [False, True]
    assert made.runs.tokens.tolist() == [131_072_000, 131_072_000]
    alone = bridge([early], Switches())
    assert len(alone.runs) == 0
    assert "no complete run shows how long" in alone.excluded[0].reason
    later = bridge([run(1, "diverged", progress=0.5, tokens=65_536_000, step=500)], Switches())
    assert later.runs.tokens.tolist() == [131_072_000]


def at(number: int, tokens: int, **changes: Any) -> RunFacts:
    score = BudgetScore(tokens=tokens, step=tokens // 131_072, seconds=1.0, val_bpb=1.3, stderr=None)
    return run(number, tokens=tokens, outcomes=(score,), **changes)


def test_a_diverged_run_stands_at_the_one_of_its_likes_horizons_that_it_was_to_reach():
    peers = [at(0, 80_000_000), at(1, 400_000_000), at(2, 410_000_000), at(3, 1_000_000_000)]
    longest = run(4, "diverged", progress=1.0, tokens=1_000_000_000, step=7629)
    middle = run(5, "diverged", progress=0.5, tokens=200_000_000, step=1526)
    of_none = run(6, "diverged", progress=1.0, tokens=10_000_000_000, step=76_294)
    runs = bridge([*peers, longest, middle, of_none], Switches()).runs
    assert runs.tokens[runs.diverged].tolist() == [1_000_000_000, 405_000_000, 10_000_000_000]


def test_a_stated_batch_is_taken_as_it_was_stated():
    rounded = BudgetScore(tokens=131_072_000, step=987, seconds=0.0, val_bpb=1.3, stderr=None)
    assert bridge([run(outcomes=(rounded,))], Switches()).runs.batch_tokens.tolist() == [131_072]
    other_unit = BudgetScore(tokens=131_072_000, step=10, seconds=0.0, val_bpb=1.3, stderr=None)
    assert bridge([run(outcomes=(other_unit,))], Switches()).runs.batch_tokens.tolist() == [13_107_200]


def test_an_optimiser_that_is_not_stated_is_not_converted():
    unknown = run(recipe=recipe({"lr": 0.001, "n_embd": 768, "batch_tokens": 131_072}, {}, 124_000_000))
    assert unknown.recipe.optimizer == ""
    assert bridge([unknown], Switches()).runs.learning_rate.tolist() == [0.001]
    left_out = bridge([unknown], Switches(rate="adamw")).excluded[0].reason
    assert left_out.startswith("its optimiser is not stated")


def test_a_ladder_gives_a_row_for_each_budget_even_of_a_run_that_was_pruned_later():
    complete = run(0)
    complete = dataclasses.replace(complete, outcomes=(branch(0.25, 1.5), *complete.outcomes))
    pruned = run(1, "pruned", outcomes=(branch(0.25, 1.6),))
    made = bridge([complete, pruned], Switches())
    assert made.runs.loss.tolist() == [1.5, 1.29, 1.6]
    assert made.runs.steps.tolist() == [250, 1000, 250]
    judged = bridge([complete, pruned], Switches(), "sliding")
    assert judged.runs.loss.tolist() == [1.29], "branches have the plain score alone"
    assert [one.number for one in judged.excluded] == [1]


def test_values_of_other_scripts_are_found_by_their_usual_names():
    found = recipe({"lr": 0.003, "wd": 0.1, "n_layer": 12, "seed": 5}, {}, 124_000_000)
    assert (found.learning_rate, found.weight_decay, found.depth, found.seed) == (0.003, 0.1, 12, 5)
    assert found.counts == dict.fromkeys(("non_embedding", "all", "matrices"), 124_000_000.0)
    assert found.repeats == recipe({"lr": 0.003, "wd": 0.1, "n_layer": 12, "seed": 6}, {}, None).repeats
    unknown = bridge([run(recipe=recipe({"lr": 0.1}, {}, None))], Switches())
    assert unknown.excluded[0].reason == "its number of parameters is not known"


@pytest.mark.parametrize(
    ("schedule", "mean"),
    [({}, 1.0), ({"warmdown": 0.4}, 0.8), ({"warmup": 0.1, "warmdown": 0.4, "final_lr": 0.1}, 0.77)],
)
def test_the_mean_rate_is_that_of_the_trapezoid(schedule, mean):
    assert mean_rate(schedule) == pytest.approx(mean)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = new_engine(tmp_path)
    yield engine
    engine.dispose()


def test_the_laws_that_made_a_study_are_found_in_it(engine):
    scaled.write(engine, 480)
    fits = FitsStore(engine, Results(engine)).fits(scaled.NAME)
    law = fits.rate_law
    assert isinstance(law, PowerLaw)
    assert len(fits.cells) == 48
    for term, true in scaled.EXPONENTS.items():
        assert law.exponents[term].value == pytest.approx(true, abs=0.06), term
    assert fits.tau_collapse.tau is not None
    assert fits.tau_collapse.tau.low < scaled.TAU * 1.1
    assert fits.tau_collapse.tau.value == pytest.approx(scaled.TAU, rel=0.1)
    assert fits.loss_law is not None
    assert fits.loss_law.exponents["steps"].value == pytest.approx(0.3, abs=0.06)
    law = fits.step_times["NVIDIA H100"][1]
    assert law.seconds(9, 131_072).value == pytest.approx(scaled.step_seconds(9, 131_072), rel=0.02)


def test_fits_are_kept_until_another_run_has_ended(engine):
    scaled.write(engine, 60)
    writer = Writer(engine, "other")
    store = FitsStore(engine, Results(engine))
    first = store.fits(scaled.NAME)
    assert store.fits(scaled.NAME) is first
    assert store.fits(scaled.NAME, Switches(params="all")) is not first
    assert store.fits("other").trials.excluded == ()
    running = writer.trial(0, "running")
    assert [one.reason.split()[0] for one in store.fits("other").trials.excluded] == []
    writer.advance(running, state="pruned", ended_at=1.0)
    assert [one.number for one in store.fits("other").trials.excluded] == [0]
    assert store.fits(scaled.NAME) is first
    with pytest.raises(UnknownError, match="there is no study nowhere"):
        store.fits("nowhere")


def test_an_empty_study_says_of_every_law_why_it_is_missing(engine):
    Writer(engine, "empty")
    fits = FitsStore(engine, Results(engine)).fits("empty")
    rows = observations_laws.lines(fits)
    assert {row.law for row in rows} == {"learning rate", "decay", "batch", "loss", "model size", "speed", "noise"}
    assert all(row.value is None and row.reason for row in rows)
    with pytest.raises(SweeperError, match="no run with a score"):
        plan(fits, tokens=1e9)


def test_every_law_has_an_interval_about_its_value_or_a_reason(engine):
    scaled.write(engine, 240)
    rows = observations_laws.lines(FitsStore(engine, Results(engine)).fits(scaled.NAME))
    assert sum(row.value is not None for row in rows) >= 8
    for row in rows:
        if row.value is None:
            assert row.reason, row
        else:
            assert row.low is not None and row.high is not None
            assert row.low <= row.value <= row.high and row.method and row.used, row


def test_repeats_tell_the_noise_of_seeds(engine):
    scaled.write(engine, 12)
    store = FitsStore(engine, Results(engine))
    assert seed_noise(store.fits(scaled.NAME)).not_identified == "no two complete runs have equal values"
    fits = store.fits(scaled.NAME)
    random = np.random.default_rng(0)
    facts = [run(n, score=1.3 + 0.002 * random.standard_normal()) for n in range(60)]
    fits.trials = bridge(facts, Switches())
    found = seed_noise(fits)
    assert found.deviation is not None
    assert found.used == 60
    assert found.deviation.low < 0.002 < found.deviation.high


def repeated(count: int, *, deviation: float, slope: float, spread: float) -> list[RunFacts]:
    random, made = np.random.default_rng(1), []
    for number in range(count):
        steps = round(1000 * math.exp(random.uniform(-spread / 2, spread / 2)))
        score = 1.3 + slope * math.log(steps / 1000) + deviation * random.standard_normal()
        end = BudgetScore(tokens=131_072 * steps, step=steps, seconds=100.0, val_bpb=score, stderr=None)
        made.append(run(number, score=score, outcomes=(end,)))
    return made


def test_what_more_tokens_make_is_no_noise_of_seeds(engine):
    scaled.write(engine, 12)
    fits = FitsStore(engine, Results(engine)).fits(scaled.NAME)

    def noise(facts: list[RunFacts]) -> Noise:
        fits.trials = bridge(facts, Switches())
        return seed_noise(fits)

    exact = noise(repeated(20, deviation=0.0, slope=-0.3, spread=0.04)).deviation
    assert exact is not None and exact.value < 1e-5
    noisy = noise(repeated(40, deviation=0.001, slope=-0.3, spread=0.04)).deviation
    assert noisy is not None and noisy.low < 0.001 < noisy.high
    few = noise(repeated(3, deviation=0.001, slope=-0.3, spread=0.04))
    assert few.deviation is None and "in tokens, and are too few" in str(few.not_identified)


def test_rungs_tell_the_end_better_the_later_they_are(engine):
    scaled.write(engine, 240, points=10)
    table = rung_table(FitsStore(engine, Results(engine)).fits(scaled.NAME))
    assert isinstance(table, RungTable)
    assert table.shares.tolist() == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    values = [e.value for e in table.correlation]
    assert 0.3 < values[0] < values[4] < values[8] <= 1
    assert all(e.value >= 0 for e in (*table.regret_half, *table.regret_third))
    assert set(table.trials).isdisjoint(range(12, 240, 13)), "pruned trials have no end"


def test_a_plan_moves_the_rate_as_the_fitted_law_and_keeps_tau(engine):
    scaled.write(engine, 480)
    fits = FitsStore(engine, Results(engine)).fits(scaled.NAME)
    made = plan(fits, tokens=3e9)
    assert [one.name for one in made.candidates] == ["copied", "prior law", "fitted law"]
    copied, _, fitted = made.candidates
    assert copied.values.learning_rate == made.start.learning_rate
    true = scaled.best_rate(13, fitted.values.batch_tokens, 3e9)
    assert fitted.best_rate.low < true < fitted.best_rate.high
    assert fitted.values.learning_rate <= fitted.best_rate.value, "shaded low"
    assert fitted.values.tau == pytest.approx(scaled.TAU, rel=0.2)
    assert fitted.predicted_loss is not None and copied.predicted_loss is not None
    assert fitted.predicted_loss.value < copied.predicted_loss.value
    assert fitted.values.batch_tokens % 32_768 == 0
    assert all("edge of what was tried" in reason for reason in made.gate.reasons), "neither far nor unsure"
    far = plan(fits, tokens=3e11).gate
    assert far.needed and len(far.runs) == 3
    assert "times the tokens of the short run" in far.reasons[0]
