"""A full run's loss foretold under its own schedule, and whether what is measured stays in the band.

Bands are made at fixed shares of the run, each from the points before it and from runs that had ended before the run
began; it judges the points after it alone, up to the next.  So no point is judged by a band that it helped to make.
While the newest points lie outside, no new band is made: it would learn what it should tell.
Shape key: n points, m places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np

from sweeper.full_bands import Band, Course, band_from, pieces_of, reach
from sweeper.full_rates import rates_of
from sweeper.scaling.annealing_peers import Piece, cut
from sweeper.scaling.rates import Rates
from sweeper.scaling.records import Array

ORIGINS = (0.2, 0.3, 0.5, 0.7)
"""Shares of the run at which a band is made."""
FEWEST_HELD_OUT = 5
"""Validations by the first band from which on they are judged; before that many, training losses are."""
LEAVING = 2
"""Newest points outside on one side while which no new band is made."""
IN_A_ROW = 3
"""Points outside on one side before it counts."""

State = Literal["inside", "above", "below", "none"]


@dataclass(frozen=True, kw_only=True, eq=False)
class FullForecast:
    """The bands, what was measured since, and how the two agree."""

    kind: str
    """`held-out loss` or `train loss`: which is foretold and judged."""
    bands: tuple[Band, ...]
    """Oldest first; each judges up to where the next was made."""
    tokens_n: Array
    loss_n: Array
    """Judged points: validations, or means of training losses over a sixtieth of the run."""
    state: State
    """`above` and `below` after IN_A_ROW points outside; `none` where there is no band."""
    since_step: int | None
    """Of the first point outside in that row."""
    by: float | None
    """Nats by which the newest point lies outside."""
    words: str
    """A sentence or two: the forecast and the state, or why there is no band."""
    before: tuple[tuple[str, int, int], ...] = ()
    """Alarms that are over: side, first and last step outside."""
    until: str = ""
    """Why the newest band ends before the run does; empty where it does not."""

    @property
    def alarm(self) -> bool:
        return self.state in ("above", "below")


Keep = Callable[[str, Sequence[Array], Callable[[], Band | str]], Band | str]
"""Such as observations_kept.Kept.get."""


def no_forecast(why: str, kind: str = "train loss") -> FullForecast:
    empty = np.empty(0)
    return FullForecast(
        kind=kind,
        bands=(),
        tokens_n=empty,
        loss_n=empty,
        state="none",
        since_step=None,
        by=None,
        words=f"No band: {why}.",
    )


def full_forecast(run: Course, peers: Sequence[Course], left_out: str, keep: Keep) -> FullForecast:
    """Bands and verdict of a run so far.

    Args:
        peers: runs of the same model, batch and data that had ended before this one began.
        left_out: what other runs there were and why they are no peers, in words.
        keep: returns what its third argument makes, or made for equal columns.
    """
    rates = rates_of(run.config, run.tokens)
    if isinstance(rates, str) or run.tokens <= 0:
        return no_forecast(rates if isinstance(rates, str) else "how many tokens the run trains is not known")
    reached = float(run.points.tokens.max(initial=0)) / run.tokens
    if reached < ORIGINS[0]:
        return no_forecast(f"one is made from {ORIGINS[0]:.0%} of the run on, and it is at {reached:.0%}")
    own = pieces_of(run, rates)
    others = [pieces_of(peer, r) for peer in peers if isinstance(r := rates_of(peer.config, peer.tokens), Rates)]
    others = [pieces for pieces in others if pieces]
    end, until = reach(run, rates, others, left_out)
    at, loss, kind = _to_judge(own, run, reached)
    made: list[Band] = []
    why = ""
    for share in (share for share in ORIGINS if share <= reached):
        off = _outside(at[at <= share * run.tokens], loss, made, run.tokens)
        sides = np.sign(off[-LEAVING:])
        if len(sides) == LEAVING and abs(sides.sum()) == LEAVING:
            continue
        before = _without_alarms(cut(own, share * run.tokens), at, off)
        columns = [c for pieces in (before, *others) for piece in pieces for c in _columns(piece)]
        make = partial(band_from, before, others, rates, share, end, run.tokens, kind == "train loss")
        band = keep(f"full run {share} {run.tokens} {kind} {end}", columns, make)
        if isinstance(band, Band):
            made.append(band)
        else:
            why = band
    if not made:
        return no_forecast(until if end <= ORIGINS[0] * run.tokens else why, kind)
    return _judged(run, at, loss, made, kind, until)


def _to_judge(own: Sequence[Piece], run: Course, reached: float) -> tuple[Array, Array, str]:
    """Places and losses of the points that bands judge, and their kind."""
    first = ORIGINS[0] * run.tokens
    train = sum(int((p.at_n <= first).sum()) for p in own if not p.train) < FEWEST_HELD_OUT
    of_kind = [piece for piece in own if piece.train == train]
    if not of_kind:
        return np.empty(0), np.empty(0), "train loss"
    main = max(of_kind, key=lambda piece: len(piece.at_n))
    at, loss = main.at_n, main.loss_n
    if train and reached < 1:
        at, loss = at[:-1], loss[:-1]  # the newest mean is not complete, and would change what was said of it
    return at[at > first], loss[at > first], "train loss" if train else "held-out loss"


def _without_alarms(pieces: Sequence[Piece], at_n: Array, off_n: Array) -> list[Piece]:
    """What alarms were given for says nothing of how a run goes on that is back in its band."""
    spans = [(at_n[first], at_n[last]) for _, first, last in _rows(np.sign(off_n)) if last - first + 1 >= IN_A_ROW]
    found = []
    for piece in pieces:
        kept = np.ones(len(piece.at_n), dtype=bool)
        for first, last in spans:
            kept &= (piece.at_n < first) | (piece.at_n > last)
        if kept.any():
            found.append(Piece(piece.rates, piece.at_n[kept], piece.loss_n[kept], piece.train))
    return found


def _columns(piece: Piece) -> tuple[Array, ...]:
    return piece.at_n, piece.loss_n, piece.rates.step_k, piece.rates.rate_k, np.array([float(piece.train)])


def _judged(run: Course, at: Array, loss: Array, bands: Sequence[Band], kind: str, until: str) -> FullForecast:
    off = _outside(at, loss, bands, run.tokens)
    found = FullForecast(
        kind=kind,
        bands=tuple(bands),
        tokens_n=at,
        loss_n=loss,
        state="inside",
        since_step=None,
        by=None,
        words="",
        until=until,
    )
    known = np.isfinite(off)
    return _with_words(_standing(found, run, at[known], off[known]), run)


def _outside(at_n: Array, loss_n: Array, bands: Sequence[Band], tokens: float) -> Array:
    """Nats above (positive) or below the bands that judge these points; 0 inside; NaN where none does.

    Args:
        loss_n: of these points, or of more that follow.
    """
    off = np.full(len(at_n), np.nan)
    for band in bands:
        judged = (at_n > band.share * tokens) & (at_n <= band.tokens_m[-1] * (1 + 1e-9))
        off[at_n > band.share * tokens] = np.nan
        low, high = (np.interp(at_n, band.tokens_m, bound) for bound in (band.low_m, band.high_m))
        loss = loss_n[: len(at_n)]
        beyond = np.maximum(loss - high, 0.0) + np.minimum(loss - low, 0.0)
        off[judged] = beyond[judged]
    return off


def _standing(found: FullForecast, run: Course, at_n: Array, off_n: Array) -> FullForecast:
    """The state after the newest point: an alarm needs IN_A_ROW on one side, and lasts until a point is back."""
    rows = [(side, first, last) for side, first, last in _rows(np.sign(off_n)) if last - first + 1 >= IN_A_ROW]
    steps = run.points.step[np.searchsorted(run.points.tokens, at_n).clip(max=len(run.points.step) - 1)].astype(int)
    told = [("above" if side > 0 else "below", int(steps[first]), int(steps[last])) for side, first, last in rows]
    if not rows or rows[-1][2] < len(off_n) - 1:
        return replace(found, before=tuple(told))
    state: State = "above" if rows[-1][0] > 0 else "below"
    by = abs(float(off_n[-1]))
    return replace(found, state=state, since_step=told[-1][1], by=by, before=tuple(told[:-1]))


def _rows(side_n: Array) -> list[tuple[float, int, int]]:
    """Points in a row on one side of the band: which, the first and the last."""
    bounds = np.flatnonzero(np.diff(side_n)) + 1
    first, last = [0, *bounds.tolist()], [*(bounds - 1).tolist(), len(side_n) - 1]
    return [(float(side_n[a]), a, b) for a, b in zip(first, last, strict=True) if len(side_n) and side_n[a]]


def _with_words(found: FullForecast, run: Course) -> FullForecast:
    band = found.bands[-1]
    place = "at its end" if band.tokens_m[-1] >= run.tokens * (1 - 1e-9) else f"at {band.tokens_m[-1]:.3g} tokens"
    end = f"{found.kind} {band.end.value:.4f} ({band.end.low:.4f} to {band.end.high:.4f}) {place}"
    told = f"Foretold from {band.share:.0%} of the run and {band.peers} earlier runs: {end}."
    if found.state == "inside":
        said = "The measured losses keep to the band." if len(found.tokens_n) else "No point to judge yet."
        for side, first, last in found.before[-1:]:
            said = f"The measured losses are back in the band; they were {side} it from step {first:,} to {last:,}."
    else:
        said = (
            f"The {found.kind} is {found.state} its band since step {found.since_step:,}, now by {found.by:.4f} nats "
            f"beyond the bound."
        )
    rest = f" The band ends there: {found.until}." if found.until else ""
    return replace(found, words=f"{said} {told}{rest}")
