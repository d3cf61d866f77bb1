"""Score over learning rate: the bowl of each cell and its vertex."""

from __future__ import annotations

import numpy as np

from dashboard.figures import robust_range
from dashboard.figures_scaling import (
    MOST_GROUPS,
    Card,
    bars,
    dots,
    interval,
    known,
    line,
    log_axis,
    noise_shapes,
    noise_words,
    panel,
    ramp,
    remedy,
    run_reasons,
    short,
    sizes_of,
)
from dashboard.theme import Figure, Theme, figure
from sweeper.observations_cells import Cell
from sweeper.observations_fits import Fits
from sweeper.observations_sensitivity import Sensitivities, sensitivities
from sweeper.scaling.optimum import Optimum
from sweeper.scaling.records import Array

FEW_CELLS = 4
"""Up to here the bowls stand at their own height; beyond, all of them on one bottom."""
MOST_DRAWN = 1_000
"""Scores of one figure; beyond, the ones nearest to the best of their cell: more of them take a browser a second."""
SAME_COST = 1e-6
"""Relative: curvatures that differ by less are one."""
RATES = (
    "Run trials that differ in optim.matrix_lr at an equal batch, depth and budget: "
    "sweeper launch --study S --trials N; five rates over four octaves hold an optimum.",
    "runs that state their rate (a column mapped to optim.matrix_lr), five of them over four octaves at an equal "
    "batch, size and budget",
)
"""What holds an optimum: of trials here, of runs made elsewhere."""


def cell_name(cell: Cell) -> str:
    """Such as `17 M parameters, batch 131 K, 629 M tokens`."""
    return known(("{} parameters", cell.n_params), ("batch {}", cell.batch_tokens), ("{} tokens", cell.tokens))


def bowls(fits: Fits, theme: Theme) -> Card:
    """Score over learning rate, the fitted bowl and its vertex, of each cell."""
    cells, runs = fits.cells, fits.trials.runs
    if not cells:
        return Card(
            empty=f"No two comparable runs have different rates. {remedy(fits, *RATES)}", excluded=run_reasons(fits)
        )
    raised = len(cells) <= FEW_CELLS
    horizons = sorted({round(float(np.log2(cell.tokens)), 1) for cell in cells})
    colors = dict(zip(horizons, ramp(theme, len(horizons)), strict=True))
    data: list[Figure] = []
    farthest, drawn_of = _farthest(cells, fits)
    for horizon in horizons:
        members = [cell for cell in cells if round(float(np.log2(cell.tokens)), 1) == horizon]
        data += _horizon(members, fits, colors[horizon], raised, farthest)
    found = [cell for cell in cells if cell.optimum.at]
    shown = [y for trace in data if trace["mode"] == "markers" for y in trace["y"] if y is not None]
    low, high = robust_range(np.array(shown)) if shown else (0.0, 1.0)
    high = high if raised else min(high, 8.0)
    lost = runs.diverged
    if lost.any():
        data.append(_rug(runs.learning_rate[lost], runs.trial[lost].tolist(), high, theme))
    title = fits.study.unit.title if raised else "above the best of the cell (%)"
    drawn = figure(
        theme,
        data,
        **panel(theme, 0, 1, _rate_title(fits), title, x=log_axis(), y={"range": [low, high]}),
        shapes=noise_shapes(fits, _best(cells, fits), theme, percent=not raised),
        showlegend=len(horizons) <= MOST_GROUPS,
    )
    missing = [f"{cell_name(cell)}: {cell.optimum.not_identified}" for cell in cells if not cell.optimum.at]
    return Card(
        figure=drawn,
        says=_bowls_say(fits, found),
        used=f"{sizes_of(fits)}, {len(cells)} cells in which the rate varies, "
        f"{len(found)} with a vertex{drawn_of}; the stronger the colour the more tokens",
        excluded=run_reasons(fits),
        missing=missing,
        method="95 % intervals of each vertex: "
        + "; ".join(dict.fromkeys(cell.optimum.interval_method for cell in found or cells[:1]))
        + ("; decay, where it varies, is fitted with the rate" if any(cell.joint for cell in cells) else "")
        + noise_words(fits),
    )


def _best(cells: tuple[Cell, ...], fits: Fits) -> float:
    runs = fits.trials.runs
    rows = np.concatenate([cell.rows for cell in cells])
    return float(runs.loss[rows][~runs.diverged[rows]].min(initial=np.inf))


def _farthest(cells: tuple[Cell, ...], fits: Fits) -> tuple[float, str]:
    """The excess over the best of its cell up to which a run is drawn, and the words that say so."""
    runs = fits.trials.runs
    alive = [cell.rows[~runs.diverged[cell.rows]] for cell in cells]
    excess = np.concatenate([runs.loss[rows] / runs.loss[rows].min() - 1 for rows in alive if len(rows)] or [[]])
    if len(excess) <= MOST_DRAWN:
        return np.inf, ""
    limit = float(np.partition(excess, MOST_DRAWN - 1)[MOST_DRAWN - 1])
    return limit, f"; drawn: {MOST_DRAWN:,} of {len(excess):,}, those up to {limit:.1%} above the best of their cell"


def _rate_title(fits: Fits) -> str:
    unit = "AdamW-equivalent" if fits.study.switches.rate == "adamw" else "matrix_lr"
    return f"learning rate ({unit}, peak, per step)"


def _bowls_say(fits: Fits, found: list[Cell]) -> str:
    if not found:
        return "No cell has a best rate inside what was tried; below it says why of each."
    longest = max(found, key=lambda cell: (cell.tokens, cell.n_params))
    return (
        f"At the longest horizon ({cell_name(longest)}) the best rate is {interval(longest.optimum.at[0])}; "
        f"an octave off costs about {_octave_cost(found)}."
    )


def _octave_cost(found: list[Cell]) -> str:
    """Half the curvature in per cent, and how cells differ in it, which they do not where they were fitted with one."""
    costs = [50 * float(np.asarray(cell.optimum.curvature_dd)[0, 0]) for cell in found]
    middle = f"{np.median(costs):.2g} % of the score"
    if len(costs) == 1:
        return f"{middle} (one cell, so without an interval)"
    low, high = np.quantile(costs, (0.1, 0.9))
    if high - low < SAME_COST * high:
        return f"{middle} (one curvature, shared by {len(costs)} cells, so without an interval)"
    return f"{middle} (median of {len(costs)} cells; of eight in ten {low:.2g} to {high:.2g} %)"


def _horizon(members: list[Cell], fits: Fits, color: str, raised: bool, farthest: float) -> list[Figure]:
    """Curves, vertices and points of the cells of one horizon."""
    runs = fits.trials.runs
    name = f"{short(float(np.median([cell.tokens for cell in members])))} tokens"
    curve_x: list[float] = []
    curve_y: list[float] = []
    x: list[float] = []
    y: list[float] = []
    trials: list[int] = []
    for cell in members:
        rows = cell.rows[~runs.diverged[cell.rows]]
        if not len(rows):
            continue
        bottom = cell.optimum.loss_at or float(runs.loss[rows].min())
        tried = runs.learning_rate[rows]
        rows = rows[runs.loss[rows] <= runs.loss[rows].min() * (1 + farthest)]
        x += runs.learning_rate[rows].tolist()
        y += (runs.loss[rows] if raised else 100 * (runs.loss[rows] / bottom - 1)).tolist()
        trials += runs.trial[rows].tolist()
        if cell.optimum.at:
            rates, losses = _curve(cell.optimum, tried)
            curve_x += [*rates, np.nan]
            curve_y += [*(losses if raised else 100 * (losses / bottom - 1)), np.nan]
    found = [cell for cell in members if cell.optimum.at]
    drawn = [line(f"bowls, {name}", curve_x, curve_y, color, showlegend=False, line={"width": 1.2})] if found else []
    if found:
        drawn.append(_vertices(found, name, color, raised))
    return [*drawn, dots(name, x, y, trials, color, marker={"size": 6})]


def _vertices(found: list[Cell], name: str, color: str, raised: bool) -> Figure:
    at = [cell.optimum.at[0] for cell in found]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": f"best rate, {name}",
        "x": [float(f"{e.value:.5g}") for e in at],
        "y": [round(cell.optimum.loss_at or 0.0, 5) if raised else 0.0 for cell in found],
        "error_x": bars(at),
        "text": [cell_name(cell) for cell in found],
        "marker": {"symbol": "diamond", "size": 9, "color": color},
        "showlegend": False,
        "hovertemplate": "best rate %{x:.4g}<br>%{text}<extra></extra>",
    }


def _curve(optimum: Optimum, rates: Array) -> tuple[Array, Array]:
    """The bowl over the rates tried; another axis, where there is one, at its best for each rate."""
    assert optimum.log2_at_d is not None and optimum.curvature_dd is not None and optimum.loss_at is not None
    x = np.linspace(np.log2(rates.min()), np.log2(rates.max()), 41)
    h = optimum.curvature_dd
    bend = h[0, 0] - (h[0, 1] ** 2 / h[1, 1] if len(h) > 1 else 0.0)
    return 2.0**x, optimum.loss_at * np.exp(0.5 * bend * (x - optimum.log2_at_d[0]) ** 2)


def _rug(rates: Array, trials: list[int], edge: float, theme: Theme) -> Figure:
    marker = {"symbol": "x-thin-open", "size": 8, "line": {"width": 1.5}, "opacity": 1.0}
    return dots(
        "diverged: no height", rates, np.full(len(rates), edge), trials, theme.failed, marker=marker, cliponaxis=False
    )


def sensitivity(fits: Fits, theme: Theme) -> Card:
    """One number for each size of model: what a rate drawn at random from those tried costs on average."""
    found, unit = fits.get(sensitivities), fits.study.unit.words
    if not isinstance(found, Sensitivities):
        return Card(
            empty=f"No sensitivity: {found.not_identified}. {remedy(fits, *RATES)}",
            missing=[f"sensitivity: {found.not_identified}"],
            excluded=run_reasons(fits),
        )
    points = dots(
        "cost of a wrong rate",
        [one.n_params for one in found.each],
        [one.cost.value for one in found.each],
        [one.best_trial for one in found.each],
        theme.complete,
        mode="lines+markers",
        error_y=bars([one.cost for one in found.each]),
        text=[
            known(("{} layers", one.depth), ("batch {}", one.batch_tokens), ("{} tokens", one.tokens))
            + f": {one.runs} runs, {one.diverged} diverged"
            for one in found.each
        ],
    )
    points["hovertemplate"] = "%{text}<br>%{y:.4f} " + unit + "<extra></extra>"
    title = f"parameters ({fits.trials.runs.params_convention})"
    cost = f"mean cost of a rate ({unit})"
    axes = panel(theme, 0, 1, title, cost, x=log_axis(), y={"rangemode": "tozero"})
    each = "; ".join(f"{short(one.n_params)} parameters: {interval(one.cost, '.2g')}" for one in found.each)
    return Card(
        figure=figure(theme, [points], **axes),
        says=f"Between {found.low:.3g} and {found.high:.3g}, which all of them were given, a rate at random (even in "
        f"its log) costs on average, in {unit}, {each}. Less is easier to tune.",
        used=f"the cell with most rates of each of {len(found.each)} sizes, {sum(s.runs for s in found.each)} runs; "
        f"a diverged run counts as {found.lost:.3f}, the worst score of all: the loss at initialisation is not known",
        excluded=run_reasons(fits),
        method="95 %: bootstrap over runs; straight between the best runs of half octaves",
    )
