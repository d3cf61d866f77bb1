"""The worker's loop against a scripted service over real HTTP, with a fake trainer in a process of its own."""

import os
import shlex
import signal
import sys
import threading
from pathlib import Path

import pytest

from sweeper.client import Client
from sweeper.errors import SweeperError
from sweeper.outbox import Outbox
from sweeper.worker import Worker
from tests.sweeper.scripted_service import ScriptedService
from tests.sweeper.waiting import until

FAKE = f"{shlex.quote(sys.executable)} {shlex.quote(str(Path(__file__).parents[1] / 'fake_trainer.py'))}"


def grant(lease=1, *, hang_seconds=30.0, checkpoint="", kind="trial", data="small"):
    return {
        "lease": lease,
        "run": lease,
        "study": "toy",
        "kind": kind,
        "number": lease - 1,
        "attempt": 1,
        "config": {
            "optim": {"matrix_lr": 0.03},
            "data": {"batch_tokens": 1024, "path": ""},
            "budget": {"seconds": 1.0, "tokens": None, "steps": None},
            "eval": {"fractions": [0.3, 0.6], "stride": 0},
            "export": {"scheme": "off"},
            "checkpoint": {"path": ""},
        },
        "data": {"name": data, "tokenizer": "sweeper1024"},
        "checkpoint": checkpoint,
        "hang_seconds": hang_seconds,
    }


@pytest.fixture
def start(monkeypatch, shared_home):
    """Starts a worker in a thread; returns it and its thread."""
    monkeypatch.setenv("SWEEPER_TRAINER", FAKE)
    started = []

    def begin(service, **options):
        client = Client(service.url)
        worker = Worker(client, shared_home, study="toy", stop_grace_seconds=2.0, **options)
        thread = threading.Thread(target=worker.work)
        thread.start()
        started.append((worker, thread, client))
        return worker, thread

    yield begin
    for worker, thread, client in started:
        worker.stopping.set()
        thread.join(timeout=30)
        client.close()
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def shared_home(tmp_path_factory):
    """One home for the module, so that the packaged corpus is prepared once."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def serve():
    services = []

    def begin(*grants, port=0):
        services.append(ScriptedService(grants, port))
        return services[-1]

    yield begin
    for service in services:
        service.close()


def finish(thread):
    thread.join(timeout=60)
    assert not thread.is_alive()


def test_runs_are_executed_one_after_another_and_the_worker_leaves(serve, start):
    service = serve(grant(1), grant(2))
    _, thread = start(service)
    finish(thread)

    for lease in (1, 2):
        kinds = service.kinds(lease)
        assert kinds[0] == "start" and kinds[-1] == "end"
        assert kinds.count("step") == 20 and kinds.count("eval") == 3
        assert sorted(service.events[lease]) == list(range(len(kinds)))
    assert service.goodbyes == ["no more work"]
    assert service.hellos[0]["device"] == "cpu" and service.hellos[0]["device_name"]


def test_a_worker_of_a_macs_gpu_has_its_trainer_take_it(serve, start):
    service = serve(grant())
    _, thread = start(service, device="mps")
    finish(thread)
    assert service.hellos[0]["device"] == "mps"
    assert service.events[1][0]["device"] == "mps"


def test_events_travel_in_batches(serve, start, monkeypatch):
    monkeypatch.setenv("FAKE_STEPS", "200")
    monkeypatch.setenv("FAKE_STEP_SECONDS", "0.005")
    service = serve(grant())
    _, thread = start(service)
    finish(thread)
    assert service.kinds(1).count("step") == 200
    assert service.deliveries[1] < 30


def test_the_last_validation_and_the_outcome_go_with_the_end(serve):
    service = serve()
    with Client(service.url) as client:
        outbox = Outbox(client, 1, 60.0)
        outbox.add({"event": "eval", "fraction": 1.0})
        outbox.add({"event": "outcome"})
        assert not outbox.due
        outbox.add({"event": "end"})
        assert outbox.due
        outbox.deliver()
        outbox.add({"event": "eval", "fraction": 0.3})
        assert outbox.due, "a rung is decided on"
    assert service.kinds(1) == ["eval", "outcome", "end"]


def test_a_stop_order_ends_the_run_as_stopped(serve, start, monkeypatch):
    monkeypatch.setenv("FAKE_STEPS", "2000")
    service = serve(grant())
    service.stop_on[1] = "step"
    _, thread = start(service)
    finish(thread)
    assert service.last(1)["event"] == "end" and service.last(1)["reason"] == "stopped"


def test_a_dead_trainer_is_reported_and_the_next_run_has_a_new_one(serve, start, monkeypatch, tmp_path):
    monkeypatch.setenv("FAKE_CRASH_ONCE", str(tmp_path / "crashed"))
    service = serve(grant(1), grant(2))
    _, thread = start(service)
    finish(thread)
    assert service.last(1)["reason"] == "died"
    assert service.last(2)["reason"] == "complete"


def test_a_trainer_that_hangs_is_killed_and_reported(serve, start, monkeypatch, tmp_path):
    monkeypatch.setenv("FAKE_HANG_ONCE", str(tmp_path / "hung"))
    service = serve(grant(1, hang_seconds=1.0), grant(2))
    _, thread = start(service)
    finish(thread)
    assert service.last(1)["reason"] == "hung"
    assert service.last(2)["reason"] == "complete"


def test_a_service_that_is_away_changes_nothing_in_the_curve(serve, start, monkeypatch):
    monkeypatch.setenv("FAKE_STEPS", "60")
    service = serve(grant(1), grant(2))
    _, thread = start(service)
    until(lambda: service.events[1], "the first events")
    service.away = True
    seen = service.deliveries[1]
    # The run ends while nobody listens; after the return its end comes, then the next lease.
    threading.Event().wait(1.5)
    assert service.deliveries[1] == seen
    service.away = False
    finish(thread)

    assert [event["step"] for event in service.events[1].values() if event["event"] == "step"] == list(range(1, 61))
    assert service.last(1)["reason"] == service.last(2)["reason"] == "complete"


def test_a_service_that_is_gone_and_comes_back_gets_everything_once(serve, start, monkeypatch):
    monkeypatch.setenv("FAKE_STEPS", "60")
    first = serve(grant(1))
    _, thread = start(first)
    until(lambda: first.events[1], "the first events")
    first.close()
    before = dict(first.events[1])
    second = serve(port=first.server.server_port)
    second.events[1].update(before)
    finish(thread)
    assert second.kinds(1)[-1] == "end"
    assert sorted(second.events[1]) == list(range(len(second.events[1])))


def test_a_lost_lease_drops_the_run_and_a_new_one_is_leased(serve, start, monkeypatch):
    monkeypatch.setenv("FAKE_STEPS", "100000")
    service = serve(grant(1), grant(2))
    _, thread = start(service)
    until(lambda: "step" in service.kinds(1), "the run to begin")
    monkeypatch.delenv("FAKE_STEPS")
    service.refused.add(1)
    service.stop_on[2] = "step"
    finish(thread)
    assert "end" not in service.kinds(1)
    assert service.last(2)["event"] == "end"


def test_data_that_cannot_be_had_is_a_failure_of_the_run(serve, start, tmp_path):
    service = serve(grant(data=str(tmp_path / "nowhere")))
    _, thread = start(service)
    finish(thread)
    assert service.kinds(1) == ["failure"]
    assert service.last(1)["reason"] == "data" and "nowhere" in service.last(1)["message"]


def test_an_interrupted_worker_hands_its_run_back(serve, start, monkeypatch):
    monkeypatch.setenv("FAKE_STEPS", "100000")
    service = serve(grant())
    worker, thread = start(service)
    until(lambda: "step" in service.kinds(1), "the run to begin")
    worker.stopping.set()
    finish(thread)
    assert service.goodbyes == ["interrupted"]
    assert "end" not in service.kinds(1) and "failure" not in service.kinds(1)


def test_a_trainer_that_is_signalled_from_outside_did_not_stop_by_order(serve, start, monkeypatch):
    monkeypatch.setenv("FAKE_STEPS", "100000")
    service = serve(grant())
    worker, thread = start(service)
    until(lambda: "step" in service.kinds(1), "the run to begin")
    os.kill(worker.trainer_pid, signal.SIGTERM)
    finish(thread)
    assert service.last(1)["reason"] == "died"


def test_a_checkpoint_goes_under_the_home_and_is_resumed(serve, start, shared_home):
    service = serve(
        grant(1, checkpoint="promotions/toy-0", kind="promotion"),
        grant(2, checkpoint="promotions/toy-0", kind="promotion"),
    )
    _, thread = start(service)
    finish(thread)
    assert (shared_home / "runs" / "promotions" / "toy-0" / "fake.json").exists()
    assert service.events[2][0]["resumed_step"] == 20
    assert service.kinds(2)[-2:] == ["outcome", "end"]


def test_a_command_that_was_not_allowed_is_handed_back_and_not_run(serve, tmp_path):
    mark = tmp_path / "ran"
    service = serve({**grant(), "command": {"argv": ["touch", str(mark)]}})
    with Client(service.url) as client, pytest.raises(SweeperError, match="--allow-commands has not allowed"):
        Worker(client, tmp_path, study="toy").work()
    assert service.goodbyes == ["worker_lost"] and not service.events[1], "the run is repeated elsewhere"
    assert not mark.exists()


def test_a_worker_goes_from_a_command_to_the_trainer_and_back(serve, start):
    say = "print('step:9/9 val_loss:2.0 val_bpb:1.1')"
    command = {"argv": [sys.executable, "-c", say], "directory": str(Path(__file__).parent / "stand_ins")}
    service = serve({**grant(1), "command": command}, grant(2), {**grant(3), "command": command})
    _, thread = start(service, allow_commands=True)
    finish(thread)
    assert [service.last(lease)["reason"] for lease in (1, 2, 3)] == ["complete"] * 3
    assert [len(service.kinds(lease)) > 20 for lease in (1, 2, 3)] == [False, True, False]


@pytest.mark.parametrize("directory", ["/no/such/folder", "nul\x00"])
def test_a_command_that_cannot_be_started_is_a_failure_of_the_run(serve, start, directory):
    service = serve({**grant(), "command": {"argv": ["true"], "directory": directory}})
    _, thread = start(service, allow_commands=True)
    finish(thread)
    assert service.kinds(1) == ["failure"] and "cannot start the trainer" in service.last(1)["message"]
