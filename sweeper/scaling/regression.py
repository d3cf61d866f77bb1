"""Bayesian linear regression, errors known, scatter not.  Shape key: n cells, p coefficients, G grid, D draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from sweeper.scaling.records import Array

SCATTERS = 41
SCATTER_SPREAD = 0.8
"""Prior deviation of the log of the scatter: 95 % within a factor of 5 either way."""

HALVINGS = 55
"""Of a range some dozens of deviations wide: to the last digits of a float."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Posterior:
    """A mixture of normals, one for each scatter on a grid; exact but for the grid."""

    weights_G: Array
    scatters_G: Array
    means_Gp: Array
    covariances_Gpp: Array

    @property
    def mean_p(self) -> Array:
        return np.asarray(self.weights_G @ self.means_Gp)

    @property
    def covariance_pp(self) -> Array:
        off = self.means_Gp - self.mean_p
        inner = self.covariances_Gpp + off[:, :, None] * off[:, None, :]
        return np.asarray(np.einsum("G,Gpq->pq", self.weights_G, inner))

    @property
    def scatter(self) -> float:
        return float(self.weights_G @ self.scatters_G)

    def quantiles(self, row_p: Array, levels: tuple[float, ...], with_scatter: bool = False) -> tuple[float, ...]:
        """Quantiles of row @ coefficients, or of a new cell there, which scatters about it as well."""
        return tuple(self.quantiles_of_rows(row_p[None], levels, with_scatter)[0].tolist())

    def quantiles_of_rows(self, rows_np: Array, levels: tuple[float, ...], with_scatter: bool = False) -> Array:
        """(n, levels) the same of each row: all at once, as a line of a figure has dozens."""
        means_nG = rows_np @ self.means_Gp.T
        variances = np.einsum("np,Gpq,nq->nG", rows_np, self.covariances_Gpp, rows_np, optimize=True)
        deviations_nG = np.sqrt(variances + (self.scatters_G**2 if with_scatter else 0.0))
        return _quantiles(np.array(levels), self.weights_G, means_nG, np.maximum(deviations_nG, 1e-12))


def _quantiles(levels_L: Array, weights_G: Array, means_nG: Array, deviations_nG: Array) -> Array:
    """(n, L) of n mixtures of normals, by halving."""
    low, high = (means_nG - 12 * deviations_nG).min(axis=1), (means_nG + 12 * deviations_nG).max(axis=1)
    low_nL, high_nL = (np.repeat(side[:, None], len(levels_L), axis=1) for side in (low, high))
    for _ in range(HALVINGS):
        middle_nL = (low_nL + high_nL) / 2
        below = ndtr((middle_nL[:, :, None] - means_nG[:, None]) / deviations_nG[:, None]) @ weights_G < levels_L
        low_nL, high_nL = np.where(below, middle_nL, low_nL), np.where(below, high_nL, middle_nL)
    return np.asarray((low_nL + high_nL) / 2)


def scatter_grid(typical: float) -> tuple[Array, Array]:
    """(G,) scatters and their log prior: lognormal about the typical one."""
    steps = np.linspace(-3.5, 2.5, SCATTERS)
    return typical * np.exp(SCATTER_SPREAD * steps), -0.5 * steps**2


def posterior(
    design_np: Array, y_n: Array, variances_n: Array, prior_mean_p: Array, prior_sd_p: Array, typical_scatter: float
) -> Posterior:
    """y = design @ coefficients + error + scatter, both normal, coefficients normal a priori: all conjugate.

    Gelman et al., Bayesian Data Analysis, section 5.4 (hierarchical normal model with known variances): the scatter is
    integrated out on a grid under a lognormal prior.

    Args:
        variances_n: of each y, known.
    """
    scatters, log_prior = scatter_grid(typical_scatter)
    noise_Gn = variances_n + scatters[:, None] ** 2
    offset = y_n - design_np @ prior_mean_p
    scaled = design_np * prior_sd_p
    gram = np.einsum("np,Gn,nq->Gpq", scaled, 1 / noise_Gn, scaled) + np.eye(design_np.shape[1])
    right = np.einsum("np,Gn,n->Gp", scaled, 1 / noise_Gn, offset)
    inverse = np.linalg.inv(gram)
    solution = np.einsum("Gpq,Gq->Gp", inverse, right)
    fit = (offset**2 / noise_Gn).sum(axis=1) - (right * solution).sum(axis=1)
    evidence = -0.5 * (np.log(noise_Gn).sum(axis=1) + np.linalg.slogdet(gram)[1] + fit) + log_prior
    weights = np.exp(evidence - evidence.max())
    return Posterior(
        weights_G=weights / weights.sum(),
        scatters_G=scatters,
        means_Gp=prior_mean_p + solution * prior_sd_p,
        covariances_Gpp=inverse * np.outer(prior_sd_p, prior_sd_p),
    )


def resampled(
    design_np: Array, y_n: Array, noise_n: Array, prior_mean_p: Array, prior_sd_p: Array, draws_Dn: Array
) -> Array:
    """(D, p) posterior means with each row counted as often as the draw has it, at a fixed noise."""
    scaled = design_np * prior_sd_p
    outer = (scaled[:, :, None] * scaled[:, None, :]).reshape(len(y_n), -1)
    weights = draws_Dn / noise_n
    p = design_np.shape[1]
    gram = (weights @ outer).reshape(-1, p, p) + np.eye(p)
    right = (weights * (y_n - design_np @ prior_mean_p)) @ scaled
    return prior_mean_p + np.linalg.solve(gram, right[..., None])[..., 0] * prior_sd_p
