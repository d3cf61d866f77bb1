"""Loss under an annealed rate by three terms: floor + A S1^-alpha - C S2.  Shape key: n points, j drops, c terms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from sweeper.scaling.power_sum import DELTA, huber
from sweeper.scaling.rates import Rates
from sweeper.scaling.records import Array

ALPHAS = np.linspace(0.1, 1.2, 23)
SPANS = np.geomspace(0.003, 0.5, 10)
"""Steps over which a drop's gain comes in, as shares of the longest run: the law's momentum, 1 / (1 - lambda)."""
ROUNDS = 4


@dataclass(frozen=True, eq=False)
class TissueLaw:
    """loss(t) = floor + A S1^-alpha - C S2, S1 the sum of rates, S2 the annealing area (arXiv:2408.11029)."""

    alpha: float
    span: float
    """Steps."""
    terms_c: Array
    """Floor, A (S1 in units of `longest`) and C, none negative."""
    longest: float

    def predict(self, rates: Rates, step_m: Array) -> Array:
        """(m,) losses."""
        return np.asarray(_design(rates, step_m, self.alpha, self.span, self.longest) @ self.terms_c)


def fit_tissue(runs: Sequence[tuple[Rates, Array, Array]]) -> TissueLaw:
    """Least Huber loss (1e-3) of log loss over a grid of alpha and span; the three terms by non-negative least squares.

    Args:
        runs: rates, steps and losses of each.
    """
    loss = np.concatenate([loss for _, _, loss in runs])
    longest = max(float(rates.sums(steps).max()) for rates, steps, _ in runs)
    last = max(float(steps[-1]) for _, steps, _ in runs)
    best, least = None, np.inf
    for span in SPANS * last:
        for alpha in ALPHAS:
            parts = [_design(rates, steps, alpha, span, longest) for rates, steps, _ in runs]
            terms, value = _solve(np.concatenate(parts), loss)
            if value < least:
                best, least = TissueLaw(float(alpha), float(span), terms, longest), value
    assert best is not None
    return best


def _design(rates: Rates, steps: Array, alpha: float, span: float, longest: float) -> Array:
    drops = rates.drops()
    since = np.maximum(steps[:, None] - drops.step_j, 0.0)
    area = span * (-np.expm1(-since / span) @ drops.fall_j)
    return np.column_stack([np.ones(len(steps)), (rates.sums(steps) / longest) ** -alpha, -area])


def _solve(design: Array, loss: Array) -> tuple[Array, float]:
    scale = np.maximum(np.abs(design).max(axis=0), 1e-300)
    relative = design / scale / loss[:, None]
    trust, found = np.ones(len(loss)), np.zeros(design.shape[1])
    for _ in range(ROUNDS):
        root = np.sqrt(trust)
        found, _ = nnls(relative * root[:, None], root)
        trust = np.minimum(1.0, DELTA / np.maximum(np.abs(1 - relative @ found), 1e-300))
    return found / scale, float(huber(1 - relative @ found).sum())
