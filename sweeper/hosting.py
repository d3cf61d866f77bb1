"""The service of a home: where it listens, and the process of it that a launch keeps alive."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import httpx

from sweeper.children import DEATHS_IN_A_ROW, QUICK_DEATH_SECONDS, STOP_SECONDS, Child
from sweeper.client import Client, Refused, ServiceAway
from sweeper.errors import SweeperError
from sweeper.settings import Settings

DEFAULT_PORT = 8765
START_SECONDS = 60.0
"""How long a service may take to answer: migrations, and optuna's import on a slow disk."""
START_TRIES = 3
FOREIGN_AWAY_SECONDS = 10.0
"""How long a service that another launch started may be away before we start one in its place."""


def free_port(host: str, wanted: int | None) -> int:
    """`wanted` or, without a wish, the default port or any other that is free.

    Raises:
        SweeperError: the wanted port is taken.
    """
    for port in [wanted] if wanted is not None else [DEFAULT_PORT, 0]:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                if wanted is not None:
                    raise SweeperError(
                        f"cannot listen on {host}:{wanted} ({error.strerror}); leave --port out to take a free one"
                    ) from error
                continue
            bound: int = probe.getsockname()[1]
            return bound
    raise SweeperError(f"no port is free on {host}")


def record(settings: Settings, url: str) -> None:
    """Leave word in the home of where the service of this process listens."""
    settings.home.mkdir(parents=True, exist_ok=True)
    path = settings.home / "service.json"
    beside = path.with_suffix(f".{os.getpid()}.new")
    beside.write_text(json.dumps({"url": url, "pid": os.getpid()}) + "\n")
    beside.replace(path)


def recorded(settings: Settings) -> dict[str, Any] | None:
    """`url` and `pid` of the service that was last started on this home; it may be gone."""
    try:
        found = json.loads((settings.home / "service.json").read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "url" in found else None


def running_url(settings: Settings) -> str | None:
    """The address of a live service of this home, or None."""
    found = recorded(settings)
    if found is None:
        return None
    with Client(str(found["url"]), timeout_seconds=5.0) as client, contextlib.suppress(ServiceAway, Refused):
        # Another home's service may have taken the port since.
        if is_of(client, settings):
            return client.url
    return None


def is_of(client: Client, settings: Settings) -> bool:
    """Whether the service that answers is that of this home.

    Raises:
        ServiceAway: none answers.
    """
    return Path(str(client.health().get("home"))) == settings.home


class Service:
    """The running service of this home, or one that this launch starts and keeps alive."""

    def __init__(self, settings: Settings, host: str = "127.0.0.1", port: int | None = None) -> None:
        """Returns when the service answers.

        Raises:
            SweeperError: the port is taken, or the service does not come up.
        """
        self._settings = settings
        self._deaths = 0
        self._away_since: float | None = None
        # None while the service is one that was there before us, and so not ours to stop.
        self._child: Child | None = None
        running = running_url(settings)
        if running is not None:
            found = httpx.URL(running)
            self._address, self.url = (found.host, found.port or 80), running
        else:
            self._start_on_a_free_port(host, port)

    def _start_on_a_free_port(self, host: str, port: int | None) -> None:
        for tries_left in reversed(range(START_TRIES)):
            self._address = (host, free_port(host, port))
            self.url = local_url(*self._address)
            try:
                self._start()
                break
            except SweeperError:
                # Of two launches that look at once both find the port free, and one comes second.
                if port is not None or not tries_left or not self._another_answers():
                    raise

    def _another_answers(self) -> bool:
        with Client(self.url, timeout_seconds=5.0) as client, contextlib.suppress(ServiceAway, Refused):
            return not is_of(client, self._settings)
        return False

    def check(self) -> list[str]:
        """Start the service anew when it died; returns a line about it.

        Raises:
            SweeperError: it died five times in a row, each within a minute, or does not come up.
        """
        if self._child is None:
            return self._check_foreign()
        if self._child.status is None:
            return []
        quick = time.monotonic() - self._child.started_at < QUICK_DEATH_SECONDS
        self._deaths = self._deaths + 1 if quick else 1
        if self._deaths >= DEATHS_IN_A_ROW:
            raise SweeperError(f"the service died {self._deaths} times in a row; {self._child.epitaph()}")
        line = f"the service died (status {self._child.status}); starting it again"
        self._start()
        return [line]

    def _check_foreign(self) -> list[str]:
        if running_url(self._settings) is not None:
            self._away_since = None
            return []
        now = time.monotonic()
        self._away_since = self._away_since or now
        if now - self._away_since < FOREIGN_AWAY_SECONDS:
            return []
        self._start()
        return [f"the service at {self.url} went away with the launch that had it; started another"]

    @property
    def pid(self) -> int | None:
        """Of our own service process; None when it is not ours."""
        return self._child.process.pid if self._child else None

    def stop(self) -> None:
        """End the service if it is ours."""
        if self._child is not None:
            self._child.interrupt()
            self._child.wait(STOP_SECONDS)

    def _start(self) -> None:
        host, port = self._address
        arguments = ["serve", "--host", host, "--port", str(port)]
        # Its fits are small: more threads would only wait for the cores that trainers hold.
        threads = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": "1"}
        self._child = Child(arguments, self._settings, self._settings.home / "logs" / "service.log", threads)
        try:
            self._await_answer(self._child)
        except BaseException:  # Ctrl-C included: nobody else would stop the child
            self.stop()
            raise

    def _await_answer(self, child: Child) -> None:
        deadline = time.monotonic() + START_SECONDS
        with Client(self.url, timeout_seconds=5.0) as client:
            while True:
                if child.status is not None:
                    raise SweeperError(f"the service ended as it started; {child.epitaph()}")
                problem = f"another service answers at {self.url}"
                try:
                    if is_of(client, self._settings):
                        return
                except ServiceAway as error:
                    problem = str(error)
                if time.monotonic() > deadline:
                    raise SweeperError(
                        f"the service did not answer within {START_SECONDS:.0f} s ({problem}); see {child.log}"
                    )
                time.sleep(0.1)


def local_url(host: str, port: int) -> str:
    """Where this machine reaches a service that listens on `host`."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}"
