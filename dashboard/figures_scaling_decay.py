"""Weight decay as a timescale: one bowl in tau for all cells, and the best tau of each over tokens per parameter."""

from __future__ import annotations

import numpy as np

from dashboard.figures import robust_range
from dashboard.figures_scaling import (
    Card,
    band,
    bars,
    dots,
    guide,
    hovered,
    interval,
    line,
    log_axis,
    note,
    panel,
    remedy,
    run_reasons,
    short,
    star,
    upright,
)
from dashboard.figures_scaling_rates import cell_name
from dashboard.theme import Figure, Theme, figure
from sweeper.observations_cells import Cell
from sweeper.observations_fits import Fits
from sweeper.observations_kept import FEWEST_JOINT
from sweeper.observations_target import FullRun, full_run
from sweeper.scaling.records import Array, Estimate

POWER_LINES = 1.084, -0.527
"""tau* = 1.084 TPP^-0.527 of AdamW (Power Lines, arXiv:2505.13738)."""
DECAYS = (
    "Search optim.matrix_weight_decay beside optim.matrix_lr, with values above 0, at one depth and batch: "
    "sweeper launch --study S --trials N.",
    "runs that state rate and decay (a column mapped to optim.matrix_weight_decay), both varied at one size and batch",
)


def tau(fits: Fits, theme: Theme) -> Card:
    """Excess over the bottom of the cell against tau, all horizons overlaid, and the shared bowl."""
    found = fits.tau_collapse
    if found.tau is None:
        return Card(
            empty=f"No best timescale: {found.not_identified}. {remedy(fits, *DECAYS)}",
            excluded=run_reasons(fits),
            missing=[str(found.not_identified)],
        )
    apart = found.same_tau_p is not None and found.same_tau_p < 0.01
    return Card(
        figure=_tau_figure(fits, found.tau, theme),
        says=f"Runs average over tau = {interval(found.tau)} of their length at best; keep it when the run grows, not "
        f"the decay itself." + (" Cells differ in it more than chance." if apart else ""),
        used=f"{found.used} runs within 2 % of the best of their cell, of the {len(fits.tau_groups)} largest cells",
        excluded=[
            *run_reasons(fits),
            ("far from the best of their cell, diverged, or of no decay", len(found.excluded)),
        ],
        method=f"95 %: {found.interval_method}",
    )


def _tau_figure(fits: Fits, at: Estimate, theme: Theme) -> Figure:
    found, runs = fits.tau_collapse, fits.trials.runs
    assert found.log2_tau_n is not None and found.excess_n is not None and found.rows is not None
    y = 100 * np.expm1(found.excess_n)
    x = np.linspace(found.log2_tau_n.min(), found.log2_tau_n.max(), 61)
    curve = 100 * np.expm1(0.5 * (found.curvature or 0.0) * (x - np.log2(at.value)) ** 2)
    tpp = float(np.median(runs.tokens_per_param[found.rows]))
    published = float(power_lines(np.array([tpp]))[0])
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


def power_lines(tokens_per_param: Array) -> Array:
    """The published best tau of AdamW."""
    return np.asarray(POWER_LINES[0] * tokens_per_param ** POWER_LINES[1])


def tau_law(fits: Fits, theme: Theme) -> Card:
    """The best tau of each cell that knows it, over tokens per parameter, beside the published law."""
    law, known = fits.tau_law, [cell for cell in fits.cells if cell.joint]
    unknown = [cell for cell in fits.cells if not cell.joint]
    missing = [f"{cell_name(cell)}: no best rate and decay at once" for cell in unknown]
    if not known:
        return Card(
            empty=f"No cell holds a best rate and a best decay at once: that takes {FEWEST_JOINT} runs of one model, "
            f"batch and budget, the best of them inside what was tried of both. {remedy(fits, *DECAYS)}",
            excluded=run_reasons(fits),
            missing=missing,
        )
    exponent = law.exponents["tokens_per_param"]
    learnt = law.learnt["tokens_per_param"] >= 0.1
    return Card(
        figure=_law_figure(fits, known, theme),
        says=f"The best tau goes as tokens per parameter^{interval(exponent, '.2f')}"
        + ("" if learnt else ", which is the literature's: these runs say nothing of it")
        + f"; at 20 tokens a parameter it is {interval(law.level)} of the run (Power Lines: "
        f"{float(power_lines(np.array([20.0]))[0]):.2f}). Decay follows: 1 / (tau × rate × steps).",
        used=f"{law.used} cells with a best rate and decay, R² {law.r_squared:.2f}; {law.misfit.detail}",
        excluded=[("cells without a best tau", len(unknown))] if unknown else [],
        missing=missing,
        method=f"95 %: {law.interval_method}; a priori 0.17 (×/÷ 1.6) at 20, exponent -0.55 ± 0.15",
    )


def _law_figure(fits: Fits, known: list[Cell], theme: Theme) -> Figure:
    law, told = fits.tau_law, fits.get(full_run)
    at = np.array([cell.tokens / cell.n_params for cell in known])
    target = told.tokens / told.plan.target.n_params if isinstance(told, FullRun) else float(at.max())
    x = np.geomspace(min(float(at.min()), target) * 0.8, max(float(at.max()), target) * 1.25, 40)
    predicted = [law.predict({"tokens_per_param": float(value)}) for value in x]
    low, high = np.array([e.low for e in predicted]), np.array([e.high for e in predicted])
    best = [cell.optimum.at[cell.optimum.axes.index("tau")] for cell in known]
    points = dots(
        "best tau of a cell",
        at,
        [e.value for e in best],
        [_best_trial(fits, cell) for cell in known],
        theme.complete,
        error_y=bars(best),
        text=[cell_name(cell) for cell in known],
    )
    points = hovered(points, "best of this cell: trial %{customdata}<br>%{text}<br>tau %{y:.3g}<extra></extra>")
    data = [
        guide("Power Lines, AdamW: 1.084 × TPP^-0.527", x, power_lines(x), theme, dash="dash"),
        band("95 % of a new cell", x, low, high, theme.complete),
        line("law", x, [e.value for e in predicted], theme.best),
        points,
    ]
    if isinstance(told, FullRun):
        data.append(_star(told, target, theme))
    axes = panel(theme, 0, 1, "tokens per parameter", "best tau (share of the run)", x=log_axis(), y=log_axis())
    return figure(theme, data, **axes, annotations=[note(theme, "dashed: Power Lines")])


def _star(told: FullRun, target: float, theme: Theme) -> Figure:
    value, wide = told.plan.proposed.values.tau, 2.0 ** (1.96 * told.tau_octaves)
    aimed = Estimate(value, value / wide, value * wide)
    return star("full run", target, aimed, f"full run of {short(told.tokens)} tokens: tau {interval(aimed)}", theme)


def _best_trial(fits: Fits, cell: Cell) -> int:
    runs = fits.trials.runs
    rows = cell.rows[~runs.diverged[cell.rows]]
    return int(runs.trial[rows[np.argmin(runs.loss[rows])]])
