"""Inverses of many small matrices, and quantiles of many mixtures, at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.scaling import priors, quadratic
from sweeper.scaling.power_law import fit_power_law


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 6), singular=st.booleans(), exact=st.booleans())
def test_inverses_are_those_by_eigenvalues_whether_or_not_some_are_singular(seed, size, singular, exact):
    design = np.random.default_rng(seed).normal(size=(5, size + 4, size))
    if singular:
        design[2, :, 0] = 0.0 if exact else design[2, :, -1] * (1 + 1e-9)
    gram = np.matmul(design.transpose(0, 2, 1), design)
    wanted = np.linalg.pinv(gram, rcond=quadratic.SINGULAR, hermitian=True)

    found = quadratic.inverses(gram)

    scale = np.abs(wanted).max(axis=(1, 2), keepdims=True)
    assert np.abs((found - wanted) / np.maximum(scale, 1e-300)).max() < 1e-5


def test_a_direction_without_data_gets_zero():
    x = np.linspace(-1, 1, 7)
    design = quadratic.basis(np.stack([x, np.zeros(7)], axis=1))
    found = quadratic.solve(design, (1 + 2 * x)[None], np.ones((3, 7)))
    assert found == pytest.approx(np.tile([1, 2, 0, 0, 0, 0], (3, 1)), abs=1e-9)


def test_a_law_along_one_size_says_what_it_says_place_by_place():
    random = np.random.default_rng(0)
    tokens, batch = np.exp(random.uniform(0, 3, (2, 20)))
    values = 0.02 * tokens**-0.3 * batch**0.4 * np.exp(0.05 * random.normal(size=20))
    law = fit_power_law(values, {"tokens": tokens, "batch_tokens": batch}, beliefs=priors.RATE, draws=5)
    places = np.geomspace(0.5, 50, 7)

    along = law.predict_along("tokens", places, {"tokens": 1.0, "batch_tokens": 3.0})

    for place, found in zip(places, along, strict=True):
        one = law.predict({"tokens": place, "batch_tokens": 3.0})
        assert [found.value, found.low, found.high] == pytest.approx([one.value, one.low, one.high], rel=1e-9)
        assert found.low < found.value < found.high
