"""Whole runs: what they say, when they end, and that a resumed one is the unbroken one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.trainer.conftest import write_shard
from trainer import checkpoint, events
from trainer.clock import Clock
from trainer.config import TrainConfig
from trainer.loop import train
from trainer.run import Run


def run(values: dict[str, Any], stop_after_step: int | None = None) -> list[events.Event]:
    said: list[events.Event] = []

    def should_stop() -> bool:
        return stop_after_step is not None and any(
            isinstance(event, events.Step) and event.step >= stop_after_step for event in said
        )

    train(TrainConfig.from_dict(values), said.append, should_stop)
    return said


def only(said: list[events.Event], kind: type) -> list[Any]:
    return [event for event in said if isinstance(event, kind)]


def test_a_run_says_start_steps_evals_outcome_end(values):
    said = run(values)
    kinds = [event.kind for event in said]
    assert kinds[0] == "start" and kinds[-3:] == ["eval", "outcome", "end"]
    assert [e.fraction for e in only(said, events.Eval)] == [0.25, 0.5, 1.0]
    assert [s.step for s in only(said, events.Step)] == list(range(1, 13))
    assert only(said, events.Outcome)[0].tokens == 12 * 256
    assert said[-1].reason == "complete"


def test_training_learns_and_its_curve_is_a_function_of_the_seeds(values):
    values["budget"] = {"steps": 60}
    values["optim"] = {"matrix_lr": 0.02, "embed_lr": 0.02, "scalar_lr": 0.02}
    first, again = run(values), run(values)
    values["seeds"] = {"init": 1337, "data": 1}
    other = run(values)

    def losses(said):
        return [s.train_loss for s in only(said, events.Step)]

    assert losses(first) == losses(again)
    assert losses(first) != losses(other)
    assert only(first, events.Outcome)[0].val_loss < 0.8 * only(first, events.Step)[0].train_loss


def test_many_passes_over_the_data_are_pointed_out_once(values, folder):
    write_shard(folder / "train_000000.bin", np.arange(2_000) % 64)
    values["budget"] = {"tokens": 5 * 2_000}
    notices = only(run(values), events.Notice)
    assert len(notices) == 1 and "repeated for the 4th time" in notices[0].message
    values["budget"] = {"tokens": 3 * 2_000}
    assert not only(run(values), events.Notice)


def test_a_budget_in_tokens_is_rounded_up_to_steps(values):
    values["budget"] = {"tokens": 1000}
    assert run(values)[-1].tokens == 1024


def test_a_budget_in_seconds_counts_training_seconds_only(values):
    values["budget"] = {"seconds": 0.3}
    values["eval"] = {"fractions": [0.1 * i for i in range(1, 10)]}
    end = run(values)[-1]
    longest_step = end.seconds / end.step * 20
    assert 0.3 <= end.seconds < 0.3 + longest_step
    assert end.wall_seconds > end.seconds


def test_a_stop_ends_the_run_within_a_step(values):
    said = run(values, stop_after_step=4)
    assert said[-1].reason == "stopped" and said[-1].step == 4
    assert not only(said, events.Outcome)


@pytest.mark.parametrize(("accumulation", "average"), [(1, "off"), (2, "ema"), (1, "swa")])
def test_a_resumed_run_is_the_unbroken_run_bit_for_bit(values, tmp_path, accumulation, average):
    values["data"]["micro_batch_tokens"] = 256 // accumulation
    values["optim"] = {"matrix_weight_decay": 0.1, "adam_weight_decay": 0.1, "grad_clip": 0.5, "average": average}
    values["optim"] |= {"swa_below": 1.0, "swa_every": 0.1}
    values["schedule"] = {"warmdown": 0.8}
    values["export"] = {"scheme": "int6_int8", "qat_from": 0.3}
    values["checkpoint"] = {"path": str(tmp_path / "unbroken")}
    unbroken = run(values)
    values["checkpoint"] = {"path": str(tmp_path / "broken")}
    parts = [run(values, stop_after_step=2), run(values, stop_after_step=7), run(values)]

    assert [part[0].resumed_step for part in parts] == [0, 2, 7]
    steps = {s.step: s.train_loss for part in parts for s in only(part, events.Step)}
    assert steps == {s.step: s.train_loss for s in only(unbroken, events.Step)}
    evals = [(e.fraction, e.val_bpb) for part in parts for e in only(part, events.Eval)]
    assert evals == [(e.fraction, e.val_bpb) for e in only(unbroken, events.Eval)]
    for kind in (events.Outcome, events.Score):
        assert [event.val_bpb for event in only(parts[-1], kind)] == [event.val_bpb for event in only(unbroken, kind)]
    cpu = torch.device("cpu")
    states = [checkpoint.load(tmp_path / name, cpu, TrainConfig.from_dict(values).to_dict()) for name in
              ("unbroken", "broken")]  # fmt: skip
    for name, tensor in states[0]["model"].items():
        assert torch.equal(tensor, states[1]["model"][name]), name
    assert states[0]["weights"]["count"] == states[1]["weights"]["count"] == {"off": 0, "ema": 12, "swa": 8}[average]
    for mean, again in zip(states[0]["weights"]["mean"], states[1]["weights"]["mean"], strict=True):
        assert torch.equal(mean, again)


def test_a_run_stopped_in_a_validation_takes_it_up_again(values, tmp_path):
    values["checkpoint"] = {"path": str(tmp_path / "unbroken")}
    unbroken = run(values)
    values["checkpoint"] = {"path": str(tmp_path / "broken")}
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3 + 1  # once before each of the three steps to the first rung, then in its validation

    said: list[events.Event] = []
    train(TrainConfig.from_dict(values), said.append, should_stop)
    assert said[-1].reason == "stopped" and said[-1].step == 3 and not only(said, events.Eval)
    assert [(e.step, e.val_bpb) for e in only(run(values), events.Eval)] == [
        (e.step, e.val_bpb) for e in only(unbroken, events.Eval)
    ]


def test_without_checkpoints_the_clock_never_stops_for_one(values):
    values["eval"] = {}
    values["checkpoint"] = {"every_seconds": 1e-6}
    pauses = []
    original = Clock.pause

    class Watched(Clock):
        def pause(self) -> None:
            pauses.append(self.step)
            original(self)

    prepared = Run(TrainConfig.from_dict(values), [].append, lambda: False)
    prepared.clock = Watched(prepared.config.budget, prepared.config.data.batch_tokens, prepared.device)
    prepared.to_the_end()
    assert pauses == [12]


def test_a_checkpoint_of_other_values_is_refused_and_kept(values, tmp_path):
    values["checkpoint"] = {"path": str(tmp_path)}
    run(values, stop_after_step=3)
    path = checkpoint.newest(tmp_path)
    before = path.read_bytes()
    values["optim"] = {"matrix_lr": 0.01}
    said = run(values)
    assert isinstance(said[-1], events.Failure) and said[-1].reason == "checkpoint"
    assert "optim.matrix_lr: 0.04 saved, 0.01 wanted" in said[-1].message
    assert path.read_bytes() == before


def test_a_checkpoint_from_before_an_option_existed_is_resumed(values, tmp_path):
    values["checkpoint"] = {"path": str(tmp_path)}
    run(values, stop_after_step=3)
    (unbroken,) = (event for event in run(values | {"checkpoint": {}}) if isinstance(event, events.Outcome))
    state = torch.load(checkpoint.newest(tmp_path), weights_only=True)
    del state["weights"], state["config"]["export"], state["config"]["optim"]["average"]
    state["position"] = state.pop("phases")["position"]
    state["evaluations_done"] = state.pop("validation")["done"]
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    torch.save(state, earlier / checkpoint.FILE)
    said = run(values | {"checkpoint": {"path": str(earlier)}})
    assert said[0].resumed_step == 3
    assert [event.val_bpb for event in said if isinstance(event, events.Outcome)] == [unbroken.val_bpb]


def test_a_damaged_checkpoint_is_refused_and_kept(values, tmp_path):
    values["checkpoint"] = {"path": str(tmp_path)}
    run(values, stop_after_step=3)
    path = checkpoint.newest(tmp_path)
    path.write_bytes(path.read_bytes()[:2000])
    said = run(values)
    assert said[-1].reason == "checkpoint" and "is damaged" in said[-1].message
    assert path.stat().st_size == 2000


def test_a_loss_above_its_beginning_ends_as_diverged(values):
    values["budget"] = {"steps": 200}
    values["optim"] = {"matrix_lr": 3.0, "embed_lr": 30.0, "scalar_lr": 30.0}
    said = run(values)
    assert said[-1].reason == "diverged" and said[-1].step < 40
    assert "above its initial value" in said[-1].detail


def test_a_loss_that_is_not_finite_ends_as_diverged(values):
    values["optim"] = {"embed_lr": 1e38, "scalar_lr": 1e38}
    said = run(values)
    assert said[-1].reason == "diverged" and "nan" in said[-1].detail
    for event in said:
        events.encode(event)  # and nothing that is not finite was said on the way


@pytest.mark.parametrize(
    ("part", "change", "reason", "message"),
    [
        ("data", {"path": ""}, "data", "data.path is empty"),
        ("data", {"path": "/nowhere"}, "data", "no train shards"),
        ("data", {"seq_len": 8192, "batch_tokens": 16384}, "data", "data.seq_len is 8192"),
        ("model", {"vocab_size": 10}, "data", "model.vocab_size is 10"),
        pytest.param(
            "runtime", {"device": "cuda"}, "config", "sees no such device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU"),
        ),
    ],
)  # fmt: skip
def test_what_cannot_run_is_a_failure_with_a_reason(values, part, change, reason, message):
    values[part] |= change
    said = run(values)
    assert isinstance(said[-1], events.Failure)
    assert said[-1].reason == reason and message in said[-1].message


LIMITED = """
import json, resource, sys
import torch
torch.set_num_threads(1)
values = json.loads(sys.argv[1])
from trainer import serve
from trainer.distributed import ALONE
torch.zeros(8, 8).matmul(torch.zeros(8, 8))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]), resource.RLIM_INFINITY))
sys.exit(serve.run_file(values, ALONE))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux to bound a process's memory")
def test_out_of_memory_halves_the_micro_batch_and_goes_on(values):
    values["data"] |= {"seq_len": 64, "batch_tokens": 64 * 256, "micro_batch_tokens": 64 * 256}
    values["model"]["mlp_mult"] = 16
    values["budget"] = {"steps": 2}
    values["eval"] = {"val_tokens": 512, "final_val_tokens": 512}
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, json.dumps(values), str(150 * 2**20)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    said = [events.decode(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stderr[-2000:] + done.stdout[-2000:]
    notices = only(said, events.Notice)
    assert "going on with" in notices[0].message
    assert said[-1].reason == "complete" and said[-1].tokens == 2 * 64 * 256

    unlimited = run(values)
    assert only(said, events.Outcome)[0].val_bpb == pytest.approx(only(unlimited, events.Outcome)[0].val_bpb, rel=1e-4)
