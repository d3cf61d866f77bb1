"""Where a running trial will end, from how its finished peers went on.  Shape key: m points of a curve, k peers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweeper.scaling.records import Array, Estimate, Excluded, Fit
from sweeper.scaling.regression import posterior

EARLIEST = 0.3
"""Before this share of the budget nothing beats the raw value (public ten-minute runs and (Mis)Fitting's curves)."""
FEWEST_PEERS = 5
LOOK_BACK = 0.5
"""The slope is taken over the points from this share of the present progress on."""
LARGEST_GAIN = 3.0
"""A priori the fall to come is at most about this many times the present slope."""
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
    """log(final / present) regressed on the present slope in log progress over finished peers, with a 95 % band.

    The slope says how much of the fall is still to come; the peers' own ends say what the schedule's decay will collect
    (Tissue et al. 2024, arXiv:2408.11029), so that they must share the run's schedule as a function of progress.
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
    slopes = np.array([own for _, own in usable])
    ends = np.array([np.log(peer.loss_m[-1] / _loss(peer, at)) for peer, _ in usable])
    centre, spread = float(np.median(slopes)), max(float(slopes.std()), 1e-6)
    design = np.column_stack([np.ones(len(slopes)), (slopes - centre) / spread])
    prior_sd = np.array([0.5, LARGEST_GAIN * spread])
    found = posterior(design, ends, np.zeros(len(ends)), np.zeros(2), prior_sd, SCATTER)
    row = np.array([1.0, (slope - centre) / spread])
    middle, low, high = found.quantiles(row, (0.5, 0.025, 0.975), with_scatter=True)
    present = float(curve.loss_m[-1])
    final = Estimate(*(present * float(np.exp(v)) for v in (middle, low, high)))
    return Forecast(**about, interval_method=f"posterior prediction from {len(usable)} finished peers", final=final)


def _loss(curve: Curve, at: float) -> float:
    return float(np.exp(np.interp(np.log(at), np.log(curve.fraction_m), np.log(curve.loss_m))))


def _slope(curve: Curve, at: float) -> float | None:
    """Slope of log loss on log progress up to `at`; None with fewer than three points."""
    recent = (curve.fraction_m >= LOOK_BACK * at) & (curve.fraction_m <= at + 1e-9) & np.isfinite(curve.loss_m)
    if recent.sum() < 3:
        return None
    x, y = np.log(curve.fraction_m[recent]), np.log(curve.loss_m[recent])
    return float(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum())
