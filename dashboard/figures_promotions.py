"""A promotion's loss against its schedule-aware bands, or the law of its present phase: from records to JSON values."""

from __future__ import annotations

import numpy as np

from dashboard.figures import robust_range, rounded
from dashboard.theme import Figure, Theme, axis, figure
from sweeper.full_bands import Band
from sweeper.full_forecast import FullForecast
from sweeper.promotion_records import Phase, Standing
from sweeper.saturation import Forecast
from sweeper.scaling.records import Array, Estimate, Unidentified

Numbers = list[float | None]


def forecast(standing: Standing, theme: Theme, foretold: FullForecast | None = None) -> Figure:
    """Loss over trained tokens, the 95 % bands up to the end, where phases begin, and the score that the trials' law
    foretold for the end.

    Where there is no schedule-aware band, that of the law of the present phase's held-out losses is drawn; where that
    is not identified either, the figure says why.

    Args:
        foretold: the bands under the run's whole schedule; the loss that they judge is drawn beside the held-out one.
    """
    curve = standing.curve
    values = [curve.loss]
    data: list[Figure] = []
    note, loss = "", "val_loss"
    if foretold is not None and foretold.bands:
        data += _foretold_bands(foretold, theme)
        values += [bound for band in foretold.bands for bound in (band.low_m, band.high_m)]
        if foretold.kind == "train loss":
            loss = "loss"
            data.append(_measured("train loss, means", foretold.tokens_n, foretold.loss_n, theme.running))
    elif isinstance(curve.band, Unidentified):
        note = f"no forecast: {curve.band.not_identified}"
    else:
        data += _band(curve.band, curve.part, theme)
        values += [curve.band.low_m, curve.band.high_m]
    data.append(_measured("held-out loss", curve.tokens, curve.loss, theme.complete))
    if standing.foretold_loss is not None:
        told = standing.foretold_loss
        data.append(_foretold(told, standing.planned_tokens, theme))
        values.append(np.array([told.low, told.high]))
    last = max(standing.planned_tokens, standing.tokens, 1)
    return figure(
        theme,
        data,
        xaxis=axis(theme, "trained tokens", range=[0, 1.01 * last], tickformat="~s"),
        yaxis=axis(theme, f"{loss} (nats per token)", range=list(robust_range(np.concatenate(values)))),
        shapes=[_line(phase, theme) for phase in standing.phases[1:]],
        annotations=[*(_name(phase, theme) for phase in standing.phases), *_note(note, theme)],
    )


def _measured(name: str, tokens: Array, loss: Array, colour: str) -> Figure:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": rounded(tokens, 0),
        "y": rounded(loss, 5),
        "line": {"color": colour, "width": 2},
        "marker": {"size": 6},
        "hovertemplate": "%{y:.4f} at %{x:.4s} tokens<extra></extra>",
    }


def _foretold_bands(foretold: FullForecast, theme: Theme) -> list[Figure]:
    """Each band over what it judges, the newest to its end."""
    drawn: list[Figure] = []
    for place, band in enumerate(foretold.bands):
        newest = place == len(foretold.bands) - 1
        until = band.tokens_m[-1] if newest else foretold.bands[place + 1].tokens_m[0]
        drawn += _piece(band, until, foretold.kind, theme, newest=newest)
    return drawn


def _piece(band: Band, until: float, kind: str, theme: Theme, *, newest: bool) -> list[Figure]:
    places = np.append(band.tokens_m[band.tokens_m < until], min(until, band.tokens_m[-1]))
    low, law, high = (
        rounded(np.interp(places, band.tokens_m, loss), 5) for loss in (band.low_m, band.loss_m, band.high_m)
    )
    name = f"{kind} foretold at {band.share:.0%}"
    return _ribbon(rounded(places, 0), low, law, high, name, theme, legend=newest)


def _band(band: Forecast, part: str, theme: Theme) -> list[Figure]:
    low, law, high = (rounded(loss, 5) for loss in (band.low_m, band.loss_m, band.high_m))
    name = f"law of {part}, {band.used} points"
    return _ribbon(rounded(band.tokens_m, 0), low, law, high, name, theme, legend=True)


def _ribbon(
    x: Numbers, low_m: Numbers, law_m: Numbers, high_m: Numbers, name: str, theme: Theme, *, legend: bool
) -> list[Figure]:
    edge = {"type": "scatter", "mode": "lines", "x": x, "line": {"width": 0}, "hoverinfo": "skip"}
    low = {**edge, "name": "lower bound", "y": low_m, "showlegend": False}
    high = {**edge, "name": "95 % of measurements", "y": high_m, "fill": "tonexty", "showlegend": legend}
    high["fillcolor"] = f"rgba({', '.join(str(int(theme.best[i : i + 2], 16)) for i in (1, 3, 5))}, 0.18)"
    law = {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "showlegend": legend,
        "x": x,
        "y": law_m,
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
