"""Batch, loss over tokens, equal budgets: the scaling page's figures of sizes."""

from __future__ import annotations

import numpy as np

from dashboard.figures_scaling import (
    MOST_GROUPS,
    Card,
    band,
    bars,
    dots,
    interval,
    line,
    log_axis,
    on,
    panel,
    ramp,
    run_reasons,
    short,
    sizes_of,
)
from dashboard.theme import Figure, Theme, figure
from sweeper.observations_fits import Fits
from sweeper.scaling.budgets import BudgetOptimum
from sweeper.scaling.loss_law import LossLaw
from sweeper.scaling.optimum import Optimum
from sweeper.scaling.records import Array, Estimate, Integers

AHEAD = 8.0
"""Times the longest horizon up to which the loss law is drawn: what it may be trusted for without confirming."""
TERM_WORDS = {"n_params": "parameters", "tokens": "tokens", "steps": "steps", "batch_tokens": "batch"}
Group = tuple[str, float, Integers, Optimum]


def batch(fits: Fits, theme: Theme) -> Card:
    """Best score over batch at equal tokens, and at equal seconds."""
    groups = fits.batch_optima
    if not groups:
        return Card(
            empty="No two runs of one model and budget have different batches. Search data.batch_tokens with the rate.",
            excluded=run_reasons(fits),
        )
    kinds = [kind for kind in ("tokens", "seconds") if any(group[0] == kind for group in groups)]
    data: list[Figure] = []
    layout: Figure = {}
    for place, kind in enumerate(kinds):
        members = sorted((g for g in groups if g[0] == kind), key=lambda g: (-len(g[2]), -g[1]))[:MOST_GROUPS]
        data += _batches(members, kind, fits, place, theme)
        layout |= panel(
            theme,
            place,
            len(kinds),
            f"batch at equal {kind} (tokens a step)",
            "val_bpb (bits per byte)" if not place else "",
            x=log_axis(),
        )
    missing = [f"{_group_name(g, fits)}: {g[3].not_identified}" for g in groups if not g[3].at]
    return Card(
        figure=figure(theme, data, **layout, showlegend=False),
        says=_batch_says(fits),
        used=f"best run of each of {sum(len(g[2]) for g in groups)} batches at {len(groups)} budgets; "
        f"drawn: {min(len(groups), MOST_GROUPS * len(kinds))}",
        excluded=run_reasons(fits),
        missing=missing,
        method="95 % of each vertex: half residual, half case bootstrap; of the law: posterior with B ∝ D^0.47 ± 0.12 "
        "as its prior",
    )


def _group_name(group: Group, fits: Fits) -> str:
    kind, size, rows, _ = group
    budget = f"{short(size)} tokens" if kind == "tokens" else f"{size:.4g} s"
    return f"{short(float(fits.trials.runs.n_params[rows[0]]))} parameters, {budget}"


def _batches(members: list[Group], kind: str, fits: Fits, place: int, theme: Theme) -> list[Figure]:
    runs = fits.trials.runs
    data: list[Figure] = []
    ordered = sorted(members, key=lambda g: g[1])
    for group, color in zip(ordered, ramp(theme, len(ordered)), strict=True):
        _, _, rows, optimum = group
        rows = rows[~runs.diverged[rows]]
        name = _group_name(group, fits)
        data.append(
            dots(
                name,
                runs.batch_tokens[rows],
                runs.loss[rows],
                runs.trial[rows].tolist(),
                color,
                mode="lines+markers",
                type="scatter",
                line={"width": 1, "dash": "dot"},
                **on(place),
            )
        )
        if optimum.at:
            at = optimum.at[0]
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": f"best batch, {name}",
                    "x": [at.value],
                    "y": [round(optimum.loss_at or 0.0, 5)],
                    "error_x": bars([at]),
                    "marker": {"symbol": "diamond", "size": 9, "color": color},
                    "hovertemplate": "best batch %{x:.4g}<extra></extra>",
                    **on(place),
                }
            )
    return data


def _batch_says(fits: Fits) -> str:
    law, loss = fits.batch_law, fits.loss_law
    found = [(kind, size, o) for kind, size, _, o in fits.batch_optima if o.at]
    said = []
    for kind, unit in (("tokens", "tokens"), ("seconds", "s")):
        at = [(size, o) for k, size, o in found if k == kind]
        if at:
            size, optimum = max(at, key=lambda pair: pair[0])
            amount = short(size) if unit == "tokens" else f"{size:.4g}"
            said.append(f"At {amount} {unit} the best batch is {interval(optimum.at[0], ',.0f', 'tokens')}.")
    if law is not None:
        said.append(f"It grows as tokens^{interval(law.exponents['tokens'], '.2f')}.")
    exponent = loss.best_batch_exponent() if loss else None
    if exponent is not None:
        said.append(f"The loss law puts that exponent at {interval(exponent, '.2f')}.")
    return " ".join(said) or "No best batch lies inside what was tried; below it says why."


def loss(fits: Fits, theme: Theme) -> Card:
    """The best score of each cell over tokens, and the loss law drawn ahead."""
    runs, rows, law = fits.trials.runs, fits.best_rows, fits.loss_law
    if not len(rows):
        return Card(empty="No run has a score yet: sweeper launch --study S.", excluded=run_reasons(fits))
    sizes = distinct(runs.n_params[rows])[:MOST_GROUPS]
    data: list[Figure] = []
    for size, color in zip(sizes, ramp(theme, len(sizes)), strict=True):
        own = rows[np.abs(np.log(runs.n_params[rows] / size)) < 0.03]
        name = f"{short(size)} parameters"
        if law is not None:
            data += _law_lines(law, size, float(np.median(runs.batch_tokens[own])), runs.tokens[rows], name, color)
        data.append(
            dots(
                name,
                runs.tokens[own],
                runs.loss[own],
                runs.trial[own].tolist(),
                color,
                text=[f"batch {short(b)}" for b in runs.batch_tokens[own]],
            )
        )
    axes = panel(theme, 0, 1, "tokens trained on", "val_bpb (bits per byte)", x=log_axis())
    missing = [f"law of {', '.join(t)}: {tried.not_identified}" for t, tried in fits.loss_tries if tried.not_identified]
    if law is not None and law.floor_not_identified:
        missing.append(f"floor: {law.floor_not_identified}")
    return Card(
        figure=figure(theme, data, **axes),
        says=_loss_says(fits),
        used=f"the best of each of {len(rows)} cells, {sizes_of(fits)}",
        excluded=run_reasons(fits),
        missing=missing,
        method=f"95 %: {law.interval_method}; at the median batch of each model, up to {AHEAD:g} times the longest"
        if law
        else "no law, so no interval",
    )


def distinct(values: Array) -> list[float]:
    """Ascending, values within 3 % as one."""
    kept: list[float] = []
    for value in np.sort(values):
        if not kept or value > kept[-1] * 1.03:
            kept.append(float(value))
    return kept


def _law_lines(law: LossLaw, size: float, batch: float, tokens: Array, name: str, color: str) -> list[Figure]:
    x = np.exp(np.linspace(np.log(tokens.min()), np.log(tokens.max() * AHEAD), 50))
    at = {"n_params": np.full(50, size), "tokens": x, "batch_tokens": np.full(50, batch), "steps": x / batch}
    value, low, high = law.predict({term: at[term] for term in law.sizes})
    return [
        band(f"95 % of a new run, {name}", x, low, high, color, showlegend=False),
        line(f"law, {name}", x, value, color, showlegend=False, line={"width": 1.2}),
    ]


def _loss_says(fits: Fits) -> str:
    law, runs = fits.loss_law, fits.trials.runs
    if law is None:
        return "The runs hold no loss law; below it says why of each form that was tried."
    falls = {name: Estimate(-e.value, -e.high, -e.low) for name, e in law.exponents.items()}
    powers = ", ".join(f"{TERM_WORDS[name]}^{interval(e, '.2f')}" for name, e in falls.items())
    best = fits.best_rows[np.argmin(runs.loss[fits.best_rows])]
    tokens = float(runs.tokens.max()) * AHEAD
    at = {"n_params": runs.n_params[best], "batch_tokens": runs.batch_tokens[best], "tokens": tokens}
    at["steps"] = tokens / at["batch_tokens"]
    value, low, high = (float(v[0]) for v in law.predict({name: [at[name]] for name in law.sizes}))
    return (
        f"Loss falls as {powers}; mean error {law.mape:.2%}. With the best cell's model and batch, {short(tokens)} "
        f"tokens would reach {value:.4f} ({low:.4f} to {high:.4f}) bits per byte. {law.misfit.detail.capitalize()}."
    )


def budgets(fits: Fits, theme: Theme) -> Card:
    """One parabola a budget over the size of the model."""
    unit, rows, _ = fits.budget_rows
    runs, found = fits.trials.runs, fits.frontier
    if not len(rows) or len(distinct(runs.n_params[rows])) < 2:
        return Card(
            empty="All runs have one size of model. Search model.num_layers (or model.model_dim) at a fixed budget.",
            excluded=run_reasons(fits),
        )
    drawn = [one for one in found.budgets if one.used >= 2 or one.size][-MOST_GROUPS:]
    data: list[Figure] = []
    for one, color in zip(drawn, ramp(theme, len(drawn)), strict=True):
        data += _parabola(one, fits, color)
    title = f"parameters ({runs.params_convention})"
    axes = panel(theme, 0, 1, title, "val_bpb (bits per byte)", x=log_axis())
    vertices = [one for one in found.budgets if one.size]
    says = "No budget has its best size inside what was tried; below it says why of each."
    if vertices and vertices[-1].size:
        best = interval(vertices[-1].size, ".3g")
        says = f"At {vertices[-1].budget:.3g} {unit} the best model has {best} parameters."
    if found.law is not None:
        says += f" It grows as budget^{interval(found.law.exponents['budget'], '.2f')}."
    missing = [f"{one.budget:.3g} {unit}: {one.not_identified}" for one in found.budgets if one.not_identified]
    return Card(
        figure=figure(theme, data, **axes),
        says=says,
        used=f"best run of each size at {len(found.budgets)} budgets; {len(vertices)} have a vertex",
        excluded=run_reasons(fits),
        missing=missing + ([f"law of the best size: {found.not_identified}"] if found.not_identified else []),
        method=f"95 %: {vertices[-1].interval_method}" if vertices else "no vertex, so no interval",
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
            text=[f"{d:.0f} layers" for d in runs.depth[own]],
        )
    )
    if one.size is not None and one.curvature is not None and one.loss is not None:
        x = np.linspace(np.log2(runs.n_params[own].min()), np.log2(runs.n_params[own].max()), 41)
        y = one.loss * np.exp(0.5 * one.curvature * (x - np.log2(one.size.value)) ** 2)
        data.append(line(f"parabola, {name}", 2.0**x, y, color, showlegend=False))
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": f"best size, {name}",
                "x": [one.size.value],
                "y": [round(one.loss, 5)],
                "error_x": bars([one.size]),
                "showlegend": False,
                "marker": {"symbol": "diamond", "size": 9, "color": color},
                "hovertemplate": "best size %{x:.4g}<extra></extra>",
            }
        )
    return data
