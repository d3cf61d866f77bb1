"""Noise of repeats, rungs against ends, residuals, what pruning cost, forecasts against outcomes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dashboard.figures import robust_range
from dashboard.figures_scaling import (
    Card,
    band,
    bars,
    clean,
    dots,
    interval,
    line,
    log_axis,
    on,
    panel,
    remedy,
    run_reasons,
    upright,
)
from dashboard.theme import Figure, Theme, figure
from sweeper.observations_curves import FalsePrunes, false_prunes
from sweeper.observations_fits import Fits
from sweeper.observations_trust import Calibration, RungTable, calibrations, rung_table, seed_noise
from sweeper.scaling.power_law import PowerLaw
from sweeper.scaling.records import Estimate

REPEATS = (
    "Queue the best trial's values again with other seeds: search seeds.init, or sweeper enqueue.",
    "runs of equal values that differ by their seed alone",
)
ENDS = (
    "Trials that run to the end show it: sweeper launch with pruner none, or more trials.",
    "complete runs with their validations on the way",
)
NO_FULL = "No full run is complete: sweeper promote --study S makes one, and its score a point here."
NO_FULL_HERE = "These runs were made elsewhere: no forecast was made for a full run of them before it ended."
STOPPED = ("pruned", "diverged", "stopped")


def noise(fits: Fits, theme: Theme) -> Card:
    """How far runs with equal values lie from their mean."""
    found, runs = fits.get(seed_noise), fits.trials.runs
    if found.deviation is None:
        return Card(
            empty=f"{str(found.not_identified).capitalize()}, so that no difference of scores can be called one. "
            + remedy(fits, *REPEATS),
            missing=[f"seed noise: {found.not_identified}"],
        )
    x = np.concatenate([np.full(len(rows), place) for place, rows in enumerate(found.groups)])
    rows = np.concatenate(found.groups)
    y = np.concatenate(found.off)
    edge = np.array([-0.5, len(found.groups) - 0.5])
    sd = found.deviation
    data = [
        band("± one standard deviation", edge, np.full(2, -sd.value), np.full(2, sd.value), theme.best),
        dots("repeats", x, y, runs.trial[rows].tolist(), theme.complete),
    ]
    axes = panel(theme, 0, 1, "set of repeats", f"score less its set's mean ({fits.study.unit.words})", x={"dtick": 1})
    stated = runs.loss_stderr[rows]
    known = f" The trainer's own error of a score is {np.nanmedian(stated):.4f}." if np.isfinite(stated).any() else ""
    return Card(
        figure=figure(theme, data, **axes),
        says=f"Equal values score {interval(sd, '.4f', fits.study.unit.words)} apart (standard deviation): differences "
        f"under {2.8 * sd.value:.4f} are no differences.{known}",
        used=f"{found.used} runs in {len(found.groups)} sets of repeats",
        excluded=run_reasons(fits),
        method="95 %: chi-squared over the pooled degrees of freedom",
    )


def rungs(fits: Fits, theme: Theme) -> Card:
    """Rank correlation of the streamed score at x % of the budget with the final score."""
    table = fits.get(rung_table)
    if not isinstance(table, RungTable):
        return Card(
            empty=f"{str(table.not_identified).capitalize()}. {remedy(fits, *ENDS)}",
            excluded=run_reasons(fits),
            missing=[f"rank correlation: {table.not_identified}"],
        )
    lost = fits.get(false_prunes)
    panels = 2 if isinstance(lost, FalsePrunes) else 1
    data = _correlations(table, theme)
    wide = {"range": [0, 1], "tickformat": ".0%"}
    floor = min(0.0, *(e.low for e in table.correlation)) - 0.02
    axes = panel(
        theme, 0, panels, "share of the budget", "rank correlation with the end", x=wide, y={"range": [floor, 1.02]}
    )
    if isinstance(lost, FalsePrunes):
        data += _lost_lines(lost, theme)
        percent = {"tickformat": ".0%", "rangemode": "tozero"}
        axes |= panel(theme, 1, 2, "cut at this share", "best tenth lost", x=wide, y=percent)
    marks = [upright(theme, rung, theme.muted, "dot") for rung in fits.study.rungs]
    marks += [mark | {"xref": "x2"} for mark in marks] if panels == 2 else []
    return Card(
        figure=figure(theme, data, **axes, shapes=marks),
        says=_rungs_say(fits, table, lost if isinstance(lost, FalsePrunes) else None),
        used=f"{table.used} complete trials",
        excluded=run_reasons(fits),
        missing=[f"false prunes: {lost.not_identified}"] if not isinstance(lost, FalsePrunes) else [],
        method="95 %: bootstrap over trials; dotted: the study's rungs",
    )


def _correlations(table: RungTable, theme: Theme) -> list[Figure]:
    value, low, high = (np.array([getattr(e, side) for e in table.correlation]) for side in ("value", "low", "high"))
    return [
        band("95 %", table.shares, low, high, theme.complete, showlegend=False),
        line("Spearman's correlation with the final order", table.shares, value, theme.complete, mode="lines+markers"),
    ]


def _lost_lines(lost: FalsePrunes, theme: Theme) -> list[Figure]:
    kept = (("keeping the best half", lost.half, theme.best), ("keeping the best third", lost.third, theme.running))
    return [
        line(name, lost.shares, [e.value for e in at], color, mode="lines+markers", error_y=bars(at), **on(1))
        for name, at, color in kept
    ]


def _rungs_say(fits: Fits, table: RungTable, lost: FalsePrunes | None) -> str:
    rungs = fits.study.rungs or (0.3, 0.6)
    at = [int(np.argmin(np.abs(table.shares - rung))) for rung in rungs]
    told = "; ".join(f"at {table.shares[k]:.0%} it is {interval(table.correlation[k], '.2f')}" for k in at)
    said = (
        f"How well a look on the way tells the order at the end: {told}. Pruned trials have no end, so that over "
        "all trials it is likely higher."
    )
    if lost is None:
        return said
    k = int(np.argmin(np.abs(lost.shares - rungs[0])))
    half, third = (f"{e.value:.0%} ({e.low:.0%} to {e.high:.0%})" for e in (lost.half[k], lost.third[k]))
    return (
        f"{said} Of the {lost.top} trials that end as the best tenth, a cut at {lost.shares[k]:.0%} would have lost "
        f"{half} by keeping half, {third} by keeping a third."
    )


def audit(fits: Fits, theme: Theme) -> Card:
    """What keeping the best half or third at x % would have cost among complete trials; where trials were stopped."""
    table = fits.get(rung_table)
    stopped = [run for run in fits.study.trials if run.state in STOPPED]
    if not isinstance(table, RungTable):
        return Card(
            empty=f"{str(table.not_identified).capitalize()}: what pruning costs shows only on trials that were not "
            "pruned. " + remedy(fits, "Let some run to the end.", ENDS[1]),
            missing=[f"cost of pruning: {table.not_identified}"],
        )
    data: list[Figure] = []
    for name, estimates, color in (
        ("keep the best half", table.regret_half, theme.complete),
        ("keep the best third", table.regret_third, theme.running),
    ):
        data.append(
            line(name, table.shares, [e.value for e in estimates], color, mode="lines+markers", error_y=bars(estimates))
        )
    if stopped:
        data.append(_stopped_at([run.progress for run in stopped], theme))
    axes = panel(
        theme, 0, 1, "share of the budget", f"{fits.study.unit.words} lost", x={"range": [0, 1], "tickformat": ".0%"}
    )
    axes["yaxis2"] = {
        **panel(theme, 0, 1, "", "trials stopped")["yaxis"],
        "overlaying": "y",
        "side": "right",
        "showgrid": False,
        "rangemode": "tozero",
    }
    at = int(np.argmin(np.abs(table.shares - (fits.study.rungs or (0.3,))[0])))
    lost = interval(table.regret_third[at], ".4f", fits.study.unit.words)
    by_state = ", ".join(f"{sum(r.state == s for r in stopped)} {s}" for s in STOPPED)
    return Card(
        figure=figure(theme, data, **axes),
        says=f"Had the {table.used} complete trials been cut to their best third at {table.shares[at]:.0%}, the best "
        f"left would be {lost} worse. Stopped in fact: {by_state}.",
        used=f"{table.used} complete trials, {len(stopped)} stopped ones",
        missing=["the true share of wrongly pruned trials: a pruned trial has no end to compare with"],
        method="95 %: bootstrap over trials",
    )


def _stopped_at(progress: list[float], theme: Theme) -> Figure:
    """How many trials were stopped at each twentieth of the budget."""
    counts, edges = np.histogram(progress, bins=np.arange(0, 1.051, 0.05))
    return {
        "type": "bar",
        "name": "trials stopped there",
        "x": clean((edges[:-1] + edges[1:]) / 2),
        "y": [int(c) for c in counts],
        "yaxis": "y2",
        "xaxis": "x",
        "marker": {"color": theme.pruned, "opacity": 0.5},
        "hovertemplate": "%{y} trials stopped at about %{x:.0%}<extra></extra>",
    }


def residuals(fits: Fits, theme: Theme) -> Card:
    """What the laws of rate and loss leave over, against tokens."""
    law, loss, runs = fits.rate_law, fits.loss_law, fits.trials.runs
    panels: list[tuple[str, np.ndarray, np.ndarray, list[int]]] = []
    if isinstance(law, PowerLaw):
        cells = [cell for cell in fits.cells if cell.optimum.at]
        best = [int(c.rows[np.nanargmin(np.where(runs.diverged[c.rows], np.nan, runs.loss[c.rows]))]) for c in cells]
        tokens = np.array([cell.tokens for cell in cells])
        panels.append(("best rate off its law (octaves)", tokens, law.residuals_n, runs.trial[best].tolist()))
    if loss is not None:
        rows = fits.best_rows
        panels.append(("score off its law (%)", runs.tokens[rows], 100 * loss.residuals_n, runs.trial[rows].tolist()))
    if not panels:
        return Card(
            empty="No law is fitted yet, so nothing is left over; see the figures above for what they need.",
            excluded=run_reasons(fits),
        )
    data: list[Figure] = []
    layout: Figure = {}
    for place, (title, x, y, trials) in enumerate(panels):
        data.append(dots(title, x, y, trials, theme.complete, **on(place)))
        layout |= panel(
            theme,
            place,
            len(panels),
            "tokens trained on",
            title,
            x=log_axis(),
            y={"range": list(robust_range(np.concatenate([y, -y]))), "zeroline": True, "zerolinecolor": theme.muted},
        )
    said = [f"{title}: half lie within {np.median(np.abs(y)):.2g}" for title, _, y, _ in panels]
    forms = [one.misfit for one in (law, loss) if one is not None and hasattr(one, "misfit")]
    flagged = [form.detail for form in forms if form.flagged]
    return Card(
        figure=figure(theme, data, **layout, showlegend=False),
        says="; ".join(said) + (f". The form is wrong: {'; '.join(flagged)}." if flagged else ". No form is flagged."),
        used=f"{sum(len(y) for _, _, y, _ in panels)} residuals",
        method="residuals have no interval; forms are tested at 1 % (RESET on squared logs, runs of signs)",
    )


def calibration(fits: Fits, theme: Theme) -> Card:
    """The score of each full run beside what the trials alone foretell for it."""
    found = calibrations(fits)
    if not found:
        return Card(empty=NO_FULL_HERE if fits.study.foreign else NO_FULL)
    known = [one for one in found if one.predicted is not None]
    missing = [f"promotion {one.promotion}: {one.reason}" for one in found if one.predicted is None]
    if not known:
        why = (
            f"Full runs are complete, but none was foretold: {found[0].reason}. sweeper fit --study S says what lacks."
        )
        return Card(empty=why, missing=missing)
    told = [one.predicted for one in known if one.predicted is not None]
    actual = [one.actual for one in known]
    both = np.array([*actual, *(e.low for e in told), *(e.high for e in told)])
    low, high = float(both.min()) * 0.998, float(both.max()) * 1.002
    points = _full_runs(known, told, theme)
    data = [line("as foretold", [low, high], [low, high], theme.muted, line={"dash": "dot"}), points]
    then = sum(one.stored for one in known)
    inside = sum(e.low <= value <= e.high for e, value in zip(told, actual, strict=True))
    axes = panel(
        theme,
        0,
        1,
        f"foretold {fits.study.unit.title}",
        f"{fits.study.unit.metric} of the full run",
        x={"range": [low, high]},
        y={"range": [low, high]},
    )
    worst = max(zip(told, actual, strict=True), key=lambda pair: abs(pair[0].value - pair[1]))
    return Card(
        figure=figure(theme, data, **axes),
        says=f"{inside} of {len(known)} full runs ended inside the 95 % interval; the farthest ended "
        f"{worst[1] - worst[0].value:+.4f} {fits.study.unit.words} off.",
        used=f"{len(known)} complete full runs, {then} with a forecast from when they were planned",
        missing=missing,
        method="95 % of a new run by the loss law: full points as stored when it was planned, open ones as of today; "
        "the law speaks of tuned runs, so that a badly chosen rate shows here as well",
    )


def _full_runs(known: Sequence[Calibration], told: Sequence[Estimate], theme: Theme) -> Figure:
    """Full where the forecast was stored with the run, open where it is made today."""
    points = dots(
        "full runs",
        [e.value for e in told],
        [one.actual for one in known],
        [-1] * len(known),
        theme.best,
        error_x=bars(told),
        text=[one.words for one in known],
        marker={"symbol": ["circle" if one.stored else "circle-open" for one in known], "size": 8},
    )
    points["customdata"] = [one.trial for one in known]
    points["hovertemplate"] = "%{text}<extra></extra>"
    return points
