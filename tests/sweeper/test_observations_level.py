"""Scores of a wallclock ladder at the tokens of the middle run."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.observations_level import levelled

SHAPE = {"n_params": 1e7, "batch_tokens": 65_536, "depth": 9.0, "device": "a GPU"}


def loss(tokens: float, rate: float) -> float:
    return (1.0 + 40 * tokens**-0.25) * math.exp(0.006 * math.log2(rate / 0.02) ** 2)


def ladder(trial: int, rate: float, speeds) -> list[dict]:
    return [
        {
            **SHAPE,
            "trial": trial,
            "budget": budget,
            "tokens": 1e6 * seconds * speed,
            "loss": loss(1e6 * seconds * speed, rate),
        }
        for (budget, seconds), speed in zip(((3.0, 3), (9.0, 9), (None, 27)), speeds, strict=True)
    ]


@given(seed=st.integers(0, 200))
def test_what_the_machine_did_is_taken_out(seed):
    random = np.random.default_rng(seed)
    rates = 0.02 * np.exp2(random.uniform(-2, 2, 9))
    rows = [row for k, rate in enumerate(rates) for row in ladder(k, rate, random.uniform(0.85, 1.15, 3))]

    made, furthest = levelled(rows)

    assert 1 < furthest < 1.36
    for budget in (3.0, 9.0, None):
        own = [row for row in made if row["budget"] == budget]
        assert len({row["tokens"] for row in own}) == 1
        for row in own:
            assert row["loss"] == pytest.approx(loss(row["tokens"], rates[row["trial"]]), rel=2e-3)


def test_nothing_is_moved_where_all_are_equally_fast():
    rows = [row for k in range(4) for row in ladder(k, 0.01 * 2**k, (1, 1, 1))]

    assert levelled(rows) == (rows, 1.0)


def test_a_run_without_a_ladder_of_its_own_stays():
    rows = [row for k in range(3) for row in ladder(k, 0.02, (1, 1, 1))]
    alone = {**ladder(3, 0.02, (1, 1, 1.2))[2]}
    diverged = {**ladder(4, 0.5, (1, 1, 0.9))[2], "loss": math.nan}

    made, _ = levelled([*rows, alone, diverged])

    assert made[-2:] == [alone, diverged]


def test_a_run_that_was_twice_as_slow_stays():
    rows = [row for k in range(4) for row in ladder(k, 0.02, (1, 1, 1))]
    slow = ladder(4, 0.02, (1, 1, 0.5))

    assert levelled([*rows, *slow])[0][-1] == slow[-1]


def test_a_ladder_of_close_budgets_does_not_tell_of_far_ones():
    """Of three within a fifth of each other: a run 1.4 times slower stays, one a little slower goes on straight."""
    random = np.random.default_rng(0)
    close = [(2.5, 2.5), (2.75, 2.75), (None, 3.0)]
    rows = []
    for trial, speed in enumerate((1.0, 1.0, 1.0, 1 / 1.4, 0.96)):
        for budget, seconds in close:
            tokens = 1e6 * seconds * speed
            noisy = loss(tokens, 0.02) * (1 + 1e-4 * random.standard_normal())
            rows.append({**SHAPE, "trial": trial, "budget": budget, "tokens": tokens, "loss": noisy})

    made, _ = levelled(rows)

    assert made[9:12] == rows[9:12]
    assert made[14]["tokens"] == 3e6
    assert made[14]["loss"] == pytest.approx(loss(3e6, 0.02), rel=2e-3)
