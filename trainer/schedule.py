"""Learning rate and momentum as pure functions of progress in [0, 1]."""

from __future__ import annotations

from trainer.config import OptimConfig, ScheduleConfig


def lr_factor(schedule: ScheduleConfig, progress: float, warming: float | None = None) -> float:
    """Share of the peak rate at `progress`: a linear warm-up, a constant trunk, a linear warmdown.

    Every length is a share of the budget, so the same file means the same schedule on any device.

    Args:
        warming: progress in the budget that the warm-up is a share of; None for the same one.
    """
    warming = progress if warming is None else warming
    if warming < schedule.warmup:
        return warming / schedule.warmup
    remaining = 1.0 - progress
    if remaining >= schedule.warmdown:
        return 1.0
    return schedule.final_lr + (1.0 - schedule.final_lr) * max(0.0, remaining) / schedule.warmdown


def momentum(optim: OptimConfig, progress: float) -> float:
    """Muon's momentum: linear from `momentum_start` to `momentum` over `momentum_warmup`."""
    if progress >= optim.momentum_warmup:
        return optim.momentum
    share = progress / optim.momentum_warmup
    return (1.0 - share) * optim.momentum_start + share * optim.momentum
