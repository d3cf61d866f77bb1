from __future__ import annotations

import numpy as np
import pytest

from sweeper.scaling.grouping import best_of_cells, cells, cluster
from sweeper.scaling.optimum import fit_optimum
from sweeper.scaling.records import observations

GIVEN = {"n_params": 1e7, "learning_rate": [0.01, 0.02], "loss": [3.0, 3.1], "steps": 1000, "batch_tokens": 65_536}


def test_two_of_tokens_steps_and_batch_give_the_third():
    runs = observations(**GIVEN)

    assert runs.tokens.tolist() == [65_536_000.0] * 2
    assert np.isnan(runs.weight_decay).all()


def test_tau_is_one_over_rate_decay_and_steps_and_infinite_without_decay():
    runs = observations(**GIVEN, weight_decay=[0.05, 0.0])

    assert runs.tau[0] == pytest.approx(1 / (0.01 * 0.05 * 1000))
    assert np.isinf(runs.tau[1])


def test_a_loss_that_is_not_finite_is_a_divergence():
    assert observations(**{**GIVEN, "loss": [3.0, np.nan]}).diverged.tolist() == [False, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_params": -1.0}, "n_params must be finite and positive, got -1.0 in row 0"),
        ({"loss": [3.0, -2.0]}, "loss must be positive, got -2.0 in row 1"),
        ({"learning_rate": [0.1, 0.2, 0.3]}, "learning_rate must hold 2 values"),
        ({"tokens": 1e9}, "tokens must be steps x batch_tokens; row 0 is off"),
        ({"weight_decay": -0.1}, "weight_decay must not be negative"),
    ],
)
def test_wrong_columns_are_refused_by_name_value_and_row(change, message):
    with pytest.raises(ValueError, match=message):
        observations(**{**GIVEN, **change})


def test_one_of_tokens_steps_and_batch_is_not_enough():
    with pytest.raises(ValueError, match="two of tokens, steps and batch_tokens are needed, got \\['steps'\\]"):
        observations(n_params=1e7, learning_rate=0.1, loss=[3.0], steps=100)


def test_cells_hold_runs_whose_horizons_differ_by_less_than_the_tolerance():
    runs = observations(
        n_params=1e7, learning_rate=0.1, loss=[3.0, 3.1, 2.9, 2.8], steps=[1000, 1040, 1100, 2000], batch_tokens=1024
    )

    assert [rows.tolist() for rows in cells(runs)] == [[0, 1], [2], [3]]


def test_no_runs_make_no_cells():
    runs = observations(n_params=1e7, learning_rate=0.1, loss=[], steps=100, batch_tokens=1024)

    assert cells(runs) == []
    assert fit_optimum(runs).not_identified.startswith("too few points: 0")


def test_a_cluster_spans_the_tolerance_from_its_least_value_and_no_chain_grows_beyond():
    values = np.array([1.0, 1.04, 1.08, 1.12])

    assert cluster(values, 0.05).tolist() == [0, 0, 1, 1]


def test_the_best_of_a_cell_is_its_least_loss_that_did_not_diverge():
    runs = observations(
        n_params=1e7,
        learning_rate=[0.1, 0.2, 0.3, 0.1],
        loss=[3.0, 2.9, 2.0, 1.0],
        diverged=[False, False, True, True],
        steps=[10, 10, 10, 99],
        batch_tokens=1,
    )

    assert best_of_cells(runs, cells(runs)).tolist() == [1]


def test_taking_rows_keeps_columns_and_units():
    runs = observations(**GIVEN, unit="bpb").take(np.array([1]))

    assert (len(runs), runs.loss[0], runs.unit) == (1, 3.1, "bpb")
