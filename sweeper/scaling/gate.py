"""When a transfer should be confirmed before it is paid for, and by which runs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sweeper.scaling.setting import Laws, Start, Target
from sweeper.scaling.transfer import Candidate, Values, candidates

LONGEST_REACH = 8.0
"""Times the tokens of the start beyond which a law is not trusted unconfirmed."""
SLACK = 1.05
"""Confirmation runs of an eighth of the target may end this much short of it: a device is not always equally fast."""
WIDEST_OCTAVES = 1.0
"""Half width of the 95 % interval of the best rate."""
LADDER = (0.7, 1.0, 1.4)
"""Rates of the confirmation runs, over the candidate's."""
SHARE = 1 / 8
"""Horizon of a confirmation run over the target's, and so its cost."""
LEAST_REACH = 1.5
"""It must at least be this much longer than the start, or it tells nothing new."""


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """What to run before the full run; refit with the outcome."""

    reasons: tuple[str, ...]
    """Why; empty: run it as it is."""
    runs: tuple[Values, ...]
    """Three rates at an eighth of the horizon, or more where the start was longer; one constant-rate trunk with short
    cool-downs serves as well.  None where they would be as long as the start's own runs: more of those tell as much."""
    cost_share: float
    """Of all of them together, over the full run's."""

    @property
    def needed(self) -> bool:
        return bool(self.reasons)


def confirmation(start: Start, target: Target, laws: Laws, candidate: Candidate) -> Confirmation:
    """Whether the candidate needs confirming: horizon more than 8 times the start's, rate unsure by more than an octave
    either way, or an optimum at the edge of what was tried.

    From confirmation runs that hold an optimum, edges of the study's own cells matter no more: where the best rate is
    was measured near the target.  Where theirs lies at an edge, the next ones are as long, about that edge.

    Args:
        candidate: one of `candidates(start, target, laws)`.
    """
    reasons: list[str] = []
    reach = candidate.values.tokens / start.tokens
    if reach > LONGEST_REACH * SLACK:
        reasons.append(f"{reach:.1f} times the tokens of the short run; laws are trusted up to {LONGEST_REACH:g}")
    half = 1.96 * candidate.rate_deviation
    if half > WIDEST_OCTAVES:
        reasons.append(f"the best rate is known to ±{half:.1f} octaves (95 %), ±{WIDEST_OCTAVES:g} is enough")
    if start.censored:
        whose = "confirmation runs'" if start.confirmed else "short run's"
        reasons.append(f"the {whose} best rate lies at the edge of what was tried")
    elif laws.censored and not start.confirmed:
        reasons.append(f"{laws.censored} cells have their optimum at the edge of what was tried")
    if not reasons:
        return Confirmation(reasons=(), runs=(), cost_share=0.0)
    least = 1.0 if start.confirmed and start.censored else LEAST_REACH
    if reach < least:
        return Confirmation(reasons=tuple(reasons), runs=(), cost_share=0.0)
    share = min(1.0, max(SHARE, least / reach))
    nearer = replace(
        target,
        tokens=None if target.tokens is None else target.tokens * share,
        seconds=None if target.seconds is None else target.seconds * share,
    )
    middle = {one.name: one for one in candidates(start, nearer, laws)}[candidate.name].values
    runs = tuple(_at(middle, factor, nearer.mean_rate) for factor in LADDER)
    return Confirmation(reasons=tuple(reasons), runs=runs, cost_share=share * len(LADDER))


def _at(values: Values, factor: float, mean_rate: float) -> Values:
    """The same run at another rate, with its tau: decay falls as the rate rises."""
    rate = values.learning_rate * factor
    decay = 1 / (values.tau * rate * values.steps * mean_rate)
    assert np.isfinite(decay)
    return replace(values, learning_rate=rate, rate_factor=values.rate_factor * factor, weight_decay=decay)
