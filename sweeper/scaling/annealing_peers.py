"""The rest of a run's loss under its own schedule, from its curve so far and from whole curves of runs like it.

Three terms (Tissue et al. 2024, arXiv:2408.11029): loss = floor + A S^-alpha - C S2 (+ D on training losses), S the sum
of rates over their peak, S2 the annealing area.  Alpha and the area's memory are shared; floor, A, C and D are common
to all runs up to deviations that are a priori small, so that a run's own curve moves its level and slope, and its peers
say what a fall of the rate will gain that has not begun.  Peak rates may differ, unlike in `annealing`.
Shape key: n points, m places, r runs, G pairs of alpha and memory, q = 4 terms a run, Q = 4 (r + 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sweeper.scaling.rates import Rates
from sweeper.scaling.records import Array, positive

ALPHAS = np.array([0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0])
MEMORIES = np.array([1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4])
"""Tokens over which a fall's gain comes in, as shares of the longest peer."""
DEVIATION = np.array([0.02, 0.02, 0.02, 0.01])
"""A priori, of a run's terms from the common ones, as shares of the typical loss."""
SCATTER_HELD_OUT, SCATTER_TRAIN = 0.012, 0.02
"""Relative scatter of the two kinds of loss, by which they are weighed against each other."""
DRIFT = 0.05
"""By how much the law may be off an e-fold of tokens ago: no power holds over a whole curve, and the recent part says
more of what follows.  Measured with the others on the packaged runs, see benchmarks.full_forecast."""
BEYOND = 0.01
"""Deviation for each e-fold of tokens beyond the longest peer, which no back-test on peers can see: another form of law
that looks the same on the peers (the Multi-Power Law's) is off by that."""
BLOCKS = 16
"""Independent errors in a curve: neighbours err alike."""
NEAR_END = 0.9
"""A curve that stops before this share of its run says nothing of the end."""
QUARTERS = 4
"""Pieces of what is to come, over each of which the error of back-tests is taken as one number."""


@dataclass(frozen=True, eq=False)
class Piece:
    """Losses of one kind on a run, or on a branch of it that had a schedule of its own."""

    rates: Rates
    """Over tokens."""
    at_n: Array
    """Tokens, ascending."""
    loss_n: Array
    train: bool
    """Of training batches; else held out."""

    def __post_init__(self) -> None:
        at, loss = positive("tokens", self.at_n, 0), positive("loss", self.loss_n, 0)
        if len(at) != len(loss) or (np.diff(at) <= 0).any():
            raise ValueError(f"as many losses as ascending tokens are needed, got {len(loss)} losses at {at}")


Run = Sequence[Piece]


@dataclass(frozen=True, eq=False)
class Foretold:
    """Log losses to come, without the scatter of single measurements.

    Deviations are those of the fit alone, in proportion to its misfit: what they miss, back-tests tell.
    """

    log_loss_m: Array
    sd_m: Array
    runs: int
    """Peers."""


@dataclass(frozen=True, slots=True, eq=False)
class BackTest:
    """Each peer cut at the same share of its tokens, the rest foretold from its beginning and the other peers."""

    judged: int
    error: float
    """Mean absolute log error at their ends; NaN where none was judged."""
    excess: tuple[float, ...]
    """Deviation by which errors were larger than stated, over each quarter of what was to come; it never falls."""

    def widened(self, sd_m: Array, share_m: Array, share: float) -> Array:
        """Deviations with that added; where no peer was judged, as much drift as the fit allows for.

        Args:
            share_m: places, as shares of the run.
            share: from which they are foretold.
        """
        if not self.judged:
            return np.asarray(np.hypot(sd_m, DRIFT * np.log(share_m / share)))
        ahead = (share_m - share) / (1 - share)
        middles = (np.arange(QUARTERS) + 0.5) / QUARTERS
        return np.asarray(np.hypot(sd_m, np.interp(ahead, middles, self.excess)))


def foretell(own: Run, peers: Sequence[Run], rates: Rates, at_m: Array, *, train: bool) -> Foretold:
    """Losses of a run at places to come.

    Args:
        own: its pieces so far, not empty; of no piece may the losses be those that are to be foretold.
        rates: its planned ones.
        at_m: tokens.
        train: which kind of loss is foretold.
    """
    runs = [own, *peers]
    typical = float(np.median(np.concatenate([piece.loss_n for piece in own])))
    unit = max(float(piece.rates.sums(piece.at_n)[-1]) / piece.rates.peak for piece in own)
    longest = max(float(piece.at_n[-1]) for run in (peers or runs) for piece in run)
    equations = [_equations(run, typical, unit, longest) for run in runs]
    gram, right = _assembled(equations)
    found = np.linalg.solve(gram, right[..., None])[..., 0]
    squares, count = sum(e.squares for e in equations), sum(e.count for e in equations)
    misfit = squares - (right * found).sum(axis=1)
    variance = max(float(misfit.min()) / count, 1e-12)
    independent = min(1.0, BLOCKS * len(runs) / count)
    trust = np.exp(-0.5 * (misfit - misfit.min()) / variance * independent)
    trust /= trust.sum()
    rows = _design(rates, at_m, unit, longest, train)
    places = np.concatenate([rows, rows, np.zeros((*rows.shape[:2], gram.shape[1] - 8))], axis=2)
    told = np.einsum("GmQ,GQ->Gm", places, found)
    spread = np.linalg.solve(gram, places.transpose(0, 2, 1))
    within = np.einsum("GmQ,GQm->Gm", places, spread) * variance / independent
    mean = np.maximum(trust @ told, 1e-3)
    total = trust @ (within + (told - mean) ** 2)
    return Foretold(np.log(mean * typical), np.sqrt(total) / mean, len(peers))


def back_test(peers: Sequence[Run], share: float, *, train: bool) -> BackTest:
    """How `foretell` does on the peers themselves, each cut at a share of its own tokens."""
    ends, over = [], np.zeros((2, QUARTERS))
    for k, peer in enumerate(peers):
        last = max(float(piece.at_n[-1]) for piece in peer)
        whole = [piece for piece in peer if piece.train == train and piece.at_n[-1] > NEAR_END * last]
        before = cut(peer, share * last)
        if not whole or not before:
            continue
        main = max(whole, key=lambda piece: len(piece.at_n))
        later = main.at_n > share * last
        told = foretell(before, [*peers[:k], *peers[k + 1 :]], main.rates, main.at_n[later], train=train)
        off = np.log(main.loss_n[later]) - told.log_loss_m
        ahead = (main.at_n[later] / last - share) / (1 - share)
        quarter = np.minimum((QUARTERS * ahead).astype(int), QUARTERS - 1)
        for q in np.unique(quarter):
            over[:, q] += 1, (off**2 - told.sd_m**2)[quarter == q].mean()
        ends.append(abs(float(off[-max(1, len(off) // BLOCKS) :].mean())))
    excess = np.maximum.accumulate(np.sqrt(np.maximum(over[1], 0.0) / np.maximum(over[0] - 1, 1)))
    return BackTest(len(ends), float(np.mean(ends)) if ends else float("nan"), tuple(excess.tolist()))


def cut(run: Run, tokens: float) -> list[Piece]:
    """What of a run was known by then."""
    kept = [(piece, piece.at_n <= tokens) for piece in run]
    return [Piece(p.rates, p.at_n[seen], p.loss_n[seen], p.train) for p, seen in kept if seen.any()]


@dataclass(frozen=True, eq=False)
class _Equations:
    """Normal equations of one run's losses, for every pair of alpha and memory."""

    gram: Array
    """(G, q, q)"""
    right: Array
    """(G, q)"""
    squares: float
    count: int


def _equations(run: Run, typical: float, unit: float, longest: float) -> _Equations:
    last = max(float(piece.at_n[-1]) for piece in run)
    rows, values = [], []
    for piece in run:
        scatter = SCATTER_TRAIN if piece.train else SCATTER_HELD_OUT
        loss = piece.loss_n / typical
        deviation = loss * np.hypot(scatter, DRIFT * np.log(last / piece.at_n))
        rows.append(_design(piece.rates, piece.at_n, unit, longest, piece.train) / deviation[:, None])
        values.append(loss / deviation)
    design, value = np.concatenate(rows, axis=1), np.concatenate(values)
    turned = design.transpose(0, 2, 1)
    return _Equations(turned @ design, turned @ value, float(value @ value), len(value))


def _design(rates: Rates, at: Array, unit: float, longest: float, train: bool) -> Array:
    """(G, len(at), q): one, the power, the annealing area, and whether it is a training loss."""
    drops, peak = rates.drops(), rates.peak
    since = np.maximum(at[:, None] - drops.step_j, 0.0)
    areas = [-np.expm1(-since / (memory * longest)) @ drops.fall_j / peak for memory in MEMORIES]
    sums = np.maximum(rates.sums(at) / peak, 1e-9 * unit) / unit
    powers = sums ** -ALPHAS[:, None]
    shape = (len(MEMORIES), len(ALPHAS), len(at))
    columns = [
        np.ones(shape),
        np.broadcast_to(powers, shape),
        np.broadcast_to(-np.array(areas)[:, None], shape),
        np.full(shape, float(train)),
    ]
    return np.stack(columns, axis=3).reshape(-1, len(at), 4)


def _assembled(equations: Sequence[_Equations]) -> tuple[Array, Array]:
    """(G, Q, Q) and (G, Q): common terms first, then each run's deviations, which a priori are small."""
    pairs, runs = len(equations[0].gram), len(equations)
    gram, right = np.zeros((pairs, 4 * (runs + 1), 4 * (runs + 1))), np.zeros((pairs, 4 * (runs + 1)))
    common = slice(0, 4)
    for k, one in enumerate(equations, start=1):
        own = slice(4 * k, 4 * (k + 1))
        gram[:, common, common] += one.gram
        gram[:, common, own] = one.gram
        gram[:, own, common] = one.gram
        gram[:, own, own] = one.gram + np.diag(DEVIATION**-2)
        right[:, common] += one.right
        right[:, own] = one.right
    gram[:, common, common] += np.diag([1e-2, 1e-2, 1e-2, (3 * DEVIATION[3]) ** -2])
    return gram, right
