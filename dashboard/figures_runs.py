"""One trial, and the promotions, as Plotly figures: pure functions from records to JSON values."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dashboard.figures import robust_range, rounded
from dashboard.theme import Figure, Theme, axis, figure
from sweeper.records import Curves, Promotion
from sweeper.run_records import RunDetail, RunPoints
from sweeper.scores import ScoreUnit


def run(detail: RunDetail, theme: Theme, unit: ScoreUnit, *, best: Curves | None = None) -> Figure:
    """Validation above, training loss below, over the share of the budget; the study's best for comparison."""
    points = detail.points
    data = [] if best is None else [_best_trial(best, theme)]
    panels = (("val_bpb", f"streamed {unit.metric}", "y", "lines+markers"), ("train_loss", "train loss", "y2", "lines"))
    for name, label, panel, mode in panels:
        values: NDArray[np.float64] = getattr(points, name)
        data.append(_run_line(points, values, label, panel, mode, theme))
    evals = points.val_bpb if best is None else np.concatenate([points.val_bpb, best.values])
    return figure(
        theme,
        data,
        xaxis=axis(theme, "share of the budget", range=[0, 1.01], tickformat=".0%", anchor="y2"),
        yaxis=axis(theme, unit.title, domain=[0.55, 1], range=list(robust_range(evals))),
        yaxis2=axis(
            theme,
            "train loss (nats per token)",
            domain=[0, 0.45],
            range=list(robust_range(points.train_loss)),
        ),
    )


def _run_line(
    points: RunPoints, values: NDArray[np.float64], label: str, panel: str, mode: str, theme: Theme
) -> Figure:
    finite = np.isfinite(values)
    return {
        "type": "scatter",
        "mode": mode,
        "name": label,
        "x": rounded(points.progress[finite], 4),
        "y": rounded(values[finite], 5),
        "yaxis": panel,
        "customdata": _hover(points, finite, with_stderr=panel == "y"),
        "line": {"color": theme.complete if panel == "y" else theme.running, "width": 2},
        "marker": {"size": 6},
        "hovertemplate": "%{y:.4f}%{customdata[2]} at %{x:.1%}<br>step %{customdata[0]}, %{customdata[1]} tokens"
        "<extra></extra>",
    }


def _hover(points: RunPoints, finite: NDArray[np.bool_], *, with_stderr: bool) -> list[list[Any]]:
    """Step, tokens, and what the value may be off by, of each point."""
    columns = (points.step[finite].tolist(), points.tokens[finite].tolist(), points.val_bpb_stderr[finite].tolist())
    return [
        [int(step), tokens_text(tokens), plus_minus(stderr) if with_stderr else ""]
        for step, tokens, stderr in zip(*columns, strict=True)
    ]


def _best_trial(best: Curves, theme: Theme) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": f"best trial ({best.numbers[0]}), streamed",
        "x": rounded(best.progress.astype(float), 4),
        "y": rounded(best.values.astype(float), 5),
        "opacity": 0.8,
        "line": {"color": theme.best, "width": 1.5, "dash": "dot"},
        "hovertemplate": "%{y:.4f} at %{x:.1%}<extra>best trial</extra>",
    }


def throughput(detail: RunDetail, theme: Theme) -> Figure:
    """Tokens per second and, where the trainer says it, the scheduled rate over training seconds."""
    points = detail.points
    finite = np.isfinite(points.tokens_per_second)
    seconds = rounded(points.seconds[finite], 2)
    common: dict[str, Any] = {"type": "scatter", "mode": "lines", "x": seconds}
    speed = {
        "name": "tokens per second",
        "y": rounded(points.tokens_per_second[finite], 0),
        "line": {"color": theme.complete, "width": 1.5},
    }
    rate = {
        "name": "scheduled learning rate (share of its peak)",
        "y": rounded(points.lr_factor[finite], 4),
        "yaxis": "y2",
        "line": {"color": theme.best, "width": 1.5, "dash": "dash"},
    }
    right = axis(theme, "rate", overlaying="y", side="right", range=[0, 1.05], showgrid=False, tickvals=[0, 0.5, 1])
    return figure(
        theme,
        [{**common, **speed}, *([{**common, **rate}] if np.isfinite(points.lr_factor[finite]).any() else [])],
        xaxis=axis(theme, "training seconds", rangemode="tozero"),
        yaxis=axis(theme, "tokens per second", rangemode="tozero", tickformat="~s"),
        yaxis2=right,
        margin={"l": 52, "r": 48, "t": 30, "b": 42},
    )


def promotions(
    merged: Mapping[int, RunPoints],
    records: Collection[Promotion],
    scores: Mapping[int, float],
    theme: Theme,
    unit: ScoreUnit,
) -> Figure:
    """Streamed score of every promotion over its tokens, and the score of the trial it came from.

    Args:
        merged: curve of each promotion by its number.
        scores: what ranks it, by trial number.
    """
    colors = (theme.complete, theme.running, theme.best, theme.failed)
    data = []
    for record in records:
        points = merged.get(record.number)
        if points is None or not np.isfinite(points.val_bpb).any():
            continue
        finite = np.isfinite(points.val_bpb)
        line = {"color": colors[record.number % len(colors)], "width": 2}
        kind = "confirmation run" if record.confirming else "promotion"
        name = f"{kind} {record.number}" + ("" if record.trial is None else f" of trial {record.trial}")
        x, y = rounded(points.tokens[finite], 0), rounded(points.val_bpb[finite], 5)
        hover = "%{y:.4f} at %{x:.4s} tokens<extra>" + name + "</extra>"
        data.append({"type": "scatter", "mode": "lines+markers", "name": name, "x": x, "y": y, "line": line})
        data[-1]["hovertemplate"] = hover
        if record.trial is not None and record.trial in scores:
            data.append(_trial_score(record, scores[record.trial], line["color"]))
    values = np.array([y for trace in data for y in trace["y"]], dtype=float)
    return figure(
        theme,
        data,
        xaxis=axis(theme, "trained tokens", rangemode="tozero", tickformat="~s"),
        yaxis=axis(theme, f"streamed {unit.title}", range=list(robust_range(values))),
    )


def _trial_score(record: Promotion, score: float, color: object) -> Figure:
    end = max(record.planned_tokens, record.tokens)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": f"score of trial {record.trial} at its own budget",
        "x": [0, end],
        "y": [round(score, 5)] * 2,
        "line": {"color": color, "width": 1, "dash": "dot"},
        "hoverinfo": "name",
    }


def plus_minus(stderr: float | None) -> str:
    """A standard error to put behind a score; empty where it is not known."""
    return "" if stderr is None or math.isnan(stderr) else f" ± {stderr:.4f}"


def tokens_text(tokens: float) -> str:
    """A count of tokens with a unit: 1.05 M, 3 B."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if tokens >= 0.9995 * size:  # three digits of it round up to the unit
            return f"{tokens / size:.3g} {unit}"
    return f"{tokens:.0f}"
