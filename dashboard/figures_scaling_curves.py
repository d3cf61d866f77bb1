"""Learning curves with the forecast of their ends, and how often such forecasts were right."""

from __future__ import annotations

import numpy as np

from dashboard.figures import robust_range
from dashboard.figures_scaling import Card, band, clean, dots, interval, log_axis, panel, remedy, run_reasons
from dashboard.theme import Figure, Theme, figure
from sweeper.observations_curves import (
    ForecastCheck,
    TrialCurve,
    complete_curves,
    forecast,
    forecast_check,
    trial_curves,
)
from sweeper.observations_fits import Fits
from sweeper.scaling.forecast import EARLIEST
from sweeper.scaling.records import Estimate, Unidentified

CURVES = (
    "sweeper launch --study S makes them; of a command of your own, validate at least ten times in a budget.",
    "logs or tables with a row for each of at least ten validations of a run",
)
MOST_COMPLETE = 24
MOST_RUNNING = 6
MOST_STOPPED = 200
SHOWN_FROM = 0.5
"""Share of the budget from which a complete trial's fan is drawn where no trial is running."""


def curves(fits: Fits, theme: Theme) -> Card:
    """Curves over the share of the budget; forecasts of running trials, else of the best one as it was half-way."""
    everything = fits.get(trial_curves)
    complete = fits.get(complete_curves)
    if not complete:
        return Card(
            empty=f"No complete trial has a curve of validations on the way. {remedy(fits, *CURVES)}",
            excluded=run_reasons(fits),
        )
    shown = _chosen(complete)
    running = [one for one in everything if one.state == "running"][-MOST_RUNNING:]
    stopped = [one for one in everything if one.state in ("pruned", "stopped")][-MOST_STOPPED:]
    told = _forecasts(fits, running, complete)
    data = [_lines(shown, theme), *([_stops(stopped, theme)] if stopped else [])]
    data += [_line(one, theme) for one in running]
    for one, at, e in told:
        data += _fan(one, at, e, theme)
    values = np.concatenate([one.curve.loss_m[one.curve.fraction_m >= 0.05] for one in (*shown, *running)])
    low, high = robust_range(values)
    axes = panel(
        theme, 0, 1, "share of the budget", fits.study.unit.title, x={"range": [0, 1.03], "tickformat": ".0%"},
        y=log_axis() | {"range": [float(np.log10(max(low, 1e-3))), float(np.log10(high))]},
    )  # fmt: skip
    check = fits.get(forecast_check)
    missing = [f"forecasts: {check.not_identified}"] if isinstance(check, Unidentified) else []
    missing += [f"trial {one.trial}: {why}" for one, why in _unknown(fits, running)]
    return Card(
        figure=figure(theme, data, **axes, showlegend=False),
        says=_says(check, told, bool(running), fits.study.unit.words),
        used=f"{len(complete):,} complete curves; drawn: {len(shown)} of them from best to worst, "
        f"{len(running)} running, {len(stopped)} stopped ones as crosses",
        excluded=run_reasons(fits),
        missing=missing,
        method="95 %: posterior prediction from at most 80 complete trials' own falls after that share (schedules are "
        "theirs too); checked on trials that were left out of it, Wilson's interval; running trials as of the last run "
        "that ended",
    )


def _chosen(complete: tuple[TrialCurve, ...]) -> list[TrialCurve]:
    """From best to worst, evenly by final score."""
    ordered = sorted(complete, key=lambda one: one.curve.loss_m[-1])
    return [ordered[k] for k in sorted({int(k) for k in np.linspace(0, len(ordered) - 1, MOST_COMPLETE).round()})]


def _forecasts(
    fits: Fits, running: list[TrialCurve], complete: tuple[TrialCurve, ...]
) -> list[tuple[TrialCurve, float, Estimate]]:
    """(curve, share that it is seen to, final score) of those that have a forecast."""
    if running:
        told = [(one, float(one.curve.fraction_m[-1]), forecast(fits, one)) for one in running]
    else:
        best = min(complete, key=lambda one: one.curve.loss_m[-1])
        told = [(best, SHOWN_FROM, forecast(fits, best, SHOWN_FROM))]
    return [(one, at, e) for one, at, e in told if isinstance(e, Estimate)]


def _unknown(fits: Fits, running: list[TrialCurve]) -> list[tuple[TrialCurve, str]]:
    told = [(one, forecast(fits, one)) for one in running]
    return [(one, why) for one, why in told if isinstance(why, str)]


def _says(
    check: tuple[ForecastCheck, ...] | Unidentified,
    told: list[tuple[TrialCurve, float, Estimate]],
    live: bool,
    words: str,
) -> str:
    """
    Args:
        words: of the unit of scores.
    """
    said = []
    if live:
        said += [f"Trial {one.trial}, at {at:.0%}, will end at {interval(e, '.4f')}." for one, at, e in told]
    elif told:
        one, _, e = told[0]
        said.append(
            f"Half-way the best trial ({one.trial}) was foretold {interval(e, '.4f')} {words} and ended at "
            f"{one.curve.loss_m[-1]:.4f}."
        )
    if isinstance(check, Unidentified):
        said.append(f"How well forecasts do is not known: {check.not_identified}.")
        return " ".join(said)
    each = "; ".join(
        f"from {one.share:.0%} the 95 % interval held {one.inside} of {one.judged} ends "
        f"({one.inside_share.low:.0%} to {one.inside_share.high:.0%}) and the middle was off by "
        f"{interval(one.error, '.4f')} (median, {words})"
        for one in check
    )
    return " ".join(
        [*said, f"Tried on trials that are complete: {each}. Before {EARLIEST:.0%} nothing beats the raw order."]
    )


def _lines(shown: list[TrialCurve], theme: Theme) -> Figure:
    """One trace of all: lines parted by gaps."""
    x: list[float] = []
    y: list[float] = []
    numbers: list[int] = []
    for one in shown:
        x += [*one.curve.fraction_m.tolist(), float("nan")]
        y += [*one.curve.loss_m.tolist(), float("nan")]
        numbers += [one.trial] * (len(one.curve.fraction_m) + 1)
    return {
        "type": "scatter",
        "mode": "lines",
        "name": "complete",
        "x": clean(x),
        "y": clean(y),
        "customdata": numbers,
        "opacity": 0.55,
        "line": {"color": theme.complete, "width": 1},
        "hovertemplate": "trial %{customdata}, %{x:.0%}: %{y:.4f}<extra></extra>",
    }


def _line(one: TrialCurve, theme: Theme) -> Figure:
    trace = _lines([one], theme) | {"name": f"running, trial {one.trial}", "opacity": 1.0}
    return trace | {"line": {"color": theme.running, "width": 2}}


def _stops(stopped: list[TrialCurve], theme: Theme) -> Figure:
    return dots(
        "stopped",
        [one.curve.fraction_m[-1] for one in stopped],
        [one.curve.loss_m[-1] for one in stopped],
        [one.trial for one in stopped],
        theme.pruned,
        marker={"symbol": "x-thin-open", "size": 7, "line": {"width": 1.3}},
        text=[one.state for one in stopped],
    )


def _fan(one: TrialCurve, at: float, e: Estimate, theme: Theme) -> list[Figure]:
    """From the last value seen to the interval of the end, straight in the logs of both; and the end itself."""
    seen = one.curve.fraction_m <= at + 1e-9
    start, here = float(one.curve.fraction_m[seen][-1]), float(one.curve.loss_m[seen][-1])
    x = np.geomspace(start, 1.0, 12)
    share = np.log(x / start) / np.log(1 / start) if start < 1 else np.ones_like(x)
    low, high = (here * (end / here) ** share for end in (e.low, e.high))
    middle = dots("forecast", [1.0], [e.value], [one.trial], theme.running, marker={"symbol": "diamond", "size": 9})
    middle["hovertemplate"] = f"forecast of trial {one.trial}: {interval(e, '.4f')}<extra></extra>"
    return [band(f"95 % of trial {one.trial}", x, low, high, theme.running, opacity=0.3), middle]
