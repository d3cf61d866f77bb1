"""Where a running trial will end, from how its finished peers went on.  Shape key: m points of a curve, k peers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweeper.scaling.records import Array, Estimate, Excluded, Fit, Unidentified
from sweeper.scaling.regression import Posterior, posterior

EARLIEST = 0.3
"""Before this share of the budget nothing beats the raw value (public ten-minute runs and (Mis)Fitting's curves)."""
FEWEST_PEERS = 5
LOOK_BACK = 0.5
"""The slope is taken over the points from this share of the present progress on."""
LARGEST_GAIN = 3.0
"""A priori the fall to come is at most about this many times the present slope."""
LEVELLING = 0.5
"""A priori at most about this share of a difference in the present loss is made up by, or added to until, the end."""
NEAR = 0.02
"""Relative error that is added to what a peer says whose present loss is just no longer near."""
SCATTER = 0.01
"""Typical relative error of a forecast: only the prior of what the peers will say."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Validation losses of a run against its share of the budget."""

    fraction_m: Array
    """Ascending, in (0, 1]."""
    loss_m: Array

    def __post_init__(self) -> None:
        if len(self.fraction_m) != len(self.loss_m) or not len(self.loss_m):
            raise ValueError(
                f"as many losses as fractions are needed, got {len(self.loss_m)} and {len(self.fraction_m)}"
            )
        if not ((np.diff(self.fraction_m) > 0).all() and self.fraction_m[0] > 0 and self.fraction_m[-1] <= 1 + 1e-9):
            raise ValueError(f"fractions must ascend within (0, 1], got {self.fraction_m}")

    @property
    def finished(self) -> bool:
        return bool(self.fraction_m[-1] > 0.995 and np.isfinite(self.loss_m[-1]))


@dataclass(frozen=True, kw_only=True, eq=False)
class Forecast(Fit):
    """The final loss of a run that is under way."""

    final: Estimate | None = None
    at_fraction: float
    slope: float | None = None
    """Relative change of the loss for each e-fold of progress: ranks runs better than the loss itself from half on."""


def forecast_final(curve: Curve, peers: Sequence[Curve]) -> Forecast:
    """log(final / present) regressed on present loss and slope in log progress over finished peers, with a 95 % band.

    The slope says how much of the fall is still to come; the peers' own ends say what the schedule's decay will collect
    (Tissue et al. 2024, arXiv:2408.11029), so that they must share the run's schedule as a function of progress.  Peers
    at another loss by now count for less: what diverges or crawls has ends of its own kind.
    Conjugate regression with the scatter integrated out: with few peers the band is wide, not wrong.

    Args:
        peers: runs of the same study and schedule; those that did not finish, or began later, are excluded.
    """
    at = float(curve.fraction_m[-1])
    if at < EARLIEST:
        reason = f"at {at:.0%} of the budget; before {EARLIEST:.0%} the order at the end cannot be told"
        return Forecast(used=0, at_fraction=at, not_identified=reason)
    slope = _slope(curve, at)
    seen = [(k, peer, _slope(peer, at)) for k, peer in enumerate(peers) if peer.finished]
    usable = [(peer, own) for _, peer, own in seen if own is not None]
    left_out = [Excluded(k, "did not finish") for k, peer in enumerate(peers) if not peer.finished]
    left_out += [Excluded(k, "too few points before") for k, _, own in seen if own is None]
    about: dict[str, Any] = {"used": len(usable), "excluded": tuple(left_out), "at_fraction": at, "slope": slope}
    if slope is None or len(usable) < FEWEST_PEERS:
        reason = (
            "too few points of its own" if slope is None else f"{len(usable)} finished peers, {FEWEST_PEERS} needed"
        )
        return Forecast(**about, not_identified=reason)
    present = float(curve.loss_m[-1])
    found, row = _regression(np.array([slope, np.log(present)]), *_pairs(usable, at))
    middle, low, high = found.quantiles(row, (0.5, 0.025, 0.975), with_scatter=True)
    final = Estimate(*(present * float(np.exp(v)) for v in (middle, low, high)))
    return Forecast(**about, interval_method=f"posterior prediction from {len(usable)} finished peers", final=final)


def forecast_all(curves: Mapping[int, Curve], peers: Mapping[int, Curve]) -> dict[int, float] | Unidentified:
    """Final loss of each run by forecast_final's law (its mean, not its median), all at one share: to rank runs by.

    A run that is a peer as well is foretold from the others, as if its end were not known: forecasts lie closer
    together than ends do, so that the one cannot be ranked among the other.

    Args:
        curves: by number, each up to the share in question; those with too few points get no forecast.
        peers: by number, whole ones; those that did not finish do not count.

    Returns:
        Unidentified where there are too few peers for any forecast.

    Raises:
        ValueError: no curves, or curves that end at different shares.
    """
    ends = {round(float(curve.fraction_m[-1]), 3) for curve in curves.values()}
    if len(ends) != 1:
        raise ValueError(f"curves must end at one share of the budget, got {sorted(ends)}")
    at = float(next(iter(curves.values())).fraction_m[-1])
    if at < EARLIEST:
        return Unidentified(used=0, not_identified=f"before {EARLIEST:.0%} the order at the end cannot be told")
    known = {n: (peer, own) for n, peer in peers.items() if peer.finished and (own := _slope(peer, at)) is not None}
    if len(known) < FEWEST_PEERS:
        return Unidentified(
            used=len(known), not_identified=f"{len(known)} finished trials to foretell from, {FEWEST_PEERS} needed"
        )
    seen, gains = _pairs(list(known.values()), at)
    place_of = {n: k for k, n in enumerate(known)}
    found: dict[int, float] = {}
    for number, curve in curves.items():
        slope = _slope(curve, at)
        if slope is not None:
            others = np.arange(len(gains)) != place_of.get(number, -1)
            present = np.array([slope, np.log(curve.loss_m[-1])])
            law, row = _regression(present, seen[others], gains[others])
            found[number] = float(curve.loss_m[-1] * np.exp(row @ law.mean_p))
    return found


def _pairs(usable: Sequence[tuple[Curve, float]], at: float) -> tuple[Array, Array]:
    """(k, 2) slopes and log losses of peers at a share, and (k,) logs of end over present."""
    present = np.log([_loss(peer, at) for peer, _ in usable])
    ends = np.log([peer.loss_m[-1] for peer, _ in usable])
    return np.stack([[own for _, own in usable], present], axis=1), ends - present


def _regression(own: Array, seen_k2: Array, gains_k: Array) -> tuple[Posterior, Array]:
    """The regression of gains on slope and log loss, and the row of a run that has these itself."""
    spread = np.maximum(seen_k2.std(axis=0), 1e-6)
    middle = np.median(seen_k2, axis=0)
    design = np.column_stack([np.ones(len(gains_k)), (seen_k2 - middle) / spread])
    away = np.abs(seen_k2[:, 1] - own[1])
    near = max(float(np.sort(away)[min(len(away) - 1, max(4, len(away) // 3))]), 1e-6)
    prior_sd = np.array([0.5, LARGEST_GAIN * spread[0], LEVELLING * spread[1]])
    found = posterior(design, gains_k, (NEAR * away / near) ** 2, np.zeros(3), prior_sd, SCATTER)
    return found, np.concatenate([[1.0], (own - middle) / spread])


def _loss(curve: Curve, at: float) -> float:
    return float(np.exp(np.interp(np.log(at), np.log(curve.fraction_m), np.log(curve.loss_m))))


def _slope(curve: Curve, at: float) -> float | None:
    """Slope of log loss on log progress up to `at`; None with fewer than three points."""
    recent = (curve.fraction_m >= LOOK_BACK * at) & (curve.fraction_m <= at + 1e-9) & np.isfinite(curve.loss_m)
    if recent.sum() < 3:
        return None
    x, y = np.log(curve.fraction_m[recent]), np.log(curve.loss_m[recent])
    return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
