"""The search space as Plotly figures: each value against the score, all values at once, and what matters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dashboard.figures import STOPPED_STATES, robust_range, rounded
from dashboard.theme import Figure, Theme, axis, figure
from sweeper.records import Axis, Importances, TrialRow

MOST_TRIALS = 1_500
"""Drawn in one figure of this module; beyond, the best ones, and the page says so."""


def short_names(axes: Sequence[Axis]) -> dict[str, str]:
    """The last part of each path where that is unique, else the whole path."""
    last = [axis.path.rsplit(".", 1)[-1] for axis in axes]
    return {a.path: (name if last.count(name) == 1 else a.path) for a, name in zip(axes, last, strict=True)}


def best_trials(trials: Sequence[TrialRow]) -> list[TrialRow]:
    """Complete trials that break no limit, at most MOST_TRIALS, the worst first (so that the best are drawn last,
    on top)."""
    scored = [(t.score, t) for t in trials if t.score is not None and not t.infeasible]
    return [t for _, t in sorted(scored, key=lambda pair: pair[0])[:MOST_TRIALS]][::-1]


def over_limit(trials: Sequence[TrialRow]) -> list[TrialRow]:
    """Complete trials that break a limit, the newest MOST_TRIALS."""
    return [t for t in trials if t.score is not None and t.infeasible][-MOST_TRIALS:]


def parameter(trials: Sequence[TrialRow], searched: Axis, theme: Theme, *, name: str, title: str) -> Figure:
    """Score over one searched value; trials that break a limit are crossed.

    Trials that were stopped early have no score: they are ticks along the upper edge, which show where the
    search has been without a height that would be read as one.

    Args:
        title: which score ranks, in words.
    """
    complete = [t for t in best_trials(trials) if searched.path in t.params]
    over = [t for t in over_limit(trials) if searched.path in t.params]
    stopped = [t for t in trials if t.state in STOPPED_STATES and searched.path in t.params][-MOST_TRIALS:]
    scores = np.array([t.score for t in complete], dtype=float)
    low, high = robust_range(np.array([t.score for t in (*complete, *over)], dtype=float))
    data = [_scores(complete, scores, searched, theme)]
    if over:
        data.append(_crossed(over, searched, theme))
    if stopped:
        data.append(_edge_ticks(stopped, searched, high, theme))
    x = axis(theme, name, **_scale(searched))
    return figure(
        theme,
        data,
        xaxis=x,
        yaxis=axis(theme, title, range=[low, high]),
        showlegend=False,
        margin={"l": 52, "r": 12, "t": 12, "b": 42},
    )


def _scores(complete: Sequence[TrialRow], scores: NDArray[np.float64], searched: Axis, theme: Theme) -> Figure:
    best = int(np.argmin(scores)) if len(scores) else -1
    colors = [theme.best if index == best else theme.complete for index in range(len(scores))]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [_position(t, searched) for t in complete],
        "y": rounded(scores, 5),
        "customdata": [t.number for t in complete],
        "marker": {
            "color": colors,
            "size": [12 if index == best else 8 for index in range(len(scores))],
            "symbol": ["star" if index == best else "circle" for index in range(len(scores))],
            "opacity": 0.85,
        },
        "hovertemplate": "trial %{customdata}<br>%{x}<br>%{y:.4f}<extra></extra>",
    }


def _crossed(over: Sequence[TrialRow], searched: Axis, theme: Theme) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [_position(t, searched) for t in over],
        "y": rounded(np.array([t.score for t in over], dtype=float), 5),
        "customdata": [t.number for t in over],
        "text": [t.infeasible for t in over],
        "marker": {"symbol": "circle-x-open", "size": 8, "color": theme.failed},
        "hovertemplate": "trial %{customdata}<br>%{x}<br>%{y:.4f}<br>%{text}<extra></extra>",
    }


def _edge_ticks(stopped: Sequence[TrialRow], searched: Axis, edge: float, theme: Theme) -> Figure:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [_position(t, searched) for t in stopped],
        "y": [edge] * len(stopped),
        "customdata": [t.number for t in stopped],
        "text": [f"{t.state} at {t.progress:.0%}" for t in stopped],
        "cliponaxis": False,
        "marker": {"symbol": "line-ns-open", "size": 9, "color": theme.pruned, "line": {"width": 1.5}},
        "hovertemplate": "trial %{customdata}<br>%{x}<br>%{text}: no score<extra></extra>",
    }


def _position(trial: TrialRow, searched: Axis) -> Any:
    value = trial.params[searched.path]
    if searched.scale == "choice":
        return str(value)
    return float(f"{value:.5g}")


def _scale(searched: Axis) -> dict[str, Any]:
    if searched.scale == "choice":
        return {"type": "category", "categoryorder": "array", "categoryarray": [str(c) for c in searched.choices]}
    assert searched.low is not None
    assert searched.high is not None
    low, high = float(searched.low), float(searched.high)
    ticks: dict[str, Any] = {"dtick": 1} if searched.integer and high - low <= 12 else {"nticks": 6}
    if searched.scale == "log":
        values = log_ticks(low, high)
        ticks = {"tickvals": values, "ticktext": [f"{value:g}" for value in values]}
        low, high = math.log10(low), math.log10(high)
    pad = 0.04 * (high - low)
    return {"type": "log" if searched.scale == "log" else "linear", "range": [low - pad, high + pad], **ticks}


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each decade between the ends where these are few, else the decades."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if math.log10(high / low) <= 2 else (1,)
    values = [float(f"{step}e{decade}") for decade in decades for step in steps]
    return [value for value in values if low * 0.999 <= value <= high * 1.001]


def parallel(trials: Sequence[TrialRow], axes: Sequence[Axis], theme: Theme, *, title: str) -> Figure:
    """Each trial a line across all searched values, the darkest (lightest, in the dark) the best.

    Lines of complete trials end at their score; stopped trials are faint and end before that axis, as do, in the
    colour of what failed, those that break a limit.

    Args:
        title: which score ranks, in words.
    """
    complete = best_trials(trials)
    scores = np.array([t.score for t in complete], dtype=float)
    low, high = robust_range(scores)
    heights = np.clip((high - scores) / (high - low), 0, 1)  # the best on top
    data = _faint_lines(trials, axes, theme)
    for color, members in zip(theme.ramp, np.array_split(np.arange(len(complete)), len(theme.ramp)), strict=True):
        if len(members):
            chosen = [complete[i] for i in members]
            lines = [_line(complete[i], axes, float(heights[i])) for i in members]
            data.append(_lines("complete", chosen, lines, color, 1.4, 0.9))
    if complete:
        lines = [_line(complete[-1], axes, float(heights[-1]))]
        data.append(_lines("best", complete[-1:], lines, theme.best, 3.0, 1.0))
    names = short_names(axes)
    positions = list(range(len(axes) + 1))
    ticks = [names[a.path] for a in axes] + [title]
    return figure(
        theme,
        data,
        xaxis=axis(theme, "", tickvals=positions, ticktext=ticks, range=[-0.25, len(axes) + 0.35], showgrid=False),
        yaxis={"visible": False, "range": [-0.06, 1.06], "fixedrange": True},
        shapes=[_upright(position, theme) for position in positions],
        annotations=[*_axis_ends(axes, theme), *_end_labels(len(axes), f"{high:.3f}", f"{low:.3f}", theme)],
        showlegend=False,
        margin={"l": 24, "r": 24, "t": 14, "b": 40},
    )


def _faint_lines(trials: Sequence[TrialRow], axes: Sequence[Axis], theme: Theme) -> list[Figure]:
    stopped = [t for t in trials if t.state in STOPPED_STATES][-MOST_TRIALS:]
    groups = (
        ("stopped early: no score", stopped, theme.pruned, 0.3),
        ("over a limit", over_limit(trials), theme.failed, 0.4),
    )
    return [
        _lines(name, members, [_line(t, axes, None) for t in members], color, 0.8, opacity)
        for name, members, color, opacity in groups
        if members
    ]


def _line(trial: TrialRow, axes: Sequence[Axis], height: float | None) -> list[float | None]:
    places = [_height(trial.params.get(a.path), a) for a in axes]
    return [*places, height] if height is not None else list(places)


def _height(value: Any, searched: Axis) -> float | None:
    if value is None:
        return None
    if searched.scale == "choice":
        known = [str(choice) for choice in searched.choices]
        return known.index(str(value)) / max(1, len(known) - 1) if str(value) in known else None
    assert searched.low is not None
    assert searched.high is not None
    low, high, here = float(searched.low), float(searched.high), float(value)
    if searched.scale == "log":
        low, high, here = math.log(low), math.log(high), math.log(here)
    return round((here - low) / (high - low), 4) if high > low else 0.5


def _lines(
    name: str,
    trials: Sequence[TrialRow],
    lines: Sequence[Sequence[float | None]],
    color: str,
    width: float,
    opacity: float,
) -> Figure:
    x: list[int | None] = []
    y: list[float | None] = []
    numbers: list[int | None] = []
    for trial, line in zip(trials, lines, strict=True):
        x += [*range(len(line)), None]
        y += [*(None if h is None else round(h, 4) for h in line), None]
        numbers += [trial.number] * len(line) + [None]
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": x[:-1],
        "y": y[:-1],
        "customdata": numbers[:-1],
        "opacity": opacity,
        "line": {"color": color, "width": width},
        "hovertemplate": "trial %{customdata}<extra>" + name + "</extra>",
    }


def _upright(position: int, theme: Theme) -> Figure:
    line = {"color": theme.muted, "width": 1}
    return {"type": "line", "x0": position, "x1": position, "y0": 0, "y1": 1, "line": line, "layer": "below"}


def _axis_ends(axes: Sequence[Axis], theme: Theme) -> list[Figure]:
    labels: list[Figure] = []
    for position, a in enumerate(axes):
        if a.scale != "choice":
            labels += _end_labels(position, f"{a.low:.4g}", f"{a.high:.4g}", theme)
            continue
        for choice in a.choices:
            labels.append(_label(position, _height(choice, a) or 0.0, str(choice), theme))
    return labels


def _end_labels(position: int, low: str, high: str, theme: Theme) -> list[Figure]:
    return [_label(position, -0.045, low, theme), _label(position, 1.045, high, theme)]


def _label(position: int, height: float, text: str, theme: Theme) -> Figure:
    font = {"size": 10, "color": theme.muted}
    return {"x": position, "y": height, "text": text, "showarrow": False, "font": font, "bgcolor": theme.surface}


def importances(found: Importances, theme: Theme, names: Mapping[str, str]) -> Figure:
    """Shares as bars, the largest on top."""
    ordered = sorted(found.shares.items(), key=lambda item: item[1])
    bar = {
        "type": "bar",
        "orientation": "h",
        "y": [names.get(path, path) for path, _ in ordered],
        "x": [round(share, 4) for _, share in ordered],
        "text": [f"{share:.0%}" for _, share in ordered],
        "textposition": "outside",
        "cliponaxis": False,
        "marker": {"color": theme.complete},
        "hovertemplate": "%{y}: %{x:.1%}<extra></extra>",
    }
    return figure(
        theme,
        [bar],
        xaxis=axis(theme, "share of importance", tickformat=".0%", rangemode="tozero"),
        yaxis=axis(theme, "", showgrid=False),
        margin={"l": 90, "r": 40, "t": 12, "b": 42},
    )
