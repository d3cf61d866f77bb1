"""Two processes that share a run, as torchrun starts them: the same mathematics, the same decisions, no hangs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from trainer import checkpoint, events
from trainer.config import TrainConfig
from trainer.loop import train

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


@contextmanager
def launched(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """torchrun with two ranks at the other end of its pipes; nothing of it outlives the block."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*TORCHRUN, *arguments], text=True, env=ONE_THREAD, **pipes) as process:
        try:
            yield process
        finally:
            for rank in ranks(process):
                rank.kill()
            process.kill()


def ranks(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes that torchrun started, rank 0 first."""
    try:
        found = [child for child in psutil.Process(process.pid).children() if "RANK" in child.environ()]
    except psutil.NoSuchProcess:
        return []
    return sorted(found, key=lambda child: int(child.environ()["RANK"]))


def ask(process: subprocess.Popen[str], **request: Any) -> None:
    process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()


def listen(process: subprocess.Popen[str], until: str) -> list[events.Event]:
    said: list[events.Event] = []
    for line in process.stdout:
        said.append(events.decode(line))
        if said[-1].kind == until:
            return said
    raise AssertionError(f"the trainer left before saying {until}: {said[-3:]} {process.stderr.read()[-3000:]}")


def alone(values: dict[str, Any], stop_after: int | None = None) -> list[events.Event]:
    said: list[events.Event] = []
    train(TrainConfig.from_dict(values), said.append, lambda: last_step(said) == stop_after)
    return said


def last_step(said: list[events.Event]) -> int:
    return max((event.step for event in said if isinstance(event, events.Step)), default=0)


def only(said: list[events.Event], kind: type) -> list[Any]:
    return [event for event in said if isinstance(event, kind)]


def outcome(said: list[events.Event]) -> events.Outcome:
    (found,) = only(said, events.Outcome)
    return found


def weights(folder: str) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint.newest(Path(folder)), weights_only=True)["model"]


@pytest.fixture
def values(values: dict[str, Any]) -> dict[str, Any]:
    """Three layers and 33 windows: neither matrices nor windows divide by two."""
    values["model"]["num_layers"] = 3
    values["eval"] = {"fractions": [0.5], "val_tokens": 33 * 16}
    values["optim"] = {"matrix_weight_decay": 0.1, "grad_clip": 0.5}
    return values


@pytest.mark.slow
def test_serve_shares_runs_among_ranks_and_passes_on_stop_and_quit(values, tmp_path):
    values["checkpoint"] = {"path": str(tmp_path / "one")}
    one = alone(values)
    with launched("-m", "trainer", "serve") as server:
        values["checkpoint"] = {"path": str(tmp_path / "two")}
        ask(server, request="run", config=values)
        two = listen(server, "end")
        assert [event.kind for event in two] == [event.kind for event in one]
        assert (two[0].devices, two[0].micro_batch_tokens, two[0].accumulation) == (2, 128, 1)
        assert (two[-1].step, two[-1].tokens) == (one[-1].step, one[-1].tokens) == (12, 12 * 256)
        for ours, theirs in zip(only(two, events.Step), only(one, events.Step), strict=True):
            assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-5)
        for kind in (events.Eval, events.Outcome):
            for ours, theirs in zip(only(two, kind), only(one, kind), strict=True):
                assert ours.val_tokens == theirs.val_tokens
                assert ours.val_bpb == pytest.approx(theirs.val_bpb, rel=1e-5)
                assert ours.val_bpb_stderr == pytest.approx(theirs.val_bpb_stderr, rel=1e-4)
        expected = weights(str(tmp_path / "one"))
        for name, tensor in weights(str(tmp_path / "two")).items():
            assert torch.allclose(tensor, expected[name], atol=1e-4), name

        ask(server, request="run", config=values | {"data": values["data"] | {"batch_tokens": 48}})
        failure = listen(server, "failure")[-1]
        assert failure.reason == "config"
        assert "data.batch_tokens is 48, 3 sequences" in failure.message and "a multiple of 32" in failure.message

        ask(server, request="run", config=values | {"budget": {"seconds": 600.0}, "checkpoint": {}})
        listen(server, "step")
        ask(server, request="stop")
        assert listen(server, "end")[-1].reason == "stopped"

        ask(server, request="quit")
        assert server.wait(timeout=30) == 0


ON_EVERY_RANK = """
import json, resource, sys
from pathlib import Path
import torch
from trainer import distributed, events
from trainer.config import TrainConfig
from trainer.loop import train
from trainer.muon import Muon

def updated(group):
    torch.manual_seed(0)
    shapes = [(24, 8)] * 3 + [(8, 24)] + [(16, 16)] * 2
    weights = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    muon = Muon(weights, lr=0.1, momentum=0.9, weight_decay=0.5, newton_schulz_steps=5, group=group)
    for _ in range(3):
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        muon.step()
    return torch.cat([weight.detach().flatten() for weight in weights])

def run(job, group):
    if job.get("bytes_of_rank_1") and group.rank == 1:
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + job["bytes_of_rank_1"], resource.RLIM_INFINITY))
    said = []
    def should_stop():  # of rank 1 alone
        return group.rank == 1 and any(isinstance(e, events.Step) and e.step == job.get("stop_after") for e in said)
    train(TrainConfig.from_dict(job["config"]), said.append, should_stop, group)
    draws.append(torch.rand(4).tolist())
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return [events.to_dict(event) for event in said]

folder, draws = Path(sys.argv[1]), []
with distributed.joined() as group:
    answer = {"muon": (updated(group) - updated(distributed.ALONE)).abs().max().item()}
    answer["runs"] = [run(job, group) for job in json.loads((folder / "jobs.json").read_text())]
    answer["draws"] = draws
    (folder / f"rank{group.rank}.json").write_text(json.dumps(answer))
"""


def on_every_rank(folder: Path, jobs: list[dict[str, Any]]) -> tuple[list[float], list[list[list[events.Event]]]]:
    """How far each rank's Muon is from that of a single process; what each rank said in each job."""
    (folder / "jobs.json").write_text(json.dumps(jobs))
    script = folder / "on_every_rank.py"
    script.write_text(ON_EVERY_RANK)
    with launched(str(script), str(folder)) as process:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors[-3000:]
    answers = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(2)]
    said = [[[events.from_dict(event) for event in run] for run in answer["runs"]] for answer in answers]
    return [answer["muon"] for answer in answers], said


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux to bound a process's memory")
def test_ranks_agree_on_updates_clock_stop_checkpoints_and_memory(values, tmp_path):
    unbroken = outcome(alone(values))
    # Rank 0 writes while rank 1 waits for it: their own clocks would soon disagree.
    timed = {
        "ladder": {"budgets": [0.1]},
        "budget": {"seconds": 0.3},
        "checkpoint": {"path": str(tmp_path / "timed"), "every_seconds": 0.02},
    }
    from_one = values | {"checkpoint": {"path": str(tmp_path / "from one")}}
    from_two = values | {"checkpoint": {"path": str(tmp_path / "from two")}}
    assert alone(from_one, stop_after=5)[-1].reason == "stopped"
    large = values | {
        "model": values["model"] | {"num_layers": 1, "mlp_mult": 16},
        "data": values["data"] | {"seq_len": 64, "batch_tokens": 64 * 256, "micro_batch_tokens": 64 * 256},
        "budget": {"steps": 1},
        "eval": {"val_tokens": 512, "final_val_tokens": 512},
    }

    moved, said = on_every_rank(
        tmp_path,
        [
            {"config": values | timed},
            {"config": from_two, "stop_after": 5},
            {"config": from_one},
            {"config": large, "bytes_of_rank_1": 75 * 2**20},
        ],
    )

    assert max(moved) < 1e-6
    for ours, theirs in zip(*said, strict=True):
        # Which steps are said goes by each rank's own clock, and only those of rank 0 are heard.
        ours, theirs = (
            [event for event in events_ if not isinstance(event, events.Step)] for events_ in (ours, theirs)
        )
        assert [event.kind for event in ours] == [event.kind for event in theirs]
        assert (ours[-1].step, ours[-1].reason) == (theirs[-1].step, theirs[-1].reason)
    on_time, stopped, resumed, halved = said[0]
    assert on_time[-1].reason == "complete" and on_time[-1].seconds >= 0.3 and on_time[-1].step > 2
    assert [event.budget for event in only(on_time, events.Outcome)] == [0.1, None]
    assert stopped[-1].reason == "stopped" and stopped[-1].step == 5
    assert resumed[0].resumed_step == 5
    assert outcome(resumed).val_bpb == pytest.approx(unbroken.val_bpb, rel=1e-5)
    by_one = alone(from_two)
    assert by_one[0].resumed_step == 5
    assert outcome(by_one).val_bpb == pytest.approx(unbroken.val_bpb, rel=1e-5)
    assert "on another device" in only(halved, events.Notice)[0].message
    assert "allocate memory" in only(said[1][3], events.Notice)[0].message
    assert outcome(halved).val_bpb == pytest.approx(outcome(alone(large)).val_bpb, rel=1e-4)


@pytest.mark.slow
def test_ranks_drop_out_channels_of_their_own_and_go_on_exactly(values, tmp_path):
    values["model"] = {"family": "helix", "vocab_size": 64}
    values["helix"] = {"d_model": 32, "num_heads": 4, "linear_feature_dim": 8, "num_loops": 2, "dropout": 0.3}
    values["optim"] = {"matrix_optimizer": "adamw", "matrix_lr": 5e-3, "scalar_lr": 5e-3, "embed_lr": 5e-3}

    def saving(name: str) -> dict[str, Any]:
        return values | {"checkpoint": {"path": str(tmp_path / name)}}

    assert alone(saving("from one"), stop_after=5)[-1].reason == "stopped"
    jobs = [
        {"config": values},
        {"config": saving("from two"), "stop_after": 5},
        {"config": saving("from two")},
        {"config": saving("from one")},
        {"config": values | {"budget": {"steps": 1}, "helix": values["helix"] | {"dropout": 0.0}}},
    ]
    _, (said, _) = on_every_rank(tmp_path, jobs)
    draws = [json.loads((tmp_path / f"rank{rank}.json").read_text())["draws"] for rank in range(2)]
    unbroken, stopped, resumed, from_one, plain = said

    assert all(ours != theirs for ours, theirs in zip(*draws, strict=True)), "no two ranks draw the same"
    assert stopped[-1].reason == "stopped" and resumed[0].resumed_step == from_one[0].resumed_step == 5
    assert outcome(resumed).val_bpb == outcome(unbroken).val_bpb
    assert [rank[2] for rank in draws] == [rank[0] for rank in draws], "every rank goes on with its own draws"
    assert outcome(from_one).step == 12
    same_start = alone(jobs[-1]["config"])
    assert only(plain, events.Step)[0].train_loss == pytest.approx(
        only(same_start, events.Step)[0].train_loss, rel=1e-6
    )
    by_one = alone(saving("from two"))  # which is complete: its outcome is said again, by whoever goes on from it
    assert by_one[0].resumed_step == 12 and by_one[-1].reason == "complete"


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_gpus_train_as_one(values, tmp_path):
    values["runtime"] = {"device": "cuda", "compile": "off", "log_every_seconds": 0.0}
    _, ((two,), (same,)) = on_every_rank(tmp_path, [{"config": values}])
    one = alone(values)
    assert two[0].devices == 2 and two[-1].tokens == one[-1].tokens
    # Which steps are said goes by each rank's own clock.
    ours, theirs = ({step.step: step.train_loss for step in only(said, events.Step)} for said in (two, same))
    assert (shared := ours.keys() & theirs.keys()) and all(ours[step] == theirs[step] for step in shared)
    assert outcome(two).val_bpb == outcome(same).val_bpb == pytest.approx(outcome(one).val_bpb, rel=1e-2)


def test_a_rank_that_is_killed_ends_the_run_within_seconds(values, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values | {"budget": {"seconds": 600.0}}))
    with launched("-m", "trainer", "run", str(path)) as process:
        listen(process, "step")
        first, second = ranks(process)
        began = time.monotonic()
        second.send_signal(signal.SIGKILL)
        rest, _ = process.communicate(timeout=30)
        assert time.monotonic() - began < 10
        assert process.returncode != 0 and not first.is_running()
        last = events.decode(rest.splitlines()[-1])
        assert isinstance(last, events.Step) or last.reason == "crash"
