"""The best learning rate of each cell against tokens, batch and size, its law, and where that puts the full run."""

from __future__ import annotations

import numpy as np

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
    on,
    panel,
    remedy,
    run_reasons,
    short,
    star,
    upright,
)
from dashboard.figures_scaling_rates import RATES, cell_name
from dashboard.theme import Figure, Theme, figure
from sweeper.observations_cells import Cell
from sweeper.observations_fits import Fits
from sweeper.observations_target import FullRun, full_run
from sweeper.scaling.power_law import PowerLaw
from sweeper.scaling.records import Array, Estimate
from sweeper.scaling.setting import sizes

LEAST_LEARNT = 0.1
"""Share of an exponent's prior variance that the runs must remove for it to count as learnt."""
NAMES = {"n_params": "parameters", "batch_tokens": "batch (tokens a step)", "tokens": "tokens trained on"}
SHORT = {"n_params": "parameters", "batch_tokens": "batch", "tokens": "tokens"}
GUIDES = {
    "tokens": ((0.0, "0: Step Law's runs at equal batch"), (-0.32, "-0.32: Bjorck et al."), (-0.5, "-0.5: √steps")),
    "batch_tokens": ((0.5, "0.5: √batch, of Adam below the best batch"),),
    "n_params": ((-0.36, "-0.36: Porian et al."),),
}
"""Exponents that others found, drawn through the middle of the data: arXiv:2503.04715, 2409.19913, parameter-golf PR
393; 2205.10287; 2406.19146."""
SAID = {"tokens": "0, -0.32, -0.5", "batch_tokens": "0.5", "n_params": "-0.36"}


def rate_law(fits: Fits, theme: Theme) -> Card:
    """Best rates against each size, the others held at their middle by the law itself."""
    law, found = fits.rate_law, [cell for cell in fits.cells if cell.optimum.at]
    if not isinstance(law, PowerLaw):
        why = f"The law needs cells with a vertex: {law.not_identified}. {remedy(fits, *RATES)}"
        return Card(empty=why, excluded=run_reasons(fits), missing=[str(law.not_identified)])
    told = fits.get(full_run)
    star_says = _full_run_says(told) if isinstance(told, FullRun) else ""
    unmoved = [term for term in law.terms if law.learnt[term] < LEAST_LEARNT]
    missing = [
        f"exponent of {SHORT[t]}: the runs say nothing of it, so that it is the literature's "
        f"{interval(law.exponents[t], '.2f')}"
        for t in unmoved
    ]
    if not isinstance(told, FullRun):
        missing.append(f"the full run's star: {told.not_identified}")
    return Card(
        figure=_figure(law, found, fits, told if isinstance(told, FullRun) else None, theme),
        says="The best rate goes as "
        + " × ".join(f"{SHORT[t]}^{interval(law.exponents[t], '.2f')}" for t in law.terms if t not in unmoved)
        + ("" if len(unmoved) < len(law.terms) else "the literature has it: no exponent was learnt from these runs")
        + f"; at the middle of the cells it is {interval(law.level)}. A cell scatters by "
        f"{interval(_scatter(law), '.2f', 'octaves')} about the law.{star_says}",
        used=f"{law.used} cells with a vertex, R² {law.r_squared:.2f}; {law.misfit.detail}",
        excluded=[("cells without a vertex", len(law.excluded))] if law.excluded else [],
        missing=missing,
        method=f"95 %: {law.interval_method}; the star's holds start, exponents and scatter; other sizes at their "
        "middle, where points and star are moved by the law",
    )


def _scatter(law: PowerLaw) -> Estimate:
    """Of cells about the law, with the interval of its posterior."""
    found = law.posterior
    below = np.cumsum(found.weights_G)
    low, high = (float(found.scatters_G[min(int(np.searchsorted(below, q)), len(below) - 1)]) for q in (0.025, 0.975))
    return Estimate(law.scatter_octaves, low, high)


def _full_run_says(told: FullRun) -> str:
    proposed = told.plan.proposed
    return (
        f" The full run of {short(told.tokens)} tokens (star; {proposed.name}, batch "
        f"{short(proposed.values.batch_tokens)}) is best at {interval(proposed.best_rate)}."
    )


def _figure(law: PowerLaw, found: list[Cell], fits: Fits, told: FullRun | None, theme: Theme) -> Figure:
    terms = [t for t in law.terms if len({round(float(np.log2(getattr(c, t))), 1) for c in found}) > 1] or ["tokens"]
    terms = [term for term in ("tokens", "batch_tokens", "n_params") if term in terms]
    layout: Figure = {"annotations": [], "shapes": []}
    data: list[Figure] = []
    for place, term in enumerate(terms):
        data += _law_panel(law, found, fits, term, place, told, theme)
        layout["annotations"].append(_remark(term, place, theme))
        title = "best learning rate (per step)" if not place else ""
        x = log_axis() | {"nticks": 4}
        layout |= panel(theme, place, len(terms), NAMES[term], title, x=x, y=log_axis())
        if term == "batch_tokens" and (best := _best_batch(fits, law)) is not None:
            tail = str(place + 1) if place else ""
            layout["shapes"].append(
                upright(theme, best, theme.best, "dot") | {"xref": f"x{tail}", "yref": f"y{tail} domain"}
            )
    drawn = np.concatenate([np.array(t["y"], dtype=float) for t in data if t["mode"] == "markers"])
    heights = [float(np.log10(np.nanmin(drawn) / 2)), float(np.log10(np.nanmax(drawn) * 2))]
    for name in [name for name in layout if name.startswith("yaxis")]:
        layout[name]["range"] = heights
    return figure(theme, data, **layout, showlegend=False)


def _remark(term: str, place: int, theme: Theme) -> Figure:
    tail = str(place + 1) if place else ""
    text = f"grey: {SAID[term]}" + ("<br>dotted: best batch" if term == "batch_tokens" else "")
    return {"xref": f"x{tail} domain", "yref": f"y{tail} domain", "x": 0.98, "y": 0.99, "showarrow": False} | {
        "text": text, "align": "right", "xanchor": "right", "yanchor": "top", "font": {"size": 10, "color": theme.muted}
    }  # fmt: skip


def _best_batch(fits: Fits, law: PowerLaw) -> float | None:
    """At the middle of the tokens."""
    tokens = law.centre["tokens"]
    if fits.batch_law is not None:
        return fits.batch_law.predict({"tokens": tokens}).value
    known = fits.loss_law.best_batch(tokens) if fits.loss_law else None
    return known.value if known else None


def _law_panel(
    law: PowerLaw, found: list[Cell], fits: Fits, term: str, place: int, told: FullRun | None, theme: Theme
) -> list[Figure]:
    middle = dict(law.centre)
    at = np.array([getattr(cell, term) for cell in found])
    x = _reach(at, term, told)
    predicted = law.predict_along(term, x, middle)
    centre = law.predict(middle).value
    low, high = np.array([e.low for e in predicted]), np.array([e.high for e in predicted])
    drawn = [
        guide(name, x, centre * (x / middle[term]) ** exponent, theme, **on(place)) for exponent, name in GUIDES[term]
    ]
    drawn += [
        band("95 % of a new cell", x, low, high, theme.complete, **on(place)),
        line("law", x, [e.value for e in predicted], theme.best, **on(place)),
        _points(law, found, fits, term, place, theme),
    ]
    if told is not None:
        drawn.append(_star(law, term, told, theme, place))
    return drawn


def _reach(at: Array, term: str, told: FullRun | None) -> Array:
    """Places at which the law is drawn: over the cells, ahead to eight times the longest and to the full run."""
    low, high = float(at.min()) * 0.8, float(at.max()) * (8.0 if term == "tokens" else 1.25)
    if told is not None:
        target = _sizes(told)[term]
        low, high = min(low, target / 1.3), max(high, target * 1.3)
    return np.geomspace(low, high, 40)


def _sizes(told: FullRun) -> dict[str, float]:
    return dict(sizes(told.plan.target.n_params, told.tokens, told.plan.proposed.values.batch_tokens))


def _points(law: PowerLaw, found: list[Cell], fits: Fits, term: str, place: int, theme: Theme) -> Figure:
    runs = fits.trials.runs
    moved: list[Estimate] = []
    trials = []
    for cell in found:
        moved.append(_moved(law, cell.optimum.at[0], cell.sizes, term))
        rows = cell.rows[~runs.diverged[cell.rows]]
        trials.append(int(runs.trial[rows[np.argmin(runs.loss[rows])]]))
    points = dots(
        "best rate of a cell, moved to the middle of the other sizes",
        [getattr(cell, term) for cell in found],
        [e.value for e in moved],
        trials,
        theme.complete,
        error_y=bars(moved),
        text=[cell_name(cell) for cell in found],
        **on(place),
    )
    points = hovered(points, "best of this cell: trial %{customdata}<br>%{text}<br>rate %{y:.4g}<extra></extra>")
    return points


def _moved(law: PowerLaw, e: Estimate, here: dict[str, float], term: str) -> Estimate:
    """A rate at the middle of all sizes but one."""
    octaves, _ = law.shift(here, {**law.centre, term: here[term]})
    return Estimate(*(v * 2.0**octaves for v in (e.value, e.low, e.high)))


def _star(law: PowerLaw, term: str, told: FullRun, theme: Theme, place: int) -> Figure:
    here = _sizes(told)
    best = told.plan.proposed.best_rate
    text = f"full run of {short(told.tokens)} tokens, batch {short(here['batch_tokens'])}: rate {interval(best)}"
    return star("full run", here[term], _moved(law, best, here, term), text, theme, **on(place))
