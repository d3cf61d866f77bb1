"""Loss as a floor plus powers of size, tokens, steps, batch.  Shape key: n runs, k sizes, D draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from sweeper.scaling import loss_draws, power_sum, resample
from sweeper.scaling.grouping import cluster
from sweeper.scaling.misfit import Misfit, check_form, r_squared
from sweeper.scaling.projection import Projection, project
from sweeper.scaling.records import Array, Estimate, Excluded, Fit, Integers, Unidentified, positive

DRAWS = 1000
STEEPEST = 3.0
"""An exponent beyond this is no power law of loss but a corner of the data."""
FLATTEST = 0.02
"""A term whose exponent may be as small as this may be a constant: the floor is then not told from it."""
VANISHING = 0.01
"""Share of the least loss below which a floor is not told from none."""
ROUNDING = 0.05
"""Sizes that differ by no more than this are one: steps are whole, batches are rounded."""
SCATTERS = 2.0
"""Standard deviations by which a run may lie below the law: no prediction exceeds it by more, given more of all."""
DOUBT = 2.0
"""Times as wide as its draws say is the interval of a law whose form is rejected: those draws hold the form for true.
At four times the horizon, laws of a critical batch are off a sum of powers by up to 1.6 times what its draws say."""
DOUBLED = "; of predictions doubled, as the form is rejected"
NARROWEST = 1.5
"""Times its least value that the largest of a size must be for its power to be told."""


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
    x_nk: Array
    """Natural logs of the sizes of the runs, less the centre."""
    basis: str = ""
    """Of which runs the law speaks where not of all, in words: "the best batch of each model and horizon"."""

    @property
    def objection(self) -> str | None:
        """Why its predictions are not to be trusted, where the tests of form reject it; None where they do not."""
        return f"the form of the loss law does not fit the runs: {self.misfit.detail}" if self.misfit.flagged else None

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
        """(D, m), at most what runs with no more of any size came to, scatter allowed: loss falls with every size."""
        drawn, _ = power_sum.log_prediction(self.draws_Dp, x)
        if self.misfit.flagged:
            central, _ = power_sum.log_prediction(self.theta_p[None], x)
            drawn = central + DOUBT * (drawn - central)
        fitted, _ = power_sum.log_prediction(self.theta_p[None], self.x_nk)
        scatter = self._inflation() * float(np.sqrt((self.residuals_n**2).mean()))
        less = (self.x_nk <= x[:, None] + 1e-9).all(axis=2)
        if self.misfit.p_value is None:
            drawn = drawn + loss_draws.untested(x, self.x_nk, scatter, len(drawn))
        reached = np.where(less, fitted[0] + self.residuals_n + SCATTERS * scatter, np.inf).min(axis=1)
        drawn = np.minimum(drawn, reached)
        if not new_run:
            return np.asarray(drawn)
        random = np.random.default_rng(len(self.residuals_n))
        return np.asarray(drawn + random.choice(self.residuals_n, size=(len(drawn), 1)) * self._inflation())

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
        Unidentified where a size hardly varies, where there are fewer than two points more than parameters, or where
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
    reason = too_little(columns)
    if reason:
        return Unidentified(used=0, excluded=tuple(excluded), not_identified=reason)
    centre = x.mean(axis=0)
    found = power_sum.fit(x - centre, y, starts, seed)
    strange = _strange(found.theta_p, tuple(columns))
    if strange:
        return Unidentified(used=len(y), excluded=tuple(excluded), not_identified=strange)
    many = loss_draws.bootstrap(found.theta_p, x - centre, y, clusters, draws, seed)
    return _law(tuple(columns), x - centre, y, centre, found, many, tuple(excluded), cross_check)


def too_little(sizes: Mapping[str, Array]) -> str | None:
    """Why these sizes cannot hold a law, whatever the losses; None where they can."""
    for name, column in sizes.items():
        if cluster(column, ROUNDING).max() < 2:
            return f"{name} takes fewer than three values"
        if column.max() < NARROWEST * column.min():
            return f"{name} varies by less than a factor of {NARROWEST:g}"
    n, parameters = len(next(iter(sizes.values()))), 1 + 2 * len(sizes)
    needed = parameters + 2
    return f"too few points: {n}, and {needed} are needed for {parameters} parameters" if n < needed else None


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
    misfit = check_form(residuals, power_sum.jacobian(shares, x)[0], dict(zip(names, x.T, strict=True)))
    powers = np.maximum(draws_Dp[:, 1 + k :], 0)
    exponents = {n: resample.estimate(float(theta[1 + k + j]), powers[:, j]) for j, n in enumerate(names)}
    falling = draws_Dp[(powers > 0).all(axis=1)]
    kept = falling if len(falling) else theta[None]
    floor = resample.estimate(float(np.exp(theta[0])), np.exp(kept[:, 0]))
    refusal = _refuse_floor(floor, exponents, np.exp(y))

    return LossLaw(
        used=len(y),
        excluded=excluded,
        interval_method=f"{len(draws_Dp)} bootstrap draws, refitted" + (DOUBLED if misfit.flagged else ""),
        sizes=names,
        floor=None if refusal else floor,
        floor_not_identified=refusal,
        scales={name: _scale(theta, kept, centre, j) for j, name in enumerate(names)},
        exponents=exponents,
        objective=found.objective,
        starts_reaching=found.reached,
        cross_check=project(x, np.exp(y)) if cross_check else None,
        r_squared=r_squared(y, predicted[0]),
        mape=float(np.abs(np.expm1(-residuals)).mean()),
        misfit=misfit,
        residuals_n=residuals,
        theta_p=theta,
        draws_Dp=kept,
        centre_k=centre,
        x_nk=x,
    )


def _scale(theta_p: Array, draws_Dp: Array, centre_k: Array, j: int) -> Estimate:
    """A_j, from the term's size at the middle of the data to its size at 1."""
    k = len(centre_k)
    central, logs = (t[..., 1 + j] + t[..., 1 + k + j] * centre_k[j] for t in (theta_p, draws_Dp))
    return resample.estimate(float(np.exp(np.clip(central, -700, 700))), np.exp(np.clip(logs, -700, 700)))


def _refuse_floor(floor: Estimate, exponents: Mapping[str, Estimate], loss_n: Array) -> str | None:
    for name, e in exponents.items():
        if e.low < FLATTEST:
            return f"the exponent of {name} ({e.low:.2g} to {e.high:.2g}) may be zero, and its term then a floor too"
    if floor.low < VANISHING * loss_n.min():
        return f"the floor is not told from none: up to {floor.high:.2g}, where the least loss is {loss_n.min():.2g}"
    reducible = float(loss_n.min()) - floor.value
    if floor.width <= reducible:
        return None
    return f"the interval of the floor is {floor.width:.2g} wide, the least loss lies {reducible:.2g} above it"
