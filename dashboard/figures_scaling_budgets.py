"""One parabola a budget over the size of the model, and the best size, and its tokens, over the budget."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dashboard.figures_scaling import (
    MOST_GROUPS,
    Card,
    band,
    bars,
    dots,
    interval,
    known,
    line,
    log_axis,
    noise_shapes,
    noise_words,
    on,
    panel,
    ramp,
    remedy,
    run_reasons,
    short,
    vertex,
)
from dashboard.figures_scaling_sizes import AHEAD, distinct
from dashboard.theme import Figure, Theme, figure
from sweeper.observations_fits import Fits
from sweeper.scaling.budgets import BudgetOptimum
from sweeper.scaling.power_law import PowerLaw
from sweeper.scaling.records import Estimate

SIZES = (
    "Search model.num_layers (or model.model_dim) at a fixed budget: sweeper launch --study S --trials N.",
    "runs of other sizes (a column mapped to parameters) at equal FLOPs or seconds",
)


def budgets(fits: Fits, theme: Theme) -> Card:
    """One parabola a budget over the size of the model."""
    unit, rows, _ = fits.budget_rows
    runs, found = fits.trials.runs, fits.frontier
    if not len(rows) or len(distinct(runs.n_params[rows])) < 2:
        return Card(
            empty=f"All runs have one size of model. {remedy(fits, *SIZES)}",
            excluded=run_reasons(fits),
        )
    drawn = [one for one in found.budgets if one.used >= 2 or one.size][-MOST_GROUPS:]
    data: list[Figure] = []
    for one, color in zip(drawn, ramp(theme, len(drawn)), strict=True):
        data += _parabola(one, fits, color)
    title = f"parameters ({runs.params_convention})"
    axes = panel(theme, 0, 1, title, fits.study.unit.title, x=log_axis())
    vertices = [one for one in found.budgets if one.size]
    says = "No budget has its best size inside what was tried; below it says why of each."
    if vertices and vertices[-1].size:
        best = interval(vertices[-1].size, ".3g")
        says = f"At {vertices[-1].budget:.3g} {unit} the best model has {best} parameters."
    missing = [f"{one.budget:.3g} {unit}: {one.not_identified}" for one in found.budgets if one.not_identified]
    shapes = noise_shapes(fits, float(np.nanmin(runs.loss[rows])), theme)
    return Card(
        figure=figure(theme, data, **axes, shapes=shapes),
        says=says,
        used=f"best run of each size at {len(found.budgets)} budgets; {len(vertices)} have a vertex",
        excluded=run_reasons(fits),
        missing=missing,
        method=(f"95 %: {vertices[-1].interval_method}" if vertices else "no vertex, so no interval")
        + noise_words(fits),
    )


def _parabola(one: BudgetOptimum, fits: Fits, color: str) -> list[Figure]:
    """The best run of each size at one budget; the parabola through them and its vertex where there is one."""
    unit, rows, costs = fits.budget_rows
    runs = fits.trials.runs
    data: list[Figure] = []
    own = rows[np.abs(np.log(costs / one.budget)) < 0.1]
    own = own[np.argsort(runs.n_params[own])]
    name = f"{one.budget:.3g} {unit}"
    data.append(
        dots(
            name,
            runs.n_params[own],
            runs.loss[own],
            runs.trial[own].tolist(),
            color,
            type="scatter",
            mode="lines+markers",
            line={"width": 1, "dash": "dot"},
            text=[known(("{} layers", depth)) for depth in runs.depth[own]],
        )
    )
    if one.size is not None and one.curvature is not None and one.loss is not None:
        x = np.linspace(np.log2(runs.n_params[own].min()), np.log2(runs.n_params[own].max()), 41)
        y = one.loss * np.exp(0.5 * one.curvature * (x - np.log2(one.size.value)) ** 2)
        data.append(line(f"parabola, {name}", 2.0**x, y, color, showlegend=False))
        data.append(vertex(f"best size, {name}", one.size, one.loss, color))
    return data


def frontier(fits: Fits, theme: Theme) -> Card:
    """The best size of each budget over the budget, the law through them, and the tokens a parameter that it leaves."""
    unit, found = fits.budget_rows[0], fits.frontier
    sized = [one for one in found.budgets if one.size is not None]
    missing = [f"{one.budget:.3g} {unit}: {one.not_identified}" for one in found.budgets if one.not_identified]
    if found.law is None or not sized:
        return Card(
            empty=f"No law of the best size: {found.not_identified}. Three budgets, four sizes each, the best of them "
            f"inside: {remedy(fits, *SIZES)}",
            excluded=run_reasons(fits),
            missing=missing,
        )
    law = found.law
    panels = 2 if unit == "FLOPs" else 1
    if panels == 1:
        missing.append("tokens per parameter: the budget is in seconds, in which sizes see different tokens")
    data = _frontier_panel(law, sized, lambda e, _: e, 0, theme)
    title = f"best parameters ({fits.trials.runs.params_convention})"
    layout = panel(theme, 0, panels, f"budget ({unit})", "best parameters", x=log_axis(), y=log_axis())
    if panels == 2:
        data += _frontier_panel(law, sized, _tokens_per_param, 1, theme)
        layout |= panel(theme, 1, 2, f"budget ({unit})", "tokens per parameter there", x=log_axis(), y=log_axis())
    last = sized[-1]
    assert last.size is not None
    left = f", {interval(_tokens_per_param(last.size, last.budget), '.3g')} tokens a parameter" if panels == 2 else ""
    return Card(
        figure=figure(theme, data, **layout, showlegend=False),
        says=f"The best size grows as budget^{interval(law.exponents['budget'], '.2f')}; at {last.budget:.3g} {unit} "
        f"it is {short(last.size.value)} ({short(last.size.low)} to {short(last.size.high)}) parameters{left}. The "
        "exponent depends on what counts as a parameter (switch above).",
        used=f"{law.used} budgets with a vertex, R² {law.r_squared:.2f}; {title}; {law.misfit.detail}",
        excluded=[("budgets without a vertex", len(found.excluded))] if found.excluded else [],
        missing=missing,
        method=f"95 %: {law.interval_method}; bars: of each parabola's vertex",
    )


def _frontier_panel(
    law: PowerLaw, sized: list[BudgetOptimum], of: Callable[[Estimate, float], Estimate], place: int, theme: Theme
) -> list[Figure]:
    at = np.array([one.budget for one in sized])
    x = np.geomspace(at.min() / 1.5, at.max() * AHEAD, 40)
    told = [of(law.predict({"budget": float(value)}), float(value)) for value in x]
    best = [of(one.size, one.budget) for one in sized if one.size is not None]
    low, high = np.array([e.low for e in told]), np.array([e.high for e in told])
    points = dots("best of a budget", at, [e.value for e in best], [], theme.complete, error_y=bars(best), **on(place))
    points.pop("customdata")
    points["hovertemplate"] = "budget %{x:.3g}: %{y:.4g}<extra></extra>"
    return [
        band("95 % of a new budget", x, low, high, theme.complete, **on(place)),
        line("law", x, [e.value for e in told], theme.best, **on(place)),
        points,
    ]


def _tokens_per_param(size: Estimate, flops: float) -> Estimate:
    """D / N at C = 6 N D: the larger the size, the fewer."""
    return Estimate(*(flops / (6 * n**2) for n in (size.value, size.high, size.low)))
