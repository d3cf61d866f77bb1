"""What the scaling page's later figures rest on: full run, other speeds, surfaces, forecasts, cuts, sensitivity."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from sqlalchemy import Engine

from sweeper.observations_curves import (
    FalsePrunes,
    ForecastCheck,
    complete_curves,
    false_prunes,
    forecast,
    forecast_check,
    trial_curves,
)
from sweeper.observations_fits import Fits
from sweeper.observations_kept import Kept
from sweeper.observations_read import FitsStore
from sweeper.observations_sensitivity import Sensitivities, sensitivities
from sweeper.observations_surface import surfaces
from sweeper.observations_target import SPEEDS, FullRun, SpeedView, full_run, speed_view
from sweeper.results import Results
from sweeper.scaling.records import Estimate, Unidentified
from tests.dashboard import scaled
from tests.dashboard.synthetic import Writer, new_engine


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = new_engine(tmp_path_factory.mktemp("views"))
    scaled.write(engine, 480, points=20)
    scaled.write(engine, 360, name="sizes", equal_flops=True, repeats=2)
    Writer(engine, "empty")
    yield engine
    engine.dispose()


@pytest.fixture(scope="module")
def store(engine: Engine) -> FitsStore:
    return FitsStore(engine, Results(engine))


@pytest.fixture(scope="module")
def fits(store: FitsStore) -> Fits:
    return store.fits(scaled.NAME)


def test_the_full_run_is_the_study_files_and_its_best_rate_is_the_true_one(fits):
    found = full_run(fits)
    assert isinstance(found, FullRun)
    assert found.tokens == pytest.approx(20 * fits.trials.runs.tokens.max(), rel=1e-6), "20x unless it says otherwise"
    best = found.plan.proposed.best_rate
    assert best.low < scaled.best_rate(13, found.plan.proposed.values.batch_tokens, found.tokens) < best.high
    assert 0 < found.tau_octaves < 1


def test_a_plans_phases_are_the_full_run(store, engine):
    with engine.begin() as connection:
        connection.exec_driver_sql(
            """UPDATE sweeper_studies SET spec = json_set(spec, '$.plan', json('{"phases": [{"tokens": "2B"}, """
            """{"tokens": "500M"}]}')) WHERE name = 'sizes'"""
        )
    found = full_run(FitsStore(engine, Results(engine)).fits("sizes"))
    assert isinstance(found, FullRun) and found.tokens == 2.5e9


def test_a_faster_device_takes_more_steps_with_less_decay_and_the_true_rate(fits):
    found = speed_view(fits)
    assert isinstance(found, SpeedView)
    assert len(found.wanted) == len(SPEEDS)
    assert [name for name, _ in found.devices] == ["NVIDIA H100"]
    for one, speed in zip(found.wanted, SPEEDS, strict=True):
        batch = one.batch_tokens.value
        assert one.batch_tokens.low <= batch <= one.batch_tokens.high
        steps = found.seconds * speed / scaled.step_seconds(13, batch)
        assert one.steps == pytest.approx(steps, rel=0.02), "seconds over seconds a step"
        true = scaled.best_rate(13, batch, one.steps * batch)
        assert one.learning_rate.low < true * 1.1 and true / 1.1 < one.learning_rate.high
        tau = 1 / (one.weight_decay.value * one.steps * true)
        assert tau == pytest.approx(scaled.TAU, rel=0.35)
    steps = [one.steps for one in found.wanted]
    decays = [one.weight_decay.value for one in found.wanted]
    assert steps == sorted(steps) and decays == sorted(decays, reverse=True)
    assert found.missing[0].startswith("size of the model: ")


def test_a_law_of_sizes_gives_a_faster_device_a_larger_model(store):
    found = speed_view(store.fits("sizes"))
    assert isinstance(found, SpeedView) and not found.missing
    sizes = [one.n_params for one in found.wanted]
    assert all(e is not None and e.low < e.value < e.high for e in sizes)
    values = [e.value for e in sizes if e]
    assert np.polyfit(np.log(SPEEDS), np.log(values), 1)[0] == pytest.approx(3 / 7, abs=0.1), "0.3 / (0.3 + 0.4)"


def test_the_surface_of_rate_and_decay_has_its_valley_along_equal_tau(fits):
    decay, batch = surfaces(fits)
    assert (decay.second, batch.second) == ("weight_decay", "batch_tokens")
    assert len(decay.optimum.at) == 2
    runs = fits.trials.runs
    steps = float(np.median(runs.steps[decay.rows]))
    rate, best = (e.value for e in decay.optimum.at)
    assert 1 / (rate * best * steps) == pytest.approx(scaled.TAU, rel=0.15)
    h = np.asarray(decay.optimum.curvature_dd)
    assert h[0, 1] > 0, "more decay wants less rate"
    assert len({round(float(np.log2(t)), 1) for t in runs.tokens[batch.rows]}) == 1, "equal tokens"
    assert len(set(runs.batch_tokens[batch.rows])) > 1


def test_forecasts_hold_most_ends_and_do_not_see_their_own(fits):
    checks = forecast_check(fits)
    assert isinstance(checks, tuple)
    for one in checks:
        assert isinstance(one, ForecastCheck)
        assert one.inside_share.low <= one.inside / one.judged <= one.inside_share.high
        assert one.inside / one.judged > 0.8
    assert checks[-1].error.value < 0.05
    known = complete_curves(fits)
    told = forecast(fits, known[0], 0.5)
    assert isinstance(told, Estimate)
    assert told.value != pytest.approx(known[0].curve.loss_m[-1], abs=1e-9)
    assert forecast(fits, known[0], 0.05) == "no validation near 5% of the budget"


def test_a_complete_curve_ends_at_its_final_score_and_a_pruned_one_where_it_stopped(fits):
    runs = fits.trials.runs
    score = dict(zip(runs.trial.tolist(), runs.loss.tolist(), strict=True))
    for one in trial_curves(fits):
        if one.state == "complete":
            assert (one.curve.fraction_m[-1], one.curve.loss_m[-1]) == (1.0, score[one.trial])
        else:
            assert one.curve.fraction_m[-1] < 0.31


def test_cuts_lose_fewer_of_the_best_the_later_and_the_gentler_they_are(fits):
    found = false_prunes(fits)
    assert isinstance(found, FalsePrunes)
    assert found.top == round(0.1 * found.used)
    assert found.third[0].value > found.third[-1].value == 0
    assert all(half.value <= third.value for half, third in zip(found.half, found.third, strict=True))
    assert all(e.low <= e.value <= e.high for e in (*found.half, *found.third))


def test_sensitivity_is_the_mean_cost_over_rates_that_all_were_given(fits):
    found = sensitivities(fits)
    assert isinstance(found, Sensitivities)
    assert [round(one.depth) for one in found.each] == [4, 6, 9, 13]
    octaves = np.log2(found.high / found.low)
    assert octaves >= 1
    for one in found.each:
        rates = np.geomspace(found.low, found.high, 65)
        off = np.log2(rates / scaled.best_rate(one.depth, one.batch_tokens, one.tokens))
        true = float((1.4 * 0.004 * off**2).mean())
        assert one.cost.low < 4 * true and one.cost.high > true / 4


def test_an_empty_study_says_of_each_why_there_is_none(store):
    empty = store.fits("empty")
    for made in (full_run, speed_view, forecast_check, false_prunes, sensitivities):
        found = made(empty)
        assert isinstance(found, Unidentified) and len(found.not_identified) > 15, made.__name__
    assert surfaces(empty) == ()


def test_equal_columns_are_fitted_once_and_other_ones_anew():
    kept, made = Kept(), []

    def fit(what: str, *columns: list[float]) -> int:
        return kept.get(what, [np.array(c) for c in columns], lambda: made.append(what) or len(made))

    assert fit("a", [1.0, 2.0], [3.0]) == fit("a", [1.0, 2.0], [3.0]) == 1
    assert fit("a", [1.0], [2.0, 3.0]) == 2, "where a column ends counts"
    assert fit("b", [1.0, 2.0], [3.0]) == 3
    assert made == ["a", "a", "b"]


def test_a_run_that_ends_costs_the_fit_of_its_own_cell_alone(tmp_path):
    engine = new_engine(tmp_path)
    scaled.write(engine, 240)
    store = FitsStore(engine, Results(engine))
    before = store.fits(scaled.NAME)
    first = {tuple(cell.rows): cell.optimum for cell in before.cells}
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE sweeper_runs SET ended_at = ended_at + 1 WHERE number = 3")
    after = store.fits(scaled.NAME)
    assert after is not before
    assert all(cell.optimum is first[tuple(cell.rows)] for cell in after.cells)
    assert after.loss_law is before.loss_law
    engine.dispose()
