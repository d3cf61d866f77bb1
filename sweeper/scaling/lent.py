"""The best rate of a handful of runs, by a curvature that other cells know.

Confirmation runs are three rates, half an octave apart: they tell level and slope of the bowl, and not how it curves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sweeper.scaling.optimum import Bound, Optimum, coordinates, left_out
from sweeper.scaling.records import Array, Estimate, Integers, Observations

FEWEST = 2
"""Runs of different rates: level and slope."""
PRIOR_CURVATURE = 0.012
"""Second derivative of log loss by log2 of the rate, where no cell has one: an octave high costs 0.84 %, one low 0.32 %
(`shading.EXCESS`), half of this on the mean."""
PRIOR_OCTAVES = 0.7
"""Standard deviation of log2 of it: those of the public sweeps are 0.006 to 0.02."""
LENT_OCTAVES = 0.25
"""Of one that few cells know, at the least: curvature drifts little from one horizon to the next."""
PRIOR_NOISE = 0.001
"""Of log loss, between runs of equal values: of scores near 1.2, 0.0006 to 0.0017 bits per byte."""


def fit_lent(runs: Observations, lenders: Sequence[Optimum]) -> Optimum:
    """Vertex of log loss = c + g x + k x^2 / 2, x = log2 of the rate about its middle, with k from the lenders.

    The vertex is -g / k, unsure by g and by k; outside what was tried it is a bound.

    Args:
        runs: of one cell; their tau is held, as that of confirmation runs is.
        lenders: optima whose first axis is the learning rate; those without a curvature are passed over.
    """
    x = coordinates(runs, ("learning_rate",))[:, 0]
    alive = np.flatnonzero(np.isfinite(x) & ~runs.diverged)
    about = _about(runs, x, alive)
    if len(np.unique(np.round(x[alive], 3))) < FEWEST:
        return Optimum(**about, not_identified=f"too few rates: {len(alive)} runs, {FEWEST} different rates needed")
    curvature, octaves, noise, whose = _lent(lenders)
    middle = float(x[alive].mean())
    off, log_loss = x[alive] - middle, np.log(runs.loss[alive])
    bent = log_loss - 0.5 * curvature * off**2
    spread = float((off**2).sum())
    slope = float((off * (bent - bent.mean())).sum() / spread)
    vertex = middle - slope / curvature
    deviation = float(np.hypot(noise / np.sqrt(spread) / curvature, slope / curvature * np.log(2) * octaves))
    low, high = float(x[alive].min()), float(x[alive].max())
    shared: dict[str, Any] = about | {
        "interval_method": f"curvature {curvature:.3g}, {whose}; normal, with noise {noise:.2g} of log loss",
        "curvature_dd": np.array([[curvature]]),
        "noise": noise,
        "residuals_n": bent - bent.mean() - slope * off,
        "band": float(np.ptp(log_loss)),
    }
    if not low <= vertex <= high:
        reason = f"the vertex ({2.0**vertex:.4g}) lies outside what was tried"
        return Optimum(**shared, not_identified=reason, bounds=(_edge(vertex, low, high),))
    at = Estimate(*(float(2.0 ** (vertex + k * 1.96 * deviation)) for k in (0, -1, 1)))
    return Optimum(
        **shared,
        at=(at,),
        log2_at_d=np.array([vertex]),
        covariance_dd=np.array([[deviation**2]]),
        loss_at=float(np.exp(bent.mean() - 0.5 * slope**2 / curvature)),
    )


def _edge(vertex: float, low: float, high: float) -> Bound:
    """All in log2 of the rate."""
    if vertex > high:
        return Bound("learning_rate", "at or above", 2.0**high)
    return Bound("learning_rate", "at or below", 2.0**low)


def _about(runs: Observations, x: Array, alive: Integers) -> dict[str, Any]:
    return {
        "axes": ("learning_rate",),
        "used": len(alive),
        "excluded": left_out(runs, alive, alive, 0.0),
        "rows": alive,
        "highest_stable": (float(2.0 ** x[alive].max()),) if len(alive) else (),
    }


def _lent(lenders: Sequence[Optimum]) -> tuple[float, float, float, str]:
    """Curvature, octaves by which it is unsure, noise, and whose they are."""
    known = [float(one.curvature_dd[0, 0]) for one in lenders if one.at and one.curvature_dd is not None]
    noises = [one.noise for one in lenders if one.at and one.noise]
    noise = max(float(np.median(noises)), 1e-6) if noises else PRIOR_NOISE
    known = [value for value in known if value > 0]
    if not known:
        return PRIOR_CURVATURE, PRIOR_OCTAVES, noise, "the literature's, as no cell of the study has one"
    logs = np.log2(known)
    octaves = float(np.hypot(LENT_OCTAVES, logs.std(ddof=1) / np.sqrt(len(known)))) if len(known) > 1 else PRIOR_OCTAVES
    return float(2.0 ** np.median(logs)), octaves, noise, f"lent by {len(known)} cells"
