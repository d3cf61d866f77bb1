"""Seconds a step on one device by depth and batch, and what fits into a budget.  Shape key: n measurements, D draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import nnls

from sweeper.scaling import resample
from sweeper.scaling.misfit import r_squared
from sweeper.scaling.records import Array, Estimate, Fit, Unidentified, positive

ROUNDS = 8
NAMES = ("overhead", "per layer", "per token", "per token and layer")


@dataclass(frozen=True, kw_only=True, eq=False)
class StepTime(Fit):
    """seconds = overhead + per layer x depth + (per token + per token and layer x depth) x batch; none negative."""

    coefficients: Array
    """In the order of NAMES, seconds."""
    draws_Dp: Array
    r_squared: float
    relative_error: float
    """Median absolute relative error, as a fraction."""
    depths: tuple[float, float]
    batches: tuple[float, float]
    """Least and largest measured: outside, the law extrapolates."""

    def seconds(self, depth: float, batch_tokens: float) -> Estimate:
        """Seconds of one step.

        Raises:
            ValueError: a depth or batch that is not positive.
        """
        if not (depth > 0 and batch_tokens > 0):
            raise ValueError(f"depth and batch must be positive, got {depth} and {batch_tokens}")
        row = _design(np.array([depth]), np.array([batch_tokens]))[0]
        drawn = self.draws_Dp @ row
        return resample.estimate(float(self.coefficients @ row), drawn * (1 + self._scatter(len(drawn))))

    def steps(self, budget_seconds: float, depth: float, batch_tokens: float) -> Estimate:
        """Steps that fit into a budget: S = T / t_step."""
        step = self.seconds(depth, batch_tokens)
        return Estimate(budget_seconds / step.value, budget_seconds / step.high, budget_seconds / step.low)

    def _scatter(self, draws: int) -> Array:
        random = np.random.default_rng(draws)
        return np.clip(random.normal(0, 1.4826 * self.relative_error, draws), -0.5, 0.5)


def fit_step_time(
    depth: ArrayLike, batch_tokens: ArrayLike, seconds: ArrayLike, *, draws: int = 500, seed: int = 0
) -> StepTime | Unidentified:
    """Non-negative least squares on relative errors, reweighted by Huber's weights, of one device's measurements.

    Affine in the batch with an overhead and a price that grow with depth: launch-bound at small batches, compute-bound
    at large ones.  One depth or one batch alone: the price of a token, and no overhead, unless both vary.

    Args:
        depth, batch_tokens, seconds: (n,) each, positive; seconds of one step.

    Returns:
        Unidentified with fewer than two measurements.

    Raises:
        ValueError: unequal lengths or values that are not finite and positive.
    """
    d, b, t = (positive(n, v) for n, v in (("depth", depth), ("batch_tokens", batch_tokens), ("seconds", seconds)))
    if not len(d) == len(b) == len(t):
        raise ValueError(f"depth, batch_tokens and seconds must be as many, got {len(d)}, {len(b)} and {len(t)}")
    if len(t) < 2:
        return Unidentified(used=len(t), not_identified="one measurement says nothing of how depth and batch matter")
    relative = _design(d, b) / t[:, None] * _held(d, b)
    coefficients = _robust(relative, np.ones(len(t)))
    weights = resample.smooth_weights(len(t), draws, seed)
    error = np.abs(1 - relative @ coefficients)
    return StepTime(
        used=len(t),
        interval_method=f"{draws} draws that reweigh measurements, and their scatter",
        coefficients=coefficients,
        draws_Dp=np.stack([_robust(relative, w) for w in weights]),
        r_squared=r_squared(t, _design(d, b) @ coefficients),
        relative_error=float(np.median(error)),
        depths=(float(d.min()), float(d.max())),
        batches=(float(b.min()), float(b.max())),
    )


def _design(depth: Array, batch: Array) -> Array:
    return np.stack([np.ones_like(depth), depth, batch, batch * depth], axis=1)


def _held(depth: Array, batch: Array) -> Array:
    """Which coefficients may differ from zero: without two depths, or two batches, some cannot be told apart."""
    deep, wide = np.ptp(depth) > 0, np.ptp(batch) > 0
    return np.array([wide, wide and deep, deep, True], dtype=np.float64)


def _robust(relative: Array, weights: Array) -> Array:
    """Coefficients for which relative @ coefficients is 1; columns are scaled so that the solver sees like sizes."""
    scale = np.maximum(np.abs(relative).max(axis=0), 1e-300)
    trust = np.ones(len(relative))
    found = np.zeros(relative.shape[1])
    for _ in range(ROUNDS):
        root = np.sqrt(weights * trust)
        found, _ = nnls(relative / scale * root[:, None], root)
        error = np.abs(1 - relative / scale @ found)
        spread = 1.4826 * float(np.median(error))
        if spread < 1e-9:
            break
        trust = np.minimum(1.0, 1.345 * spread / np.maximum(error, 1e-300))
    return np.asarray(found / scale)
