"""Figures of the scaling page are valid Plotly, draw what the fits say, and say what they left out."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator

import numpy as np
import plotly.graph_objects
import pytest

from dashboard import figures_scaling_rates, figures_scaling_sizes, figures_scaling_trust
from dashboard.figures_scaling import WEBGL_FROM, Card, dots, short, to_csv
from dashboard.routes.scaling import PLOTS
from dashboard.theme import DARK, LIGHT, Figure
from sweeper.observations import Switches
from sweeper.observations_fits import Fits
from sweeper.observations_read import FitsStore
from sweeper.results import Results
from sweeper.scaling.power_law import PowerLaw
from tests.dashboard import scaled
from tests.dashboard.synthetic import Writer, new_engine


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FitsStore]:
    engine = new_engine(tmp_path_factory.mktemp("scaling"))
    scaled.write(engine, 360, points=10, promotions=2)
    scaled.write(engine, 240, name="timed", timed=True)
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
    for of in (fits, store.fits("timed"), store.fits("empty"), store.fits(scaled.NAME, Switches(rate="adamw"))):
        card = PLOTS[key][1](of, theme)
        if card.figure is None:
            assert card.empty, key
            continue
        plotly.graph_objects.Figure(json.loads(json.dumps(card.figure, allow_nan=False)))
        assert card.says and card.used and card.method, key
        for side in ("xaxis", "yaxis"):
            assert card.figure["layout"][side]["title"]["text"], f"{key}: an axis without a name"


def test_all_but_the_noise_are_drawn_of_a_rich_study(fits):
    assert [key for key, (_, draw) in PLOTS.items() if draw(fits, LIGHT).figure is None] == ["noise"]


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
    card, law = figures_scaling_rates.rate_law(fits, LIGHT), fits.rate_law
    assert isinstance(law, PowerLaw) and card.figure is not None
    lines = [trace for trace in card.figure["data"] if trace["name"] == "law"]
    assert len(lines) == 3, "a panel each for parameters, batch and tokens"
    batch = lines[1]
    slope = np.polyfit(np.log(batch["x"]), np.log(batch["y"]), 1)[0]
    assert slope == pytest.approx(law.exponents["batch_tokens"].value, abs=1e-3)
    band = named(card, "95 %")
    half = len(band["x"]) // 2
    assert all(low < high for high, low in zip(band["y"][:half], band["y"][half:][::-1], strict=True))
    assert f"batch^{law.exponents['batch_tokens'].value:.2f}" in card.says


def test_tau_is_marked_where_the_collapse_puts_it(fits):
    card = figures_scaling_rates.tau(fits, LIGHT)
    assert card.figure is not None and fits.tau_collapse.tau is not None
    assert card.figure["layout"]["shapes"][0]["x0"] == fits.tau_collapse.tau.value
    curve = named(card, "one bowl")
    lowest = curve["x"][int(np.argmin(curve["y"]))]
    assert lowest == pytest.approx(fits.tau_collapse.tau.value, rel=0.08)


def test_the_loss_law_is_drawn_ahead_with_a_widening_band(fits):
    card = figures_scaling_sizes.loss(fits, LIGHT)
    law, band = named(card, "law, "), named(card, "95 %")
    assert max(law["x"]) == pytest.approx(8 * fits.trials.runs.tokens.max(), rel=1e-3)
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
    card = figures_scaling_rates.rate_law(fits, LIGHT)
    assert card.figure is not None
    rows = list(csv.DictReader(io.StringIO(to_csv(card.figure))))
    assert len(rows) == sum(len(trace["x"]) for trace in card.figure["data"])
    cell = next(row for row in rows if row["trace"].startswith("best rate"))
    assert float(cell["y_plus"]) > 0 and cell["trial"].isdigit() and "parameters" in cell["text"]


def test_many_points_are_left_to_the_graphics_card():
    few, many = (dots("p", [1.0] * n, [1.0] * n, range(n), "#000") for n in (WEBGL_FROM - 1, WEBGL_FROM))
    assert (few["type"], many["type"]) == ("scatter", "scattergl")


@pytest.mark.parametrize(("number", "text"), [(131_072, "131 K"), (3e9, "3 B"), (950.0, "950"), (999_999, "1 M")])
def test_sizes_have_unit_letters(number, text):
    assert short(number) == text
