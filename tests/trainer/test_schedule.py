"""The schedule as a function of progress."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trainer.config import OptimConfig, ScheduleConfig
from trainer.schedule import lr_factor, momentum

shares = st.floats(0, 1)


@given(progress=shares, warmup=st.floats(0, 0.5), warmdown=st.floats(0, 0.5), final=shares)
def test_the_factor_stays_between_zero_and_one_and_is_one_on_the_trunk(progress, warmup, warmdown, final):
    schedule = ScheduleConfig(warmup=warmup, warmdown=warmdown, final_lr=final)
    factor = lr_factor(schedule, progress)
    assert 0 <= factor <= 1
    if warmup <= progress < 1 - warmdown:
        assert factor == 1


def test_warmup_and_warmdown_are_linear_to_their_ends():
    schedule = ScheduleConfig(warmup=0.2, warmdown=0.5, final_lr=0.1)
    assert lr_factor(schedule, 0.1) == 0.5
    assert abs(lr_factor(schedule, 0.75) - 0.55) < 1e-12
    assert abs(lr_factor(schedule, 1.0) - 0.1) < 1e-12


def test_momentum_rises_over_its_share_of_the_budget():
    optim = OptimConfig(momentum=0.95, momentum_start=0.85, momentum_warmup=0.1)
    assert momentum(optim, 0.0) == 0.85
    assert abs(momentum(optim, 0.05) - 0.90) < 1e-12
    assert momentum(optim, 0.1) == momentum(optim, 1.0) == 0.95
    assert momentum(OptimConfig(momentum_warmup=0), 0.0) == 0.95
