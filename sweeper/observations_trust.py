"""How far a study's scores can be trusted: noise of repeats, rungs against ends, forecasts against outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from sweeper.observations_facts import RunFacts
from sweeper.observations_fits import Fits
from sweeper.records import Curves
from sweeper.scaling import resample
from sweeper.scaling.records import Array, Estimate, Integers, Unidentified
from sweeper.transferred import WORDS, By

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
FEWEST_COMPLETE = 8
TOLERANCE = 0.03
"""Share of the budget by which a validation may lie off the share asked for, where it does not lie between two."""
DRAWS = 200
EQUAL_TOKENS = 0.003
"""Share by which repeats may differ in tokens before it counts: it moves a score by some 0.0003."""
FEWEST_FOR_SLOPE = 4
"""Degrees of freedom, of which a slope takes one."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Noise:
    """Standard deviation of the score among runs that differ by their seed alone."""

    groups: tuple[Integers, ...]
    """Rows of each set of repeats."""
    off: tuple[Array, ...]
    """Of each row, in the unit of the score: the score less its set's mean, and less what its tokens account for."""
    deviation: Estimate | None
    used: int
    not_identified: str | None


def seed_noise(fits: Fits) -> Noise:
    """Pooled over sets of repeats at equal horizons; the interval is chi-squared's.

    The same seconds hold more steps on one day than on another, and more tokens score better: where repeats differ in
    them, one slope on log tokens for all sets is taken out.
    """
    runs = fits.trials.runs
    groups = _repeats(fits)
    used, free = sum(len(rows) for rows in groups), sum(len(rows) - 1 for rows in groups)
    columns = np.log(runs.tokens), runs.loss
    log_tokens, losses = ([column[rows] - column[rows].mean() for rows in groups] for column in columns)
    apart = max((float(np.ptp(x)) for x in log_tokens), default=0.0)
    unknown: str | None = None
    if free < 1:
        unknown = "no two complete runs have equal values"
    elif apart > EQUAL_TOKENS:
        if free < FEWEST_FOR_SLOPE:
            unknown = f"repeats differ by up to {apart:.1%} in tokens, and are too few to tell what of it that makes"
        else:
            losses, free = _less_their_tokens(log_tokens, losses), free - 1
    value = float(np.sqrt(sum(float((y**2).sum()) for y in losses) / free)) if free else 0.0
    if unknown is None and value <= 0:
        unknown = "all repeats agree to the last digit: they had the same seeds"
    if unknown is not None:
        return Noise(groups=groups, off=tuple(losses), deviation=None, used=used if free else 0, not_identified=unknown)
    low, high = (value * float(np.sqrt(free / stats.chi2.ppf(q, free))) for q in (0.975, 0.025))
    return Noise(groups=groups, off=tuple(losses), deviation=Estimate(value, low, high), used=used, not_identified=None)


def _repeats(fits: Fits) -> tuple[Integers, ...]:
    runs = fits.trials.runs
    sets: dict[tuple[str, int, int], list[int]] = {}
    for row in np.flatnonzero(~runs.diverged):
        horizon = round(float(np.log(runs.tokens[row])) / 0.05)
        size = round(float(np.log(runs.n_params[row])) / 0.001)  # imported runs may not have it among their values
        sets.setdefault((fits.trials.repeats[row], horizon, size), []).append(int(row))
    return tuple(np.array(rows) for rows in sets.values() if len({int(runs.trial[r]) for r in rows}) > 1)


def _less_their_tokens(log_tokens: list[Array], losses: list[Array]) -> list[Array]:
    x, y = np.concatenate(log_tokens), np.concatenate(losses)
    slope = min(0.0, float(x @ y) / float(x @ x))
    return [loss - slope * tokens for tokens, loss in zip(log_tokens, losses, strict=True)]


@dataclass(frozen=True, kw_only=True, eq=False)
class RungTable:
    """How well the streamed score at shares of the budget tells the order of the final ones."""

    shares: Array
    correlation: tuple[Estimate, ...]
    """Spearman's, with an interval over trials."""
    regret_half: tuple[Estimate, ...]
    """Bits per byte lost by keeping the best half there: best final score kept over the best of all."""
    regret_third: tuple[Estimate, ...]
    used: int
    trials: tuple[int, ...]


def rung_table(fits: Fits) -> RungTable | Unidentified:
    """Over complete trials: those that were pruned have no end, so that the true correlation is higher.

    Only trials of the full budget count, each once, at shares that all of them have validations about.
    """
    final = final_scores(fits)
    at, numbers = _at_shares(fits.curves, final)
    known = np.isfinite(at).all(axis=0)
    if len(numbers) < FEWEST_COMPLETE or not known.any():
        reason = f"{len(numbers)} complete trials with a curve, {FEWEST_COMPLETE} needed"
        return Unidentified(used=len(numbers), not_identified=reason)
    ends = np.array([final[number] for number in numbers])
    at = at[:, known]
    draws = np.random.default_rng(0).integers(0, len(ends), (DRAWS, len(ends)))
    columns = [at[:, k] for k in range(at.shape[1])]
    return RungTable(
        shares=np.array(SHARES)[known],
        correlation=tuple(_correlated(column, ends, draws) for column in columns),
        regret_half=tuple(_regretted(column, ends, draws, 2) for column in columns),
        regret_third=tuple(_regretted(column, ends, draws, 3) for column in columns),
        used=len(ends),
        trials=tuple(numbers),
    )


def final_scores(fits: Fits) -> dict[int, float]:
    """Score of each complete trial at its whole budget."""
    runs = fits.trials.runs
    complete = {run.number for run in fits.study.trials if run.state == "complete"}
    found: dict[int, tuple[float, float]] = {}
    for row in np.flatnonzero(~runs.diverged).tolist():
        if int(runs.trial[row]) not in complete:
            continue
        number, tokens = int(runs.trial[row]), float(runs.tokens[row])
        if number not in found or found[number][0] < tokens:
            found[number] = (tokens, float(runs.loss[row]))
    return {number: loss for number, (_, loss) in found.items()}


def _at_shares(curves: Curves, final: dict[int, float]) -> tuple[Array, list[int]]:
    """(trials, shares) streamed scores, NaN where the curve does not reach about a share; and the trials."""
    rows, numbers = [], []
    for place, number in enumerate(curves.numbers):
        piece = slice(int(curves.offsets[place]), int(curves.offsets[place + 1]))
        x, y = curves.progress[piece].astype(float), curves.values[piece].astype(float)
        if number not in final or len(x) < 3:
            continue
        values = np.interp(SHARES, x, y)
        values[(np.array(SHARES) < x[0] - TOLERANCE) | (np.array(SHARES) > x[-1] + TOLERANCE)] = np.nan
        rows.append(values)
        numbers.append(number)
    return np.array(rows).reshape(-1, len(SHARES)), numbers


def _correlated(at: Array, ends: Array, draws: Integers) -> Estimate:
    value = float(np.nan_to_num(stats.spearmanr(at, ends).statistic)) if np.ptp(at) > 0 and np.ptp(ends) > 0 else 0.0
    ranks_x, ranks_y = stats.rankdata(at)[draws], stats.rankdata(ends)[draws]
    x, y = ranks_x - ranks_x.mean(axis=1, keepdims=True), ranks_y - ranks_y.mean(axis=1, keepdims=True)
    spread = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    return resample.estimate(value, (x * y).sum(axis=1) / np.maximum(spread, 1e-12))


def _regretted(at: Array, ends: Array, draws: Integers, factor: int) -> Estimate:
    def regret(x: Array, y: Array) -> Array:
        kept = max(1, x.shape[1] // factor)
        chosen = np.argpartition(x, kept - 1, axis=1)[:, :kept]
        return np.asarray(np.take_along_axis(y, chosen, axis=1).min(axis=1) - y.min(axis=1))

    value = float(regret(at[None], ends[None])[0])
    return resample.estimate(value, regret(at[draws], ends[draws]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A promotion's score beside what was foretold for it."""

    promotion: int
    trial: int | None
    tokens: float
    predicted: Estimate | None
    actual: float
    reason: str
    """Why there is no prediction."""
    stored: bool
    """Whether it was foretold when the run was planned; else by the law of the trials as they are today."""
    by: By | None
    """Whose values the run took; None where that was not stored."""

    @property
    def words(self) -> str:
        """In a sentence."""
        by = "" if self.by is None else f" ({WORDS[self.by]})"
        run = f"promotion {self.promotion}{by}, {self.tokens:,.0f} tokens"
        if self.predicted is None:
            return f"{run}: came to {self.actual:.4f}; not foretold: {self.reason}"
        e = self.predicted
        inside = "inside" if e.low <= self.actual <= e.high else "outside"
        when = "foretold" if self.stored else "foretold by the trials as they are today"
        return f"{run}: {when} {e.value:.4f} [{e.low:.4f}, {e.high:.4f}], came to {self.actual:.4f}, {inside} the 95 %"


def calibrations(fits: Fits) -> Sequence[Calibration]:
    """Of complete promotions. Predictions are those stored with them; where none was, and for another score than the
    judged one, the law of the trials is asked today: promotions never feed it."""
    runs = fits.promotions.runs
    of_number = {run.number: run for run in fits.study.promotions}
    longest: dict[int, int] = {}
    for row in np.flatnonzero(~runs.diverged).tolist():
        number = int(runs.trial[row])
        if number not in longest or runs.tokens[longest[number]] < runs.tokens[row]:
            longest[number] = int(row)
    return [_calibration(fits, of_number[number], row) for number, row in sorted(longest.items())]


def _calibration(fits: Fits, run: RunFacts, row: int) -> Calibration:
    runs, law = fits.promotions.runs, fits.loss_law
    taken = run.transfer.taken if run.transfer else None
    predicted, reason = None, "the trials hold no loss law"
    stored = taken is not None and fits.study.switches.loss == "judged"
    if taken is not None and stored:
        told = taken.predicted
        predicted, reason = None if told is None else Estimate(told.value, told.low, told.high), taken.unpredicted
    elif law is not None:
        value, low, high = law.predict({name: [getattr(runs, name)[row]] for name in law.sizes})
        predicted, reason = Estimate(float(value[0]), float(low[0]), float(high[0])), ""
    return Calibration(
        promotion=run.number,
        trial=run.trial,
        tokens=float(runs.tokens[row]),
        predicted=predicted,
        actual=float(runs.loss[row]),
        reason=reason,
        stored=stored,
        by=run.transfer.chosen if run.transfer else None,
    )
