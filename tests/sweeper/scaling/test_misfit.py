from __future__ import annotations

import numpy as np
import pytest

from sweeper.scaling.misfit import check_form, r_squared


def line(bend: float, seed: int, n: int = 40):
    x = np.linspace(0, 3, n)
    design = np.column_stack([np.ones(n), x])
    y = 1 + 2 * x + bend * x**2 + 0.1 * np.random.default_rng(seed).normal(size=n)
    solution = np.linalg.lstsq(design, y, rcond=None)[0]
    return y - design @ solution, design, {"x": x}


def test_the_right_form_is_flagged_about_once_in_a_hundred():
    assert sum(check_form(*line(0.0, seed)).flagged for seed in range(400)) <= 10


def test_a_bend_is_flagged():
    found = check_form(*line(0.15, 0))

    assert found.flagged
    assert found.p_value < 0.01
    assert "p = " in found.detail


def test_single_outliers_do_not_make_a_form_wrong():
    residuals, design, axes = line(0.0, 1)
    residuals[[0, 39]] += 5

    assert not check_form(residuals, design, axes).flagged


@pytest.mark.parametrize("n", [2, 3, 4])
def test_few_points_are_not_tested(n):
    assert check_form(*line(0.5, 0, n)).p_value is None


def test_an_exact_law_is_not_flagged_for_rounding():
    residuals, design, axes = line(0.0, 0)

    assert not check_form(residuals * 1e-13, design, axes).flagged


def test_r_squared_is_the_share_explained():
    y = np.array([1.0, 2.0, 3.0])

    assert r_squared(y, y) == 1
    assert r_squared(y, np.full(3, 2.0)) == 0
    assert r_squared(np.ones(3), np.ones(3)) == 0
