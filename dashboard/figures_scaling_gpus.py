"""What a faster or slower device wants in the same seconds: batch, rate, decay and size of the model."""

from __future__ import annotations

import numpy as np

from dashboard.figures_scaling import Card, band, clean, dots, interval, log_axis, remedy, run_reasons, short
from dashboard.theme import Figure, Theme, axis, figure
from sweeper.observations_fits import Fits
from sweeper.observations_target import SpeedView, Wanted, speed_view
from sweeper.scaling.records import Estimate, Unidentified

ROWS = (
    ("batch_tokens", "batch (tokens)"),
    ("learning_rate", "rate (per step)"),
    ("weight_decay", "decay (over rate)"),
    ("n_params", "parameters"),
)
TIMES = (
    "Devices are timed by trials, and by sweeper bench --study S.",
    "runs that state their seconds, steps, depth and device",
)
ROW_PIXELS = 130
GAP = 0.05


def speeds(fits: Fits, theme: Theme) -> Card:
    """One row a value, over milliseconds a step; a vertical line for each device."""
    found = fits.get(speed_view)
    if isinstance(found, Unidentified):
        return Card(
            empty=f"What other devices want is not known: {found.not_identified}. {remedy(fits, *TIMES)}",
            missing=[f"speed: {found.not_identified}"],
            excluded=run_reasons(fits),
        )
    return Card(
        figure=_figure(found, theme),
        says=_says(found),
        used=f"the {found.law} of {len(fits.cells)} cells, seconds a step of {len(fits.step_times)} "
        f"device{'s' if len(fits.step_times) != 1 else ''}",
        excluded=run_reasons(fits),
        missing=list(found.missing),
        method="95 %: of batch the wider of its law's posterior and the loss law's bootstrap draws; of rate "
        "by start, exponents and scatter; of decay by tau alone, for the rate proposed; of size by the law's "
        "posterior; of a device's step by draws that reweigh measurements. Batches are multiples of those tried",
    )


def _says(found: SpeedView) -> str:
    middle, fast = _at(found, 1.0), _at(found, 2.0)
    return (
        f"In {found.seconds:.3g} s {found.device} makes {middle.steps:,.0f} steps; one twice as fast should be given "
        f"batch {interval(fast.batch_tokens, ',.0f', 'tokens')} instead of {middle.batch_tokens.value:,.0f}, rate "
        f"{interval(fast.learning_rate)} instead of {middle.learning_rate.value:.3g}, decay "
        f"{interval(fast.weight_decay)} instead of {middle.weight_decay.value:.3g}"
        + (
            f", and {short(fast.n_params.value)} parameters ({short(fast.n_params.low)} to "
            f"{short(fast.n_params.high)}) instead of {short(middle.n_params.value)}."
            if fast.n_params and middle.n_params
            else "."
        )
        + (" The size of the model is held." if fast.n_params is None else " Batch, rate and decay are for one size.")
    )


def _at(found: SpeedView, speed: float) -> Wanted:
    """The entry of a speed over that of the usual device."""
    reference = sorted(one.step_seconds for one in found.wanted)[len(found.wanted) // 2]
    return min(found.wanted, key=lambda one: abs(np.log(one.step_seconds * speed / reference)))


def _figure(found: SpeedView, theme: Theme) -> Figure:
    rows = [(name, title) for name, title in ROWS if all(getattr(one, name) is not None for one in found.wanted)]
    data: list[Figure] = []
    layout: Figure = {"height": ROW_PIXELS * len(rows) + 60, "margin": {"l": 70, "r": 14, "t": 34, "b": 44}}
    low, high = (f([one.step_seconds for one in found.wanted]) for f in (min, max))
    around = {"range": [float(np.log10(800 * low)), float(np.log10(1250 * high))]}
    share = (1 - GAP * (len(rows) - 1)) / len(rows)
    for place, (name, title) in enumerate(rows):
        tail = "" if place == 0 else str(place + 1)
        top = 1 - place * (share + GAP)
        last = place == len(rows) - 1
        where = {"yaxis": f"y{tail}"} if place else {}
        data += _row(found, name, title, where, theme)
        layout[f"yaxis{tail}"] = axis(
            theme, title, domain=[max(0.0, top - share), top], automargin=False, **log_axis() | {"nticks": 4}
        )
        if last:
            layout["xaxis"] = axis(
                theme, "ms a step at the reference batch and depth", anchor=f"y{tail}", automargin=False,
                **log_axis(), **around,
            )  # fmt: skip
    layout["shapes"] = [_upright(1000 * at.value, theme) for _, at in found.devices]
    layout["annotations"] = [
        {"x": float(np.log10(1000 * at.value)), "y": 1, "yref": "paper", "yanchor": "bottom", "showarrow": False}
        | {"text": f"{name}: {interval(_milliseconds(at))} ms", "font": {"size": 11, "color": theme.muted}}
        for name, at in found.devices
    ]
    return figure(theme, data, **layout, showlegend=False)


def _row(found: SpeedView, name: str, title: str, where: dict[str, str], theme: Theme) -> list[Figure]:
    values: list[Estimate] = [getattr(one, name) for one in found.wanted]
    x = np.array([1000 * one.step_seconds for one in found.wanted])
    low, high = np.array([e.low for e in values]), np.array([e.high for e in values])
    points = dots(
        title, x, [e.value for e in values], [], theme.best, mode="lines+markers", marker={"size": 5}, **where
    )
    points.pop("customdata")
    points["text"] = [f"{one.steps:,.0f} steps" for one in found.wanted]
    points["hovertemplate"] = "%{x:.3g} ms a step, %{text}<br>" + title + " %{y:.4g}<extra></extra>"
    return [band(f"95 %, {title}", x, low, high, theme.complete, **where), points]


def _milliseconds(at: Estimate) -> Estimate:
    return Estimate(1000 * at.value, 1000 * at.low, 1000 * at.high)


def _upright(x: float, theme: Theme) -> Figure:
    at = clean([x])[0]
    return {"type": "line", "x0": at, "x1": at, "yref": "paper", "y0": 0, "y1": 1} | {
        "line": {"color": theme.running, "width": 1.5, "dash": "dash"}
    }
