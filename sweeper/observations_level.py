"""Scores under a wallclock cap, moved to the tokens that their budget usually comes to.

A shared machine is not always equally fast: on one the same three seconds held 25 to 36 steps of the same shape, and a
fifth more tokens move the score further than an octave of learning rate does. A run with a ladder says itself how its
score goes with tokens: it is read off there, between its own budgets, where the middle run of the same shape stood.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from sweeper.scaling.records import Array

FURTHEST = 1.5
"""A run slower or faster than the middle one by more than this factor stays where it is."""
SHARE_OF_SPAN = 0.5
"""So does one that would be moved by more than this share of its own ladder, in logs: that does not tell so far."""
NEAREST = 3
"""Budgets of the run that a score is read off from; two, a straight line, beyond those that lie close together."""

Row = dict[str, Any]


def levelled(rows: Sequence[Row]) -> tuple[list[Row], float]:
    """The rows at the median tokens of all rows of their shape and budget; and the largest factor that one was moved.

    Loss is interpolated in logs through the run's own nearest budgets. Runs with one budget, and diverged ones, are as
    they were: nothing says how their score goes with tokens.

    Args:
        rows: with trial, n_params, batch_tokens, depth, device, budget, tokens, loss.
    """
    shared: dict[tuple[Any, ...], list[float]] = {}
    own: dict[int, list[Row]] = {}
    for row in rows:
        if math.isfinite(row["loss"]):
            shared.setdefault(_peers(row), []).append(row["tokens"])
            own.setdefault(row["trial"], []).append(row)
    made, furthest = [], 1.0
    for row in rows:
        mine = own.get(row["trial"], [])
        if len(mine) < 2 or not math.isfinite(row["loss"]):
            made.append(row)
            continue
        tokens = float(np.median(shared[_peers(row)]))
        x, y = (np.log([one[name] for one in mine]) for name in ("tokens", "loss"))
        factor = max(tokens / row["tokens"], row["tokens"] / tokens)
        if factor > FURTHEST or math.log(factor) > SHARE_OF_SPAN * float(np.ptp(x)):
            made.append(row)
            continue
        furthest = max(furthest, factor)
        made.append({**row, "tokens": tokens, "loss": row["loss"] if factor == 1 else _read_off(x, y, tokens)})
    return made, furthest


def _peers(row: Row) -> tuple[Any, ...]:
    """What decides how many tokens a budget comes to, but for the machine's mood."""
    return tuple(row[name] for name in ("n_params", "batch_tokens", "depth", "device", "budget"))


def _read_off(log_tokens_m: Array, log_loss_m: Array, tokens: float) -> float:
    """The loss at `tokens` on the polynomial through the nearest of the run's points, in logs."""
    at = math.log(tokens)
    beyond = max(at - log_tokens_m.max(), log_tokens_m.min() - at, 0.0)
    near = np.argsort(np.abs(log_tokens_m - at))[:NEAREST]
    if np.diff(np.sort(log_tokens_m[near])).min() < 2 * beyond:
        near = near[:2]
    x, y = log_tokens_m[near], log_loss_m[near]
    others = [np.delete(x, place) for place in range(len(x))]
    shares = [np.prod((at - rest) / (x[place] - rest)) for place, rest in enumerate(others)]
    return math.exp(float(np.dot(shares, y)))
