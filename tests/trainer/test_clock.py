"""Training seconds against a budget."""

from __future__ import annotations

import time

import pytest
import torch

from trainer.clock import Clock
from trainer.config import BudgetConfig

CPU = torch.device("cpu")


def test_seconds_count_only_between_resume_and_pause():
    clock = Clock(BudgetConfig(seconds=10.0), 64, CPU)
    clock.resume()
    time.sleep(0.02)
    clock.tick()
    clock.pause()
    counted = clock.seconds
    time.sleep(0.05)
    assert 0.02 <= counted == clock.seconds
    clock.resume()
    clock.tick()
    clock.pause()
    assert counted < clock.seconds < counted + 0.05
    assert clock.done.step == clock.step == 2
    assert clock.done.tokens == clock.tokens == 128


def test_a_coming_step_is_scheduled_at_its_middle_by_the_mean_of_a_step():
    clock = Clock(BudgetConfig(seconds=1.0), 1, CPU)
    clock.resume()
    for pause in (0.01, 0.03):
        time.sleep(pause)
        clock.tick()
    assert clock.next_progress == pytest.approx(clock.seconds + clock.seconds / 2 / 2)
    clock.pause()


def test_a_budget_in_tokens_ends_with_its_last_step():
    clock = Clock(BudgetConfig(tokens=192), 64, CPU)
    clock.resume()
    seen = []
    while not clock.exhausted:
        seen.append(clock.next_progress)
        clock.tick()
    clock.pause()
    assert seen == pytest.approx([1 / 6, 3 / 6, 5 / 6])
    assert clock.done.progress == clock.progress == 1.0


def test_a_reading_of_another_rank_is_gone_by():
    clock, other = (Clock(BudgetConfig(seconds=10.0), 64, CPU) for _ in range(2))
    other.reading = 4.0, 0.5
    clock.reading = other.reading
    assert clock.next_progress == other.next_progress == pytest.approx(0.425)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: only there steps are issued ahead")
@pytest.mark.parametrize("budget", [BudgetConfig(seconds=0.5), BudgetConfig(tokens=60)])
def test_steps_are_issued_ahead_and_the_end_of_the_budget_is_measured(budget):
    device = torch.device("cuda")
    work = torch.randn(4096, 4096, device=device)
    clock = Clock(budget, 1, device)
    clock.resume()
    ahead = []
    while not clock.exhausted:
        for _ in range(4):
            work = (work @ work).clamp(-1, 1)
        clock.tick()
        ahead.append(clock.step - clock.done.step)
    seconds = clock.seconds
    clock.pause()
    assert max(ahead) > 1
    assert ahead[-1] == 0
    assert clock.seconds - seconds < 0.01  # nothing was left to wait for
    assert clock.progress == 1.0
