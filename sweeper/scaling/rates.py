"""A learning rate over a run, and sums that annealing laws are made of.  Shape key: k knots, m places, j drops."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sweeper.scaling.records import Array

MOST_DROPS = 64
"""Pieces that all falls of a rate are cut into; the law's sum over steps is then one over these."""
LEAST_RATE = 1e-3
"""Of the peak: a rate that falls to zero counts as this, since the law takes powers of it."""


@dataclass(frozen=True, slots=True, eq=False)
class Drops:
    """Where a rate changes after its peak, thinned to pieces of about equal change."""

    fall_j: Array
    """Change of the rate over the piece, positive where it falls."""
    rate_j: Array
    """After a jump the new rate; of a ramp the one in its middle."""
    sum_j: Array
    """Sum of rates up to there."""
    step_j: Array


@dataclass(frozen=True, eq=False)
class Rates:
    """A peak rate over optimiser steps: straight between knots; two knots at one step are a jump.

    Knots begin at step 0, so that warm-up counts towards the sum of rates; after the last knot the rate stays.
    """

    step_k: Array
    rate_k: Array

    def __post_init__(self) -> None:
        steps, rates = self.step_k, self.rate_k
        if len(steps) != len(rates) or len(steps) < 2 or steps.ndim != 1:
            raise ValueError(f"as many rates as steps are needed, two or more; got {len(rates)} and {len(steps)}")
        if not (np.isfinite(steps).all() and steps[0] == 0 and (np.diff(steps) >= 0).all() and steps[-1] > 0):
            raise ValueError(f"steps must ascend from 0, got {steps[:3]} ... {steps[-1]}")
        if not (np.isfinite(rates).all() and (rates >= 0).all() and rates.max() > 0):
            raise ValueError(f"rates must be finite, not negative, and somewhere positive; got {rates.min()} as least")

    @property
    def peak(self) -> float:
        return float(self.rate_k.max())

    @property
    def last(self) -> float:
        """The last step that a knot names."""
        return float(self.step_k[-1])

    def sums(self, step_m: Array) -> Array:
        """(m,) sum of the rates of all steps up to each: S1, warm-up included."""
        steps, rates = self.step_k, self.rate_k
        areas = np.diff(steps) * (rates[1:] + rates[:-1]) / 2
        at = np.clip(np.searchsorted(steps, step_m, side="right") - 1, 0, len(steps) - 1)
        into = np.maximum(step_m - steps[at], 0.0)
        following = np.minimum(at + 1, len(steps) - 1)
        width = steps[following] - steps[at]
        slope = np.where(width > 0, (rates[following] - rates[at]) / np.maximum(width, 1e-300), 0.0)
        return np.asarray(np.concatenate([[0.0], np.cumsum(areas)])[at] + into * (rates[at] + slope * into / 2))

    def drops(self) -> Drops:
        """Changes after the rate first reached its peak, each ramp cut by its share in all of them."""
        first = int(np.argmax(self.rate_k))
        steps, rates = self.step_k[first:], self.rate_k[first:]
        falls = rates[:-1] - rates[1:]
        changed = np.flatnonzero(falls)
        if not len(changed):
            return Drops(*(np.empty(0) for _ in range(4)))
        pieces = np.ceil(MOST_DROPS * np.abs(falls[changed]) / np.abs(falls).sum()).astype(int)
        pieces[np.diff(steps)[changed] == 0] = 1
        member = np.repeat(changed, pieces)
        count = np.repeat(pieces, pieces)
        rank = np.arange(len(member)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        middle = (rank + 0.5) / count
        jump = np.diff(steps)[member] == 0
        at = steps[member] + middle * np.diff(steps)[member]
        rate = np.where(jump, rates[member + 1], rates[member] - middle * falls[member])
        rate = np.maximum(rate, LEAST_RATE * self.peak)
        return _thinned(Drops(falls[member] / count, rate, self.sums(at), at))


def _thinned(drops: Drops) -> Drops:
    """Many small ramps, as in a logged cosine, joined to MOST_DROPS pieces; means are weighted by the change."""
    if len(drops.fall_j) <= 2 * MOST_DROPS:
        return drops
    size: Array = np.abs(drops.fall_j)
    done = np.cumsum(size) - size / 2
    member = np.unique((done / size.sum() * MOST_DROPS).astype(int), return_inverse=True)[1]
    weight = np.bincount(member, size)
    means = [np.bincount(member, size * x) / weight for x in (drops.rate_j, drops.sum_j, drops.step_j)]
    return Drops(np.asarray(np.bincount(member, drops.fall_j), dtype=np.float64), *means)


def trapezoid(peak: float, steps: float, *, warmup: float = 0.0, cooldown: float = 0.0, final: float = 0.0) -> Rates:
    """Linear warm-up, a constant rate, a linear fall: warmup and cooldown as shares of the steps, final of the peak.

    Raises:
        ValueError: shares below 0 or above 1 together, a peak or steps that are not positive.
    """
    if not (peak > 0 and steps > 0 and warmup >= 0 and cooldown >= 0 and warmup + cooldown <= 1 and final >= 0):
        raise ValueError(
            f"no schedule of peak {peak}, {steps} steps, warm-up {warmup}, cool-down {cooldown}, to {final}"
        )
    knots = [(0.0, 0.0 if warmup else peak), (warmup * steps, peak), ((1 - cooldown) * steps, peak)]
    knots.append((float(steps), final * peak if cooldown else peak))
    return Rates(*np.array(knots).T)


def logged(step: ArrayLike, rate: ArrayLike, *, jump: float = 0.25) -> Rates:
    """Rates from a log: before the first point a linear warm-up, between points straight lines.

    Args:
        step, rate: (k,) each, as logged, ascending.
        jump: a fall by more than this share of the rate between two points is one at the second, not a ramp.
    """
    steps, rates = np.asarray(step, dtype=np.float64), np.asarray(rate, dtype=np.float64)
    sudden = np.flatnonzero(rates[1:] < (1 - jump) * rates[:-1]) + 1
    at, before = steps[sudden], rates[sudden - 1]
    knots = np.insert(np.stack([steps, rates]), sudden, np.stack([at, before]), axis=1)
    if steps[0] > 0:
        knots = np.insert(knots, 0, [0.0, 0.0], axis=1)
    return Rates(*knots)
