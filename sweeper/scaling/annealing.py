"""Loss curves under any schedule of the rate, from runs with others.  Shape key: m places, n points, D draws, p = 7."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from sweeper.scaling import annealing_data, annealing_fit, resample
from sweeper.scaling.annealing_data import BLOCKS, LIKE_PEAKS, Annealed
from sweeper.scaling.annealing_fit import Points
from sweeper.scaling.misfit import Misfit, r_squared
from sweeper.scaling.rates import Rates
from sweeper.scaling.records import Array, Estimate, Fit, Unidentified, positive
from sweeper.scaling.tissue import TissueLaw, fit_tissue

STARTS = 12
DRAWS = 100
FARTHEST = 4.0
"""Sums of rates beyond this many times the longest fitted one are not predicted: published errors are known to 3."""
LATE = 0.75
"""Share of the longest sum from which points test what the first half of it predicts."""
LEAST_GROWTH = 0.005
"""Log error for each longest sum beyond the first: published curves of 100M and 400M parameters showed .002 to .008."""
THIN, FULL = 64, 400
"""Points of each run that starts and draws see, and that the law itself is fitted to."""


@dataclass(frozen=True, kw_only=True, eq=False)
class AnnealingForecast:
    """Losses to be measured at some steps, with 95 % bounds."""

    step_m: Array
    loss_m: Array
    low_m: Array
    high_m: Array
    tissue_m: Array
    """The three-term law's word on the same places: far off the band, it says that the form matters there."""

    @property
    def end(self) -> Estimate:
        return Estimate(float(self.loss_m[-1]), float(self.low_m[-1]), float(self.high_m[-1]))


@dataclass(frozen=True, kw_only=True, eq=False)
class AnnealingLaw(Fit):
    """loss = L0 + A S^-alpha - B sum of drops (1 - (1 + C rate^-gamma (S - S_drop))^-beta): the Multi-Power Law."""

    parameters: Mapping[str, Estimate]
    """In units of steps, the rates and the loss as given.  Single ones are not identified: go by predictions."""
    r_squared: float
    """Of log loss."""
    mape: float
    """Mean absolute relative error on the fitted points."""
    left_out: float | None
    """The same on each run by the law of the others; None where they are too few to leave one out."""
    misfit: Misfit
    tissue: TissueLaw
    peak: float
    longest: float
    typical: float
    fall: float
    """Log of first over least loss."""
    theta_p: Array
    draws_Dp: Array
    errors_b: Array
    """Log errors of pieces of curves, of runs left out where that could be done: what a new run may be off by."""
    growth: float
    """Deviation that is added to that for each longest sum beyond the first."""
    least_peak: float

    def predict(self, rates: Rates, step_m: ArrayLike) -> AnnealingForecast | Unidentified:
        """Losses of a run with these rates at these steps.

        Returns:
            Unidentified where the rates' peak or sum lies too far from the data, or the band is wider than all that
            the loss fell by in them.

        Raises:
            ValueError: steps that are not positive.
        """
        at = positive("step", np.atleast_1d(np.asarray(step_m, dtype=np.float64)))
        points = annealing_data.points(
            Annealed(rates, at, np.full(len(at), self.typical)), self.peak, self.longest, self.typical
        )
        far = self._too_far(rates, points)
        if far:
            return Unidentified(used=self.used, not_identified=far)
        central = annealing_fit.predict(self.theta_p[None], points.sum_n, points.drops)[0][0]
        drawn = annealing_fit.predict(self.draws_Dp, points.sum_n, points.drops)[0]
        low, high = resample.bounds(drawn + self._errors(len(drawn), points.sum_n))
        if high[-1] - low[-1] > self.fall:
            wide = f"the band is {np.expm1(high[-1] - low[-1]):.0%} of the loss wide; it fell by less in the data"
            return Unidentified(used=self.used, not_identified=wide)
        tissue = self.tissue.predict(rates, at)
        bands = [self.typical * np.exp(x) for x in (central, np.minimum(low, central), np.maximum(high, central))]
        return AnnealingForecast(step_m=at, loss_m=bands[0], low_m=bands[1], high_m=bands[2], tissue_m=tissue)

    def _too_far(self, rates: Rates, points: Points) -> str | None:
        reach = float(points.sum_n.max())
        if reach > FARTHEST:
            return f"the sum of rates is {reach:.1f} times the longest fitted one, {FARTHEST:g} are allowed"
        if not self.least_peak / LIKE_PEAKS <= rates.peak <= self.peak * LIKE_PEAKS:
            known = f"{self.least_peak:.3g} to {self.peak:.3g}"
            return (
                f"the peak rate {rates.peak:.3g} is not like those of the runs ({known}): rates have laws of their own"
            )
        return None

    def _errors(self, count: int, sum_m: Array) -> Array:
        """(D, m) by how much curves may be off there, either way."""
        random = np.random.default_rng(count)
        near = random.choice(np.concatenate([self.errors_b, -self.errors_b]), size=(count, 1))
        return np.asarray(near + self.growth * random.standard_normal((count, 1)) * np.maximum(sum_m - 1, 0.0))


def fit_annealing(
    runs: Sequence[Annealed], *, starts: int = STARTS, draws: int = DRAWS, seed: int = 0
) -> AnnealingLaw | Unidentified:
    """Fit the Multi-Power Law (Luo et al. 2025, arXiv:2503.12811) to curves of one model, data and batch.

    Least sum of Huber losses (1e-3) of log loss from several starts.  Draws reweigh runs (three or more) and resample
    blocks of residuals; bands add the errors on runs left out, so that a schedule unlike the fitted ones counts as one.
    The three-term law of Tissue et al. 2024 (arXiv:2408.11029) is fitted beside it.

    Args:
        runs: validation losses, or train losses smoothed; leave the warm-up's points out.

    Returns:
        Unidentified where points or sums of rates are too few, rates never fall, the only run's falls all along, or
        peaks differ.

    Raises:
        ValueError: no run, unequal lengths, steps that do not ascend, values that are not finite and positive, fewer
            than one start or draw.
    """
    if not runs or starts < 1 or draws < 1:
        raise ValueError(f"runs, starts and draws must be positive, got {len(runs)}, {starts} and {draws}")
    for run in runs:
        annealing_data.check(run)
    used = sum(len(run.loss_n) for run in runs)
    reason = annealing_data.too_little(runs)
    if reason:
        return Unidentified(used=used, not_identified=reason)
    return _Fitting(runs, starts, draws, seed).law(used)


@dataclass(frozen=True, eq=False)
class _Fitting:
    """One fit: the steps share the units, the points and the minimum."""

    runs: Sequence[Annealed]
    starts: int
    draws: int
    seed: int

    @cached_property
    def units(self) -> tuple[float, float, float]:
        longest = max(float(run.rates.sums(run.step_n)[-1]) for run in self.runs)
        typical = float(np.median(np.concatenate([run.loss_n for run in self.runs])))
        return max(run.rates.peak for run in self.runs), longest, typical

    @cached_property
    def thin(self) -> list[Points]:
        return [annealing_data.points(annealing_data.thin(run, THIN), *self.units) for run in self.runs]

    @cached_property
    def full(self) -> list[Points]:
        return [annealing_data.points(annealing_data.thin(run, FULL), *self.units) for run in self.runs]

    @cached_property
    def coarse_p(self) -> Array:
        """The minimum on thinned points, from all starts."""
        theta = annealing_fit.starts(self.thin, self.starts, self.seed)
        found, values = self._minimise(theta, self.thin)
        return np.asarray(found[np.argmin(values)])

    def _minimise(self, theta: Array, points: Sequence[Points]) -> tuple[Array, Array]:
        target = np.tile(annealing_data.target(points), (len(theta), 1))
        return annealing_fit.minimise(theta, points, target, np.ones_like(target))

    def law(self, used: int) -> AnnealingLaw:
        peak, longest, typical = self.units
        theta = self._minimise(self.coarse_p[None], self.full)[0][0]
        residuals = annealing_data.residuals(theta, self.full)
        observed, off = annealing_data.target(self.full), np.concatenate(residuals)
        draws = theta + self._drawn() - self.coarse_p
        unseen = self._left_out()
        errors = _pool(unseen) if unseen else _pool(residuals) * np.sqrt(len(off) / max(1, len(off) - len(theta)))
        later = self._later()
        return AnnealingLaw(
            used=used,
            interval_method=f"{self.draws} draws of runs and blocks of residuals, refitted, and errors on "
            + ("runs left out" if unseen else "the runs"),
            parameters=_parameters(theta, draws, self.units),
            r_squared=r_squared(observed, observed - off),
            mape=float(np.abs(np.expm1(-off)).mean()),
            left_out=float(np.abs(np.expm1(-np.concatenate(unseen))).mean()) if unseen else None,
            misfit=annealing_data.form(residuals, len(theta)),
            tissue=fit_tissue(
                [(r.rates, r.step_n, r.loss_n) for r in (annealing_data.thin(run, THIN) for run in self.runs)]
            ),
            peak=peak,
            least_peak=min(run.rates.peak for run in self.runs),
            longest=longest,
            typical=typical,
            fall=float(observed.max() - observed.min()),
            theta_p=theta,
            draws_Dp=draws,
            errors_b=errors,
            growth=max(LEAST_GROWTH, float(np.sqrt((_pool(later) ** 2).mean())) if later else 0.0),
        )

    def _drawn(self) -> Array:
        """(D, p) minima of draws: whole runs reweighed where there are three, blocks of residuals put elsewhere."""
        random = np.random.default_rng(self.seed)
        target, weights = [], []
        for run, off in zip(self.thin, annealing_data.residuals(self.coarse_p, self.thin), strict=True):
            n = len(off)
            length = max(1, n // BLOCKS)
            begin = random.integers(0, n - length + 1, size=(self.draws, -(-n // length)))
            picked = (begin[:, :, None] + np.arange(length)).reshape(self.draws, -1)[:, :n]
            target.append(run.log_loss_n - off + off[picked])
            weight = random.standard_exponential((self.draws, 1)) if len(self.runs) > 2 else np.ones((self.draws, 1))
            weights.append(np.broadcast_to(weight, (self.draws, n)))
        start = np.tile(self.coarse_p, (self.draws, 1))
        found, _ = annealing_fit.minimise(start, self.thin, np.hstack(target), np.hstack(weights), rounds=30)
        return found

    def _left_out(self) -> list[Array]:
        """Residuals of each run by the law of the others; empty where these could not hold one."""
        found = []
        for k in range(len(self.runs) if len(self.runs) > 2 else 0):
            if not annealing_data.too_little([run for j, run in enumerate(self.runs) if j != k]):
                others = [points for j, points in enumerate(self.thin) if j != k]
                theta = self._minimise(self.coarse_p[None], others)[0][0]
                found += annealing_data.residuals(theta, self.thin[k : k + 1])
        return found

    def _later(self) -> list[Array]:
        """Residuals of the last quarter by the law of the first half, for each time over that half that it lies beyond.

        Empty where the half cannot hold a law, as where rates fall at the end alone.
        """
        early = [_up_to(run, self.units[1] / 2) for run in self.runs]
        early = [run for run in early if len(run.loss_n) > 2]
        if not early or annealing_data.too_little(early):
            return []
        points = [annealing_data.points(annealing_data.thin(run, THIN), *self.units) for run in early]
        theta = self._minimise(self.coarse_p[None], points)[0][0]
        off = annealing_data.residuals(theta, self.thin)
        late = [
            (o / (2 * p.sum_n - 1 + (p.sum_n < LATE)))[p.sum_n >= LATE] for o, p in zip(off, self.thin, strict=True)
        ]
        return [rate for rate in late if len(rate)]


def _pool(residuals: Sequence[Array]) -> Array:
    return np.concatenate([annealing_data.block_means(off) for off in residuals])


def _up_to(run: Annealed, reach: float) -> Annealed:
    kept = run.rates.sums(run.step_n) <= reach
    return Annealed(run.rates, run.step_n[kept], run.loss_n[kept])


def _parameters(theta_p: Array, draws_Dp: Array, units: tuple[float, float, float]) -> dict[str, Estimate]:
    """From the units of the fit to those of steps, rates and loss as given."""
    central, drawn = _raw(theta_p[None], units), _raw(draws_Dp, units)
    names = ("L0", "A", "alpha", "B", "C", "beta", "gamma")
    return {name: resample.estimate(float(c[0]), d) for name, c, d in zip(names, central, drawn, strict=True)}


def _raw(theta: Array, units: tuple[float, float, float]) -> tuple[Array, ...]:
    peak, longest, typical = units
    floor, scale, alpha, gain, ratio, beta = np.exp(np.clip(theta[:, :6], -700, 700)).T
    gamma = theta[:, 6]
    return (floor * typical, scale * typical * longest**alpha, alpha, gain * typical / peak,
            ratio * peak**gamma / longest, beta, gamma)  # fmt: skip
