"""How often a run speaks."""

from __future__ import annotations

import itertools

import torch

from trainer.clock import Clock
from trainer.config import BudgetConfig
from trainer.curve import LONGEST_SILENCE_SECONDS, MOST_STEP_EVENTS, Curve


def spoken(total_seconds: float, step_seconds: float) -> list[float]:
    """Seconds at which a run of equal steps says Step."""
    clock = Clock(BudgetConfig(seconds=total_seconds), 1, torch.device("cpu"))
    curve, said = Curve(0.5), []
    while not clock.exhausted:
        clock.step, clock.seconds = clock.step + 1, clock.seconds + step_seconds
        if curve.due(clock) is not None:
            said.append(clock.seconds)
    return said


def test_a_short_run_keeps_to_its_count_and_says_its_last_step():
    said = spoken(100.0, 0.01)
    assert 150 < len(said) <= MOST_STEP_EVENTS
    assert said[-1] >= 100.0 - 1e-6


def test_a_run_of_days_is_never_silent_for_long():
    said = spoken(50 * 3600.0, 1.0)
    assert max(b - a for a, b in itertools.pairwise(said)) <= LONGEST_SILENCE_SECONDS + 1
