"""Score over tokens: the best of each cell, the loss law ahead, and what it foretells for the full run."""

from __future__ import annotations

import numpy as np

from dashboard.figures_scaling import (
    MOST_GROUPS,
    Card,
    band,
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
    star,
)
from dashboard.theme import Figure, Theme, figure
from sweeper.observations_fits import Fits
from sweeper.observations_target import FullRun, full_run
from sweeper.scaling.loss_law import LossLaw
from sweeper.scaling.records import Array, Estimate

AHEAD = 8.0
"""Times the longest horizon up to which the loss law is drawn: what it may be trusted for without confirming."""
SCORES = (
    "Trials give them: sweeper launch --study S.",
    "runs that state their score, parameters and tokens (or steps and batch)",
)
TERM_WORDS = {"n_params": "parameters", "tokens": "tokens", "steps": "steps", "batch_tokens": "batch"}


def loss(fits: Fits, theme: Theme) -> Card:
    """The best score of each cell over tokens, and the loss law drawn ahead."""
    runs, rows, law = fits.trials.runs, fits.best_rows, fits.loss_law
    if not len(rows):
        return Card(empty=f"No run has a score yet. {remedy(fits, *SCORES)}", excluded=run_reasons(fits))
    told = _full_run(fits)
    data = _cells_and_law(fits, told, theme)
    if told is not None:
        data.append(_star(told, fits.study.unit.words, theme))
    axes = panel(theme, 0, 1, "tokens trained on", fits.study.unit.title, x=log_axis())
    missing = [f"law of {', '.join(t)}: {tried.not_identified}" for t, tried in fits.loss_tries if tried.not_identified]
    if law is not None and law.floor_not_identified:
        missing.append(f"floor: {law.floor_not_identified}")
    return Card(
        figure=figure(theme, data, **axes, shapes=noise_shapes(fits, float(runs.loss[rows].min()), theme)),
        says=_loss_says(fits),
        used=f"the best of each of {len(rows)} cells, {sizes_of(fits)}",
        excluded=run_reasons(fits),
        missing=missing,
        method=(
            f"95 %: {law.interval_method}; at the median batch of each model, up to {AHEAD:g} times the "
            "longest and to the full run; the star's holds what a rate off its best would cost"
            if law
            else "no law, so no interval"
        )
        + noise_words(fits),
    )


def _cells_and_law(fits: Fits, told: FullRun | None, theme: Theme) -> list[Figure]:
    """For each size of model its best runs, and the law through them up to the full run."""
    runs, rows, law = fits.trials.runs, fits.best_rows, fits.loss_law
    sizes = distinct(runs.n_params[rows])[:MOST_GROUPS]
    data: list[Figure] = []
    farthest = max(float(runs.tokens[rows].max()) * AHEAD, told.tokens if told else 0.0)
    for size, color in zip(sizes, ramp(theme, len(sizes)), strict=True):
        own = rows[np.abs(np.log(runs.n_params[rows] / size)) < 0.03]
        name = f"{short(size)} parameters"
        if law is not None:
            ahead = np.geomspace(runs.tokens[rows].min(), farthest, 50)
            data += _law_lines(law, size, float(np.median(runs.batch_tokens[own])), ahead, name, color)
        data.append(
            dots(
                name,
                runs.tokens[own],
                runs.loss[own],
                runs.trial[own].tolist(),
                color,
                text=[known(("batch {}", batch)) for batch in runs.batch_tokens[own]],
            )
        )
    return data


def _full_run(fits: Fits) -> FullRun | None:
    found = fits.get(full_run)
    return found if isinstance(found, FullRun) and found.plan.proposed.predicted_loss else None


def _star(told: FullRun, unit: str, theme: Theme) -> Figure:
    score = told.plan.proposed.predicted_loss
    assert score is not None
    text = f"full run of {short(told.tokens)} tokens: {interval(score, '.4f', unit)}"
    return star("full run", told.tokens, score, text, theme, showlegend=False)


def distinct(values: Array) -> list[float]:
    """Ascending, values within 3 % as one."""
    kept: list[float] = []
    for value in np.sort(values):
        if not kept or value > kept[-1] * 1.03:
            kept.append(float(value))
    return kept


def _law_lines(law: LossLaw, size: float, batch: float, tokens: Array, name: str, color: str) -> list[Figure]:
    x = tokens
    at = {"n_params": np.full_like(x, size), "tokens": x, "batch_tokens": np.full_like(x, batch), "steps": x / batch}
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
    basis = f" {law.basis}" if law.basis else ""
    told = _full_run(fits)
    aimed = told.plan.proposed.predicted_loss if told else None
    star_says = f" The full run of {short(told.tokens)} (star): {interval(aimed, '.4f')}." if told and aimed else ""
    return (
        f"Loss{basis} falls as {powers}; mean error {law.mape:.2%}. With the best cell's model and batch, "
        f"{short(tokens)} tokens would reach {value:.4f} ({low:.4f} to {high:.4f}) {fits.study.unit.words}.{star_says} "
        f"{law.misfit.detail.capitalize()}."
    )
