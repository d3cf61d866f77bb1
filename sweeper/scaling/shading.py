"""What a rate off its optimum costs, and how far below the estimate to aim for that reason."""

from __future__ import annotations

import numpy as np

from sweeper.scaling.records import Array

SIGMAS = (0.0, 0.5, 0.75, 1.0, 1.5)
SHIFTS = (0.0, -0.2, -0.4, -0.67, -1.6)
"""Octaves to aim below an estimate whose deviation is SIGMAS octaves: least expected loss over the bowl below."""
OFFSETS = (-3.0, -2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5)
EXCESS = (0.0171, 0.0091, 0.0032, 0.0016, 0.0, 0.0019, 0.0084, 0.0197, 0.039, 0.11)
"""Median relative excess of loss at a rate that many octaves off the optimum, batch fixed, over Step Law's 1,911 runs
(arXiv:2503.04715): too high costs two to three times as much as too low, and three octaves diverge."""


def shade(sigma_octaves: float) -> float:
    """Octaves (negative or zero) to move an estimate of the best rate whose standard deviation is `sigma_octaves`.

    Linear between the table's entries, held beyond 1.5 octaves: there confirmation runs are called for.

    Raises:
        ValueError: a deviation that is negative or not finite.
    """
    if not (np.isfinite(sigma_octaves) and sigma_octaves >= 0):
        raise ValueError(f"a deviation must be finite and not negative, got {sigma_octaves}")
    return float(np.interp(sigma_octaves, SIGMAS, SHIFTS))


def excess(octaves: Array) -> Array:
    """Relative excess of the loss at rates that many octaves above (positive) or below their optimum.

    Linear between the table's entries; below it goes on at the last slope, above it at the last one, which is steep.
    """
    inside = np.interp(octaves, OFFSETS, EXCESS)
    under = (EXCESS[0] - EXCESS[1]) * np.maximum(OFFSETS[0] - octaves, 0)
    over = 2 * (EXCESS[-1] - EXCESS[-2]) * np.maximum(octaves - OFFSETS[-1], 0)
    return np.asarray(inside + under + over)
