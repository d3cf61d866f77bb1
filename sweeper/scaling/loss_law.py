"""Loss as a floor plus powers of size, tokens, steps, batch.  Shape key: n runs, k sizes, D draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sweeper.scaling import power_sum, resample
from sweeper.scaling.misfit import Misfit, check_form, r_squared
from sweeper.scaling.projection import Projection, project
from sweeper.scaling.records import Array, Estimate, Excluded, Fit, Integers, Unidentified, positive

DRAWS = 1000
STEEPEST = 3.0
"""An exponent beyond this is no power law of loss but a corner of the data."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LossLaw(Fit):
    """loss = E + sum over sizes of A_j / x_j ^ a_j."""

    sizes: tuple[str, ...]
    floor: Estimate | None
    """E; None where the data do not hold it: see `floor_not_identified`.  Predictions are good all the same."""
    floor_not_identified: str | None
    scales: Mapping[str, Estimate]
    """A_j at x_j = 1: far outside the data, so that its interval spans decades; judge the law by its predictions."""
    exponents: Mapping[str, Estimate]
    objective: float
    """Sum of Huber losses of log loss at the minimum."""
    starts_reaching: float
    """Share of the starts that found this minimum."""
    cross_check: Projection | None
    """Least squares by variable projection, `scales_k` at the middle of the data; asked for by `cross_check=True`."""
    r_squared: float
    """Of log loss."""
    mape: float
    """Mean absolute relative error, as a fraction."""
    misfit: Misfit
    residuals_n: Array
    """Log loss, observed minus fitted."""
    theta_p: Array
    draws_Dp: Array
    centre_k: Array
    """Mean natural log of each size: theta and draws are relative to it."""

    def predict(self, sizes: Mapping[str, ArrayLike], *, new_run: bool = True) -> tuple[Array, Array, Array]:
        """(m,) losses with 95 % bounds at m places; `new_run=False`: bounds of the law without the scatter of runs.

        Raises:
            ValueError: a size that the law has and `sizes` lacks, or a value that is not positive.
        """
        columns = [positive(name, np.atleast_1d(np.asarray(sizes[name], dtype=float))) for name in self._held(sizes)]
        x = np.stack([np.log(column) for column in np.broadcast_arrays(*columns)], axis=1) - self.centre_k
        central, _ = power_sum.log_prediction(self.theta_p[None], x)
        low, high = resample.bounds(self._sample(x, new_run))
        return np.exp(central[0]), np.exp(np.minimum(low, central[0])), np.exp(np.maximum(high, central[0]))

    def sample(self, sizes: Mapping[str, float]) -> Array:
        """(D,) log losses of a new run there, one for each bootstrap draw: what `predict` takes its bounds from."""
        x = np.log([[sizes[name] for name in self._held(sizes)]]) - self.centre_k
        return self._sample(x, True)[:, 0]

    def _sample(self, x: Array, new_run: bool) -> Array:
        drawn, _ = power_sum.log_prediction(self.draws_Dp, x)
        if not new_run:
            return drawn
        random = np.random.default_rng(len(self.residuals_n))
        return drawn + random.choice(self.residuals_n, size=(len(drawn), 1)) * self._inflation()

    def _held(self, sizes: Mapping[str, Any]) -> tuple[str, ...]:
        missing = [name for name in self.sizes if name not in sizes]
        if missing:
            raise ValueError(f"the law needs {', '.join(missing)}, got {', '.join(sizes)}")
        return self.sizes

    def _inflation(self) -> float:
        """Residuals of a fit are smaller than those of a new run by its degrees of freedom."""
        n = len(self.residuals_n)
        return float(np.sqrt(n / max(1, n - len(self.theta_p))))

    def best_split(self) -> Estimate | None:
        """Exponent a of the compute-optimal n_params ~ C^a at C = 6 N D; None unless the law is one of N and tokens.

        a = exponent of tokens / (exponent of N + that of tokens): Hoffmann et al. 2022 (arXiv:2203.15556), equation 4.
        """
        if set(self.sizes) != {"n_params", "tokens"}:
            return None
        n, d = (1 + len(self.sizes) + self.sizes.index(name) for name in ("n_params", "tokens"))
        value = self.theta_p[d] / (self.theta_p[n] + self.theta_p[d])
        return resample.estimate(value, self.draws_Dp[:, d] / (self.draws_Dp[:, n] + self.draws_Dp[:, d]))

    def best_batch(self, tokens: float) -> Estimate | None:
        """Batch in tokens that is least in loss at this many tokens; None unless the law is one of steps and batch.

        With steps = tokens / batch, C / S^b + F / B^g is least at B = (g F D^b / (b C))^(1 / (b + g)) (Schaipp et al.,
        arXiv:2607.01487).
        """
        if not {"steps", "batch_tokens"} <= set(self.sizes):
            return None
        return resample.estimate(
            float(self._best_batch(self.theta_p[None], tokens)[0]), self._best_batch(self.draws_Dp, tokens)
        )

    def best_batch_exponent(self) -> Estimate | None:
        """Exponent of the best batch on tokens: b / (b + g)."""
        if not {"steps", "batch_tokens"} <= set(self.sizes):
            return None
        (_, s), (_, b) = self._places("steps"), self._places("batch_tokens")
        drawn = self.draws_Dp[:, s] / (self.draws_Dp[:, s] + self.draws_Dp[:, b])
        return resample.estimate(self.theta_p[s] / (self.theta_p[s] + self.theta_p[b]), drawn)

    def _places(self, name: str) -> tuple[int, int]:
        at = self.sizes.index(name)
        return 1 + at, 1 + len(self.sizes) + at

    def _best_batch(self, theta_Dp: Array, tokens: float) -> Array:
        (c, s), (f, b) = self._places("steps"), self._places("batch_tokens")
        log_c = theta_Dp[:, c] + theta_Dp[:, s] * self.centre_k[self.sizes.index("steps")]
        log_f = theta_Dp[:, f] + theta_Dp[:, b] * self.centre_k[self.sizes.index("batch_tokens")]
        steps, batch = np.maximum(theta_Dp[:, s], 1e-9), np.maximum(theta_Dp[:, b], 1e-9)
        log_best = (np.log(batch / steps) + log_f - log_c + steps * np.log(tokens)) / (steps + batch)
        return np.asarray(np.exp(np.clip(log_best, -700, 700)))


def fit_loss_law(
    loss: ArrayLike,
    sizes: Mapping[str, ArrayLike],
    *,
    clusters: Integers | None = None,
    excluded: Sequence[Excluded] = (),
    cross_check: bool = False,
    starts: int = power_sum.STARTS,
    draws: int = DRAWS,
    seed: int = 0,
) -> LossLaw | Unidentified:
    """Approach 3 of Hoffmann et al. 2022 (arXiv:2203.15556) for any sizes: {n_params, tokens}, {n_params, steps,
    batch_tokens} (the three-term law, arXiv:2607.01487), {steps} alone.

    Minimises the sum of Huber losses (1e-3) of log loss, as Besiroglu et al. 2024 (arXiv:2404.10102) show it must be,
    from `starts` random starts.  Intervals: refits of bootstrap draws over clusters.

    Args:
        loss: (n,) of runs tuned well enough to speak of the law: the best of each cell, not every trial.
        sizes: (n,) each, positive.
        clusters: (n,) rows drawn together; each row by itself unless given.

    Returns:
        Unidentified where a size does not vary, where there are fewer than two points more than parameters, or where
        an exponent ran out of (0, 3].

    Raises:
        ValueError: no size, unequal lengths, values that are not finite and positive, fewer than one start or draw.
    """
    columns = {name: positive(name, column) for name, column in sizes.items()}
    y = np.log(positive("loss", loss))
    if not columns or any(len(column) != len(y) for column in columns.values()):
        raise ValueError(f"{len(y)} losses need one or more sizes of that length, got {sorted(columns)}")
    if starts < 1 or draws < 1:
        raise ValueError(f"starts and draws must be positive, got {starts} and {draws}")
    x = np.log(np.stack(list(columns.values()), axis=1))
    reason = _too_little(x, tuple(columns))
    if reason:
        return Unidentified(used=0, excluded=tuple(excluded), not_identified=reason)
    centre = x.mean(axis=0)
    found = power_sum.fit(x - centre, y, starts, seed)
    strange = _strange(found.theta_p, tuple(columns))
    if strange:
        return Unidentified(used=len(y), excluded=tuple(excluded), not_identified=strange)
    drawn = resample.cluster_weights(np.arange(len(y)) if clusters is None else clusters, draws, seed)
    many = _widened(found.theta_p, power_sum.refit(found.theta_p, x - centre, y, drawn), clusters, len(y))
    return _law(tuple(columns), x - centre, y, centre, found, many, tuple(excluded), cross_check)


def _widened(theta_p: Array, draws_Dp: Array, clusters: Integers | None, n: int) -> Array:
    """Draws spread by sqrt(m / (m - p)), m the number of clusters: few points are fitted better than they deserve."""
    m, p = (n if clusters is None else len(np.unique(clusters))), len(theta_p)
    return np.asarray(theta_p + (draws_Dp - theta_p) * np.sqrt(m / max(m - p, 1)))


def _too_little(x_nk: Array, names: tuple[str, ...]) -> str | None:
    n, k = x_nk.shape
    for name, column in zip(names, x_nk.T, strict=True):
        if len(np.unique(np.round(column, 3))) < 3:
            return f"{name} takes fewer than three values"
    needed = 1 + 2 * k + 2
    return f"too few points: {n}, and {needed} are needed for {1 + 2 * k} parameters" if n < needed else None


def _strange(theta_p: Array, names: tuple[str, ...]) -> str | None:
    for name, exponent in zip(names, theta_p[1 + len(names) :], strict=True):
        if not 0 < exponent <= STEEPEST:
            what = "the loss does not fall with it" if exponent <= 0 else "it does not shape the loss as a power"
            return f"the exponent of {name} ran to {exponent:.2g}: in these data {what}"
    return None


def _law(
    names: tuple[str, ...],
    x: Array,
    y: Array,
    centre: Array,
    found: power_sum.Minimum,
    draws_Dp: Array,
    excluded: tuple[Excluded, ...],
    cross_check: bool,
) -> LossLaw:
    k, theta = len(names), found.theta_p
    predicted, shares = power_sum.log_prediction(theta[None], x)
    residuals = y - predicted[0]
    floor = resample.estimate(float(np.exp(theta[0])), np.exp(draws_Dp[:, 0]))
    refusal = _refuse_floor(floor, float(np.median(np.exp(y))))

    return LossLaw(
        used=len(y),
        excluded=excluded,
        interval_method=f"{len(draws_Dp)} bootstrap draws over cells, refitted",
        sizes=names,
        floor=None if refusal else floor,
        floor_not_identified=refusal,
        scales={name: _scale(theta, draws_Dp, centre, j) for j, name in enumerate(names)},
        exponents={n: resample.estimate(float(theta[1 + k + j]), draws_Dp[:, 1 + k + j]) for j, n in enumerate(names)},
        objective=found.objective,
        starts_reaching=found.reached,
        cross_check=project(x, np.exp(y)) if cross_check else None,
        r_squared=r_squared(y, predicted[0]),
        mape=float(np.abs(np.expm1(-residuals)).mean()),
        misfit=check_form(residuals, power_sum.jacobian(shares, x)[0], dict(zip(names, x.T, strict=True))),
        residuals_n=residuals,
        theta_p=theta,
        draws_Dp=draws_Dp,
        centre_k=centre,
    )


def _scale(theta_p: Array, draws_Dp: Array, centre_k: Array, j: int) -> Estimate:
    """A_j, from the term's size at the middle of the data to its size at 1."""
    k = len(centre_k)
    central, logs = (t[..., 1 + j] + t[..., 1 + k + j] * centre_k[j] for t in (theta_p, draws_Dp))
    return resample.estimate(float(np.exp(np.clip(central, -700, 700))), np.exp(np.clip(logs, -700, 700)))


def _refuse_floor(floor: Estimate, typical_loss: float) -> str | None:
    reducible = typical_loss - floor.value
    if floor.width <= reducible:
        return None
    return f"the interval of the floor is {floor.width:.2g} wide, the loss above it {reducible:.2g}"
