"""Service and workers as children: kept alive, taken along, found again."""

import socket
import sys
import threading
from concurrent import futures

import psutil
import pytest

from sweeper import devices, fleet, hosting
from sweeper.errors import SweeperError
from sweeper.study import load
from tests.sweeper.installation import Installation, assert_nothing_lost_or_doubled, descendants, gone, trainer_of
from tests.sweeper.waiting import until

STEPS = 50


@pytest.fixture
def installation(tmp_path, monkeypatch):
    made = Installation(tmp_path, step_seconds=0.02, lease_seconds=30.0)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    yield made
    made.close()


def children():
    """Ids of every process below this one."""
    return {child.pid for child in descendants(psutil.Process().pid)}


@pytest.mark.slow
def test_service_and_worker_that_die_are_replaced_and_nothing_waits_for_a_lease_to_expire(installation):
    strangers = children()  # a database server or a browser of other tests
    service = hosting.Service(installation.settings)
    hands = None
    try:
        spec = load(str(installation.study_file(trials=2, steps=STEPS)), "cpu")
        installation.client.close()
        installation.client = fleet.Client(service.url)
        installation.client.create_study(spec.model_dump(mode="json"))
        hands = fleet.Fleet(installation.settings, service.url, "toy", ["cpu"])
        until(installation.running, "a trial under way")

        psutil.Process(hands.pids[0]).kill()
        assert "died (status -9)" in until(hands.check, "the death to be noticed")[0]
        until(installation.running, "another trial under way", 20)  # less than the lease of 30 s

        psutil.Process(service.pid).kill()
        assert "died (status -9)" in until(service.check, "the death to be noticed")[0]
        until(lambda: installation.summary()["finished"], "the study to be complete", 60)
        until(lambda: not hands.alive, "the workers to leave")
        assert hands.check() == []
    finally:
        family = children() - strangers
        if hands:
            hands.stop()
        service.stop()
    assert gone(family)
    assert len(assert_nothing_lost_or_doubled(installation, 2, STEPS)) == 1


def test_a_worker_that_cannot_live_ends_the_fleet_with_its_last_words(installation):
    hands = fleet.Fleet(installation.settings, "http://127.0.0.1:1", "toy", ["cuda:7"])
    enough = threading.Event()
    try:
        with pytest.raises(SweeperError, match=r"died 5 times in a row(.|\n)*cuda:7 does not exist"):
            while not enough.wait(0.05):
                hands.check()
    finally:
        hands.stop()


@pytest.mark.slow
def test_children_leave_when_their_launch_is_killed(installation):
    file = installation.study_file(trials=1, steps=100_000)
    launch = installation.start("launch", "--study", file)
    log = installation.settings.home / "logs" / "worker-0.log"
    until(lambda: log.exists() and "trial 0" in log.read_text(), "a trial to begin")
    worker = next(child for child in descendants(launch.pid) if "worker" in child.cmdline())
    until(lambda: trainer_of(worker), "a trainer")
    family = [child.pid for child in descendants(launch.pid)]
    assert len(family) >= 3  # service, worker, trainer
    launch.kill()
    launch.wait()
    until(lambda: gone(family), "service, worker and trainer to leave", 40)
    states = installation.read(lambda results: [trial.reason for trial in results.trials("toy")])
    assert "interrupted" in states[0]  # handed back, not lost


def test_a_running_service_of_the_same_home_is_used_and_left_running(installation):
    process = installation.serve()
    service = hosting.Service(installation.settings)
    assert service.url == installation.client.url and service.pid is None
    service.stop()
    assert process.poll() is None and installation.answers()


def test_the_service_of_another_home_is_not_ours(installation, tmp_path):
    installation.serve()
    other = Installation(tmp_path / "other")
    hosting.record(other.settings, installation.client.url)
    assert hosting.running_url(other.settings) is None
    other.close()


@pytest.mark.slow
def test_launches_at_once_get_a_service_each(tmp_path):
    homes = [Installation(tmp_path / name) for name in ("one", "two", "three")]
    with futures.ThreadPoolExecutor() as pool:
        services = list(pool.map(hosting.Service, [made.settings for made in homes]))
    try:
        assert len({service.url for service in services}) == 3
        for made, service in zip(homes, services, strict=True):
            assert hosting.running_url(made.settings) == service.url
    finally:
        for made, service in zip(homes, services, strict=True):
            service.stop()
            made.close()


def test_a_taken_port_is_refused_when_asked_for_and_avoided_when_not():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SweeperError, match=str(port)):
            hosting.free_port("127.0.0.1", port)
    assert hosting.free_port("127.0.0.1", None) > 0


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """A machine with two GPUs, as far as a program on the PATH can tell."""
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho '0, 81559, 550.54, NVIDIA H100'\necho '1, [N/A], 550.54, NVIDIA GB10'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_devices_are_those_that_cuda_would_show(nvidia_smi, monkeypatch):
    assert [gpu.name for gpu in devices.gpus()] == ["NVIDIA H100", "NVIDIA GB10"]
    assert devices.assign("auto", None) == ["cuda:0", "cuda:1"]
    assert devices.assign("auto", 3) == ["cuda:0", "cuda:1", "cuda:0"]
    assert devices.assign("cpu", None) == ["cpu"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert devices.assign("cuda", None) == ["cuda:0"]
    assert devices.describe("cuda:0") == "NVIDIA GB10"
    assert devices.environment("cuda:0") == {"CUDA_VISIBLE_DEVICES": "1"}
    with pytest.raises(SweeperError, match="cuda:1"):
        devices.resolve("cuda:1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices.profile() == "cpu"
    with pytest.raises(SweeperError, match="--device cuda"):
        devices.assign("cuda", None)


def test_a_macs_gpu_is_taken_where_it_is_asked_for_and_torch_sees_it(nvidia_smi):
    assert devices.assign("mps", None, lambda: True) == ["mps"]
    assert devices.assign("mps", 2, lambda: True) == ["mps", "mps"]
    assert devices.resolve("mps", lambda: True) == "mps"
    assert devices.environment("mps") == {"CUDA_VISIBLE_DEVICES": ""}
    assert devices.describe("mps")
    devices.check_several("mps", 1)
    with pytest.raises(SweeperError, match="one GPU"):
        devices.check_several("mps", 2)
    with pytest.raises(SweeperError, match="or mps, got 'mps:0'"):
        devices.resolve("mps:0")


@pytest.mark.skipif(sys.platform == "darwin", reason="torch may see one")
def test_without_a_macs_gpu_mps_is_refused_with_what_to_do():
    with pytest.raises(SweeperError, match="torch sees none here; use --device cpu"):
        devices.assign("mps", 1)


def test_workers_on_one_cpu_share_its_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert fleet.threads_each(["cpu"]) == {}
    assert int(fleet.threads_each(["cpu"] * 1000)["OMP_NUM_THREADS"]) == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert fleet.threads_each(["cpu"] * 2) == {}
