"""A plan of phases: rates, data, optimisers, checkpoints; broken off anywhere, it ends as if it never was."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from trainer import checkpoint, events
from trainer.config import ConfigError, PhaseConfig, PlanConfig, TrainConfig
from trainer.loop import train
from trainer.phases import Phases

STEP = 512


@pytest.fixture
def values(values: dict[str, Any]) -> dict[str, Any]:
    """Eighteen steps in three phases."""
    return values | {
        "data": {**values["data"], "batch_tokens": STEP},
        "plan": {
            "phases": [
                {"name": "fast", "tokens": 8 * STEP, "warmup": 0.25},
                {"name": "slow", "tokens": 6 * STEP, "lr": 0.5, "optimizer": "reset"},
                {"name": "rest", "tokens": 4 * STEP, "lr": 0.25, "shape": "linear", "kind": "instruct"},
            ]
        },
        "budget": {"tokens": 18 * STEP},
        "schedule": {},
        "eval": {"fractions": [0.25, 0.75], "val_tokens": 1024},
    }


def run(values: dict[str, Any], stop_after: int | None = None) -> list[events.Event]:
    said: list[events.Event] = []
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return stop_after is not None and asked > stop_after

    train(TrainConfig.from_dict(values), said.append, should_stop)
    return said


def only(said: list[events.Event], kind: type) -> list[Any]:
    return [event for event in said if isinstance(event, kind)]


def test_phases_are_said_where_they_begin_and_their_rates_are_taken(values):
    values["runtime"] = {"log_every_seconds": 0.0, "device": "cpu"}
    said = run(values)
    phases = [(event.name, event.index, event.step, event.tokens) for event in only(said, events.Phase)]
    assert phases == [("fast", 0, 0, 0), ("slow", 1, 8, 8 * STEP), ("rest", 2, 14, 14 * STEP)]
    rates = [event.lr_factor for event in only(said, events.Step)]
    wanted = [0.25, 0.75, *[1.0] * 6, *[0.5] * 6, *(0.25 * share for share in (0.875, 0.625, 0.375, 0.125))]
    assert rates == pytest.approx(wanted)


@pytest.mark.parametrize("stop_after", [9, 13, 23])
def test_a_plan_broken_off_again_and_again_ends_as_the_unbroken_one(values, tmp_path, stop_after):
    unbroken = only(run(values), events.Outcome)[0]
    values["checkpoint"] = {"path": str(tmp_path)}
    told = []
    for _ in range(60):
        said = run(values, stop_after)
        told += only(said, events.Phase)
        if said[-1].reason != "stopped":
            break
    assert said[-1].reason == "complete"
    (found,) = only(said, events.Outcome)
    assert found == dataclasses.replace(unbroken, seconds=found.seconds)
    assert [event.name for event in told] == ["fast", "slow", "rest"]


def test_the_end_of_each_phase_is_kept(values, tmp_path):
    values["checkpoint"] = {"path": str(tmp_path)}
    run(values)
    assert sorted(path.name for path in tmp_path.glob("*.pt")) == [f"step-000000{n:02}.pt" for n in (8, 14, 18)]
    states = [checkpoint.read(path, torch.device("cpu")) for path in sorted(tmp_path.glob("*.pt"))]
    assert [state["clock"]["step"] for state in states] == [8, 14, 18]


def test_a_reset_forgets_the_moments_and_keeping_does_not(values):
    kept = {**values, "plan": {"phases": [{**one, "optimizer": "keep"} for one in values["plan"]["phases"]]}}
    assert only(run(values), events.Outcome)[0].val_loss != only(run(kept), events.Outcome)[0].val_loss


def test_phases_of_the_same_data_see_no_window_twice(values):
    config = TrainConfig.from_dict(values)
    phases = Phases(config, torch.device("cpu"))
    seen = []
    for step in range(18):
        if (index := phases.following(step)) is not None:
            phases.enter(index)
        tokens, _ = phases.batches.take(STEP // config.data.seq_len)
        seen += map(tuple, tokens.tolist())
    whole, _ = Phases(config, torch.device("cpu")).batches.take(18 * STEP // config.data.seq_len)
    assert seen == list(map(tuple, whole.tolist()))


def test_a_plan_with_too_little_data_is_refused_before_it_begins(values):
    values["plan"]["phases"][2]["tokens"] = 10_000_000
    values["budget"] = {"tokens": 14 * STEP + 10_000_000}
    (failure,) = run(values)
    assert failure.reason == "data" and "fast, slow, rest would take 10,0" in failure.message
    assert "repeat_data = true" in failure.message


def test_a_phase_whose_data_is_missing_is_refused_before_it_begins(values, tmp_path):
    values["plan"]["phases"][2]["data"] = str(tmp_path)
    (failure,) = run(values)
    assert failure.reason == "data" and str(tmp_path) in failure.message


def test_a_phase_with_data_of_its_own_is_scored_on_its_text_too(values, tmp_path):
    for path in Path(values["data"]["path"]).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    values["plan"]["phases"][1]["data"] = str(tmp_path)
    (notice,) = only(run(values), events.Notice)
    assert notice.message.startswith("after slow, on the validation text of its own data: val_bpb ")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"budget": {"tokens": 4}}, "budget.tokens must be the sum of plan.phases, 9,216 tokens"),
        ({"schedule": {"warmdown": 0.1}}, "schedule.warmdown would have no effect"),
    ],
)
def test_what_contradicts_a_plan_is_refused(values, change, words):
    with pytest.raises(ConfigError, match=words):
        TrainConfig.from_dict(values | change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "slow"}, "names must differ"),
        ({"name": "a/b"}, "a name is made of"),
        ({"tokens": 0}, "tokens must be positive"),
        ({"tokens": 8 * STEP + 1}, "make no step"),
        ({"warmup": 2.0}, "warmup must be in"),
        ({"final_lr": 0.1}, "no effect on shape 'constant'"),
        ({"dropout": 0.1}, "dropout is for model.family 'helix'"),
        ({"shape": "square"}, "must be one of"),
    ],
)
def test_a_phase_that_cannot_work_is_refused(values, change, words):
    values["plan"]["phases"][0] |= change
    values["plan"]["phases"][1]["tokens"] = 100
    tokens = [phase["tokens"] for phase in values["plan"]["phases"]]
    with pytest.raises(ConfigError, match=words):
        TrainConfig.from_dict(values | {"budget": {"tokens": sum(tokens)}} if sum(tokens) else values)


@given(st.floats(0.1, 2), st.floats(0, 1), st.floats(0, 0.9), st.sampled_from(["linear", "cosine"]), st.floats(0, 1))
def test_rates_of_a_phase(lr, final, warmup, shape, progress):
    phase = PhaseConfig(name="p", tokens=1, lr=lr, final_lr=final, warmup=warmup, shape=shape)
    rate = phase.lr_factor(progress)
    assert -1e-9 <= rate <= max(lr, final) + 1e-9
    assert math.isclose(phase.lr_factor(1.0), final, abs_tol=1e-9)
    assert math.isclose(phase.lr_factor(warmup), lr, abs_tol=1e-9)


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=6), st.integers(1, 500))
def test_phases_end_at_whole_steps_that_cover_the_plan(tokens, batch):
    phases = tuple(PhaseConfig(name=f"p{i}", tokens=count) for i, count in enumerate(tokens))
    plan = PlanConfig(phases=phases)
    ends = plan.ends(batch)
    assert ends == sorted(ends) and ends[-1] == math.ceil(sum(tokens) / batch)
