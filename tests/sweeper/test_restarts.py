"""Many workers over real HTTP, two services on one database, and a service that is killed with -9 again and again."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent import futures
from pathlib import Path
from typing import Any

import httpx
import optuna
import pytest

from sweeper import control
from sweeper.protocol import API, NoWork
from sweeper.service import Service
from sweeper.settings import Settings
from tests.sweeper import talk
from tests.sweeper.conftest import Opener

HELLO = talk.HELLO
numbered = talk.numbered
post = talk.post


def work(url: str, worker: str, problems: list[str]) -> None:
    """A worker in a thread: trials one after another until the study is complete."""
    with httpx.Client(base_url=url + API, trust_env=False, timeout=60) as client:
        post(client, "/workers", {**HELLO, "worker": worker})
        while True:
            answer = post(client, f"/workers/{worker}/lease", {"study": "tiny"})
            if answer["no_work"]:
                if answer["no_work"]["reason"] == "complete":
                    return
                time.sleep(0.05)
                continue
            grant = answer["grant"]
            bpb = 2.0 + grant["config"]["optim"]["matrix_lr"]
            said = [talk.start(), talk.evaluation(0.3, bpb), talk.step(0.5), talk.evaluation(0.6, bpb)]
            path = f"/leases/{grant['lease']}/events"
            for place, event in enumerate([*said, talk.outcome(bpb), talk.end()]):
                receipt = post(client, path, numbered(event, first=place))
                if receipt["command"] == "stop":
                    post(client, path, numbered(talk.end("stopped"), first=place + 1))
                    break
                if receipt["through"] != place:
                    problems.append(f"{worker}: {receipt} after {place}")


def test_workers_at_once_share_a_study(server: str, settings: Settings) -> None:
    with httpx.Client(base_url=server + API, trust_env=False) as client:
        post(client, "/studies", {"spec": {**talk.SPEC, "trials": 24, "pruner": {"type": "halving", "factor": 3}}})
    problems: list[str] = []
    threads = [threading.Thread(target=work, args=(server, f"w{n}", problems)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)

    assert problems == []
    told = subprocess_trials(settings)
    assert len(told) == 24
    assert {state for _, state in told} == {"COMPLETE", "PRUNED"}
    assert [number for number, _ in told] == list(range(24))


def subprocess_trials(settings: Settings) -> list[tuple[int, str]]:
    """Numbers and states, through Optuna alone."""
    url = settings.storage.replace("postgresql://", "postgresql+psycopg://")
    tables = optuna.storages.RDBStorage(url)
    try:
        return [
            (trial.number, trial.state.name) for trial in optuna.load_study(study_name="tiny", storage=tables).trials
        ]
    finally:
        tables.remove_session()
        tables.engine.dispose()


SERVER = """
import os, sys, uvicorn
from tests.sweeper.conftest import service_app
from sweeper.settings import Settings
uvicorn.run(service_app(Settings.from_environment()), port=int(sys.argv[1]), log_level="warning", ws="none")
"""


class ServiceProcess:
    """The API in a process that can be killed."""

    def __init__(self, settings: Settings, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        root = str(Path(__file__).parents[2])
        environment = os.environ | settings.environment() | {"PYTHONPATH": root}
        self._process = subprocess.Popen([sys.executable, "-c", SERVER, str(port)], env=environment, cwd=root)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                if httpx.get(f"{self.url}{API}/health", trust_env=False).status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError("the service did not start")

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(30)


def patient(client: httpx.Client, path: str, body: Any) -> Any:
    """Post until it is answered, as workers do."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            return post(client, path, body)
        except httpx.TransportError:
            time.sleep(0.02)
    raise AssertionError("no answer")


@pytest.mark.slow  # test_kill.py kills one once, under a real worker
def test_a_service_killed_again_and_again_loses_and_doubles_nothing(settings: Settings, unused_port: int) -> None:
    service = ServiceProcess(settings, unused_port)

    def labour(worker: str) -> None:
        with httpx.Client(base_url=service.url + API, trust_env=False, timeout=30) as client:
            patient(client, "/workers", {**HELLO, "worker": worker})
            while True:
                answer = patient(client, f"/workers/{worker}/lease", {"study": "tiny"})
                if answer["no_work"]:
                    if answer["no_work"]["reason"] == "complete":
                        return
                    time.sleep(0.05)
                    continue
                path = f"/leases/{answer['grant']['lease']}/events"
                for place, event in enumerate(talk.whole(2.5)):
                    patient(client, path, numbered(event, first=place))

    with httpx.Client(base_url=service.url + API, trust_env=False) as client:
        post(client, "/studies", {"spec": {**talk.SPEC, "trials": 30}})
    threads = [threading.Thread(target=labour, args=(f"w{n}",)) for n in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            time.sleep(0.5)
            service.kill()
            service = ServiceProcess(settings, unused_port)
        for thread in threads:
            thread.join(120)
    finally:
        service.kill()

    told = subprocess_trials(settings)
    assert [number for number, _ in told] == list(range(30))
    assert {state for _, state in told} == {"COMPLETE"}


def test_two_services_on_one_database_at_once(opener: Opener) -> None:
    services = opener(), opener()
    control.create_study(services[0], {**talk.SPEC, "trials": 12, "pruner": {"type": "none"}})
    runs = itertools.count(1)

    def labour(service: Service, worker: str) -> None:
        talk.join(service, worker)
        while True:
            given = talk.ask(service, worker)
            if isinstance(given, NoWork):
                if given.reason == "complete":
                    return
                time.sleep(0.02)
            elif next(runs) % 4 == 0:
                talk.say(service, given, talk.failure("died"))
            else:
                talk.say(service, given, *talk.whole(2.5))

    with futures.ThreadPoolExecutor(max_workers=4) as pool:
        working = [pool.submit(labour, services[n % 2], f"w{n}") for n in range(4)]
        for future in working:
            future.result(timeout=120)

    trials = talk.trials(services[0])
    states = [trial.state.name for trial in trials]
    assert states.count("COMPLETE") == 12
    assert set(states) == {"COMPLETE", "FAIL"}
    repeated = [trial.user_attrs["retry_of"] for trial in trials if "retry_of" in trial.user_attrs]
    assert len(repeated) == len(set(repeated)), "no failure is repeated twice"
