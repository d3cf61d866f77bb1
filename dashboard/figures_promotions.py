"""A promotion's held-out loss against the law of its present phase: pure functions from records to JSON values."""

from __future__ import annotations

import numpy as np

from dashboard.figures import robust_range, rounded
from dashboard.theme import Figure, Theme, axis, figure
from sweeper.promotion_records import Phase, Standing
from sweeper.saturation import Forecast
from sweeper.scaling.records import Estimate, Unidentified


def forecast(standing: Standing, theme: Theme) -> Figure:
    """Held-out loss over trained tokens, the 95 % band up to the end of the phase, where phases begin, and the score
    that the trials' law foretold for the end.

    Where the law is not identified, the figure says why in place of a band.
    """
    curve = standing.curve
    values = [curve.loss]
    data: list[Figure] = []
    note = ""
    if isinstance(curve.band, Unidentified):
        note = f"no forecast: {curve.band.not_identified}"
    else:
        data += _band(curve.band, curve.part, theme)
        values += [curve.band.low_m, curve.band.high_m]
    data.append(
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": "held-out loss",
            "x": rounded(curve.tokens, 0),
            "y": rounded(curve.loss, 5),
            "line": {"color": theme.complete, "width": 2},
            "marker": {"size": 6},
            "hovertemplate": "%{y:.4f} at %{x:.4s} tokens<extra></extra>",
        }
    )
    if standing.foretold_loss is not None:
        told = standing.foretold_loss
        data.append(_foretold(told, standing.planned_tokens, theme))
        values.append(np.array([told.low, told.high]))
    last = max(standing.planned_tokens, standing.tokens, 1)
    return figure(
        theme,
        data,
        xaxis=axis(theme, "trained tokens", range=[0, 1.01 * last], tickformat="~s"),
        yaxis=axis(theme, "val_loss (nats per token)", range=list(robust_range(np.concatenate(values)))),
        shapes=[_line(phase, theme) for phase in standing.phases[1:]],
        annotations=[*(_name(phase, theme) for phase in standing.phases), *_note(note, theme)],
    )


def _band(band: Forecast, part: str, theme: Theme) -> list[Figure]:
    x = rounded(band.tokens_m, 0)
    edge = {"type": "scatter", "mode": "lines", "x": x, "line": {"width": 0}, "hoverinfo": "skip"}
    low = {**edge, "name": "lower bound", "y": rounded(band.low_m, 5), "showlegend": False}
    high = {**edge, "name": "95 % of measurements", "y": rounded(band.high_m, 5), "fill": "tonexty"}
    high["fillcolor"] = f"rgba({', '.join(str(int(theme.best[i : i + 2], 16)) for i in (1, 3, 5))}, 0.18)"
    law = {
        "type": "scatter",
        "mode": "lines",
        "name": f"law of {part}, {band.used} points",
        "x": x,
        "y": rounded(band.loss_m, 5),
        "line": {"color": theme.best, "width": 1.5, "dash": "dash"},
        "hovertemplate": "%{y:.4f} at %{x:.4s} tokens<extra>law</extra>",
    }
    return [low, high, law]


def _foretold(told: Estimate, tokens: int, theme: Theme) -> Figure:
    bar = {"type": "data", "symmetric": False, "thickness": 1.5, "width": 6}
    above, below = round(told.high - told.value, 5), round(told.value - told.low, 5)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "foretold when it was planned, 95 %",
        "x": [tokens],
        "y": [round(told.value, 5)],
        "error_y": {**bar, "array": [above], "arrayminus": [below]},
        "marker": {"size": 9, "symbol": "diamond", "color": theme.best},
        "hovertemplate": "%{y:.4f} at %{x:.4s} tokens<extra>foretold</extra>",
    }


def _line(phase: Phase, theme: Theme) -> Figure:
    line = {"color": theme.muted, "width": 1, "dash": "dot"}
    at = {"x0": phase.begin, "x1": phase.begin, "y0": 0, "y1": 1, "yref": "paper"}
    return {"type": "line", **at, "line": line, "layer": "below"}


def _name(phase: Phase, theme: Theme) -> Figure:
    place = {"x": phase.begin, "y": 1, "yref": "paper", "xanchor": "left", "yanchor": "top", "textangle": 90}
    return {**place, "text": phase.name, "showarrow": False, "font": {"size": 10, "color": theme.muted}}


def _note(words: str, theme: Theme) -> list[Figure]:
    if not words:
        return []
    place = {"x": 0.5, "y": 0.02, "xref": "paper", "yref": "paper", "yanchor": "bottom"}
    return [{**place, "text": words, "showarrow": False, "font": {"size": 11, "color": theme.muted}}]
