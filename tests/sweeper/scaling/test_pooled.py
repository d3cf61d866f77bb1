"""Thin cells that share a curvature, and every reason to refuse one of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.scaling.optimum import fit_optimum
from sweeper.scaling.pooled import fit_pooled
from sweeper.scaling.records import Observations, observations

BENDS = np.array([[0.016, 0.002], [0.002, 0.005]])
STEPS = 1000.0


def thin_cells(best_Kd, runs=10, noise=0.0, seed=0, spread=2.0, bends=BENDS) -> tuple[Observations, list]:
    """K cells of rates and taus drawn about 0.02 and 0.2, with one bowl about each cell's own best."""
    random = np.random.default_rng(seed)
    columns: dict[str, list] = {"learning_rate": [], "weight_decay": [], "loss": [], "tokens": []}
    for number, best in enumerate(np.log2(best_Kd)):
        x = random.uniform(-spread, spread, (runs, 2))
        x[:2] = [-spread, spread], [spread, -spread]
        x += np.log2([0.02, 0.2])
        away = x - best
        log_loss = 1.0 - 0.1 * number + 0.5 * np.einsum("ni,ij,nj->n", away, bends, away)
        rate, tau = np.exp2(x).T
        columns["learning_rate"] += rate.tolist()
        columns["weight_decay"] += (1 / (rate * tau * STEPS)).tolist()
        columns["loss"] += np.exp(log_loss + noise * random.normal(size=runs)).tolist()
        columns["tokens"] += [65_536 * STEPS] * runs
    made = observations(n_params=1e7, batch_tokens=65_536, **columns)
    return made, [np.arange(k * runs, (k + 1) * runs) for k in range(len(best_Kd))]


@given(
    octaves=st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=2, max_size=6),
    seed=st.integers(0, 99),
)
def test_without_noise_each_cell_has_its_own_vertex(octaves, seed):
    best = np.array([0.02, 0.2]) * np.exp2(np.array(octaves))
    runs, cells = thin_cells(best, seed=seed)

    found = fit_pooled(runs, cells, ("learning_rate", "tau"), draws=20, band=1.0)

    for one, wanted in zip(found, best, strict=True):
        assert [estimate.value for estimate in one.at] == pytest.approx(wanted, rel=1e-4)
        assert one.curvature_dd == pytest.approx(BENDS, rel=1e-4)
    assert [one.loss_at for one in found] == pytest.approx(np.exp(1.0 - 0.1 * np.arange(len(best))), rel=1e-6)


def test_cells_that_are_too_thin_alone_are_known_together():
    best = np.array([[0.03, 0.3], [0.02, 0.2], [0.014, 0.2], [0.012, 0.15], [0.018, 0.18], [0.025, 0.25]])
    runs, cells = thin_cells(best, runs=11, noise=0.003, seed=3)

    alone = [fit_optimum(runs.take(rows), ("learning_rate", "tau"), draws=50) for rows in cells]
    found = fit_pooled(runs, cells, ("learning_rate", "tau"), draws=200)

    assert sum(bool(one.at) for one in alone) <= 2 < sum(bool(one.at) for one in found)
    assert all("curvature shared by 6 cells" in one.interval_method for one in found if one.at)


def test_intervals_hold_the_truth():
    held, told = 0, 0
    best = np.array([[0.03, 0.3], [0.02, 0.2], [0.014, 0.2], [0.012, 0.15], [0.018, 0.18], [0.025, 0.25]])
    for seed in range(40):
        runs, cells = thin_cells(best, runs=12, noise=0.004, seed=seed)
        for one, wanted in zip(fit_pooled(runs, cells, ("learning_rate", "tau"), draws=200), best, strict=True):
            if one.at:
                told += 1
                held += one.at[0].low <= wanted[0] <= one.at[0].high
    assert told > 160
    assert 0.9 <= held / told <= 1.0


def test_a_rate_beyond_what_was_tried_is_a_bound_and_no_number():
    runs, cells = thin_cells(np.array([[0.02, 0.2], [0.5, 0.2]]), runs=14)

    inside, outside = fit_pooled(runs, cells, ("learning_rate", "tau"), draws=50, band=1.0)

    assert inside.at and not outside.at
    assert "outside what was tried" in str(outside.not_identified)
    assert [(bound.axis, bound.side) for bound in outside.bounds] == [("learning_rate", "at or above")]


def test_decay_beyond_what_was_tried_is_held_at_its_edge_and_the_rate_is_best_there():
    wanted = np.array([[0.02, 0.2], [0.02, 6.0]])
    runs, cells = thin_cells(wanted, runs=30)

    _, held = fit_pooled(runs, cells, ("learning_rate", "tau"), draws=50, band=1.0)

    edge = float(runs.tau[cells[1]].max())
    pull = BENDS[0, 1] / BENDS[0, 0] * np.log2(edge / wanted[1, 1])
    assert held.at[1].value == pytest.approx(edge)
    assert held.at[0].value == pytest.approx(0.02 * 2**-pull, rel=1e-3)
    assert "tau held at the edge" in held.interval_method


def test_what_cannot_be_told_says_why():
    one_cell, rows = thin_cells(np.array([[0.02, 0.2]]))
    assert "1 cells share" in str(fit_pooled(one_cell, rows, ("learning_rate", "tau"), draws=20)[0].not_identified)

    flat, cells = thin_cells(np.full((3, 2), 0.02), noise=0.01, bends=np.zeros((2, 2)))
    assert all("do not curve upwards" in str(one.not_identified) for one in fit_pooled(flat, cells, draws=100))

    thin, few = thin_cells(np.array([[0.02, 0.2]] * 3), runs=10)
    made = fit_pooled(thin, [*few[:2], few[2][:3]], ("learning_rate", "tau"), draws=20, band=1.0)
    assert made[0].at and str(made[2].not_identified).startswith("too few points: fewer than 4")
