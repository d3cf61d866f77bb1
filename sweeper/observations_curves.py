"""Curves on the way: how well forecasts from them meet the end, where running trials will end, whom pruning wrongs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sweeper.observations_fits import Fits
from sweeper.observations_trust import final_scores
from sweeper.scaling import resample
from sweeper.scaling.forecast import EARLIEST, Curve, forecast_final
from sweeper.scaling.records import Array, Estimate, Integers, Unidentified

SHARES = (0.3, 0.5, 0.7)
"""Of the budget, from which forecasts are judged."""
MOST_JUDGED = 40
MOST_PEERS = 80
"""Curves that one forecast learns from: more sharpen its interval by little and take time."""
FEWEST_JUDGED = 8
TOP = 0.1
"""Share of the complete trials that count as ones not to lose."""
RUNG_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
DRAWS = 200
NEAR = 0.03
"""Share of the budget by which a first validation may come late."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrialCurve:
    """Streamed scores of one trial; of a complete one, ended by its final score at 1."""

    trial: int
    state: str
    curve: Curve


def trial_curves(fits: Fits) -> tuple[TrialCurve, ...]:
    """Of every trial that has a validation, by number."""
    curves, final = fits.curves, final_scores(fits)
    found: list[TrialCurve] = []
    for place, number in enumerate(curves.numbers):
        piece = slice(int(curves.offsets[place]), int(curves.offsets[place + 1]))
        x, y = curves.progress[piece].astype(float), curves.values[piece].astype(float)
        usable = np.isfinite(y) & (y > 0) & (x > 0) & (x <= 0.995 if number in final else x <= 1)
        x, y = x[usable], y[usable]
        if number in final:
            x, y = np.append(x, 1.0), np.append(y, final[number])
        kept = np.append(np.diff(x) > 1e-9, True)
        if len(x):
            found.append(TrialCurve(trial=number, state=curves.states[place], curve=Curve(x[kept], y[kept])))
    return tuple(found)


def complete_curves(fits: Fits) -> tuple[TrialCurve, ...]:
    """Those with a final score and something before it."""
    return tuple(one for one in fits.get(trial_curves) if one.curve.finished and len(one.curve.fraction_m) > 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastCheck:
    """Forecasts of complete trials from a share of the budget, each from other trials' curves, against their ends."""

    share: float
    judged: int
    inside: int
    """Ends inside their 95 % interval."""
    inside_share: Estimate
    """With Wilson's interval."""
    error: Estimate
    """Median absolute error, in the unit of the score; bootstrap over trials."""


def forecast_check(fits: Fits) -> tuple[ForecastCheck, ...] | Unidentified:
    """At most MOST_JUDGED trials, spread over the study's order, each forecast from at most MOST_PEERS others."""
    known = fits.get(complete_curves)
    if len(known) < FEWEST_JUDGED:
        reason = f"{len(known)} complete trials with a curve, {FEWEST_JUDGED} needed"
        return Unidentified(used=len(known), not_identified=reason)
    judged = [known[k] for k in _spread(len(known), MOST_JUDGED)]
    found = []
    for share in SHARES:
        told = [(forecast(fits, one, share), float(one.curve.loss_m[-1])) for one in judged]
        pairs = [(e, end) for e, end in told if isinstance(e, Estimate)]
        if len(pairs) >= FEWEST_JUDGED:
            found.append(_check(share, pairs))
    if not found:
        return Unidentified(used=len(judged), not_identified="curves have too few validations to forecast from")
    return tuple(found)


def _check(share: float, pairs: list[tuple[Estimate, float]]) -> ForecastCheck:
    errors = np.array([abs(e.value - end) for e, end in pairs])
    inside = sum(e.low <= end <= e.high for e, end in pairs)
    draws = np.random.default_rng(0).integers(0, len(errors), (DRAWS, len(errors)))
    return ForecastCheck(
        share=share,
        judged=len(pairs),
        inside=inside,
        inside_share=_wilson(inside, len(pairs)),
        error=resample.estimate(float(np.median(errors)), np.median(errors[draws], axis=1)),
    )


def _wilson(count: int, n: int) -> Estimate:
    """Wilson 1927, 95 %."""
    z2 = 1.96**2
    middle, half = (count + z2 / 2) / (n + z2), 1.96 * np.sqrt(count * (n - count) / n + z2 / 4) / (n + z2)
    return Estimate(count / n, float(middle - half), float(middle + half))


def forecast(fits: Fits, one: TrialCurve, share: float = 1.0) -> Estimate | str:
    """Final score of a trial from its curve up to a share of the budget, or why there is none; it is no peer of its
    own."""
    reached = one.curve.fraction_m <= share + 1e-9
    if share < 1 and not (reached.any() and one.curve.fraction_m[reached][-1] >= max(EARLIEST, share - 0.1)):
        return f"no validation near {share:.0%} of the budget"
    others = [peer.curve for peer in fits.get(complete_curves) if peer.trial != one.trial]
    peers = [others[k] for k in _spread(len(others), MOST_PEERS)]
    told = forecast_final(Curve(one.curve.fraction_m[reached], one.curve.loss_m[reached]), peers)
    return told.final if told.final is not None else str(told.not_identified)


def _spread(count: int, most: int) -> list[int]:
    """At most so many places, evenly over the whole."""
    return sorted({int(k) for k in np.linspace(0, count - 1, min(count, most)).round()}) if count else []


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FalsePrunes:
    """Share of the trials that end among the best tenth which a cut at each share of the budget would have lost."""

    shares: Array
    half: tuple[Estimate, ...]
    """Keeping the best half there."""
    third: tuple[Estimate, ...]
    top: int
    """Trials of that tenth."""
    used: int


def false_prunes(fits: Fits) -> FalsePrunes | Unidentified:
    """Over complete trials, as a cut would fall on their streamed scores; the interval is a bootstrap over trials."""
    known = fits.get(complete_curves)
    if len(known) < FEWEST_JUDGED:
        reason = f"{len(known)} complete trials with a curve, {FEWEST_JUDGED} needed"
        return Unidentified(used=len(known), not_identified=reason)
    ends = np.array([one.curve.loss_m[-1] for one in known])
    first = max(float(one.curve.fraction_m[0]) for one in known)
    shares = np.array([share for share in RUNG_SHARES if share >= first - NEAR])
    at = np.array([np.interp(shares, one.curve.fraction_m[:-1], one.curve.loss_m[:-1]) for one in known])
    if not len(shares):
        return Unidentified(used=len(known), not_identified="no share of the budget that all curves have reached")
    draws = np.random.default_rng(0).integers(0, len(ends), (DRAWS, len(ends)))
    columns = list(at.T)
    return FalsePrunes(
        shares=shares,
        half=tuple(_lost(column, ends, draws, 2) for column in columns),
        third=tuple(_lost(column, ends, draws, 3) for column in columns),
        top=max(1, round(TOP * len(ends))),
        used=len(ends),
    )


def _lost(at: Array, ends: Array, draws: Integers, factor: int) -> Estimate:
    kept, top = max(1, len(ends) // factor), max(1, round(TOP * len(ends)))

    def share(x: Array, y: Array) -> Array:
        best = np.argpartition(y, top - 1, axis=1)[:, :top]
        limit = np.partition(x, kept - 1, axis=1)[:, kept - 1 : kept]
        return np.asarray((np.take_along_axis(x, best, axis=1) > limit).mean(axis=1))

    return resample.estimate(float(share(at[None], ends[None])[0]), share(at[draws], ends[draws]))
