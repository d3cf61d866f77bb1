"""Variable projection: floor and scales exactly, exponents by search.  Shape key: n points, k sizes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.optimize import minimize, nnls

from sweeper.scaling.records import Array

GRID = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5)


@dataclass(frozen=True, eq=False)
class Projection:
    """Least squares of the loss itself, not of its log."""

    floor: float
    scales_k: Array
    exponents_k: Array
    rmse: float


def project(x_nk: Array, loss_n: Array) -> Projection:
    """loss = E + sum of A_j exp(-a_j x_j), x_j natural logs: E and A_j by NNLS inside a search of a.

    Given the exponents the law is linear in the rest, so that the search has as many dimensions as there are sizes and
    no starting point to choose: a cross-check of the robust fit that shares neither its objective nor its optimiser
    (Golub & Pereyra 1973).  Expect other figures on noisy data: least squares weighs outliers, the robust fit does not.
    """

    def solve(exponents: Array) -> tuple[Array, float]:
        design = np.column_stack([np.ones(len(loss_n)), np.exp(-x_nk * exponents)])
        coefficients, norm = nnls(design, loss_n)
        return coefficients, float(norm)

    def norm(exponents: Array) -> float:
        return solve(np.clip(exponents, 1e-3, 5.0))[1]

    grid = GRID if x_nk.shape[1] < 3 else GRID[1::2]
    start = min((np.array(p) for p in product(grid, repeat=x_nk.shape[1])), key=norm)
    found = minimize(norm, start, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-12, "maxiter": 2000})
    exponents = np.clip(found.x, 1e-3, 5.0)
    coefficients, rest = solve(exponents)
    return Projection(float(coefficients[0]), coefficients[1:], exponents, rest / float(np.sqrt(len(loss_n))))
