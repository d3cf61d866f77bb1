"""Is the form wrong?  Residuals that still depend on what the law already holds.  Shape key: n points, p parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from sweeper.scaling.records import Array

SIGNIFICANCE = 0.01
"""Chance that a law of the right form is flagged, shared among the tests made (Bonferroni)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """Outcome of the tests of form."""

    p_value: float | None
    """Least of the tests, times their number; None where there were too few points to test."""
    flagged: bool
    detail: str
    """What was tested and what it found, in words."""


def check_form(residuals_n: Array, jacobian_np: Array, log_axes: Mapping[str, Array]) -> Misfit:
    """Two tests: do squared logs explain the residuals (F), and do their signs come in runs along an axis?

    The first is Ramsey's RESET (1969) with the squares and products of the logs instead of the fitted values, made
    on residuals drawn in at three robust deviations, so that single outliers do not decide it.  The second is Wald and
    Wolfowitz (1940), one-sided: too few runs.

    Args:
        residuals_n: observed minus fitted, of equal variance.
        jacobian_np: derivatives of the fitted values by the law's parameters; linear laws: their design.
        log_axes: the n logs of each size that the law is a function of.
    """
    n = len(residuals_n)
    scale = 1.4826 * float(np.median(np.abs(residuals_n - np.median(residuals_n))))
    if scale <= 1e-9:
        enough = n > jacobian_np.shape[1] + 1
        return Misfit(p_value=1.0 if enough else None, flagged=False, detail="the law passes through the points")
    drawn_in = np.clip(residuals_n, -3 * scale, 3 * scale)
    varying = {name: x for name, x in log_axes.items() if np.ptp(x) > 1e-9}
    tests = {f"signs come in runs along {name}": _runs(residuals_n, x) for name, x in varying.items()}
    tests["squared logs explain the residuals"] = _added_squares(drawn_in, jacobian_np, list(varying.values()))
    made = {name: p for name, p in tests.items() if p is not None}
    if not made:
        return Misfit(p_value=None, flagged=False, detail=f"{n} points are too few to test the form")
    worst = min(made, key=made.__getitem__)
    corrected = min(1.0, made[worst] * len(made))
    flagged = corrected < SIGNIFICANCE
    verdict = f"{worst} (p = {corrected:.2g})" if flagged else f"no sign of a wrong form (least p = {corrected:.2g})"
    return Misfit(p_value=corrected, flagged=flagged, detail=verdict)


def _added_squares(residuals_n: Array, jacobian_np: Array, axes: list[Array]) -> float | None:
    """p-value of the squares and products of the centred logs, added to the law's own directions."""
    centred = [(x - x.mean()) / x.std() for x in axes]
    added = [centred[i] * centred[j] for i in range(len(axes)) for j in range(i, len(axes))]
    if not added:
        return None
    full = np.column_stack([jacobian_np, *added])
    before, rank_before = _left_over(residuals_n, jacobian_np)
    after, rank_after = _left_over(residuals_n, full)
    gained, free = rank_after - rank_before, len(residuals_n) - rank_after
    if gained < 1 or free < 2:
        return None
    statistic = ((before - after) / gained) / max(after / free, 1e-300)
    return float(stats.f.sf(statistic, gained, free))


def _left_over(residuals_n: Array, columns: Array) -> tuple[float, int]:
    scaled = columns / np.maximum(np.linalg.norm(columns, axis=0), 1e-300)
    solution, _, rank, _ = np.linalg.lstsq(scaled, residuals_n, rcond=1e-9)
    return float(((residuals_n - scaled @ solution) ** 2).sum()), int(rank)


def _runs(residuals_n: Array, x_n: Array) -> float | None:
    """p-value of so few runs of equal sign along x, of the means where x repeats."""
    _, member = np.unique(np.round(x_n, 6), return_inverse=True)
    means = np.bincount(member, residuals_n) / np.bincount(member)
    signs = means > np.median(means)
    n, positive = len(signs), int(signs.sum())
    negative = n - positive
    if min(positive, negative) < 5:
        return None
    runs = 1 + int((signs[1:] != signs[:-1]).sum())
    expected = 1 + 2 * positive * negative / n
    variance = (expected - 1) * (expected - 2) / (n - 1)
    return float(stats.norm.cdf((runs + 0.5 - expected) / np.sqrt(variance)))


def r_squared(observed_n: Array, fitted_n: Array) -> float:
    """Share of the variance of the observed that the fit explains; 0 where they do not vary."""
    total = float(((observed_n - observed_n.mean()) ** 2).sum())
    return 1 - float(((observed_n - fitted_n) ** 2).sum()) / total if total > 0 else 0.0
