"""The ladder of budgets: a branch gives what a run of that budget gives, and the trunk never notices."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trainer import checkpoint, events
from trainer.clock import Clock
from trainer.config import BudgetConfig, ConfigError, TrainConfig
from trainer.loop import train
from trainer.run import Run
from trainer.schedule import lr_factor
from trainer.validation import Stopped

HELIX = {
    "model": {"family": "helix", "vocab_size": 64},
    "helix": {"d_model": 32, "num_heads": 4, "linear_feature_dim": 8, "num_loops": 2, "dropout": 0.2},
    "optim": {"matrix_optimizer": "adamw", "matrix_lr": 5e-3, "scalar_lr": 5e-3, "embed_lr": 5e-3},
}
STEADY = {"momentum_warmup": 0.0}
"""Without a warm-up, which is a share of the smallest budget, a run of any budget has the trunk's rates."""
KINDS: dict[str, dict[str, Any]] = {
    "muon and adam": {"optim": STEADY},
    "ema": {"optim": {**STEADY, "average": "ema", "ema_window": 0.3}},
    "swa": {"optim": {**STEADY, "average": "swa"}},
    "clipped, decayed": {"optim": {**STEADY, "grad_clip": 0.5, "matrix_weight_decay": 0.1}},
    "rounded in training": {"optim": STEADY, "export": {"scheme": "int6_int8", "least_clip": 16, "qat_from": 0.3}},
    "helix with dropout": {**HELIX, "optim": {**HELIX["optim"], **STEADY}},
    "no cool-down": {"optim": STEADY, "schedule": {"warmdown": 0.0}},
    "cool-down alone": {"optim": STEADY, "schedule": {"warmdown": 1.0}},
    "micro-batches": {"optim": STEADY, "data": {"micro_batch_tokens": 64}},
}


def laid_over(values: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Values with others over them; a whole model is replaced."""
    merged = {key: {**values.get(key, {}), **over.get(key, {})} for key in values.keys() | over.keys()}
    return merged | ({"model": over["model"]} if "model" in over else {})


def with_budget(values: dict[str, Any], budget: dict[str, float], ladder: tuple[float, ...] = ()) -> dict[str, Any]:
    return values | {"budget": budget, "ladder": {"budgets": list(ladder)}}


def say(values: dict[str, Any], should_stop=lambda: False) -> list[events.Event]:
    said: list[events.Event] = []
    train(TrainConfig.from_dict(values), said.append, should_stop)
    return said


def outcomes(said: list[events.Event]) -> list[events.Outcome]:
    return [event for event in said if isinstance(event, events.Outcome)]


def trained(values: dict[str, Any]) -> tuple[dict[str, torch.Tensor], list[events.Event]]:
    """The final weights and all that was said."""
    said: list[events.Event] = []
    run = Run(TrainConfig.from_dict(values), said.append, lambda: False)
    run.prepare(0.0)
    run.to_the_end()
    return run.model.state_dict(), said


def scores(outcome: events.Outcome) -> tuple[Any, ...]:
    """All of an outcome that time has no part in."""
    return outcome.step, outcome.tokens, outcome.val_loss, outcome.val_bpb, outcome.val_bpb_stderr, outcome.targets


@pytest.mark.parametrize("kind", KINDS)
def test_an_outcome_of_the_ladder_is_that_of_a_run_of_its_own(values, kind):
    values = laid_over(values, KINDS[kind])
    *rungs, _last = outcomes(say(with_budget(values, {"steps": 12}, (4, 7))))
    assert [rung.budget for rung in rungs] == [4, 7]
    for rung in rungs:
        (alone,) = outcomes(say(with_budget(values, {"steps": int(rung.budget)})))
        assert scores(rung) == scores(alone)
        assert 0 <= rung.branch_seconds <= rung.seconds


@pytest.mark.parametrize("kind", KINDS)
def test_the_trunk_is_to_the_bit_what_it_is_without_branches(values, kind):
    values = laid_over(values, KINDS[kind])
    plain, said = trained(with_budget(values, {"steps": 12}))
    branched, with_ladder = trained(with_budget(values, {"steps": 12}, (4, 5, 9)))
    assert len(outcomes(with_ladder)) == 4
    assert all(torch.equal(plain[name], branched[name]) for name in plain)
    assert scores(outcomes(with_ladder)[-1]) == scores(outcomes(said)[0])
    assert outcomes(with_ladder)[-1].budget is None
    curves = [
        [(e.step, e.train_loss, e.lr_factor) for e in found if isinstance(e, events.Step)]
        for found in (said, with_ladder)
    ]
    assert {step for step, *_ in curves[1]} <= set(range(1, 13)), "a branch is no part of the curve"
    assert [loss for _, loss, _ in curves[0]][-1] == [loss for _, loss, _ in curves[1]][-1]


def test_budgets_in_tokens_are_rounded_up_to_steps(values):
    values = laid_over(values, {"optim": STEADY})
    rung, last = outcomes(say(with_budget(values, {"tokens": 3000}, (1000,))))
    (alone,) = outcomes(say(with_budget(values, {"tokens": 1000})))
    assert scores(rung) == scores(alone) and rung.tokens == 1024 and last.tokens == 3072


def test_warm_ups_are_shares_of_the_smallest_budget(values):
    values = laid_over(values, {"optim": {"momentum_warmup": 0.5}, "schedule": {"warmup": 0.5}})
    first, second, _last = outcomes(say(with_budget(values, {"steps": 16}, (4, 8))))
    (alone,) = outcomes(say(with_budget(values, {"steps": 4})))
    assert scores(first) == scores(alone)
    shorter = laid_over(values, {"optim": {"momentum_warmup": 0.25}, "schedule": {"warmup": 0.25}})
    (alone,) = outcomes(say(with_budget(shorter, {"steps": 8})))
    assert scores(second) == scores(alone), "halves and quarters are exact"


def test_the_rates_of_a_branch_are_those_of_its_budget(values):
    rates = []
    config = TrainConfig.from_dict(with_budget(values, {"steps": 20}, (10,)))
    run = Run(config, lambda event: None, lambda: False)
    run.prepare(0.0)
    plain = run.optimizers.step
    run.optimizers.step = lambda **how: (rates.append(how["lr_factor"]), plain(**how))[-1]
    run.to_the_end()
    assert rates[6:10] == [lr_factor(config.schedule, (step + 0.5) / 10) for step in range(6, 10)]
    assert rates[:6] + rates[10:] == [lr_factor(config.schedule, (step + 0.5) / 20) for step in range(20)]


def test_budgets_in_seconds_take_the_branch_off_the_trunks_account(values):
    values["runtime"]["log_every_seconds"] = 0.5
    said = say(with_budget(values, {"seconds": 1.2}, (0.3, 0.6)))
    first, second, last = outcomes(said)
    for rung in (first, second):
        assert rung.budget <= rung.seconds < rung.budget + 0.25
        assert rung.branch_seconds == pytest.approx(0.4 * rung.budget, abs=0.2)
    assert 1.2 <= last.seconds < 1.45 and last.branch_seconds == 0
    assert said[-1].wall_seconds >= last.seconds + first.branch_seconds + second.branch_seconds


def stop_in_branch(values: dict[str, Any], steps_in: int) -> tuple[list[events.Event], int]:
    """A run that is asked to stop so many steps into its second branch, and the step that its trunk was at."""
    said: list[events.Event] = []
    run: Run

    def should_stop() -> bool:
        return run.clock.step >= 4 + steps_in and len(outcomes(said)) == 1 and run.clock.progress > run.clock.step / 12

    run = Run(TrainConfig.from_dict(values), said.append, should_stop)
    run.prepare(0.0)
    with pytest.raises(Stopped):
        run.to_the_end()
    return said, run.clock.step


@pytest.mark.parametrize("kind", ["muon and adam", "ema", "helix with dropout"])
def test_a_run_that_is_stopped_in_a_branch_branches_again_and_says_no_outcome_twice(values, kind, tmp_path):
    values = laid_over(values, KINDS[kind])
    unbroken = outcomes(say(with_budget(values, {"steps": 12}, (4, 7))))
    values["checkpoint"] = {"path": str(tmp_path)}
    said, at = stop_in_branch(with_budget(values, {"steps": 12}, (4, 7)), steps_in=2)
    assert [outcome.budget for outcome in outcomes(said)] == [4]
    assert at == 4, "where the second branch left"
    assert checkpoint.newest(tmp_path).name == "step-00000004.pt"
    resumed = say(with_budget(values, {"steps": 12}, (4, 7)))
    assert resumed[0].resumed_step == 4
    assert [scores(outcome) for outcome in outcomes(said) + outcomes(resumed)] == [scores(each) for each in unbroken]


def test_a_run_that_goes_on_with_another_ladder_is_refused(values, tmp_path):
    values["checkpoint"] = {"path": str(tmp_path)}
    stop_in_branch(with_budget(values, {"steps": 12}, (4, 7)), steps_in=2)
    failure = say(with_budget(values, {"steps": 12}, (4, 6)))[-1]
    assert isinstance(failure, events.Failure) and "ladder.budgets: (4.0, 7.0) saved" in failure.message


def test_a_branch_that_diverges_costs_its_outcome_alone(values):
    plain = scores(outcomes(say(with_budget(values, {"steps": 12})))[0])
    config = TrainConfig.from_dict(with_budget(values, {"steps": 12}, (4, 7)))
    said: list[events.Event] = []
    run = Run(config, said.append, lambda: False)
    run.prepare(0.0)
    step = run.optimizers.step

    def breaking(**how: float) -> None:
        """Spoils a weight in the first step of the first branch."""
        step(**how)
        if not outcomes(said) and how["lr_factor"] < 1 and run.clock.step == 2:
            with torch.no_grad():
                next(run.model.parameters()).fill_(float("nan"))

    run.optimizers.step = breaking
    run.to_the_end()
    (notice,) = (event for event in said if isinstance(event, events.Notice))
    assert notice.message.startswith("no outcome for the budget of 4 steps: its branch diverged, train_loss is nan")
    found = outcomes(said)
    assert [outcome.budget for outcome in found] == [7, None] and scores(found[-1]) == plain


def test_parameters_and_moments_stay_where_they_are(values):
    """A compiled model and its optimisers know tensors by identity."""
    run = Run(TrainConfig.from_dict(with_budget(values, {"steps": 12}, (4, 7))), lambda event: None, lambda: False)
    run.prepare(0.0)
    places: list[list[int]] = []
    branch = run.ladder.branch

    def pointers() -> list[int]:
        moments = run.optimizers.state()["adam"]["state"].values()
        return [p.data_ptr() for p in run.model.parameters()] + [m["exp_avg"].data_ptr() for m in moments]

    def watched(trunk: Any) -> None:
        before = pointers()
        branch(trunk)
        places.append(before)
        assert pointers() == before

    run.ladder.branch = watched
    run.to_the_end()
    assert len(places) == 2


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"ladder": {"budgets": [6, 3]}}, r"ladder.budgets must be ascending and positive, got \[6.0, 3.0\]"),
        ({"ladder": {"budgets": [0]}}, "ascending and positive"),
        ({"ladder": {"budgets": [12]}}, r"ladder.budgets must be below budget.steps \(12\), got 12"),
        ({"ladder": {"budgets": [2.5]}}, "must be whole numbers where the budget is in steps, got 2.5"),
        (
            {"budget": {"tokens": 1000}, "ladder": {"budgets": [300, 500]}},
            r"300 tokens make 2 steps of data.batch_tokens \(256\), and so does the next larger budget",
        ),
        (
            {
                "budget": {"tokens": 1024},
                "ladder": {"budgets": [512]},
                "plan": {"phases": [{"name": "all", "tokens": 1024}]},
            },
            "ladder.budgets and plan.phases exclude each other",
        ),
    ],
)
def test_a_ladder_that_cannot_be_is_refused(values, over, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig.from_dict(values | over)


def test_a_clock_that_branches_goes_on_from_the_same_place():
    clock = Clock(BudgetConfig(seconds=10.0), 64, torch.device("cpu"))
    clock.resume()
    clock.tick()
    clock.pause()
    twin = clock.branch(BudgetConfig(seconds=5.0))
    assert (twin.step, twin.reading, twin.tokens) == (clock.step, clock.reading, clock.tokens)
    assert twin.next_progress == clock.next_progress_in(BudgetConfig(seconds=5.0)) == 2 * clock.next_progress
