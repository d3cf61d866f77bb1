"""Which losses end a run."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.divergence import Diverged, DivergenceWatch

INITIAL = 6.97
CONSTANT_OUTPUT = math.log(1024)


def seen(losses: list[float], watch: DivergenceWatch | None = None) -> DivergenceWatch:
    watch = watch or DivergenceWatch()
    for step, loss in enumerate(losses, start=1):
        watch.see(loss, step, step / len(losses))
    return watch


def test_a_run_that_dies_to_a_constant_output_has_diverged():
    with pytest.raises(Diverged, match=r"is back at its initial value 6\.9700, after 4\.3000"):
        seen([INITIAL, 6.0, 5.0, 4.3] + [CONSTANT_OUTPUT] * 10)


def test_one_that_never_learned_is_left_to_its_end():
    seen([INITIAL] + [CONSTANT_OUTPUT] * 30)


def test_a_spike_that_heals_is_no_divergence():
    seen([INITIAL, 5.0, 4.5, 4.4, 9.0, 8.0, 4.4] + [4.3] * 10)


def test_what_was_seen_goes_on_from_a_checkpoint():
    before = seen([INITIAL, 5.0, 4.0])
    after = DivergenceWatch()
    after.restore(before.state())
    with pytest.raises(Diverged, match=r"after 4\.0000"):
        seen([CONSTANT_OUTPUT] * 3, after)
    earlier_version = DivergenceWatch()
    earlier_version.restore({"initial": INITIAL, "above": 0})
    seen([CONSTANT_OUTPUT] * 3, earlier_version)


@given(st.lists(st.floats(0.0, INITIAL - 0.3), min_size=1, max_size=60))
def test_no_run_that_stays_below_its_beginning_diverges(losses):
    seen([INITIAL, *losses])
