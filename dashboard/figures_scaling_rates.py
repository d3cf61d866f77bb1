"""Learning rate and decay: the bowl of each cell, the law of the best rate, one bowl in tau."""

from __future__ import annotations

import numpy as np

from dashboard.figures import robust_range
from dashboard.figures_scaling import (
    Card,
    band,
    bars,
    dots,
    interval,
    line,
    log_axis,
    note,
    on,
    panel,
    ramp,
    run_reasons,
    short,
    sizes_of,
    upright,
)
from dashboard.theme import Figure, Theme, figure
from sweeper.observations_fits import Cell, Fits
from sweeper.scaling.optimum import Optimum
from sweeper.scaling.power_law import PowerLaw
from sweeper.scaling.records import Array, Estimate

LEAST_LEARNT = 0.1
"""Share of an exponent's prior variance that the runs must remove for it to count as learnt."""
FEW_CELLS = 4
"""Up to here the bowls stand at their own height; beyond, all of them on one bottom."""
POWER_LINES = 1.084, -0.527
"""tau* = 1.084 TPP^-0.527 of AdamW (Power Lines, arXiv:2505.13738)."""
NAMES = {"n_params": "parameters", "batch_tokens": "batch (tokens a step)", "tokens": "tokens trained on"}
SHORT = {"n_params": "parameters", "batch_tokens": "batch", "tokens": "tokens"}
RUN_RATES = (
    "Run trials that differ in optim.matrix_lr at an equal batch, depth and budget: "
    "sweeper launch --study S --trials N; five rates over four octaves hold an optimum."
)


def cell_name(cell: Cell) -> str:
    """Such as `17 M parameters, batch 131 K, 629 M tokens`."""
    return f"{short(cell.n_params)} parameters, batch {short(cell.batch_tokens)}, {short(cell.tokens)} tokens"


def bowls(fits: Fits, theme: Theme) -> Card:
    """Score over learning rate, the fitted bowl and its vertex, of each cell."""
    cells, runs = fits.cells, fits.trials.runs
    if not cells:
        return Card(empty=f"No two comparable runs have different rates. {RUN_RATES}", excluded=run_reasons(fits))
    raised = len(cells) <= FEW_CELLS
    horizons = sorted({round(float(np.log2(cell.tokens)), 1) for cell in cells})
    colors = dict(zip(horizons, ramp(theme, len(horizons)), strict=True))
    data: list[Figure] = []
    for horizon in horizons:
        members = [cell for cell in cells if round(float(np.log2(cell.tokens)), 1) == horizon]
        data += _horizon(members, fits, colors[horizon], raised)
    found = [cell for cell in cells if cell.optimum.at]
    shown = [y for trace in data if trace["mode"] == "markers" for y in trace["y"] if y is not None]
    low, high = robust_range(np.array(shown)) if shown else (0.0, 1.0)
    high = high if raised else min(high, 8.0)
    lost = runs.diverged
    if lost.any():
        data.append(_rug(runs.learning_rate[lost], runs.trial[lost].tolist(), high, theme))
    title = "val_bpb (bits per byte)" if raised else "above the best of the cell (%)"
    drawn = figure(
        theme,
        data,
        **panel(theme, 0, 1, _rate_title(fits), title, x=log_axis(), y={"range": [low, high]}),
    )
    missing = [f"{cell_name(cell)}: {cell.optimum.not_identified}" for cell in cells if not cell.optimum.at]
    return Card(
        figure=drawn,
        says=_bowls_say(fits, found),
        used=f"{sizes_of(fits)}, {len(cells)} cells in which the rate varies, {len(found)} with a vertex",
        excluded=run_reasons(fits),
        missing=missing,
        method="95 % intervals of each vertex: half residual, half case bootstrap inside the cell"
        + ("; decay, where it varies, is fitted with the rate" if any(cell.joint for cell in cells) else ""),
    )


def _rate_title(fits: Fits) -> str:
    unit = "AdamW-equivalent" if fits.study.switches.rate == "adamw" else "matrix_lr"
    return f"learning rate ({unit}, peak, per step)"


def _bowls_say(fits: Fits, found: list[Cell]) -> str:
    if not found:
        return "No cell has a best rate inside what was tried; below it says why of each."
    longest = max(found, key=lambda cell: (cell.tokens, cell.n_params))
    curve = float(np.asarray(longest.optimum.curvature_dd)[0, 0])
    return (
        f"At the longest horizon ({cell_name(longest)}) the best rate is {interval(longest.optimum.at[0])}; "
        f"an octave off it costs about {50 * curve:.2g} % of the score."
    )


def _horizon(members: list[Cell], fits: Fits, color: str, raised: bool) -> list[Figure]:
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
        x += runs.learning_rate[rows].tolist()
        y += (runs.loss[rows] if raised else 100 * (runs.loss[rows] / bottom - 1)).tolist()
        trials += runs.trial[rows].tolist()
        if cell.optimum.at:
            rates, losses = _curve(cell.optimum, runs.learning_rate[rows])
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


def rate_law(fits: Fits, theme: Theme) -> Card:
    """Best rates against each size, the others held at their middle by the law itself."""
    law, found = fits.rate_law, [cell for cell in fits.cells if cell.optimum.at]
    if not isinstance(law, PowerLaw):
        why = f"The law needs cells with a vertex: {law.not_identified}. {RUN_RATES}"
        return Card(empty=why, excluded=run_reasons(fits), missing=[str(law.not_identified)])
    terms = [t for t in law.terms if len({round(float(np.log2(getattr(c, t))), 1) for c in found}) > 1] or ["tokens"]
    layout: Figure = {}
    data: list[Figure] = []
    rates = np.array([cell.optimum.at[0].value for cell in found])
    heights = [float(np.log10(rates.min() / 2)), float(np.log10(rates.max() * 2))]
    for place, term in enumerate(terms):
        data += _law_panel(law, found, fits, term, place, theme)
        layout |= panel(
            theme,
            place,
            len(terms),
            NAMES[term],
            "best learning rate" if not place else "",
            x=log_axis(),
            y={**log_axis(), "range": heights},
        )
    unmoved = [term for term in law.terms if law.learnt[term] < LEAST_LEARNT]
    missing = [
        f"exponent of {SHORT[t]}: the runs say nothing of it, so that it is the literature's "
        f"{interval(law.exponents[t], '.2f')}"
        for t in unmoved
    ]
    return Card(
        figure=figure(theme, data, **layout, showlegend=False),
        says="The best rate goes as "
        + " × ".join(f"{SHORT[t]}^{interval(law.exponents[t], '.2f')}" for t in law.terms if t not in unmoved)
        + ("" if len(unmoved) < len(law.terms) else "the literature has it: no exponent was learnt from these runs")
        + f"; at the middle of the cells it is {interval(law.level)}. A cell scatters by {law.scatter_octaves:.2f} "
        "octaves about the law.",
        used=f"{law.used} cells with a vertex, R² {law.r_squared:.2f}; {law.misfit.detail}",
        excluded=[("cells without a vertex", len(law.excluded))] if law.excluded else [],
        missing=missing,
        method=f"95 %: {law.interval_method}",
    )


def _law_panel(law: PowerLaw, found: list[Cell], fits: Fits, term: str, place: int, theme: Theme) -> list[Figure]:
    middle = dict(law.centre)
    at = np.array([getattr(cell, term) for cell in found])
    reach = (1.0, 8.0) if term == "tokens" else (0.8, 1.25)
    x = np.exp(np.linspace(np.log(at.min() * min(reach[0], 1.0)), np.log(at.max() * reach[1]), 40))
    told = [law.predict({**middle, term: float(value)}) for value in x]
    moved: list[Estimate] = []
    trials = []
    for cell in found:
        octaves, _ = law.shift(cell.sizes, {**middle, term: getattr(cell, term)})
        e = cell.optimum.at[0]
        moved.append(Estimate(*(v * 2.0**octaves for v in (e.value, e.low, e.high))))
        rows = cell.rows[~fits.trials.runs.diverged[cell.rows]]
        trials.append(int(fits.trials.runs.trial[rows[np.argmin(fits.trials.runs.loss[rows])]]))
    values = [e.value for e in told]
    points = dots(
        "best rate of a cell, moved to the middle of the other sizes",
        at,
        [e.value for e in moved],
        trials,
        theme.complete,
        error_y=bars(moved),
        text=[cell_name(cell) for cell in found],
        **on(place),
    )
    points["hovertemplate"] = "best of this cell: trial %{customdata}<br>%{text}<br>rate %{y:.4g}<extra></extra>"
    low, high = np.array([e.low for e in told]), np.array([e.high for e in told])
    return [
        band("95 % of a new cell", x, low, high, theme.complete, **on(place)),
        line("law", x, values, theme.best, **on(place)),
        points,
    ]


def tau(fits: Fits, theme: Theme) -> Card:
    """Excess over the bottom of the cell against tau, all horizons overlaid, and the shared bowl."""
    found = fits.tau_collapse
    if found.tau is None:
        return Card(
            empty=f"No best timescale: {found.not_identified}. Search optim.matrix_weight_decay beside "
            "optim.matrix_lr, with values above 0, at one depth and batch.",
            excluded=run_reasons(fits),
            missing=[str(found.not_identified)],
        )
    law, moving = fits.tau_law, ""
    if law.used:
        exponent = interval(law.exponents["tokens_per_param"], ".2f")
        moving = f" Over {law.used} cells tau goes as tokens per parameter^{exponent}."
    apart = found.same_tau_p is not None and found.same_tau_p < 0.01
    return Card(
        figure=_tau_figure(fits, found.tau, theme),
        says=f"Runs average over tau = {interval(found.tau)} of their length at best; keep it when the run grows, not "
        f"the decay itself.{moving}" + (" Cells differ in it more than chance." if apart else ""),
        used=f"{found.used} runs within 2 % of the best of their cell, of the {len(fits.tau_groups)} largest cells",
        excluded=[
            *run_reasons(fits),
            ("far from the best of their cell, diverged, or of no decay", len(found.excluded)),
        ],
        missing=[] if law.used else ["tau against tokens per parameter: no cell holds a best rate and decay at once"],
        method=f"95 %: {found.interval_method}",
    )


def _tau_figure(fits: Fits, at: Estimate, theme: Theme) -> Figure:
    found, runs = fits.tau_collapse, fits.trials.runs
    assert found.log2_tau_n is not None and found.excess_n is not None and found.rows is not None
    y = 100 * np.expm1(found.excess_n)
    x = np.linspace(found.log2_tau_n.min(), found.log2_tau_n.max(), 61)
    curve = 100 * np.expm1(0.5 * (found.curvature or 0.0) * (x - np.log2(at.value)) ** 2)
    tpp = float(np.median(runs.tokens_per_param[found.rows]))
    published = POWER_LINES[0] * tpp ** POWER_LINES[1]
    data = [
        dots(
            "runs near the best of their cell",
            2.0**found.log2_tau_n,
            y,
            runs.trial[found.rows].tolist(),
            theme.complete,
            marker={"size": 6},
        ),
        line("one bowl for all cells", 2.0**x, curve, theme.best),
    ]
    shapes = [
        upright(theme, at.value, theme.best, "solid"),
        upright(theme, published, theme.muted, "dot"),
        {**upright(theme, at.low, theme.best), "type": "rect", "x1": at.high, "line": {"width": 0}}
        | {"fillcolor": theme.best, "opacity": 0.15},
    ]
    title = "tau = 1 / (rate × decay × steps), share of the run"
    heights = {"range": list(robust_range(y))}
    axes = panel(theme, 0, 1, title, "above the bottom of the cell (%)", x=log_axis(), y=heights)
    remark = f"dotted: Power Lines at {tpp:.0f} tokens a parameter, {published:.2f}"
    return figure(theme, data, **axes, shapes=shapes, annotations=[note(theme, remark)])
