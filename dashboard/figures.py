"""Curves and history as Plotly figures: pure functions from records to JSON values.

Few traces draw many runs: the runs of one group are one line with gaps.  A streamed value (a validation on
the way) and a final score never share a panel without a label that tells them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dashboard.theme import Figure, Theme, axis, figure
from sweeper.curves import thin
from sweeper.records import Curves, TrialRow
from sweeper.scores import ScoreUnit

MOST_POINTS = 40_000
"""Of all curves of one figure together: above it runs are thinned, so that no study is too large to draw."""
FEWEST_POINTS_A_RUN = 10

STOPPED_STATES = ("pruned", "diverged", "stopped")
STOPPED_SYMBOLS = {"pruned": "diamond-open", "diverged": "x-thin-open", "stopped": "square-open"}


def curves(
    curves: Curves, theme: Theme, unit: ScoreUnit, *, best: int | None = None, rungs: Sequence[float] = ()
) -> Figure:
    """All curves over the share of the budget: stopped ones faded, running ones and the best on top."""
    groups = _curve_groups(curves, best)
    title = f"streamed {unit.title}" if curves.metric == "val_bpb" else "train loss (nats per token)"
    styles: list[tuple[str, str, float, float]] = [
        ("stopped early", theme.pruned, 1.0, 0.5),
        ("complete", theme.complete, 1.2, 0.65),
        ("running", theme.running, 2.2, 1.0),
        ("best", theme.best, 3.0, 1.0),
    ]
    data = [
        _line_group(curves, groups[name], name, color, width, opacity, theme)
        for name, color, width, opacity in styles
        if groups[name]
    ]
    low, high = robust_range(curves.values)
    above = int(np.sum(curves.values > high)) if len(curves.values) else 0
    return figure(
        theme,
        data,
        xaxis=axis(theme, "share of the budget", range=[0, 1.01], tickformat=".0%"),
        yaxis=axis(theme, title, range=[low, high]),
        shapes=[_rung_line(rung, theme) for rung in rungs],
        annotations=[*_rung_labels(rungs, theme), *_above_note(above, theme)],
    )


def _curve_groups(curves: Curves, best: int | None) -> dict[str, list[int]]:
    """Indices of the runs to draw, by group; failed runs are repeated under another number and left out."""
    groups: dict[str, list[int]] = {"stopped early": [], "complete": [], "running": [], "best": []}
    for index, (number, state) in enumerate(zip(curves.numbers, curves.states, strict=True)):
        if curves.offsets[index] == curves.offsets[index + 1]:
            continue
        if number == best and state == "complete":
            groups["best"].append(index)
        elif state in STOPPED_STATES:
            groups["stopped early"].append(index)
        elif state in groups:
            groups[state].append(index)
    return groups


def _line_group(
    curves: Curves, runs: Sequence[int], name: str, color: str, width: float, opacity: float, theme: Theme
) -> Figure:
    most = max(FEWEST_POINTS_A_RUN, MOST_POINTS // max(1, len(curves.numbers)))
    x: list[float | None] = []
    y: list[float | None] = []
    trials: list[int | None] = []
    for run in runs:
        piece = slice(curves.offsets[run], curves.offsets[run + 1])
        values = thin(curves.values[piece].astype(float), most)
        x += [*rounded(thin(curves.progress[piece].astype(float), most), 3), None]
        y += [*rounded(values, 4), None]
        trials += [curves.numbers[run]] * len(values) + [None]
    mark = {"mode": "lines+markers", "marker": {"size": 5}} if name in ("running", "best") else {"mode": "lines"}
    label = f"{name}: trial {curves.numbers[runs[0]]}" if name == "best" else f"{name} ({len(runs)})"
    return {
        "type": "scatter",
        "name": label,
        "x": x[:-1],
        "y": y[:-1],
        "customdata": trials[:-1],
        "opacity": opacity,
        "line": {"color": color, "width": width},
        "hovertemplate": "trial %{customdata} at %{x:.0%}<br>%{y:.4f}<extra>" + name + "</extra>",
        **mark,
    }


def _rung_line(rung: float, theme: Theme) -> Figure:
    line = {"color": theme.muted, "width": 1, "dash": "dot"}
    return {"type": "line", "x0": rung, "x1": rung, "y0": 0, "y1": 1, "yref": "paper", "line": line, "layer": "below"}


def _rung_labels(rungs: Sequence[float], theme: Theme) -> list[Figure]:
    font = {"size": 10, "color": theme.muted}
    return [
        {"x": rung, "y": 1, "yref": "paper", "text": f"rung {rung:.0%}", "showarrow": False, "font": font}
        | {"xanchor": "left", "yanchor": "top"}
        for rung in rungs
    ]


def _above_note(count: int, theme: Theme) -> list[Figure]:
    if not count:
        return []
    text = f"{count:,} points lie above: double-click to see all"
    place = {"x": 1, "y": 1, "xref": "paper", "yref": "paper", "xanchor": "right", "yanchor": "top"}
    return [{**place, "text": text, "showarrow": False, "font": {"size": 10, "color": theme.muted}}]


def history(trials: Sequence[TrialRow], theme: Theme, *, title: str) -> Figure:
    """Scores and the best so far above; where stopped trials stood when they stopped in a panel below.

    Args:
        title: which score ranks, in words.
    """
    complete = [t for t in trials if t.score is not None]
    stopped = [t for t in trials if t.state in STOPPED_STATES and t.streamed_val_bpb is not None]
    kept = [t for t in complete if not t.infeasible]
    over = [t for t in complete if t.infeasible]
    scores = np.array([t.score for t in complete], dtype=float)
    data = [_best_so_far(kept, theme), _scores(kept, theme)] if kept else []
    if over:
        data.append(_over_limit(over, theme))
    if stopped:
        data.append(_stopped_values(stopped, theme))
    split = bool(complete and stopped)
    last = max((t.number for t in trials), default=0)
    x = axis(theme, "trial", range=[-0.02 * last - 0.5, 1.02 * last + 0.5], anchor="y2" if stopped else "y")
    layout: Figure = {"xaxis": x}
    if complete:
        low, high = robust_range(scores)
        final = axis(theme, title, range=[low, high], domain=[0.42, 1] if split else [0, 1])
        layout["yaxis"] = final
        layout["annotations"] = _above_note(int(np.sum(scores > high)), theme)
    if stopped:
        low, high = robust_range(np.array([t.streamed_val_bpb for t in stopped], dtype=float))
        lower = axis(theme, "streamed", range=[low, high], domain=[0, 0.3] if split else [0, 1], nticks=4)
        layout["yaxis2"] = {**lower, "anchor": "x"}
    return figure(theme, data, **layout)


def _best_so_far(kept: Sequence[TrialRow], theme: Theme) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "best so far",
        "x": [t.number for t in kept],
        "y": rounded(np.minimum.accumulate(np.array([t.score for t in kept], dtype=float)), 5),
        "line": {"color": theme.best, "width": 2, "shape": "hv"},
        "hovertemplate": "best up to trial %{x}: %{y:.4f}<extra></extra>",
    }


def _scores(kept: Sequence[TrialRow], theme: Theme) -> Figure:
    return _markers(kept, [t.score for t in kept]) | {
        "name": "complete",
        "marker": {"color": theme.complete, "size": 8, "opacity": 0.85},
        "hovertemplate": "trial %{x}: %{y:.4f}<extra></extra>",
    }


def _over_limit(over: Sequence[TrialRow], theme: Theme) -> Figure:
    return _markers(over, [t.score for t in over]) | {
        "name": "over a limit",
        "text": [t.infeasible for t in over],
        "marker": {"color": theme.failed, "size": 8, "symbol": "circle-x-open"},
        "hovertemplate": "trial %{x}: %{y:.4f}<br>%{text}<extra></extra>",
    }


def _stopped_values(stopped: Sequence[TrialRow], theme: Theme) -> Figure:
    return _markers(stopped, [t.streamed_val_bpb for t in stopped]) | {
        "name": "stopped (streamed)",
        "yaxis": "y2",
        "text": [f"{t.state} at {t.progress:.0%}" for t in stopped],
        "marker": {"color": theme.pruned, "size": 7, "symbol": [STOPPED_SYMBOLS[t.state] for t in stopped]},
        "hovertemplate": "trial %{x}: %{text}<br>streamed %{y:.4f}<extra></extra>",
    }


def _markers(trials: Sequence[TrialRow], values: list[float | None]) -> Figure:
    """A point for each trial over its number; a click on it opens the trial."""
    numbers = [t.number for t in trials]
    place = {"x": numbers, "y": rounded(np.array(values, dtype=float), 5), "customdata": numbers}
    return {"type": "scatter", "mode": "markers", **place}


def robust_range(values: NDArray[Any]) -> tuple[float, float]:
    """An axis range from the best value to the 90th percentile and a margin: outliers must not flatten it."""
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return 0.0, 1.0
    low, high = float(finite.min()), float(np.quantile(finite, 0.9))
    top = float(finite.max())
    if top - low <= 1.6 * (high - low):  # nothing far out: show everything
        high = top
    pad = max(0.06 * (high - low), 1e-3 * max(abs(low), 1e-9))
    return round(low - pad, 5), round(high + pad, 5)


def rounded(values: NDArray[np.floating[Any]], digits: int) -> list[float | None]:
    """Rounded for the wire, None for NaN."""
    return [None if v != v else v for v in np.round(values, digits).tolist()]
