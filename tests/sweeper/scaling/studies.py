"""Synthetic studies from known laws: rates in bowls around a known optimum, with seed noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sweeper.scaling.records import Array, Observations, observations

RATE_EXPONENTS = {"n_params": -0.30, "batch_tokens": 0.50, "tokens": -0.15}
MIDDLE = {"n_params": 3e7, "batch_tokens": 131_072.0, "tokens": 1e9}
RATE_AT_MIDDLE = 0.02
CURVATURE = 0.006
"""Relative excess of the loss an octave off the best rate."""


def best_rate(n_params: Array, batch_tokens: Array, tokens: Array, scatter: Array | float = 0.0) -> Array:
    logs = np.log2(RATE_AT_MIDDLE) + scatter
    for name, column in (("n_params", n_params), ("batch_tokens", batch_tokens), ("tokens", tokens)):
        logs = logs + RATE_EXPONENTS[name] * np.log2(column / MIDDLE[name])
    return np.asarray(2.0**logs)


def loss_at(n_params: Array, tokens: Array) -> Array:
    return np.asarray(1.7 + 30 / n_params**0.25 + 300 / tokens**0.3)


def study(
    rates: Sequence[float] = (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5),
    noise: float = 0.0,
    scatter: float = 0.0,
    seed: int = 0,
) -> Observations:
    """27 cells of 3 sizes, 3 batches, 3 horizons; in each, rates that many octaves from a grid point near its best."""
    random = np.random.default_rng(seed)
    axes = np.meshgrid([1e7, 3e7, 9e7], [65_536.0, 131_072.0, 262_144.0], [0.3e9, 1e9, 3e9], indexing="ij")
    n_params, batch, tokens = (axis.ravel() for axis in axes)
    best = best_rate(n_params, batch, tokens, scatter * random.normal(size=len(n_params)))
    grid = np.exp2(np.round(2 * np.log2(best)) / 2)
    rate = (grid[:, None] * np.exp2(np.asarray(rates))).ravel()
    per = len(rates)
    octaves = np.log2(rate / best.repeat(per))
    log_loss = np.log(loss_at(n_params, tokens)).repeat(per) + CURVATURE * octaves**2
    return observations(
        n_params=n_params.repeat(per),
        batch_tokens=batch.repeat(per),
        tokens=tokens.repeat(per),
        learning_rate=rate,
        loss=np.exp(log_loss + noise * random.normal(size=len(rate))),
    )
