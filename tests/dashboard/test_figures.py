"""Figures are valid Plotly, draw what the records say, and keep streamed and final values apart."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import plotly.graph_objects
import pytest

from dashboard import figures, figures_promotions, figures_runs, figures_space
from dashboard.theme import DARK, LIGHT, Figure
from sweeper.records import Axis, Curves, Importances, Promotion, TrialRow
from sweeper.results import Results
from sweeper.run_records import RunDetail, RunPoints
from sweeper.scores import BITS_PER_BYTE
from tests.dashboard.planned import planned
from tests.dashboard.synthetic import Writer, new_engine

LR = Axis(path="optim.matrix_lr", scale="log", low=0.001, high=0.1)
DEPTH = Axis(path="model.num_layers", scale="linear", low=2, high=6, integer=True)
BATCH = Axis(path="data.batch_tokens", scale="choice", choices=(4096, 8192))
AXES = (LR, DEPTH, BATCH)
TITLE = "final val_bpb"


def trial(number: int, state: str = "complete", score: float | None = 2.0, **changes: Any) -> TrialRow:
    values: dict[str, Any] = {
        "run": number + 1,
        "number": number,
        "state": state,
        "reason": "",
        "attempt": 1,
        "params": {"optim.matrix_lr": 0.01, "model.num_layers": 4, "data.batch_tokens": 8192},
        "score": score if state == "complete" else None,
        "score_stderr": None,
        "infeasible": "",
        "artifact_bytes": None,
        "final_val_bpb": score if state == "complete" else None,
        "final_val_bpb_stderr": None,
        "streamed_val_bpb": 2.5,
        "progress": 1.0 if state == "complete" else 0.3,
        "tokens": 100,
        "seconds": 1.0,
        "wall_seconds": 2.0,
        "tokens_per_second": 100.0,
        "train_loss": 3.0,
        "created_at": 0.0,
        "started_at": 0.0,
        "ended_at": 1.0,
        "worker": "w",
        "device": "cpu",
        "device_name": "",
        "stop_requested": "",
    }
    return TrialRow(**{**values, **changes})


def curves_of(*runs: tuple[int, str, list[float]]) -> Curves:
    values = [np.array(points, dtype=np.float32) for _, _, points in runs]
    return Curves(
        metric="val_bpb",
        numbers=tuple(number for number, _, _ in runs),
        states=tuple(state for _, state, _ in runs),
        offsets=np.cumsum([0, *(len(v) for v in values)]),
        progress=np.concatenate([np.linspace(0.1, 1, len(v), dtype=np.float32) for v in values]),
        values=np.concatenate(values),
    )


def points(steps: list[int], bpb: list[float]) -> RunPoints:
    column = np.array(steps, dtype=float)
    empty = np.full(len(steps), np.nan)
    return RunPoints(
        step=column, tokens=column * 1000, seconds=column, progress=column / 10, train_loss=empty, lr_factor=empty,
        tokens_per_second=empty, val_loss=np.array(bpb), val_bpb=np.array(bpb), val_bpb_stderr=np.full(len(bpb), 0.002),
    )  # fmt: skip


def assert_valid(figure: Figure) -> None:
    """Plotly itself accepts it, and it survives strict JSON."""
    plotly.graph_objects.Figure(json.loads(json.dumps(figure, allow_nan=False)))


def named(figure: Figure, start: str) -> Figure:
    (trace,) = [trace for trace in figure["data"] if trace.get("name", "").startswith(start)]
    return trace


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_every_figure_is_valid_plotly(theme):
    trials = [trial(n, score=2 + n / 10) for n in range(10)] + [trial(10, "pruned"), trial(11, "diverged")]
    shares = Importances(shares={"optim.matrix_lr": 0.7, "model.num_layers": 0.3}, trials=12, note="")
    for figure in (
        figures.curves(
            curves_of((0, "complete", [3, 2]), (1, "running", [3])), theme, BITS_PER_BYTE, best=0, rungs=(0.3,)
        ),
        figures.history(trials, theme, title=TITLE),
        figures_space.parallel(trials, AXES, theme, title=TITLE),
        figures_space.importances(shares, theme, {}),
        *(figures_space.parameter(trials, axis, theme, name=axis.path, title=TITLE) for axis in AXES),
    ):
        assert_valid(figure)


def test_curves_draw_a_group_as_one_line_with_gaps():
    runs = [(n, "pruned", [4.0, 3.0]) for n in range(50)] + [(50, "complete", [4.0, 2.0])]
    figure = figures.curves(curves_of(*runs), LIGHT, BITS_PER_BYTE, best=50)
    assert len(figure["data"]) == 2
    pruned = named(figure, "stopped early (50)")
    assert pruned["x"].count(None) == 49
    assert pruned["y"][:3] == [4.0, 3.0, None]
    assert pruned["customdata"][3] == 1
    assert pruned["opacity"] < named(figure, "best")["opacity"]


def test_failed_runs_are_not_drawn_as_results():
    figure = figures.curves(
        curves_of((0, "failed", [4.0, 3.0]), (1, "complete", [4.0, 2.0])), LIGHT, BITS_PER_BYTE, best=None
    )
    assert [trace["name"] for trace in figure["data"]] == ["complete (1)"]


def test_curves_of_a_large_study_are_thinned_and_keep_their_ends():
    runs = [(n, "complete", list(np.linspace(4, 2, 100))) for n in range(1000)]
    (trace,) = figures.curves(curves_of(*runs), LIGHT, BITS_PER_BYTE)["data"]
    assert len(trace["y"]) <= figures.MOST_POINTS + 1000
    assert trace["y"][0] == 4.0
    assert trace["y"][-1] == 2.0


def test_history_shows_the_best_so_far_and_stopped_trials_in_another_panel():
    trials = [trial(0, score=2.2), trial(1, "pruned"), trial(2, score=2.4), trial(3, score=2.1)]
    figure = figures.history(trials, LIGHT, title=TITLE)
    assert named(figure, "best so far")["y"] == [2.2, 2.2, 2.1]
    assert named(figure, "complete")["x"] == [0, 2, 3]
    stopped = named(figure, "stopped")
    assert stopped["yaxis"] == "y2"
    assert stopped["x"] == [1]
    assert "final" in figure["layout"]["yaxis"]["title"]["text"]
    assert "streamed" in figure["layout"]["yaxis2"]["title"]["text"]
    assert figure["layout"]["yaxis2"]["domain"][1] < figure["layout"]["yaxis"]["domain"][0]


def test_a_log_axis_is_drawn_log_and_a_choice_as_categories():
    trials = [trial(0), trial(1, score=2.1)]
    log = figures_space.parameter(trials, LR, LIGHT, name="lr", title=TITLE)["layout"]["xaxis"]
    assert log["type"] == "log"
    assert log["range"] == pytest.approx([-3.08, -0.92])
    assert log["ticktext"] == ["0.001", "0.002", "0.005", "0.01", "0.02", "0.05", "0.1"]
    assert (
        figures_space.parameter(trials, DEPTH, LIGHT, name="depth", title=TITLE)["layout"]["xaxis"]["type"] == "linear"
    )
    choice = figures_space.parameter(trials, BATCH, LIGHT, name="batch", title=TITLE)["layout"]["xaxis"]
    assert choice["type"] == "category"
    assert choice["categoryarray"] == ["4096", "8192"]


def test_wide_log_axes_have_decades_only():
    assert figures_space.log_ticks(1e-5, 1.0) == [1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0]


def test_a_stopped_trial_has_no_height_among_scores():
    figure = figures_space.parameter([trial(0, score=2.0), trial(1, "pruned")], LR, LIGHT, name="lr", title=TITLE)
    scores, edge = figure["data"]
    assert scores["y"] == [2.0]
    assert edge["y"] == [figure["layout"]["yaxis"]["range"][1]]
    assert "no score" in edge["hovertemplate"]


def test_trials_over_a_limit_are_drawn_apart_and_are_no_best():
    trials = [trial(0, score=2.2), trial(1, score=1.9, infeasible="artifact_bytes 17 over 16"), trial(2, score=2.1)]
    title = "quantised val_bpb"
    history = figures.history(trials, LIGHT, title=title)
    assert named(history, "best so far")["y"] == [2.2, 2.1]
    assert named(history, "over a limit")["y"] == [1.9]
    assert named(history, "over a limit")["text"] == ["artifact_bytes 17 over 16"]
    assert history["layout"]["yaxis"]["title"]["text"] == title
    parameter = figures_space.parameter(trials, LR, LIGHT, name="lr", title=title)
    scores, over = parameter["data"]
    assert (scores["customdata"], over["customdata"]) == ([0, 2], [1])
    assert scores["marker"]["symbol"] == ["circle", "star"]
    assert parameter["layout"]["yaxis"]["range"][0] < 1.9, "drawn, all the same"
    parallel = figures_space.parallel(trials, AXES, LIGHT, title=title)
    assert named(parallel, "best")["customdata"][0] == 2
    assert max(x for x in named(parallel, "over a limit")["x"]) == len(AXES) - 1
    assert parallel["layout"]["xaxis"]["ticktext"][-1] == title
    for figure in (history, parameter, parallel, figures.history(trials[1:2], LIGHT, title=TITLE)):
        assert_valid(figure)


def test_parallel_lines_end_at_the_score_only_for_complete_trials():
    figure = figures_space.parallel(
        [trial(0, score=2.0), trial(1, score=2.2), trial(2, "pruned")], AXES, LIGHT, title=TITLE
    )
    assert max(x for x in named(figure, "stopped")["x"] if x is not None) == len(AXES) - 1
    assert named(figure, "best")["x"][-1] == len(AXES)
    assert named(figure, "best")["y"] == [0.5, 0.5, 1.0, pytest.approx(0.95, abs=0.05)]
    assert named(figure, "best")["customdata"] == [0] * 4


def test_only_the_best_of_very_many_trials_are_drawn():
    trials = [trial(n, score=2 + n / 1000) for n in range(figures_space.MOST_TRIALS + 10)]
    drawn = figures_space.best_trials(trials)
    assert len(drawn) == figures_space.MOST_TRIALS
    assert drawn[-1].number == 0
    assert max(t.number for t in drawn) == figures_space.MOST_TRIALS - 1


def test_axis_names_are_short_unless_that_makes_two_alike():
    axes = (LR, Axis(path="model.num_layers", scale="linear"), Axis(path="other.num_layers", scale="linear"))
    assert figures_space.short_names(axes) == {
        "optim.matrix_lr": "matrix_lr",
        "model.num_layers": "model.num_layers",
        "other.num_layers": "other.num_layers",
    }


def test_one_outlier_does_not_flatten_the_axis_and_is_told():
    values = np.array([2.0, 2.01, 2.02, 2.03, 2.04, 2.05, 2.06, 2.07, 2.08, 2.09, 9.0])
    low, high = figures.robust_range(values)
    assert 1.9 < low < 2.0
    assert high < 3
    trials = [trial(n, score=float(value)) for n, value in enumerate(values)]
    assert any(
        "1 points lie above" in note["text"]
        for note in figures.history(trials, LIGHT, title=TITLE)["layout"]["annotations"]
    )


def test_a_range_without_outliers_shows_everything():
    low, high = figures.robust_range(np.array([2.0, 2.5, 3.0]))
    assert low < 2.0
    assert high > 3.0


def test_promotions_are_drawn_over_tokens_beside_the_trials_score():
    record = Promotion(
        number=0, trial=4, state="running", attempt=1, progress=0.5, val_bpb=2.1, tokens=5_000, planned_tokens=10_000,
        seconds=1.0, tokens_per_second=1.0, reason="", infeasible="", created_at=0.0, ended_at=None,
    )  # fmt: skip
    figure = figures_runs.promotions({0: points([1, 5], [3.0, 2.1])}, [record], {4: 2.0}, LIGHT, BITS_PER_BYTE)
    assert_valid(figure)
    assert named(figure, "promotion 0")["x"] == [1000, 5000]
    assert named(figure, "score of trial 4")["y"] == [2.0, 2.0]
    assert named(figure, "score of trial 4")["x"] == [0, 10_000]


@pytest.mark.parametrize(
    ("tokens", "text"), [(950, "950"), (4_096, "4.1 K"), (3.2e6, "3.2 M"), (999_997_440, "1 B"), (3e9, "3 B")]
)
def test_token_counts_have_units(tokens, text):
    assert figures_runs.tokens_text(tokens) == text


def test_a_rate_that_the_trainer_does_not_say_is_not_drawn():
    said = dataclasses.replace(points([1, 2], [3.0, 2.5]), tokens_per_second=np.ones(2), lr_factor=np.array([1.0, 0.5]))
    assert len(figures_runs.throughput(detail(said), LIGHT)["data"]) == 2
    unsaid = dataclasses.replace(said, lr_factor=np.full(2, np.nan))
    (speed,) = figures_runs.throughput(detail(unsaid), LIGHT)["data"]
    assert speed["name"] == "tokens per second"


def detail(points: RunPoints) -> RunDetail:
    return RunDetail(
        study="s", kind="trial", number=3, row=trial(3), config={}, points=points,
        streamed_val_bpb_stderr=None, scores=(),
        artifact=None, messages=(), attempts=(), versions={}, git_commit="", parameters=None, peak_memory_bytes=0,
        resumed_step=0, step=2, compiled_graphs=None, graph_breaks=None, devices=1,
    )  # fmt: skip


@pytest.mark.parametrize("theme", [LIGHT, DARK])
@pytest.mark.parametrize("progress", [0.0, 0.01, 0.3, 0.75])
def test_a_forecast_is_valid_and_says_why_where_there_is_none(theme, progress, tmp_path):
    engine = new_engine(tmp_path)
    planned(Writer(engine), 0, progress=progress)
    results = Results(engine)
    standing = results.standing(results.run("lr-wd-batch", "promotion", 0))
    drawn = figures_promotions.forecast(standing, theme)
    engine.dispose()
    assert_valid(drawn)
    band = [trace for trace in drawn["data"] if trace["name"].startswith("law of")]
    notes = [note["text"] for note in drawn["layout"]["annotations"] if note["text"].startswith("no forecast")]
    assert (len(band), len(notes)) == ((1, 0) if progress == 0.3 else (0, 1))
    names = [note["text"] for note in drawn["layout"]["annotations"] if not note["text"].startswith("no forecast")]
    assert names == ["pretrain-1", "pretrain-2", "pretrain-3", "instruct"]
