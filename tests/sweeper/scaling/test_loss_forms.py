"""Which sizes the loss law has, judged by runs left out."""

from __future__ import annotations

import numpy as np
import pytest

from sweeper.scaling.loss_forms import choose
from sweeper.scaling.records import Array

NOISE = 0.002


def columns(*, steps: Array, batch: Array | float, n_params: Array | float = 2e7) -> dict[str, Array]:
    n, b = np.broadcast_to(n_params, steps.shape), np.broadcast_to(batch, steps.shape)
    return {"n_params": n, "tokens": steps * b, "steps": steps, "batch_tokens": b}


def noisy(loss: Array, seed: int = 0) -> Array:
    return np.asarray(loss * np.exp(NOISE * np.random.default_rng(seed).normal(size=len(loss))))


def grid(*axes) -> list[Array]:
    return [axis.ravel() for axis in np.meshgrid(*axes)]


def test_budgets_of_models_at_one_batch_give_a_law_of_parameters_and_tokens():
    flops, ratio = grid(1.25e16 * 2.0 ** np.arange(11), 2.0 ** np.arange(-3, 3.1, 0.5))
    n_params = 0.36 * np.sqrt(flops) * ratio
    tokens = flops / 6 / n_params
    steps = np.round(tokens / 524_288)  # the batch is constant but for this
    sizes = columns(steps=steps, batch=tokens / steps, n_params=n_params)

    law = choose(noisy(1.7 + 300 / n_params**0.34 + 900 / tokens**0.34), sizes, draws=200).law

    assert law.sizes == ("n_params", "tokens")
    assert law.floor.low < 1.7 < law.floor.high
    assert law.predict({"n_params": 1e9, "tokens": 2.65e11})[1][0] > 1.7


def test_a_batch_that_does_not_matter_is_not_in_the_law():
    random = np.random.default_rng(3)
    steps, batch = np.exp(random.uniform(np.log(500), np.log(5000), 40)), 2.0 ** random.integers(15, 19, 40)

    found = choose(noisy(1.2 + 20 / steps**0.45), columns(steps=steps, batch=batch), draws=200)

    assert found.law.sizes == ("steps",)
    assert found.law.floor.low < 1.2 < found.law.floor.high
    assert found.law.basis == ""
    assert [form for form, _ in found.tries] == [("steps", "batch_tokens"), ("tokens",), ("steps",)]
    assert all(one.not_identified for _, one in found.tries[:-1])


def test_all_three_terms_are_kept_where_each_matters():
    n, steps, batch = grid([1e7, 3e7, 9e7], [1e3, 3e3, 9e3, 27e3], [32_768.0, 65_536, 131_072, 262_144])
    loss = noisy(1.2 + 60 / n**0.3 + 8 / steps**0.4 + 15 / batch**0.3)

    found = choose(loss, columns(steps=steps, batch=batch, n_params=n), draws=20)

    assert found.law.sizes == ("n_params", "steps", "batch_tokens")
    assert "foretells runs left out to" in found.tries[0][1].not_identified


@pytest.mark.parametrize("models", [1, 3])
def test_two_batches_give_a_law_of_the_best_batch_of_each_horizon(models):
    n, tokens, batch = grid(1e7 * 3.0 ** np.arange(models), np.geomspace(1e8, 8e9, 7), [65_536.0, 131_072])
    apart = np.log2(batch / (0.3 * tokens**0.6))
    loss = (1.5 + 20 / n**0.3 + 200 / tokens**0.3) * (1 + 0.004 * apart**2)

    found = choose(noisy(loss), columns(steps=tokens / batch, batch=batch, n_params=n), draws=100)

    assert found.law.sizes == (("n_params", "tokens") if models > 1 else ("tokens",))
    assert found.law.used == 7 * models
    assert found.law.basis == f"of the best batch of each {'model and ' if models > 1 else ''}horizon"
    assert found.tries[0][1].not_identified == "batch_tokens takes fewer than three values"


def test_models_that_hardly_differ_give_a_law_of_the_best_of_them():
    n, tokens = grid([1e7, 1.15e7, 1.3e7], np.geomspace(1e8, 8e9, 7))

    law = choose(noisy(1.5 + 200 / tokens**0.3 + 20 / n**0.3), columns(steps=tokens / 1e5, batch=1e5, n_params=n)).law

    assert law.sizes == ("tokens",)
    assert law.basis == "of the best model of each horizon"


def test_far_different_models_are_never_mixed():
    n, tokens = grid([1e7, 4e7], np.geomspace(1e8, 8e9, 7))

    found = choose(noisy(1.5 + 200 / tokens**0.3 + 20 / n**0.3), columns(steps=tokens / 1e5, batch=1e5, n_params=n))

    assert found.law is None
    assert found.tries[0][1].not_identified == "n_params takes fewer than three values"


def test_runs_that_do_not_state_their_batch_give_a_law_of_tokens():
    tokens = np.geomspace(1e8, 8e9, 9)
    unstated = np.full(9, np.nan)
    sizes = {"n_params": np.full(9, 1e7), "tokens": tokens, "steps": unstated, "batch_tokens": unstated}

    assert choose(noisy(1.5 + 200 / tokens**0.3), sizes, draws=100).law.sizes == ("tokens",)


def test_too_few_runs_are_named_for_the_form_that_needs_fewest():
    found = choose(np.array([3.0, 2.8, 2.7]), columns(steps=np.array([1e3, 2e3, 4e3]), batch=1e5))

    assert found.tries[0][0] == ("tokens",)
    assert found.tries[0][1].not_identified == "too few points: 3, and 5 are needed for 3 parameters"
