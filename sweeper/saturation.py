"""How much of what a run can learn it has learnt.  Shape key: n points, m places, D draws, G exponents.

Two definitions, both always shown:

- S1, token saturation: trained targets / (targets per active parameter x active parameters). It looks at no loss.
- S2, curve saturation: (L_start - L_now) / (L_start - L_inf), where L(D) = L_inf + a D^-b is fitted to held-out losses
  of a part of the run with one constant rate, D the tokens trained so far, and L_start the loss before training:
  ln(words) of a model that knows nothing.

S2 counts for a verdict where its floor L_inf is identified on the newest such part; S1 counts elsewhere.  L_inf is the
floor of that model at that rate: a lower rate later takes the loss below it, so that S2 speaks of its part alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sweeper.scaling.records import Array, Estimate, Unidentified, positive
from sweeper.scaling.resample import bounds, estimate

FEWEST_POINTS = 6
"""Three unknowns, and three more for the scatter."""
LEAST_RANGE = 2.0
"""Tokens of the last point over those of the first: below it every power looks like a straight line."""
EXPONENTS = (0.02, 4.0)
"""Searched; at the lower end the law is a straight line in log tokens, which has no floor."""
DOUBT = 0.025
"""Share of the draws that may contradict a bound before a 95 % interval cannot be given."""
GRID = 192
DRAWS = 1000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CurveLaw:
    """loss(D) = floor + scale x (D / centre)^-exponent, with residual-bootstrap draws of it."""

    centre: float
    """Geometric middle of the tokens."""
    exponent: float
    offset: float
    """The fitted floor, whether the data hold it or not."""
    scale: float
    floor: Estimate | None
    """L_inf; None where the data do not hold it. Predictions inside and near the data are good all the same."""
    floor_not_identified: str | None
    residual: float
    """Standard deviation of a held-out loss about the law, nats."""
    used: int
    draws_D3: Array
    """(D, 3) offset, scale, exponent."""
    noise_D: Array
    """(D,) deviation of one further measurement, nats."""

    def at(self, tokens: ArrayLike) -> Array:
        """(m,) fitted losses."""
        x = np.asarray(tokens, dtype=np.float64) / self.centre
        return np.asarray(self.offset + self.scale * x**-self.exponent)

    def band(self, tokens: ArrayLike) -> tuple[Array, Array, Array]:
        """(m,) losses to be measured there, and the bounds of 95 % of them."""
        x = np.atleast_1d(np.asarray(tokens, dtype=np.float64)) / self.centre
        offset, scale, exponent = (column[:, None] for column in self.draws_D3.T)
        drawn = offset + scale * x**-exponent + self.noise_D[:, None]
        low, high = bounds(drawn)
        central = self.at(tokens).reshape(-1)
        return central, np.minimum(low, central), np.maximum(high, central)

    def gain(self, share: float, tokens: float) -> float:
        """Nats that so many more tokens (a share of those there are) would take off, by the law."""
        return float(self.at(tokens) - self.at(tokens * (1 + share)))


def token_saturation(targets: float, active: float, tokens_per_active: float) -> float:
    """S1, as a share; not capped at 1.

    Raises:
        ValueError: a negative count of targets, or a size that is not positive.
    """
    if targets < 0 or active <= 0 or tokens_per_active <= 0:
        raise ValueError(
            f"targets must not be negative, active and tokens_per_active must be positive; got {targets}, {active}, "
            f"{tokens_per_active}"
        )
    return targets / (tokens_per_active * active)


def curve_saturation(law: CurveLaw | Unidentified, start: float, now: float) -> Estimate | Unidentified:
    """S2 with a 95 % interval; `not_identified` says why there is none.

    Args:
        law: of the part of the run that `now` belongs to.
        start: L_start, nats per token.
        now: L_now, the newest held-out loss of that part.

    Raises:
        ValueError: `now` is not below `start`.
    """
    if not now < start:
        raise ValueError(f"the loss now must be below the one before training ({start:.4g}), got {now:.4g}")
    if isinstance(law, Unidentified):
        return law
    if law.floor is None:
        return Unidentified(used=law.used, not_identified=str(law.floor_not_identified))
    drawn = (start - now) / (start - law.draws_D3[:, 0])
    return estimate((start - now) / (start - law.floor.value), drawn[law.draws_D3[:, 0] < start])


def fit_curve(tokens: ArrayLike, loss: ArrayLike, *, draws: int = DRAWS, seed: int = 0) -> CurveLaw | Unidentified:
    """Fit the law to held-out losses at one constant rate.

    Given the exponent, floor and scale are a regression on D^-b: the search is over b alone (variable projection, Golub
    & Pereyra 1973), so that there is no starting point to choose. Draws resample residuals, scaled up by the degrees of
    freedom and by a draw of their own scale, which makes few points say little.

    Args:
        tokens: (n,) trained by each point, ascending.
        loss: (n,) nats per token.

    Returns:
        Unidentified where points are too few or too close together, or where the loss does not fall.

    Raises:
        ValueError: unequal lengths, tokens that do not ascend, or values that are not finite and positive.
    """
    x, y = positive("tokens", tokens, 0), positive("loss", loss, 0)
    if len(x) != len(y) or (np.diff(x) <= 0).any():
        raise ValueError(f"as many losses as ascending tokens are needed, got {len(y)} losses at {x}")
    reason = _too_little(x)
    if reason:
        return Unidentified(used=len(x), not_identified=reason)
    return _law(x, y, draws, seed)


def _law(x: Array, y: Array, draws: int, seed: int) -> CurveLaw | Unidentified:
    centre = float(np.exp(np.log(x).mean()))
    exponent = _exponent(x / centre, y)
    offset, scale = (float(column[0]) for column in _solve(x / centre, y[None], np.array([exponent])))
    if scale <= 0:
        return Unidentified(used=len(x), not_identified="the loss does not fall")
    residuals = y - offset - scale * (x / centre) ** -exponent
    drawn, noise = _draw(x / centre, y - residuals, residuals, draws, seed)
    if (drawn[:, 1] <= 0).mean() > DOUBT:
        return Unidentified(used=len(x), not_identified="the loss does not fall by more than its scatter")
    floor, doubt = _floor(offset, exponent, drawn)
    return CurveLaw(
        centre=centre,
        exponent=exponent,
        offset=offset,
        scale=scale,
        floor=floor,
        floor_not_identified=doubt,
        residual=float(np.sqrt((residuals**2).sum() / (len(x) - 3))),
        used=len(x),
        draws_D3=drawn,
        noise_D=noise,
    )


def _too_little(x: Array) -> str | None:
    if len(x) < FEWEST_POINTS:
        return f"{len(x)} held-out losses at this rate, {FEWEST_POINTS} needed"
    if x[-1] < LEAST_RANGE * x[0]:
        return f"tokens grow by x{x[-1] / x[0]:.2f} over the points, x{LEAST_RANGE:g} needed"
    return None


def _directions(x: Array, exponents_G: Array) -> Array:
    """(n, G) x^-b, centred and of unit length: their product with the losses is what each exponent explains."""
    powers = np.exp(-np.log(x)[:, None] * exponents_G)
    centred = powers - powers.mean(axis=0)
    return np.asarray(centred / np.linalg.norm(centred, axis=0))


def _exponent(x: Array, y: Array) -> float:
    """The exponent with the least squares among laws that fall, on a grid that closes in on it."""
    low, high = np.log(EXPONENTS)
    grid = np.linspace(low, high, GRID)
    for _ in range(8):
        best = int(np.argmax((y - y.mean()) @ _directions(x, np.exp(grid))))
        step = grid[1] - grid[0]
        grid = np.clip(np.linspace(grid[best] - step, grid[best] + step, 33), low, high)
    return float(np.exp(np.clip(grid[16], low, high)))


def _solve(x: Array, y_Dn: Array, exponents_D: Array) -> tuple[Array, Array]:
    """(D,) offsets and scales by least squares at given exponents."""
    powers = np.exp(-np.log(x) * exponents_D[:, None])
    centred = powers - powers.mean(axis=1, keepdims=True)
    scale = (centred * y_Dn).sum(axis=1) / (centred**2).sum(axis=1)
    return y_Dn.mean(axis=1) - scale * powers.mean(axis=1), scale


def _draw(x: Array, fitted: Array, residuals: Array, draws: int, seed: int) -> tuple[Array, Array]:
    """(D, 3) refits, and (D,) deviations of one measurement more."""
    random, n = np.random.default_rng(seed), len(x)
    spread = np.sqrt(n / random.chisquare(n - 3, draws))[:, None]
    picked = random.choice(residuals - residuals.mean(), size=(draws, n + 1)) * spread
    low, high = np.log(EXPONENTS)
    grid = np.linspace(low, high, GRID)
    y_Dn = fitted + picked[:, :n]
    explained = (y_Dn - y_Dn.mean(axis=1, keepdims=True)) @ _directions(x, np.exp(grid))
    found = np.exp(_peak(grid, explained))
    return np.column_stack([*_solve(x, y_Dn, found), found]), picked[:, n]


def _peak(grid: Array, heights_DG: Array) -> Array:
    """(D,) where each row is highest: by the parabola through its three highest, at an end the end itself."""
    best = np.argmax(heights_DG, axis=1)
    inside = np.clip(best, 1, len(grid) - 2)
    rows = np.arange(len(best))
    left, middle, right = (heights_DG[rows, inside + shift] for shift in (-1, 0, 1))
    bend = np.minimum(left - 2 * middle + right, -1e-300)
    moved = np.clip((left - right) / (2 * bend), -1, 1)
    return np.asarray(grid[best] + np.where(best == inside, moved * (grid[1] - grid[0]), 0.0))


def _floor(offset: float, exponent: float, drawn_D3: Array) -> tuple[Estimate | None, str | None]:
    """The floor with its interval, or why there is none."""
    low, high = EXPONENTS
    near = 1.05
    if exponent <= low * near:
        return None, "wrong curvature: the loss falls as a straight line in log tokens, or faster; no floor shows"
    if exponent >= high / near:
        return None, "wrong curvature: the loss falls faster than a power law and is flat from there"
    without = (drawn_D3[:, 2] <= low * near) | (drawn_D3[:, 0] <= 0)
    if offset <= 0 or without.mean() > DOUBT:
        return None, f"not identified: {without.mean():.0%} of the bootstrap draws have no floor above zero"
    return estimate(offset, drawn_D3[:, 0]), None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Forecast:
    """Losses to come, up to the end of the part that the law holds on."""

    tokens_m: Array
    loss_m: Array
    low_m: Array
    high_m: Array
    used: int

    @property
    def end(self) -> Estimate:
        """Of the last place."""
        return Estimate(float(self.loss_m[-1]), float(self.low_m[-1]), float(self.high_m[-1]))


def forecast(
    law: CurveLaw | Unidentified, tokens: ArrayLike, until: float, places: int = 24
) -> Forecast | Unidentified:
    """The law from its first point to `until` tokens with a 95 % band for measurements.

    Args:
        tokens: (n,) of the points that the law was fitted to.

    Returns:
        Unidentified without a law, and where the band at the end is wider than the fall that was seen.
    """
    if isinstance(law, Unidentified):
        return law
    seen = np.asarray(tokens, dtype=np.float64)
    at = np.geomspace(seen[0], max(until, seen[-1]), places)
    central, low, high = law.band(at)
    fall = float(law.at(seen[0]) - law.at(seen[-1]))
    if high[-1] - low[-1] > fall:
        wide = f"not identified: the band is {high[-1] - low[-1]:.2g} nats wide at the end, the fall so far {fall:.2g}"
        return Unidentified(used=law.used, not_identified=wide)
    return Forecast(tokens_m=at, loss_m=central, low_m=low, high_m=high, used=law.used)
