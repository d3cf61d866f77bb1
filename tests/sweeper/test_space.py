"""Axes, ties, and their translation to Optuna."""

from __future__ import annotations

import json
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import TypeAdapter, ValidationError

from sweeper.errors import SweeperError
from sweeper.space import Axis, Value, check, distributions, resolve

SPACE: TypeAdapter[dict[str, Axis]] = TypeAdapter(dict[str, Axis])

WRITTEN: dict[str, Any] = {
    "optim.matrix_lr": {"log": [0.005, 0.1], "tie": {"optim.scalar_lr": 1.0, "optim.embed_lr": 1.25}},
    "optim.momentum": {"uniform": [0.8, 0.95], "step": 0.05},
    "model.num_layers": {"int": [5, 11], "step": 2},
    "model.model_dim": {"int": [64, 512], "log": True},
    "data.batch_tokens": {"choice": [65536, 131072], "tie": {"data.micro_batch_tokens": 0.5}},
    "runtime.compile": {"choice": ["on", "off"]},
    "model.tie_embeddings": {"choice": [True, False]},
}
PARAMS: dict[str, Value] = {
    "optim.matrix_lr": 0.02,
    "optim.momentum": 0.9,
    "model.num_layers": 7,
    "model.model_dim": 100,
    "data.batch_tokens": 65536,
    "runtime.compile": "off",
    "model.tie_embeddings": True,
}


@pytest.fixture
def space() -> dict[str, Axis]:
    return SPACE.validate_python(WRITTEN)


def test_axes_become_the_distributions_that_they_name(space):
    assert distributions(space) == {
        "optim.matrix_lr": FloatDistribution(0.005, 0.1, log=True),
        "optim.momentum": FloatDistribution(0.8, 0.95, step=0.05),
        "model.num_layers": IntDistribution(5, 11, step=2),
        "model.model_dim": IntDistribution(64, 512, log=True),
        "data.batch_tokens": CategoricalDistribution((65536, 131072)),
        "runtime.compile": CategoricalDistribution(("on", "off")),
        "model.tie_embeddings": CategoricalDistribution((True, False)),
    }


def test_all_that_optuna_draws_lies_on_the_axes(space):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(50):
        drawn = study.ask(fixed_distributions=distributions(space)).params
        assert check(space, drawn) == drawn


def test_axes_survive_json(space):
    plain = json.loads(json.dumps(SPACE.dump_python(space, mode="json")))

    assert SPACE.validate_python(plain) == space


def test_tied_paths_follow_at_their_ratio_and_whole_numbers_stay_ints(space):
    values = resolve(space, PARAMS)

    assert values["optim.scalar_lr"] == 0.02
    assert values["optim.embed_lr"] == 0.025
    assert values["data.micro_batch_tokens"] == 32768
    assert isinstance(values["data.micro_batch_tokens"], int)
    assert {path: values[path] for path in PARAMS} == PARAMS


def test_whole_floats_on_an_integer_axis_become_ints(space):
    accepted = check(space, PARAMS | {"model.num_layers": 7.0, "data.batch_tokens": 65536.0})

    assert accepted == PARAMS
    assert isinstance(accepted["model.num_layers"], int)
    assert isinstance(accepted["data.batch_tokens"], int)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("optim.matrix_lr", 0.2, r"optim.matrix_lr: expected a number in \[0.005, 0.1\], got 0.2"),
        ("optim.matrix_lr", float("nan"), "got nan"),
        ("optim.matrix_lr", True, "got True"),
        ("optim.matrix_lr", "0.02", "got '0.02'"),
        ("optim.momentum", 0.87, "expected 0.8 plus a multiple of 0.05, got 0.87"),
        ("model.num_layers", 6, "expected 5 plus a multiple of 2, got 6"),
        ("model.num_layers", 7.5, r"expected a whole number in \[5, 11\], got 7.5"),
        ("model.num_layers", 13, "got 13"),
        ("model.num_layers", float("inf"), "got inf"),
        ("data.batch_tokens", 4096, "expected one of 65536, 131072, got 4096"),
        ("model.tie_embeddings", 1, "expected one of True, False, got 1"),
    ],
)
def test_values_off_their_axis_are_refused(space, path, value, said):
    with pytest.raises(SweeperError, match=said):
        check(space, PARAMS | {path: value})


def test_unknown_and_missing_axes_are_named(space):
    with pytest.raises(SweeperError, match=r"optim.matrixlr is not searched.*did you mean 'optim.matrix_lr'"):
        check(space, PARAMS | {"optim.matrixlr": 0.02})
    with pytest.raises(SweeperError, match=r"no value for runtime.compile"):
        check(space, {path: value for path, value in PARAMS.items() if path != "runtime.compile"})


@pytest.mark.parametrize(
    ("axis", "said"),
    [
        ({"log": [0.1, 0.01]}, r"needs low < high, got \[0.1, 0.01\]"),
        ({"log": [0.1, 0.1]}, "needs low < high"),
        ({"log": [0, 1]}, "a log scale needs low > 0, got 0.0"),
        ({"log": [0.1, float("inf")]}, "finite"),
        ({"log": [True, 2]}, "valid number"),
        ({"uniform": [0, 1], "step": 0.3}, "step 0.3 does not lead from 0.0 to 1.0"),
        ({"uniform": [0, 1], "step": 0}, "greater than 0"),
        ({"int": [1, 8], "step": 2}, "step 2 does not lead from 1 to 8"),
        ({"int": [0, 8], "log": True}, "low > 0"),
        ({"int": [1, 9], "step": 2, "log": True}, "log = true goes with step 1 only"),
        ({"int": [1.5, 3]}, "valid integer"),
        ({"choice": []}, "at least 1 item"),
        ({"choice": [1, 2, 1]}, "choice holds 1 twice"),
        ({"choice": ["a", "b"], "tie": {"optim.eps": 2}}, "only numbers can be tied to"),
        ({"uniform": [0, 1], "stpe": 0.1}, "not permitted"),
        ({"normal": [0, 1]}, "an axis is one of"),
        (3, "an axis is one of"),
    ],
)
def test_impossible_axes_are_refused(axis, said):
    with pytest.raises(ValidationError, match=said):
        SPACE.validate_python({"optim.eps": axis})


@given(st.integers(-50, 50), st.integers(1, 20), st.integers(1, 7))
def test_every_sample_of_an_integer_axis_lies_on_it_and_holds_both_ends(low, steps, step):
    high = low + steps * step
    axis = SPACE.validate_python({"x": {"int": [low, high], "step": step}})["x"]

    samples = axis.samples()

    assert [axis.accept(value) for value in samples] == samples
    assert (samples[0], samples[-1]) == (low, high)
