"""Figures of the scaling page are valid Plotly, draw what the fits say, and say what they left out."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator

import numpy as np
import plotly.graph_objects
import pytest

from dashboard import (
    figures_scaling_batch,
    figures_scaling_budgets,
    figures_scaling_curves,
    figures_scaling_decay,
    figures_scaling_gpus,
    figures_scaling_rate_law,
    figures_scaling_rates,
    figures_scaling_sizes,
    figures_scaling_surface,
    figures_scaling_trust,
)
from dashboard.figures_scaling import Card, short, to_csv
from dashboard.routes.scaling import PLOTS
from dashboard.theme import DARK, LIGHT, Figure
from sweeper.observations_curves import complete_curves
from sweeper.observations_fits import Fits
from sweeper.observations_read import FitsStore
from sweeper.observations_surface import surfaces
from sweeper.observations_switches import Switches
from sweeper.observations_target import full_run, speed_view
from sweeper.results import Results
from sweeper.scaling.power_law import PowerLaw
from tests.dashboard import scaled
from tests.dashboard.synthetic import Writer, new_engine


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FitsStore]:
    engine = new_engine(tmp_path_factory.mktemp("scaling"))
    scaled.write(engine, 360, points=10, promotions=2)
    scaled.write(engine, 240, name="timed", timed=True)
    scaled.write(engine, 360, name="sizes", equal_flops=True, repeats=2)
    scaled.write(engine, 1_300, name="many")
    Writer(engine, "empty")
    yield FitsStore(engine, Results(engine))
    engine.dispose()


@pytest.fixture(scope="module")
def fits(store: FitsStore) -> Fits:
    return store.fits(scaled.NAME)


def named(card: Card, start: str) -> Figure:
    assert card.figure is not None, card.empty
    return next(trace for trace in card.figure["data"] if trace["name"].startswith(start))


@pytest.mark.parametrize("theme", [LIGHT, DARK])
@pytest.mark.parametrize("key", PLOTS)
def test_every_figure_is_valid_plotly_or_says_what_to_run(key, theme, fits, store):
    for of in (
        fits,
        store.fits("timed"),
        store.fits("sizes"),
        store.fits("empty"),
        store.fits(scaled.NAME, Switches(rate="adamw")),
    ):
        card = PLOTS[key][1](of, theme)
        if card.figure is None:
            assert card.empty, key
            continue
        plotly.graph_objects.Figure(json.loads(json.dumps(card.figure, allow_nan=False)))
        assert card.says and card.used and card.method, key
        assert to_csv(card.figure).count("\n") > 1, key
        for side in ("xaxis", "yaxis"):
            assert card.figure["layout"][side]["title"]["text"], f"{key}: an axis without a name"


def test_a_rich_study_draws_everything_that_it_was_laid_out_for(fits, store):
    drawn = {
        name: {key for key, (_, draw) in PLOTS.items() if draw(of, LIGHT).figure is not None}
        for name, of in (("laws", fits), ("sizes", store.fits("sizes")))
    }
    assert set(PLOTS) - drawn["laws"] == {"noise", "frontier"}, "no repeats, and the largest model always best"
    assert {"noise", "frontier", "budgets"} <= drawn["sizes"]


def test_an_empty_study_draws_nothing_and_each_figure_says_why(store):
    for key, (_, draw) in PLOTS.items():
        card = draw(store.fits("empty"), LIGHT)
        assert card.figure is None and len(card.empty) > 30, key


def test_the_bowls_show_every_score_its_vertex_and_the_diverged(fits):
    card = figures_scaling_rates.bowls(fits, LIGHT)
    assert card.figure is not None
    shown = [t for t in card.figure["data"] if t["mode"] == "markers" and "best rate" not in t["name"]]
    drawn = sorted(number for trace in shown for number in trace["customdata"])
    assert drawn == sorted(fits.trials.runs.trial.tolist())
    vertices = [x for t in card.figure["data"] if t["name"].startswith("best rate") for x in t["x"]]
    true = [cell.optimum.at[0].value for cell in fits.cells if cell.optimum.at]
    assert sorted(vertices) == pytest.approx(sorted(true), rel=1e-4)
    assert len(card.missing) == len(fits.cells) - len(true)
    rug = named(card, "diverged")
    assert rug["customdata"] == fits.trials.runs.trial[fits.trials.runs.diverged].tolist()
    edge = card.figure["layout"]["yaxis"]["range"][1]
    assert rug["y"] == pytest.approx([edge] * len(rug["y"]), rel=1e-4)
    assert card.excluded == [("pruned before the end of its budget: no final score", len(fits.trials.excluded))]


def test_the_rate_law_is_drawn_with_its_band_through_the_cells(fits):
    card, law = figures_scaling_rate_law.rate_law(fits, LIGHT), fits.rate_law
    assert isinstance(law, PowerLaw) and card.figure is not None
    lines = [trace for trace in card.figure["data"] if trace["name"] == "law"]
    assert len(lines) == 3, "a panel each for tokens, batch and parameters"
    batch = lines[1]
    slope = np.polyfit(np.log(batch["x"]), np.log(batch["y"]), 1)[0]
    assert slope == pytest.approx(law.exponents["batch_tokens"].value, abs=1e-3)
    band = named(card, "95 %")
    half = len(band["x"]) // 2
    assert all(low < high for high, low in zip(band["y"][:half], band["y"][half:][::-1], strict=True))
    assert f"batch^{law.exponents['batch_tokens'].value:.2f}" in card.says


def test_tau_is_marked_where_the_collapse_puts_it(fits):
    card = figures_scaling_decay.tau(fits, LIGHT)
    assert card.figure is not None and fits.tau_collapse.tau is not None
    assert card.figure["layout"]["shapes"][0]["x0"] == fits.tau_collapse.tau.value
    curve = named(card, "one bowl")
    lowest = curve["x"][int(np.argmin(curve["y"]))]
    assert lowest == pytest.approx(fits.tau_collapse.tau.value, rel=0.08)


def test_the_loss_law_is_drawn_ahead_with_a_widening_band(fits):
    card = figures_scaling_sizes.loss(fits, LIGHT)
    law, band = named(card, "law, "), named(card, "95 %")
    assert max(law["x"]) == pytest.approx(20 * fits.trials.runs.tokens.max(), rel=1e-3), "as far as the full run"
    half = len(band["x"]) // 2
    widths = np.array(band["y"][:half]) - np.array(band["y"][half:][::-1])
    assert widths[-1] > widths[half // 4] > 0


def test_full_runs_stand_beside_what_was_foretold(fits):
    card = figures_scaling_trust.calibration(fits, LIGHT)
    points = named(card, "full runs")
    assert points["customdata"] == [8, 8], "a click opens the trial that was promoted"
    assert points["y"] == pytest.approx(fits.promotions.runs.loss.tolist(), rel=1e-4)
    assert np.abs(np.array(points["x"]) - points["y"]).max() < 0.02


def test_the_csv_holds_every_point_that_is_drawn(fits):
    card = figures_scaling_rate_law.rate_law(fits, LIGHT)
    assert card.figure is not None
    rows = list(csv.DictReader(io.StringIO(to_csv(card.figure))))
    assert len(rows) == sum(len(trace["x"]) for trace in card.figure["data"])
    cell = next(row for row in rows if row["trace"].startswith("best rate"))
    assert float(cell["y_plus"]) > 0 and cell["trial"].isdigit() and "parameters" in cell["text"]


def test_of_many_scores_those_near_the_best_of_their_cell_are_drawn(store):
    fits = store.fits("many")
    card = figures_scaling_rates.bowls(fits, LIGHT)
    assert card.figure is not None and "drawn: 1,000 of" in card.used
    shown = [t for t in card.figure["data"] if t["name"].endswith(" tokens") and "customdata" in t]
    drawn = [number for t in shown for number in t["customdata"]]
    runs = fits.trials.runs
    excess = {}
    for cell in fits.cells:
        alive = cell.rows[~runs.diverged[cell.rows]]
        excess |= dict(zip(runs.trial[alive].tolist(), runs.loss[alive] / runs.loss[alive].min(), strict=True))
    assert len(drawn) == figures_scaling_rates.MOST_DRAWN == 1_000
    assert max(excess[n] for n in drawn) <= min(e for n, e in excess.items() if n not in drawn)


def test_guides_of_the_literature_and_the_full_runs_star_stand_on_the_law_of_rates(fits):
    card = figures_scaling_rate_law.rate_law(fits, LIGHT)
    assert card.figure is not None
    tokens = [t for t in card.figure["data"] if t.get("xaxis") is None]
    slopes = [round(float(np.polyfit(np.log(t["x"]), np.log(t["y"]), 1)[0]), 2) for t in tokens if ": " in t["name"]]
    assert slopes == [0.0, -0.32, -0.5]
    star = next(t for t in tokens if t["name"] == "full run")
    told = fits.get(full_run)
    assert star["x"] == pytest.approx([told.tokens], rel=1e-4)
    best = told.plan.proposed.best_rate
    spread = (star["y"][0] + star["error_y"]["array"][0]) / (star["y"][0] - star["error_y"]["arrayminus"][0])
    assert spread == pytest.approx(best.high / best.low, rel=1e-3), "moved to the middle batch, as sure as before"
    assert f"{best.value:.3g}" in card.says
    sqrt_batch = named(card, "0.5: ")
    assert np.polyfit(np.log(sqrt_batch["x"]), np.log(sqrt_batch["y"]), 1)[0] == pytest.approx(0.5, abs=1e-3)
    assert any(shape["xref"] == "x2" for shape in card.figure["layout"]["shapes"]), "the best batch is marked"


def test_contours_enclose_the_scores_that_they_name(fits):
    card = figures_scaling_surface.surface(fits, LIGHT)
    found = fits.get(surfaces)[0]
    h, at = found.optimum.curvature_dd, found.optimum.log2_at_d
    for level in (0.1, 0.25, 0.5):
        ring = named(card, f"+{level:g} %")
        for x, y in zip(ring["x"], ring["y"], strict=True):
            off = np.log2([x, y]) - at
            assert 100 * np.expm1(0.5 * off @ h @ off) == pytest.approx(level, rel=0.01)
    diagonal = named(card, "tau = ")
    tau = float(diagonal["name"].removeprefix("tau = "))
    steps = float(np.median(fits.trials.runs.steps[found.rows]))
    assert 1 / (np.array(diagonal["x"]) * diagonal["y"] * steps) == pytest.approx(np.full(9, tau), rel=0.05)
    assert sorted(named(card, "rate and decay")["customdata"]) == sorted(fits.trials.runs.trial[found.rows].tolist())
    assert named(card, "full run")["text"][0].startswith("full run of 8 B tokens")


def test_the_law_of_tau_stands_beside_the_published_one(fits):
    card = figures_scaling_decay.tau_law(fits, LIGHT)
    published = named(card, "Power Lines")
    assert published["y"] == pytest.approx(1.084 * np.array(published["x"]) ** -0.527, rel=1e-4)
    cells = [cell for cell in fits.cells if cell.joint]
    assert named(card, "best tau")["x"] == pytest.approx([c.tokens / c.n_params for c in cells], rel=1e-4)
    assert len(card.missing) == len(fits.cells) - len(cells)


def test_each_row_of_the_speed_view_has_its_band_and_each_device_its_line(fits, store):
    card = figures_scaling_gpus.speeds(fits, LIGHT)
    assert card.figure is not None
    assert len(card.figure["data"]) == 2 * 3
    start = fits.get(speed_view).start
    true = 1000 * scaled.step_seconds(start.depth, start.batch_tokens)
    assert [shape["x0"] for shape in card.figure["layout"]["shapes"]] == pytest.approx([true], rel=0.01)
    assert "NVIDIA H100" in card.figure["layout"]["annotations"][0]["text"]
    assert card.missing[0].startswith("size of the model")
    with_sizes = figures_scaling_gpus.speeds(store.fits("sizes"), LIGHT)
    assert with_sizes.figure is not None and len(with_sizes.figure["data"]) == 2 * 4


def test_the_frontier_recovers_the_exponent_and_its_tokens(store):
    fits = store.fits("sizes")
    card = figures_scaling_budgets.frontier(fits, LIGHT)
    assert card.figure is not None and fits.frontier.law is not None
    e = fits.frontier.law.exponents["budget"]
    assert e.low < 3 / 7 < e.high
    best, tokens = (t for t in card.figure["data"] if t["name"] == "best of a budget")
    flops = 6 * np.array(best["y"]) ** 2 * tokens["y"]
    assert flops == pytest.approx(best["x"], rel=1e-3)


def test_the_fan_of_a_complete_trial_begins_half_way_and_ends_at_its_interval(fits):
    card = figures_scaling_curves.curves(fits, LIGHT)
    fan, end = named(card, "95 % of trial"), named(card, "forecast")
    half = len(fan["x"]) // 2
    assert fan["x"][half] == 1.0 and fan["x"][0] == pytest.approx(0.5, abs=0.11)
    assert fan["y"][half - 1] > end["y"][0] > fan["y"][half], "upper and lower edge about the forecast"
    assert end["customdata"] == [min(fits.get(complete_curves), key=lambda c: c.curve.loss_m[-1]).trial]
    assert "held" in card.says and "Half-way" in card.says


def test_a_running_trial_is_foretold_or_it_is_said_why_not(tmp_path):
    engine = new_engine(tmp_path)
    writer = Writer(engine)
    for number in range(12):
        writer.trial(number, "complete", score=1.3 + 0.01 * number)
    writer.trial(12, "running", progress=0.6)
    writer.trial(13, "running", progress=0.1)
    fits = FitsStore(engine, Results(engine)).fits("lr-wd-batch")
    card = figures_scaling_curves.curves(fits, LIGHT)
    assert "Trial 12, at 6" in card.says and "will end at" in card.says
    assert any(line.startswith("trial 13: at ") and "cannot be told" in line for line in card.missing)
    engine.dispose()


def test_repeats_draw_a_stripe_of_noise_and_without_them_it_is_said_why_not(fits, store):
    plain, known = (figures_scaling_batch.batch(fits, LIGHT), figures_scaling_rates.bowls(store.fits("sizes"), LIGHT))
    assert plain.figure is not None and known.figure is not None
    assert "no stripe of seed noise: no two complete runs" in plain.method
    assert not [s for s in plain.figure["layout"]["shapes"] if s["type"] == "rect"]
    (stripe,) = [s for s in known.figure["layout"]["shapes"] if s["type"] == "rect"]
    assert stripe["y0"] == 0 and stripe["y1"] == pytest.approx(100 * 2.8 * scaled.NOISE / 1.3, rel=0.2), "in per cent"
    assert "by which equal values may differ" in known.method


def test_a_cut_is_told_by_what_it_would_have_lost(fits):
    card = figures_scaling_trust.rungs(fits, LIGHT)
    half, third = named(card, "keeping the best half"), named(card, "keeping the best third")
    assert half["xaxis"] == third["xaxis"] == "x2"
    assert sum(third["y"]) > sum(half["y"])
    assert "best tenth, a cut at 30% would have lost" in card.says


def test_numbers_in_sentences_have_an_interval(fits, store):
    """Every `name^number` and every forecast is followed by its bounds."""
    for of in (fits, store.fits("sizes"), store.fits("timed")):
        for key, (_, draw) in PLOTS.items():
            says = draw(of, LIGHT).says
            for found in re.finditer(r"\^-?[0-9.]+(?P<after>.{0,3})", says):
                assert found["after"].startswith(" ("), f"{key}: {says}"


@pytest.mark.parametrize(("number", "text"), [(131_072, "131 K"), (3e9, "3 B"), (950.0, "950"), (999_999, "1 M")])
def test_sizes_have_unit_letters(number, text):
    assert short(number) == text
