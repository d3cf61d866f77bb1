"""Bands of a full run's loss, each made at one share of it.  Shape key: n points, m places."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweeper.full_rates import first_fall, law_ends, rates_of, warm_up_ends
from sweeper.run_records import Outcome, RunPoints
from sweeper.scaling.annealing_peers import BEYOND, BackTest, Foretold, Piece, back_test, foretell
from sweeper.scaling.rates import Rates
from sweeper.scaling.records import Array, Estimate

EARLIEST = 0.03
"""Share before which losses tell nothing of the rest."""
BINS = 60
"""Of training losses over the run: single batches scatter."""
FEWEST_POINTS = 8
FEWEST_PEERS = 3
"""Below it there is no back-test, and nothing says what a fall of the rate will gain."""
FARTHEST = 8.0
"""Times the longest peer up to which falls of the rate are foretold from the peers: measured at 4.6 times."""
PLACES = 40
NORMAL_95 = 1.96


@dataclass(frozen=True, kw_only=True, eq=False)
class Course:
    """A run's config and curve, as far as a forecast needs them."""

    name: str
    """In words."""
    config: Mapping[str, Any]
    points: RunPoints
    """Their tokens are progress x `tokens`: budgets in seconds have their schedule in progress."""
    tokens: float
    """Of the whole run, as planned or, of a complete one, as trained."""
    outcomes: tuple[Outcome, ...] = ()
    """Cooled scores of its branches."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Band:
    """Losses to be measured after one share of the run, 95 %."""

    share: float
    """From which it was made."""
    tokens_m: Array
    loss_m: Array
    low_m: Array
    high_m: Array
    """For single judged points: their own scatter is part of it."""
    peers: int
    tested: BackTest

    @property
    def end(self) -> Estimate:
        return Estimate(float(self.loss_m[-1]), float(self.low_m[-1]), float(self.high_m[-1]))


def pieces_of(run: Course, rates: Rates) -> list[Piece]:
    """Its losses by kind, after the warm-up and for as long as one law holds, and those of its cooled branches."""
    points = run.points
    begin = max(EARLIEST * run.tokens, warm_up_ends(run.config, run.tokens))
    end = law_ends(run.config)[0]
    found = []
    for loss, train in ((points.train_loss, True), (points.val_loss, False)):
        usable = np.isfinite(loss) & (loss > 0) & (points.tokens > begin) & (points.tokens <= (end or np.inf))
        at, value = points.tokens[usable], loss[usable]
        at, value, _ = binned(at, value, run.tokens) if train else _once(at, value)
        if len(at):
            found.append(Piece(rates, at, value, train))
    for one in run.outcomes:
        branch = rates_of(run.config, float(one.tokens))
        if one.budget is not None and isinstance(branch, Rates) and not (run.config.get("plan") or {}).get("phases"):
            found.append(Piece(branch, np.array([float(one.tokens)]), np.array([one.val_loss]), False))
    return found


def binned(at_n: Array, loss_n: Array, tokens: float) -> tuple[Array, Array, Array]:
    """Means over equal shares of the run: places, losses, and how many points each is the mean of."""
    member = np.minimum((BINS * at_n / tokens - 1e-9).astype(int), BINS - 1)
    _, where, counts = np.unique(member, return_inverse=True, return_counts=True)
    means = [np.bincount(where, values) / counts for values in (at_n, loss_n)]
    return means[0], means[1], counts.astype(np.float64)


def _once(at_n: Array, loss_n: Array) -> tuple[Array, Array, Array]:
    """Ascending; of two at one place the later."""
    at, first = np.unique(at_n[::-1], return_index=True)
    return at, loss_n[::-1][first], np.ones(len(at))


def reach(run: Course, rates: Rates, others: Sequence[Sequence[Piece]], left_out: str) -> tuple[float, str]:
    """Tokens up to which a band can be made, and why no further."""
    ends = [(run.tokens, "")]
    broken, why = law_ends(run.config)
    if broken is not None:
        ends.append((float(broken), why))
    fall = first_fall(rates)
    if fall is not None and (why := _unlike(run, others, left_out)):
        ends.append((fall, f"what the fall of the rate will gain is not known: {why}"))
    return min(ends, key=lambda one: one[0])


def _unlike(run: Course, others: Sequence[Sequence[Piece]], left_out: str) -> str:
    falling = [pieces for pieces in others if any(first_fall(piece.rates) is not None for piece in pieces)]
    if len(falling) < FEWEST_PEERS:
        known = f"{len(falling)} earlier runs of this model, batch and data whose rate falls, {FEWEST_PEERS} needed"
        return f"{known}{f' ({left_out})' if left_out else ''}"
    longest = max(float(piece.at_n[-1]) for pieces in falling for piece in pieces)
    if run.tokens > FARTHEST * longest:
        return f"the run is {run.tokens / longest:.0f} times as long as the longest of them, {FARTHEST:g} are allowed"
    return ""


def band_from(
    before: Sequence[Piece],
    others: Sequence[Sequence[Piece]],
    rates: Rates,
    share: float,
    end: float,
    tokens: float,
    train: bool,
) -> Band | str:
    """The band from one share of the run on, or why there is none.

    Args:
        before: the run's losses up to there.
        rates: its planned ones.
        end: tokens up to which one law holds.
        tokens: of the whole run.
    """
    begin = share * tokens
    known = sum(len(piece.at_n) for piece in before)
    if end <= begin:
        return "the law ends before"
    if known < FEWEST_POINTS:
        return f"{known} losses before {share:.0%} of the run, {FEWEST_POINTS} needed"
    at = np.geomspace(begin, end, PLACES)
    told = foretell(before, others, rates, at, train=train)
    tested = back_test(others, share, train=train) if len(others) >= FEWEST_PEERS else back_test((), share, train=train)
    longest = max((float(piece.at_n[-1]) for pieces in others for piece in pieces), default=begin)
    beyond = BEYOND * np.log(np.maximum(at / longest, 1.0))
    sd = np.sqrt(tested.widened(told.sd_m, at / tokens, share) ** 2 + beyond**2 + _scatter(before, train) ** 2)
    fall = float(np.ptp(np.log(np.concatenate([piece.loss_n for piece in before]))))
    if 2 * NORMAL_95 * sd[0] > fall:
        return f"the band at {share:.0%} is wider than all that the loss has fallen by"
    return _told(told, sd, share, at, tested)


def _told(told: Foretold, sd_m: Array, share: float, at_m: Array, tested: BackTest) -> Band:
    central = told.log_loss_m
    return Band(
        share=share,
        tokens_m=at_m,
        loss_m=np.exp(central),
        low_m=np.exp(central - NORMAL_95 * sd_m),
        high_m=np.exp(central + NORMAL_95 * sd_m),
        peers=told.runs,
        tested=tested,
    )


def _scatter(before: Sequence[Piece], train: bool) -> float:
    """Relative scatter of one judged point: from second differences, to which a smooth curve adds little."""
    loss = next((piece.loss_n for piece in before if piece.train == train), np.empty(0))
    bends = np.diff(np.log(loss[len(loss) // 3 :]), 2)
    return float(np.sqrt((bends**2).mean() / 6)) if len(bends) else 0.0
