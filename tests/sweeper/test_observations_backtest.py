"""Laws of a study's smaller budgets against its longest one."""

from __future__ import annotations

import dataclasses
import io
import math

import pytest
from rich.console import Console

from sweeper.commands import fitting
from sweeper.observations import bridge
from sweeper.observations_backtest import Backtest, backtest
from sweeper.observations_facts import RunFacts
from sweeper.observations_fits import Fits
from sweeper.observations_read import FitsStore
from sweeper.observations_switches import Asked
from sweeper.results import Results
from sweeper.service import Service
from tests.sweeper import lawful


def test_what_smaller_budgets_say_is_held_against_the_longest(swept: Service) -> None:
    fits = FitsStore(swept.engine, Results(swept.engine)).fits(lawful.NAME)

    found = backtest(fits)

    assert isinstance(found, Backtest)
    assert (found.used, found.unit) == (tuple(map(float, lawful.LADDER)), "tokens")
    assert found.held_back == pytest.approx(lawful.TOKENS, rel=1e-6)
    for worth in found.worths:
        rate, batch = worth.values.learning_rate, worth.values.batch_tokens
        truth = lawful.loss(batch, lawful.TOKENS, rate)
        least = min(lawful.loss(b, lawful.TOKENS, lawful.best_rate(b, lawful.TOKENS)) for b in lawful.BATCHES)
        assert worth.regret is not None
        assert worth.regret.value == pytest.approx(truth / least - 1, abs=2e-3)
        assert worth.regret.low <= worth.regret.value <= worth.regret.high
    by_name = {worth.name: worth for worth in found.worths}
    off = math.log2(by_name["fitted law"].best_rate.value / lawful.best_rate(4096, lawful.TOKENS))
    assert abs(off) < 0.3

    told = io.StringIO()
    fitting.check(swept.settings, lawful.NAME, Asked(), Console(file=told, width=300))
    assert "from budgets of 2,048,000, 4,096,000 to 8,192,000 tokens" in told.getvalue()
    assert told.getvalue().count("%") >= 9


def test_without_two_smaller_budgets_it_says_what_is_needed(swept: Service) -> None:
    fits = FitsStore(swept.engine, Results(swept.engine)).fits(lawful.NAME)
    alone = tuple(dataclasses.replace(run, outcomes=run.outcomes[-1:]) for run in fits.study.trials)
    fits.study = dataclasses.replace(fits.study, trials=alone)

    assert backtest(fits) == "it has 1 of 3 budgets needed: `[budget] ladder` in the study file gives them"


def test_another_model_is_no_yardstick(swept: Service) -> None:
    """The same trials of a model a quarter as large, worse by a tenth: what this one's values are worth stays."""
    fits = FitsStore(swept.engine, Results(swept.engine)).fits(lawful.NAME)
    alone = backtest(fits)
    smaller = tuple(_smaller(run) for run in fits.study.trials)
    study = dataclasses.replace(fits.study, trials=(*fits.study.trials, *smaller))
    both = Fits(bridge(study.trials, study.switches), fits.promotions, study, lambda: fits.curves)

    found = backtest(both)

    assert isinstance(alone, Backtest) and isinstance(found, Backtest)
    for before, after in zip(alone.worths, found.worths, strict=True):
        assert before.regret is not None and after.regret is not None
        assert after.regret.value == pytest.approx(before.regret.value, abs=5e-3)


def _smaller(run: RunFacts) -> RunFacts:
    assert run.recipe.counts is not None
    counts = {name: count / 4 for name, count in run.recipe.counts.items()}
    outcomes = tuple(dataclasses.replace(one, val_bpb=one.val_bpb * 1.1) for one in run.outcomes)
    return dataclasses.replace(
        run,
        number=run.number + 1000,
        recipe=dataclasses.replace(run.recipe, counts=counts),
        outcomes=outcomes,
        score=outcomes[-1].val_bpb,
    )
