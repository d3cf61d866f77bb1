"""The trainer as a process: requests in, events out, clean ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from trainer import events
from trainer.__main__ import main


class Server:
    """`python -m trainer serve` at the other end of two pipes."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "trainer", "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, **request: Any) -> None:
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()

    def listen(self, until: str) -> list[events.Event]:
        said: list[events.Event] = []
        for line in self.process.stdout:
            said.append(events.decode(line))
            if said[-1].kind == until:
                return said
        raise AssertionError(f"the trainer left before saying {until}: {said[-3:]}")


@pytest.fixture
def server():
    server = Server()
    yield server
    server.process.kill()
    server.process.stdin.close()
    server.process.stdout.close()
    server.process.wait(timeout=30)


def endless(values: dict[str, Any]) -> dict[str, Any]:
    return values | {"budget": {"seconds": 600.0}}


def test_one_process_serves_many_runs_stops_and_survives_bad_configs(server, values):
    server.ask(request="run", config=values)
    assert server.listen("end")[-1].reason == "complete"

    server.ask(request="run", config=endless(values))
    server.listen("step")
    server.ask(request="stop")
    assert server.listen("end")[-1].reason == "stopped"

    server.ask(request="run", config={"optim": {"speed": 3}})
    failure = server.listen("failure")[-1]
    assert failure.reason == "config" and "optim.speed" in failure.message

    server.ask(request="run")
    assert server.listen("failure")[-1].reason == "config"

    server.ask(request="run", config=endless(values))
    server.ask(request="stop")  # before the run has begun
    assert server.listen("end")[-1].reason == "stopped"

    server.ask(request="run", config=values)
    assert server.listen("end")[-1].reason == "complete"
    server.ask(request="quit")
    assert server.process.wait(timeout=30) == 0


@pytest.mark.parametrize("how", ["sigterm", "end of input"])
def test_it_leaves_cleanly_in_mid_run(server, values, how):
    server.ask(request="run", config=endless(values))
    server.listen("step")
    if how == "sigterm":
        server.process.send_signal(signal.SIGTERM)
    else:
        server.process.stdin.close()
    assert server.listen("end")[-1].reason == "stopped"
    assert server.process.wait(timeout=30) == 0


def test_run_trains_a_file_and_sigterm_stops_it(tmp_path, values):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(endless(values)))
    with subprocess.Popen(
        [sys.executable, "-m", "trainer", "run", str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert events.decode(process.stdout.readline()).kind == "start"
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        lines = process.stdout.read().splitlines()
        assert process.wait(timeout=30) == 0
    assert events.decode(lines[-1]).reason == "stopped"


def test_run_says_what_is_wrong_with_a_file(tmp_path, monkeypatch, capsys):
    path = tmp_path / "config.json"
    path.write_text("{")
    monkeypatch.setattr(sys, "argv", ["trainer", "run", str(path)])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2 and "cannot read" in capsys.readouterr().err
