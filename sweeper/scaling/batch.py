"""Which batch a longer run should take, from laws or from the three-term loss law on a time budget."""

from __future__ import annotations

import numpy as np

from sweeper.scaling.loss_law import LossLaw
from sweeper.scaling.power_law import PowerLaw
from sweeper.scaling.setting import Start, Target, sizes

SURE = 0.95
"""Share of the loss law's draws that must agree before its batch is taken over the one that the power law wants."""
TIE = 5e-4
"""Relative differences in predicted loss below this are ties, which go to the larger batch: fewer steps, steadier."""
WIDEST = 6.0
"""Octaves about the start's batch that are considered."""


def choose_batch(start: Start, target: Target, law: PowerLaw, loss: LossLaw | None = None) -> float:
    """Tokens a step at the target, a whole multiple of the target's quantum inside its limits.

    The multiple closest to B0 (D1 / D0)^exponent; of a start whose batch may be too large already, no more than its
    own.  In seconds, where S = T / t_step(B), a loss law of (steps, batch) has the last word if it is sure and the runs
    were enough to test its form: few short budgets tell the two exponents apart badly, and what they say of a far one
    is then noise.

    Raises:
        ValueError: no multiple of the quantum lies inside the limits.
    """
    allowed = _allowed(start, target)
    gaps = [abs(np.log2(batch) - _wanted(start, target, law, batch)) for batch in allowed]
    wanted = allowed[int(np.argmin(gaps))]
    if target.seconds is not None and loss is not None and _speaks_of_batch(loss):
        least = _least_loss(target, allowed, loss)
        return least if _sure(target, loss, least, wanted) else wanted
    return wanted


def _speaks_of_batch(loss: LossLaw) -> bool:
    tested = loss.misfit.p_value is not None and not loss.misfit.flagged
    return tested and {"steps", "batch_tokens"} <= set(loss.sizes)


def _sure(target: Target, loss: LossLaw, one: float, other: float) -> bool:
    """Whether nearly all draws of the law put the loss at `one` batch below that at the other."""
    first, second = (loss.sample(sizes(target.n_params, target.tokens_at(b), b)) for b in (one, other))
    return bool((first <= second).mean() >= SURE)


def _wanted(start: Start, target: Target, law: PowerLaw, batch: float) -> float:
    """log2 of the batch that the law wants at the tokens that `batch` affords, or of the limit that it passes."""
    here = sizes(start.n_params, start.tokens, start.batch_tokens)
    there = sizes(target.n_params, target.tokens_at(batch), batch)
    moved = law.shift(here, there)[0]
    wanted = start.batch_tokens * 2.0 ** (min(moved, 0.0) if start.least_batch else moved)
    return float(np.log2(np.clip(wanted, target.least_batch, target.largest_batch)))


def _allowed(start: Start, target: Target) -> list[float]:
    """Multiples of the quantum inside the limits: all small ones, then steps of about a fifth of an octave."""
    low = max(target.least_batch, start.batch_tokens * 2.0**-WIDEST, target.batch_quantum)
    high = min(target.largest_batch, max(start.batch_tokens * 2.0**WIDEST, 2 * low))
    steps = np.exp2(np.arange(np.log2(low), np.log2(max(high, low)) + 0.1, 0.1)) / target.batch_quantum
    multiples = sorted({max(1, round(float(step))) for step in steps})
    allowed = [float(m * target.batch_quantum) for m in multiples]
    inside = [batch for batch in allowed if target.least_batch <= batch <= target.largest_batch]
    if not inside:
        raise ValueError(
            f"no multiple of {target.batch_quantum} tokens lies between {target.least_batch:g} and "
            f"{target.largest_batch:g}: lower the micro-batch or widen the limits"
        )
    return inside


def _least_loss(target: Target, allowed: list[float], loss: LossLaw) -> float:
    tokens = [target.tokens_at(batch) for batch in allowed]
    rows = [sizes(target.n_params, d, b) for d, b in zip(tokens, allowed, strict=True)]
    columns = {name: np.array([row[name] for row in rows]) for name in loss.sizes}
    predicted, _, _ = loss.predict(columns, new_run=False)
    tied = np.flatnonzero(predicted <= predicted.min() * (1 + TIE))
    return allowed[int(tied[-1])]
