"""Score over learning rate and decay, or learning rate and batch: contours, lines of equal tau, the full run."""

from __future__ import annotations

import numpy as np
from scipy import stats

from dashboard.figures_scaling import (
    Card,
    dots,
    guide,
    hovered,
    interval,
    known,
    line,
    log_axis,
    on,
    panel,
    ramp,
    remedy,
    run_reasons,
    short,
)
from dashboard.theme import Figure, Theme, figure
from sweeper.observations_fits import Fits
from sweeper.observations_surface import Second, Surface, surfaces
from sweeper.observations_target import FullRun, full_run
from sweeper.scaling.optimum import Optimum
from sweeper.scaling.records import Array

LEVELS = (0.005, 0.0025, 0.001)
"""Excess over the bottom at which contours are drawn."""
TAUS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Lines of equal tau, over the best."""
COLOURED_UP_TO = 2.0
"""Per cent above the bottom from which dots have the last colour."""
WORDS: dict[Second, str] = {"weight_decay": "decay", "batch_tokens": "batch"}
TITLES: dict[Second, str] = {
    "weight_decay": "weight decay (per step, over rate)",
    "batch_tokens": "batch (tokens a step)",
}
PAIRS = (
    "Search optim.matrix_lr with optim.matrix_weight_decay (or data.batch_tokens); twelve runs of one model and "
    "budget hold a surface: sweeper launch --study S --trials N",
    "runs that state rate and decay (or batch), twelve of one model and budget that differ in both",
)
ALONG = 0.15
"""Octaves of the best rate an octave of the other value, below which the two are called independent."""
AROUND = np.stack([np.cos(np.linspace(0, 2 * np.pi, 73)), np.sin(np.linspace(0, 2 * np.pi, 73))])
"""(2, 73) a circle."""


def surface(fits: Fits, theme: Theme) -> Card:
    """One panel for rate and decay, one for rate and batch, as far as the runs vary in them."""
    found = fits.get(surfaces)
    if not found:
        return Card(
            empty="No group of comparable runs varies in learning rate and in decay or batch at once. "
            + remedy(fits, *PAIRS),
            excluded=run_reasons(fits),
        )
    told = fits.get(full_run)
    layout: Figure = {}
    data: list[Figure] = []
    for place, one in enumerate(found):
        drawn = _panel(one, fits, told if isinstance(told, FullRun) else None, place, theme)
        data += drawn
        x, y = _range(drawn, "x"), _range(drawn, "y")
        axes = {"x": log_axis() | {"nticks": 4, "range": x}, "y": log_axis() | {"range": y}}
        layout |= panel(theme, place, len(found), "learning rate (peak, per step)", TITLES[one.second], **axes)
    missing = [f"rate and {WORDS[one.second]}: {one.optimum.not_identified}" for one in found if not one.optimum.at]
    if not isinstance(told, FullRun):
        missing.append(f"the full run's star: {told.not_identified}")
    return Card(
        figure=figure(theme, data, **layout, showlegend=False),
        says=" ".join(_says(one, fits) for one in found),
        used="; ".join(f"{one.optimum.used} of {len(one.rows)} runs for rate and {WORDS[one.second]}" for one in found),
        excluded=[
            *run_reasons(fits),
            *((f"for rate and {WORDS[one.second]}: {why}", count) for one in found for why, count in _left_out(one)),
        ],
        missing=missing,
        method="".join(f"{how}; " for how in dict.fromkeys(o.optimum.interval_method for o in found if o.optimum.at))
        + "shaded: +0.1, +0.25 and +0.5 % over the bottom; inner "
        "ellipse: 95 % of the optimum; dashed ellipse: of the full run's best values, decay by the deviation of tau"
        + ("; grey: equal tau" if any(one.second == "weight_decay" for one in found) else ""),
    )


def _left_out(one: Surface) -> list[tuple[str, int]]:
    counted: dict[str, int] = {}
    for excluded in one.optimum.excluded:
        counted[excluded.reason] = counted.get(excluded.reason, 0) + 1
    return list(counted.items())


def _says(one: Surface, fits: Fits) -> str:
    runs = fits.trials.runs
    n_params, tokens, batch = (
        float(np.median(getattr(runs, name)[one.rows])) for name in ("n_params", "tokens", "batch_tokens")
    )
    alike = (("batch {}", batch),) if one.second == "weight_decay" else ()
    what = known(("{} parameters", n_params), ("{} tokens", tokens), *alike)
    if not one.optimum.at:
        return f"Rate and {WORDS[one.second]} ({what}): no best pair inside what was tried; below it says why."
    rate, other = one.optimum.at
    word = WORDS[one.second]
    shown = interval(other, ",.0f", "tokens") if one.second == "batch_tokens" else interval(other)
    return f"Rate and {word} together ({what}): best at rate {interval(rate)} and {word} {shown}. {_tilt(one)}"


def _tilt(one: Surface) -> str:
    """Whether the valley runs along an axis."""
    h, word = np.asarray(one.optimum.curvature_dd), WORDS[one.second]
    slope = -h[0, 1] / h[0, 0]
    if abs(slope) < ALONG:
        return f"Each can be tuned by itself: the best rate hardly moves with {word}."
    return (
        f"They belong together: twice the {word} wants {2.0**slope:.2g} times the rate (by the fitted bowl alone, so "
        "without an interval)."
    )


def _panel(one: Surface, fits: Fits, told: FullRun | None, place: int, theme: Theme) -> list[Figure]:
    runs, optimum = fits.trials.runs, one.optimum
    y = getattr(runs, one.second)
    shown = one.rows[y[one.rows] > 0]
    bottom = optimum.loss_at or float(runs.loss[shown].min())
    excess = 100 * (runs.loss[shown] / bottom - 1)
    drawn = _contours(optimum, theme, place) if optimum.at else []
    if one.second == "weight_decay":
        drawn = [*_iso_tau(one, fits, theme, place), *drawn]
    scale = {
        "cmin": 0,
        "cmax": COLOURED_UP_TO,
        "colorscale": _colours(theme),
        "color": [round(float(e), 3) for e in excess],
    }
    points = dots(
        f"rate and {WORDS[one.second]}", runs.learning_rate[shown], y[shown], runs.trial[shown].tolist(),
        theme.complete,
        marker=scale | {"size": 7, "opacity": 1.0, "line": {"width": 0.5, "color": theme.muted}},
        text=[f"{e:+.2f} %" for e in excess],
        **on(place),
    )  # fmt: skip
    told_of = "trial %{customdata}<br>rate %{x:.4g}, " + WORDS[one.second] + " %{y:.4g}<br>%{text}<extra></extra>"
    drawn.append(hovered(points, told_of))
    lost = one.diverged[y[one.diverged] > 0]
    if len(lost):
        cross = {"symbol": "x-thin-open", "size": 7, "line": {"width": 1.2}, "opacity": 0.9}
        rates, numbers = runs.learning_rate[lost], runs.trial[lost].tolist()
        drawn.append(dots("diverged", rates, y[lost], numbers, theme.failed, marker=cross, **on(place)))
    if told is not None:
        drawn += _full_run(one, told, theme, place)
    return drawn


def _colours(theme: Theme) -> list[list[object]]:
    """The best strongest."""
    ordered = theme.ramp[::-1]
    return [[k / (len(ordered) - 1), color] for k, color in enumerate(ordered)]


def _contours(optimum: Optimum, theme: Theme, place: int) -> list[Figure]:
    """Ellipses of equal excess, the widest first, and the optimum with its 95 % region."""
    assert optimum.log2_at_d is not None and optimum.curvature_dd is not None and optimum.covariance_dd is not None
    values, vectors = np.linalg.eigh(optimum.curvature_dd)
    drawn: list[Figure] = []
    for level, color in zip(LEVELS, ramp(theme, len(LEVELS)), strict=True):
        ring = optimum.log2_at_d[:, None] + vectors @ (np.sqrt(2 * np.log1p(level) / values)[:, None] * AROUND)
        x, y = 2.0**ring
        style = {
            "fill": "toself",
            "fillcolor": _faint(color),
            "line": {"width": 1, "color": color},
            "hoverinfo": "skip",
        }
        drawn.append(line(f"+{100 * level:g} %", x, y, color, **style, **on(place)))
    x, y = _ellipse(optimum.log2_at_d, optimum.covariance_dd)
    drawn.append(line("95 % of the optimum", x, y, theme.best, line={"width": 1.5}, hoverinfo="skip", **on(place)))
    at = {"x": [optimum.at[0].value], "y": [optimum.at[1].value]}
    drawn.append({"type": "scatter", "mode": "markers", "name": "optimum", **at, **on(place)}
                 | {"marker": {"symbol": "diamond", "size": 10, "color": theme.best},
                    "hovertemplate": "optimum: %{x:.4g}, %{y:.4g}<extra></extra>"})  # fmt: skip
    return drawn


def _faint(color: str) -> str:
    red, green, blue = (int(color[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.13)"


def _ellipse(centre: Array, covariance: Array) -> tuple[Array, Array]:
    """The region of 95 % of a normal in two logs, as places."""
    values, vectors = np.linalg.eigh(covariance)
    wide = np.sqrt(np.maximum(values, 0) * stats.chi2.ppf(0.95, 2))
    x, y = 2.0 ** (centre[:, None] + vectors @ (wide[:, None] * AROUND))
    return x, y


def _iso_tau(one: Surface, fits: Fits, theme: Theme, place: int) -> list[Figure]:
    """decay = 1 / (tau x rate x steps): falling diagonals."""
    runs = fits.trials.runs
    steps = float(np.median(runs.steps[one.rows]))
    if one.optimum.at:
        middle = 1 / (one.optimum.at[0].value * one.optimum.at[1].value * steps)
    else:
        taus = runs.tau[one.rows]
        middle = float(np.median(taus[np.isfinite(taus)]))
    rates = np.geomspace(runs.learning_rate[one.rows].min() / 4, runs.learning_rate[one.rows].max() * 4, 9)
    return [guide(f"tau = {t * middle:.2g}", rates, 1 / (t * middle * rates * steps), theme, **on(place)) for t in TAUS]


def _full_run(one: Surface, told: FullRun, theme: Theme, place: int) -> list[Figure]:
    """The values that are proposed for it, about its best rate; decay as sure as rate and tau are together."""
    proposed = told.plan.proposed
    values = proposed.values
    text = (
        f"full run of {short(told.tokens)} tokens by the {proposed.name}: rate {values.learning_rate:.4g}, decay "
        f"{values.weight_decay:.4g}, batch {short(values.batch_tokens)}"
    )
    y = values.weight_decay if one.second == "weight_decay" else values.batch_tokens
    drawn: list[Figure] = []
    if one.second == "weight_decay":
        rate, tau = proposed.rate_deviation**2, told.tau_octaves**2
        centre = np.log2([proposed.best_rate.value, 1 / (values.tau * proposed.best_rate.value * values.steps)])
        x, ring = _ellipse(centre, np.array([[rate, -rate], [-rate, rate + tau]]))
        dashed = {"width": 1.2, "dash": "dash"}
        drawn.append(
            line("95 % of the full run's best", x, ring, theme.running, line=dashed, hoverinfo="skip", **on(place))
        )
    else:
        bar = {"type": "data", "symmetric": False, "thickness": 1.2, "width": 3}
        bar |= {"array": [proposed.best_rate.high - values.learning_rate]}
        bar |= {"arrayminus": [values.learning_rate - proposed.best_rate.low]}
    marker = {"symbol": "star", "size": 14, "color": theme.running}
    star: Figure = {"type": "scatter", "mode": "markers", "name": "full run", "x": [values.learning_rate], "y": [y]}
    star |= {"text": [text], "marker": marker, "hovertemplate": "%{text}<extra></extra>", **on(place)}
    return [*drawn, star if one.second == "weight_decay" else star | {"error_x": bar}]


def _range(drawn: list[Figure], side: str) -> list[float]:
    """log10 limits about dots and star; contours and diagonals may leave the panel."""
    values = np.concatenate([np.array(t[side], dtype=float) for t in drawn if t["mode"] == "markers"])
    low, high = float(np.log10(values.min())), float(np.log10(values.max()))
    pad = 0.06 * max(high - low, 0.3)
    return [low - pad, high + pad]
