from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.scaling.records import Unidentified
from sweeper.scaling.step_time import fit_step_time

DEPTH, BATCH = (a.ravel() for a in np.meshgrid([4.0, 8.0, 12.0], [2.0**k for k in (15, 16, 17, 18)]))


def seconds(depth, batch, overhead=0.01, layer=0.003, token=1e-8, both=2e-8):
    return overhead + layer * depth + token * batch + both * batch * depth


@given(overhead=st.floats(0, 0.05), layer=st.floats(0, 0.01), token=st.floats(0, 1e-7), both=st.floats(1e-9, 1e-7))
def test_exact_times_are_recovered_inside_and_outside_what_was_measured(overhead, layer, token, both):
    parts = (overhead, layer, token, both)

    law = fit_step_time(DEPTH, BATCH, seconds(DEPTH, BATCH, *parts), draws=5)

    assert law.seconds(6, 1e5).value == pytest.approx(seconds(6, 1e5, *parts), rel=1e-3)
    assert law.seconds(16, 5e5).value == pytest.approx(seconds(16, 5e5, *parts), rel=1e-3)


def test_one_stalled_measurement_does_not_bend_the_law():
    times = seconds(DEPTH, BATCH) * np.exp(0.01 * np.random.default_rng(0).normal(size=12))
    times[3] *= 2

    law = fit_step_time(DEPTH, BATCH, times)

    assert law.seconds(8, 131_072).value == pytest.approx(seconds(8, 131_072), rel=0.03)
    assert law.seconds(8, 131_072).low < seconds(8, 131_072) < law.seconds(8, 131_072).high


def test_steps_of_a_budget_are_its_seconds_over_those_of_a_step():
    law = fit_step_time(DEPTH, BATCH, seconds(DEPTH, BATCH))

    steps = law.steps(600, 8, 131_072)

    assert steps.value == pytest.approx(600 / seconds(8, 131_072), rel=1e-3)
    assert steps.low <= steps.value <= steps.high


def test_one_depth_and_one_batch_give_the_price_of_a_token():
    law = fit_step_time([8.0, 8.0, 8.0], [1e5, 1e5, 1e5], [0.1, 0.11, 0.1])

    assert law.seconds(8, 2e5).value == pytest.approx(0.2, rel=0.05)


def test_one_measurement_is_not_enough():
    assert isinstance(fit_step_time([8.0], [1e5], [0.1]), Unidentified)


def test_a_time_of_zero_is_refused():
    with pytest.raises(ValueError, match="seconds must be finite and positive"):
        fit_step_time([8.0, 9.0], [1e5, 1e5], [0.1, 0.0])
