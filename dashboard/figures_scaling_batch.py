"""Score over batch at equal tokens and at equal seconds, with the best and the critical batch."""

from __future__ import annotations

import numpy as np

from dashboard.figures_scaling import (
    MOST_GROUPS,
    Card,
    dots,
    interval,
    log_axis,
    noise_shapes,
    noise_words,
    on,
    panel,
    ramp,
    remedy,
    run_reasons,
    short,
    upright,
    vertex,
)
from dashboard.theme import Figure, Theme, figure
from sweeper.observations_batch import critical_batch
from sweeper.observations_fits import Fits
from sweeper.scaling.critical_batch import CriticalBatch
from sweeper.scaling.optimum import Optimum
from sweeper.scaling.records import Integers

BATCHES = (
    "Search data.batch_tokens with the rate: sweeper launch --study S --trials N.",
    "runs that state their batch (a column mapped to data.batch_tokens), four batches of one model and budget",
)
Group = tuple[str, float, Integers, Optimum]


def batch(fits: Fits, theme: Theme) -> Card:
    """Best score over batch at equal tokens, and at equal seconds."""
    groups = fits.batch_optima
    if not groups:
        return Card(
            empty=f"No two runs of one model and budget have different batches. {remedy(fits, *BATCHES)}",
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
            fits.study.unit.title if not place else "",
            x=log_axis(),
        )
    critical = fits.get(critical_batch)
    missing = [f"{_group_name(g, fits)}: {g[3].not_identified}" for g in groups if not g[3].at]
    if not isinstance(critical, CriticalBatch):
        missing.insert(0, f"critical batch: {critical.not_identified}")
    return Card(
        figure=figure(theme, data, **layout, shapes=_shapes(fits, len(kinds), theme), showlegend=False),
        says=_batch_says(fits),
        used=f"best run of each of {sum(len(g[2]) for g in groups)} batches at {len(groups)} budgets; "
        f"drawn: {min(len(groups), MOST_GROUPS * len(kinds))}",
        excluded=run_reasons(fits),
        missing=missing,
        method="95 % of each vertex: half residual, half case bootstrap; of the law: posterior with B ∝ D^0.47 ± 0.12 "
        f"as its prior; dashed: the batch that wastes a fifth of its tokens, where it is known{noise_words(fits)}",
    )


def _shapes(fits: Fits, panels: int, theme: Theme) -> list[Figure]:
    """The noise of seeds, and the critical batch where it is known."""
    rows = np.concatenate([group[2] for group in fits.batch_optima])
    drawn = noise_shapes(fits, float(np.nanmin(fits.trials.runs.loss[rows])), theme, panels)
    critical = fits.get(critical_batch)
    if isinstance(critical, CriticalBatch):
        drawn.append(upright(theme, critical.overhead_batch().value, theme.running))
    return drawn


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
            data.append(vertex(f"best batch, {name}", optimum.at[0], optimum.loss_at or np.nan, color, **on(place)))
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
        said.append(f"The best batch grows as tokens^{interval(law.exponents['tokens'], '.2f')}.")
    exponent = loss.best_batch_exponent() if loss else None
    if exponent is not None:
        said.append(f"By the loss law the best batch grows as tokens^{interval(exponent, '.2f')}.")
    critical = fits.get(critical_batch)
    if isinstance(critical, CriticalBatch):
        wasteful = interval(critical.overhead_batch(), ",.0f", "tokens")
        said.append(f"From {wasteful} on more than a fifth of the tokens is wasted (20 % rule; dashed).")
    return " ".join(said) or "No best batch lies inside what was tried; below it says why."
