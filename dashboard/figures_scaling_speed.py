"""How fast devices step, as the scaling page draws it."""

from __future__ import annotations

import numpy as np

from dashboard.figures_scaling import MOST_GROUPS, Card, band, dots, line, log_axis, panel, ramp
from dashboard.figures_scaling_sizes import distinct
from dashboard.theme import Figure, Theme, figure
from sweeper.observations_fits import Fits
from sweeper.scaling.step_time import NAMES, StepTime


def throughput(fits: Fits, theme: Theme) -> Card:
    """Seconds a step over batch, by device and depth, and the law that plans convert seconds with."""
    times, runs = fits.step_times, fits.trials.runs
    if not times:
        return Card(empty="No run says its device's speed and depth: sweeper bench --study S measures it.")
    data: list[Figure] = []
    said, missing = [], []
    for place, (device, (rows, law)) in enumerate(times.items()):
        depths = distinct(runs.depth[rows])[:MOST_GROUPS]
        symbol = ("circle", "square", "triangle-up", "cross", "diamond")[place % 5]
        for depth, color in zip(depths, ramp(theme, len(depths)), strict=True):
            own = rows[runs.depth[rows] == depth]
            name = f"{device}, {depth:.0f} layers"
            data.append(
                dots(
                    name,
                    runs.batch_tokens[own],
                    1000 * runs.step_seconds[own],
                    runs.trial[own].tolist(),
                    color,
                    marker={"symbol": symbol, "size": 6},
                )
            )
            if isinstance(law, StepTime):
                low, high = law.batches[0], law.batches[1]
                x = np.exp(np.linspace(np.log(low), np.log(high), 20)) if high > low else np.array([low])
                told = [law.seconds(depth, float(b)) for b in x]
                under, over = (1000 * np.array([getattr(e, side) for e in told]) for side in ("low", "high"))
                data.append(band(f"95 %, {name}", x, under, over, color, showlegend=False))
                data.append(line(f"law, {name}", x, [1000 * e.value for e in told], color, showlegend=False))
        if isinstance(law, StepTime):
            parts = ", ".join(f"{n} {1e3 * c:.3g} ms" for n, c in zip(NAMES, law.coefficients, strict=True) if c > 0)
            said.append(f"{device}: a step costs {parts}; median error {law.relative_error:.1%}.")
        else:
            missing.append(f"{device}: {law.not_identified}")
    axes = panel(theme, 0, 1, "batch (tokens a step)", "milliseconds a step", x=log_axis(), y={"type": "log"})
    return Card(
        figure=figure(theme, data, **axes),
        says=" ".join(said) or "No device has enough measurements for a law.",
        used=f"{sum(len(rows) for rows, _ in times.values()):,} runs on {len(times)} devices",
        missing=missing,
        method="95 %: draws that reweigh measurements, and their scatter",
    )
