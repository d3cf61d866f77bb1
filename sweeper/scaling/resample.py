"""Bootstrap draws, deterministic by seed, as matrices of weights.  Shape key: D draws, n rows, p numbers."""

from __future__ import annotations

import numpy as np

from sweeper.scaling.records import Array, Estimate, Integers

LEVEL = 0.95


def cluster_weights(clusters: Integers, draws: int, seed: int) -> Array:
    """(D, n) how often each row is drawn when whole clusters are drawn with replacement.

    Trials inside a cell share its optimum and its luck; drawing rows one by one understates intervals by half.
    """
    names, member = np.unique(clusters, return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    return drawn[:, member].astype(np.float64)


def smooth_weights(rows: int, draws: int, seed: int) -> Array:
    """(D, n) positive weights with mean 1: the Bayesian bootstrap (Rubin 1981), never singular on few rows."""
    weights = np.random.default_rng(seed).standard_exponential((draws, rows))
    return np.asarray(weights * (rows / weights.sum(axis=1, keepdims=True)))


def bounds(samples_Dp: Array, level: float = LEVEL) -> tuple[Array, Array]:
    """(p,) lower and upper percentiles over draws; draws that hold a NaN do not count."""
    kept = samples_Dp[np.isfinite(samples_Dp).all(axis=-1)] if samples_Dp.ndim > 1 else samples_Dp
    tail = 50 * (1 - level)
    low, high = np.nanpercentile(kept, [tail, 100 - tail], axis=0)
    return np.asarray(low), np.asarray(high)


def estimate(value: float, samples_D: Array) -> Estimate:
    """A value with the percentile interval of its draws, widened to hold the value itself."""
    low, high = (float(bound) for bound in bounds(samples_D))
    return Estimate(float(value), min(low, float(value)), max(high, float(value)))
