"""How fast devices step, as the scaling page draws it."""

from __future__ import annotations

import numpy as np

from dashboard.figures_scaling import MOST_GROUPS, Card, band, dots, line, log_axis, panel, ramp, remedy
from dashboard.figures_scaling_sizes import distinct
from dashboard.theme import Figure, Theme, figure
from sweeper.observations_fits import Fits
from sweeper.scaling.records import Integers, Unidentified
from sweeper.scaling.step_time import NAMES, StepTime

TIMES = (
    "A benchmark measures them: sweeper bench --study S.",
    "runs that state their seconds, steps and depth (columns mapped to seconds, steps and model.num_layers)",
)
MOST_DRAWN = 100
"""Runs of one depth on one device."""


def throughput(fits: Fits, theme: Theme) -> Card:
    """Seconds a step over batch, by device and depth, and the law that plans convert seconds with."""
    times = fits.step_times
    if not times:
        return Card(empty=f"No run says its device's speed and depth. {remedy(fits, *TIMES)}")
    data: list[Figure] = []
    said, missing = [], []
    for place, (device, (rows, law)) in enumerate(times.items()):
        symbol = ("circle", "square", "triangle-up", "cross", "diamond")[place % 5]
        data += _device(fits, device, rows, law, symbol, theme)
        if isinstance(law, StepTime):
            said.append(f"{device}: a step costs {_parts(law)}; median error {law.relative_error:.1%}.")
        else:
            missing.append(f"{device}: {law.not_identified}")
    axes = panel(theme, 0, 1, "batch (tokens a step)", "milliseconds a step", x=log_axis(), y={"type": "log"})
    return Card(
        figure=figure(theme, data, **axes),
        says=" ".join(said) or "No device has enough measurements for a law.",
        used=f"{sum(len(rows) for rows, _ in times.values()):,} runs on {len(times)} "
        f"device{'s' if len(times) != 1 else ''}; drawn: at most {MOST_DRAWN} of each depth",
        missing=missing,
        method="95 %: draws that reweigh measurements, and their scatter",
    )


def _device(
    fits: Fits, device: str, rows: Integers, law: StepTime | Unidentified, symbol: str, theme: Theme
) -> list[Figure]:
    """Measured steps of each depth, and the law with its band."""
    runs = fits.trials.runs
    depths = distinct(runs.depth[rows])[:MOST_GROUPS]
    drawn: list[Figure] = []
    for depth, color in zip(depths, ramp(theme, len(depths)), strict=True):
        own = rows[runs.depth[rows] == depth]
        own = own[np.unique(np.linspace(0, len(own) - 1, min(len(own), MOST_DRAWN)).round().astype(int))]
        name = f"{device}, {depth:.0f} layers"
        milliseconds = 1000 * runs.step_seconds[own]
        marker = {"symbol": symbol, "size": 6}
        drawn.append(dots(name, runs.batch_tokens[own], milliseconds, runs.trial[own].tolist(), color, marker=marker))
        if isinstance(law, StepTime):
            low, high = law.batches
            x = np.geomspace(low, high, 20) if high > low else np.array([low])
            told = [law.seconds(depth, float(b)) for b in x]
            under, over = (1000 * np.array([getattr(e, side) for e in told]) for side in ("low", "high"))
            drawn.append(band(f"95 %, {name}", x, under, over, color, showlegend=False))
            drawn.append(line(f"law, {name}", x, [1000 * e.value for e in told], color, showlegend=False))
    return drawn


def _parts(law: StepTime) -> str:
    """What a step is made of; parts that make up less than a thousandth of any step measured are not worth telling."""
    deepest, largest = law.depths[1], law.batches[1]
    scale = np.array([1.0, deepest, largest, deepest * largest])
    whole = law.seconds(deepest, largest).value
    low, high = np.quantile(law.draws_Dp, (0.025, 0.975), axis=0)
    told = zip(NAMES, law.coefficients * 1e3, low * 1e3, high * 1e3, law.coefficients * scale / whole, strict=True)
    return ", ".join(f"{name} {c:.3g} ms ({a:.3g} to {b:.3g})" for name, c, a, b, share in told if share > 1e-3)
