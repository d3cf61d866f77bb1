"""Laws of optima across cells, value = scale x n^a x b^b: prior first, data later.  Shape key: n cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sweeper.scaling import priors, resample
from sweeper.scaling.misfit import Misfit, check_form, r_squared
from sweeper.scaling.optimum import Optimum
from sweeper.scaling.records import Array, Estimate, Excluded, Fit, Integers, Unidentified, positive
from sweeper.scaling.regression import Posterior, posterior, resampled

TAIL = (0.5, 0.025, 0.975)
Z95 = 1.96
SCALE_OCTAVES = 10.0
"""Prior deviation of the value at the middle of the data: as good as none."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PowerLaw(Fit):
    """log2 value = level + sum of exponent x (log2 size - its middle); the posterior of both."""

    terms: tuple[str, ...]
    exponents: Mapping[str, Estimate]
    bootstrap: Mapping[str, Estimate]
    """Intervals by resampling cells: where they are wider than the posterior's, cells are not what the model thinks."""
    learnt: Mapping[str, float]
    """Share of each exponent's prior variance that the data removed: 0 means that the exponent IS the prior."""
    centre: Mapping[str, float]
    """Geometric middle of each size."""
    level: Estimate
    """The value at the middle of all sizes."""
    scatter_octaves: float
    posterior: Posterior
    """Of (log2 level, exponents in the order of `terms`)."""
    r_squared: float
    residuals_n: Array
    """Octaves, one for each cell used."""
    misfit: Misfit

    def predict(self, sizes: Mapping[str, float], *, new_cell: bool = True) -> Estimate:
        """The value at these sizes with a 95 % prediction interval; `new_cell=False`: of the law without its scatter.

        Raises:
            ValueError: a size that the law has and `sizes` lacks, or one that is not positive.
        """
        quantiles = self.posterior.quantiles(self._row(sizes), TAIL, new_cell)
        return Estimate(*(float(2.0**q) for q in quantiles))

    def predict_along(self, term: str, values: Array, others: Mapping[str, float]) -> list[Estimate]:
        """What `predict` says of a new cell at each value of one size, the other sizes held."""
        rows = np.stack([self._row({**others, term: float(value)}) for value in values])
        return [Estimate(*two_to) for two_to in (2.0 ** self.posterior.quantiles_of_rows(rows, TAIL, True)).tolist()]

    def shift(self, start: Mapping[str, float], target: Mapping[str, float]) -> tuple[float, float]:
        """Octaves by which the value moves from one size to another, and their posterior deviation.

        The level and its uncertainty cancel: this is what an optimum that was measured at `start` moves by.
        """
        difference = self._row(target) - self._row(start)
        covariance = self.posterior.covariance_pp
        return float(difference @ self.posterior.mean_p), float(np.sqrt(difference @ covariance @ difference))

    def along(self, term: str, follower: str, exponent: Estimate) -> Estimate:
        """Exponent of `term` where another size follows it with this exponent, as the best batch follows tokens.

        Published laws of the rate on tokens are of this kind: their batch grows along, and carries the rate with it.
        """
        row = np.zeros(len(self.terms) + 1)
        row[1 + self.terms.index(term)], row[1 + self.terms.index(follower)] = 1.0, exponent.value
        mean, covariance = self.posterior.mean_p, self.posterior.covariance_pp
        carried = mean[1 + self.terms.index(follower)] * exponent.width / (2 * Z95)
        half = Z95 * float(np.sqrt(row @ covariance @ row + carried**2))
        return Estimate(float(row @ mean), float(row @ mean) - half, float(row @ mean) + half)

    def _row(self, sizes: Mapping[str, float]) -> Array:
        for term in self.terms:
            if not sizes.get(term, 0.0) > 0:
                raise ValueError(f"the law needs a positive {term}, got {sizes.get(term)}")
        return np.array([1.0, *(np.log2(sizes[term] / self.centre[term]) for term in self.terms)])


def fit_power_law(
    values: ArrayLike,
    sizes: Mapping[str, ArrayLike],
    *,
    log2_variance: ArrayLike = 0.0,
    beliefs: priors.Priors | None = None,
    centre: Mapping[str, float] | None = None,
    level: priors.Prior | None = None,
    scatter_octaves: float = priors.SCATTER_OCTAVES,
    clusters: Integers | None = None,
    excluded: Sequence[Excluded] = (),
    draws: int = 1000,
    seed: int = 0,
) -> PowerLaw:
    """Conjugate Bayesian regression of log2 value on log2 sizes (Bjorck et al. 2024, arXiv:2409.19913, with priors).

    With few cells the exponents are those of `beliefs`; a size that does not vary leaves its exponent at the prior, and
    `learnt` says so.

    Args:
        values: (n,) optima, positive.
        sizes: (n,) each, positive; the terms of the law.
        log2_variance: (n,) or one: how sure each optimum is, octaves squared.
        beliefs: prior of each exponent; flat where not given.
        centre: sizes at which `level` holds; the middle of the data unless given.
        level: prior of log2 of the value at the centre; ten octaves wide about the data unless given.
        clusters: (n,) which cells are drawn together in the bootstrap; each by itself unless given.

    Raises:
        ValueError: no term, unequal lengths, no values (see `prior_law`), or some that are not finite and positive.
    """
    columns, y = _checked(values, sizes)
    terms = tuple(columns)
    middle = centre or {term: float(np.exp2(np.log2(column).mean())) for term, column in columns.items()}
    logs = {term: np.log2(column / middle[term]) for term, column in columns.items()}
    design = np.stack([np.ones_like(y), *logs.values()], axis=1)
    prior_mean, prior_sd = _prior(terms, beliefs, level or priors.Prior(float(y.mean()), SCALE_OCTAVES))
    variances = np.broadcast_to(np.asarray(log2_variance, dtype=np.float64), y.shape)
    found = posterior(design, y, variances, prior_mean, prior_sd, scatter_octaves)
    drawn = resample.cluster_weights(np.arange(len(y)) if clusters is None else clusters, draws, seed)
    samples = resampled(design, y, variances + found.scatter**2, prior_mean, prior_sd, drawn)
    fitted = design @ found.mean_p
    scaled = 1 / np.sqrt(variances + found.scatter**2)
    return PowerLaw(
        **_summary(found, terms, prior_sd),
        used=len(y),
        excluded=tuple(excluded),
        interval_method="posterior (prior, variance of each optimum, scatter); beside it a bootstrap over cells",
        bootstrap={t: resample.estimate(found.mean_p[i + 1], samples[:, i + 1]) for i, t in enumerate(terms)},
        centre=middle,
        r_squared=r_squared(y, fitted),
        residuals_n=y - fitted,
        misfit=check_form((y - fitted) * scaled, design * scaled[:, None], logs),
    )


def _checked(values: ArrayLike, sizes: Mapping[str, ArrayLike]) -> tuple[dict[str, Array], Array]:
    """The sizes, and log2 of the values."""
    if not sizes:
        raise ValueError("a power law needs at least one size")
    columns = {term: positive(term, column) for term, column in sizes.items()}
    y = np.log2(positive("values", values))
    if {len(column) for column in columns.values()} != {len(y)}:
        raise ValueError(f"{len(y)} values need as many of each of {tuple(columns)}")
    return columns, y


def prior_law(beliefs: priors.Priors, centre: Mapping[str, float], level: priors.Prior | None = None) -> PowerLaw:
    """The law before any cell: exponents by belief, the value at the centre unknown (ten octaves) unless given."""
    terms = tuple(beliefs)
    prior_mean, prior_sd = _prior(terms, beliefs, level or priors.Prior(0.0, SCALE_OCTAVES))
    nothing = np.zeros((0, len(terms) + 1))
    found = posterior(nothing, np.zeros(0), np.zeros(0), prior_mean, prior_sd, priors.SCATTER_OCTAVES)
    return PowerLaw(
        **_summary(found, terms, prior_sd),
        used=0,
        interval_method="prior",
        bootstrap={},
        centre=dict(centre),
        r_squared=0.0,
        residuals_n=np.zeros(0),
        misfit=Misfit(p_value=None, flagged=False, detail="no data yet"),
    )


def _prior(terms: tuple[str, ...], beliefs: priors.Priors | None, level: priors.Prior) -> tuple[Array, Array]:
    held = [level, *((beliefs or {}).get(term, priors.FLAT) for term in terms)]
    return np.array([belief.mean for belief in held]), np.array([belief.deviation for belief in held])


def _summary(found: Posterior, terms: tuple[str, ...], prior_sd: Array) -> dict[str, Any]:
    unit = np.eye(len(terms) + 1)
    share = np.clip(1 - np.diag(found.covariance_pp) / prior_sd**2, 0, 1)
    return {
        "terms": terms,
        "exponents": {t: Estimate(*found.quantiles(unit[i + 1], TAIL)) for i, t in enumerate(terms)},
        "learnt": {t: float(share[i + 1]) for i, t in enumerate(terms)},
        "level": Estimate(*(float(2.0**q) for q in found.quantiles(unit[0], TAIL))),
        "scatter_octaves": found.scatter,
        "posterior": found,
    }


def law_of_optima(
    optima: Sequence[Optimum], sizes: Mapping[str, ArrayLike], axis: str, *, beliefs: priors.Priors, **options: Any
) -> PowerLaw | Unidentified:
    """The law of one axis of the cells' optima; cells without one are excluded with their reason.

    Args:
        optima: one a cell.
        sizes: (k,) each, one a cell, in the same order.
        options: as `fit_power_law` takes them.
    """
    kept = np.array([k for k, optimum in enumerate(optima) if optimum.at], dtype=np.int64)
    left_out = [Excluded(k, str(o.not_identified)) for k, o in enumerate(optima) if not o.at]
    if not len(kept):
        return Unidentified(used=0, excluded=tuple(left_out), not_identified="no cell has an optimum")
    where = [optima[k].axes.index(axis) for k in kept]
    values = [optima[k].at[i].value for k, i in zip(kept, where, strict=True)]
    variances = [_variance(optima[k], i) for k, i in zip(kept, where, strict=True)]
    columns = {term: np.asarray(column, dtype=np.float64)[kept] for term, column in sizes.items()}
    return fit_power_law(values, columns, log2_variance=variances, beliefs=beliefs, excluded=left_out, **options)


def _variance(optimum: Optimum, axis: int) -> float:
    assert optimum.covariance_dd is not None
    return float(optimum.covariance_dd[axis, axis])
