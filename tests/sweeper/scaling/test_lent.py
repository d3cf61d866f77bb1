"""The best rate of a few runs by a curvature that others lend, and when the gate is content with confirmation runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweeper.scaling.gate import LADDER, confirmation
from sweeper.scaling.lent import PRIOR_CURVATURE, fit_lent
from sweeper.scaling.optimum import Optimum
from sweeper.scaling.records import Observations, observations
from sweeper.scaling.setting import Laws, Start, Target
from sweeper.scaling.transfer import Candidate, candidates

CURVATURE = 0.01


def ladder(best: float, noise: np.ndarray | None = None, lost: tuple[bool, ...] = (False,) * 3) -> Observations:
    """Three runs about 0.02 in a bowl about `best`."""
    rates = 0.02 * np.array(LADDER)
    loss = 1.2 * np.exp(0.5 * CURVATURE * np.log2(rates / best) ** 2 + (np.zeros(3) if noise is None else noise))
    ones = np.ones(3)
    return observations(
        n_params=1e7 * ones, tokens=1e9 * ones, batch_tokens=1e5 * ones, learning_rate=rates, weight_decay=0.1 * ones,
        depth=9 * ones, step_seconds=ones, loss=np.where(lost, np.nan, loss), loss_stderr=np.nan * ones,
        diverged=np.array(lost), trial=-1 - np.arange(3), seed=np.zeros(3, dtype=np.int64),
        unit="bpb", params_convention="all", rate_convention="as given",
    )  # fmt: skip


def lender(curvature: float, noise: float = 5e-4) -> Optimum:
    return replace(fit_lent(ladder(0.02), ()), curvature_dd=np.array([[curvature]]), noise=noise)


LENDERS = (lender(0.009), lender(CURVATURE), lender(0.011))


@given(st.floats(-0.45, 0.45))
def test_the_vertex_of_a_bowl_of_the_lent_curvature_is_found_exactly(octaves: float) -> None:
    best = 0.02 * 2.0**octaves
    found = fit_lent(ladder(best), LENDERS)
    assert found.at[0].value == pytest.approx(best, rel=1e-6)
    assert found.at[0].low < best < found.at[0].high
    assert found.loss_at == pytest.approx(1.2, rel=1e-6)
    assert found.residuals_n is not None and abs(found.residuals_n).max() < 1e-9


def test_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    random, inside, tried = np.random.default_rng(0), 0, 0
    for _ in range(400):
        best = 0.02 * 2.0 ** random.uniform(-0.2, 0.2)
        lent = [lender(CURVATURE * 2.0 ** random.normal(0, 0.2)) for _ in range(3)]
        found = fit_lent(ladder(best, 5e-4 * random.standard_normal(3)), lent)
        if found.at:
            tried += 1
            inside += found.at[0].low < best < found.at[0].high
    assert tried > 380 and 0.92 < inside / tried < 0.99


@pytest.mark.parametrize(("octaves", "side", "value"), [(-1.0, "at or below", 0.014), (1.0, "at or above", 0.028)])
def test_a_vertex_outside_what_was_tried_is_a_bound(octaves: float, side: str, value: float) -> None:
    found = fit_lent(ladder(0.02 * 2.0**octaves), LENDERS)
    (bound,) = found.bounds
    assert not found.at and (bound.side, bound.value) == (side, pytest.approx(value))
    assert "lies outside what was tried" in str(found.not_identified)


def test_without_a_lender_the_literatures_curvature_makes_wider_intervals() -> None:
    own, prior = fit_lent(ladder(0.022), LENDERS), fit_lent(ladder(0.022), ())
    assert prior.curvature_dd is not None and prior.curvature_dd[0, 0] == PRIOR_CURVATURE
    assert "the literature's" in prior.interval_method and "lent by 3 cells" in own.interval_method
    assert prior.at[0].high / prior.at[0].low > own.at[0].high / own.at[0].low


def test_diverged_runs_are_left_out_and_one_rate_is_too_few() -> None:
    two = fit_lent(ladder(0.017, lost=(False, False, True)), LENDERS)
    assert two.at[0].value == pytest.approx(0.017, rel=1e-6) and [one.row for one in two.excluded] == [2]
    one = fit_lent(ladder(0.02, lost=(False, True, True)), LENDERS)
    assert not one.at and "too few rates: 1 runs" in str(one.not_identified)


START = Start(n_params=1e7, tokens=1e8, batch_tokens=1e5, learning_rate=0.02, weight_decay=0.1, rate_deviation=0.1)


def asked(start: Start, tokens: float, **laws: int) -> tuple[Candidate, tuple[str, ...], tuple[float, ...], float]:
    target, known = Target(n_params=1e7, tokens=tokens), Laws(**laws)
    (_, prior) = candidates(start, target, known)
    found = confirmation(start, target, known, prior)
    return prior, found.reasons, tuple(run.tokens for run in found.runs), found.cost_share


def test_confirmation_runs_of_an_eighth_content_the_gate_though_they_end_a_little_short() -> None:
    (_, reasons, tokens, _) = asked(START, 2e9)
    assert len(reasons) >= 1 and tokens == (2.5e8,) * 3
    confirmed = replace(START, tokens=2.5e8 / 1.04, confirmed=True)
    assert "times the tokens" not in str(asked(confirmed, 2e9)[1])
    assert "8.4 times the tokens" in str(asked(replace(START, tokens=2.5e8 / 1.055, confirmed=True), 2e9)[1])


def test_edges_of_the_studys_cells_matter_until_the_rate_was_measured_nearer() -> None:
    assert "5 cells have their optimum at the edge" in str(asked(START, 2e8, censored=5)[1])
    assert not asked(replace(START, confirmed=True), 2e8, censored=5)[1]


def test_an_edge_of_confirmation_runs_is_followed_at_their_own_length() -> None:
    edge = replace(START, tokens=2.5e8, censored=True, confirmed=True)
    _, reasons, tokens, cost = asked(edge, 2e9)
    assert "the confirmation runs' best rate lies at the edge of what was tried" in reasons
    assert tokens == (2.5e8,) * 3 and cost == pytest.approx(3 / 8)
    own = replace(START, tokens=2.5e8, censored=True)
    assert asked(own, 2e9)[2] == (1.5 * 2.5e8,) * 3, "the study's own are followed by longer ones"
