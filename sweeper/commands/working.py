"""`sweeper worker`: one worker until it is told to leave.  Free of database and web framework."""

from __future__ import annotations

import signal
import threading

from sweeper import devices, keeper
from sweeper.client import Client
from sweeper.protocol import RunKind
from sweeper.settings import Settings
from sweeper.worker import Worker


def work(
    server: str,
    settings: Settings,
    *,
    device: str,
    study: str | None,
    kind: RunKind | None,
    identity: str,
    allow_commands: bool,
    stop_grace_seconds: float,
    gpus: int = 1,
) -> None:
    """Serve until there is no more work, or a signal or the loss of the keeper says to leave."""
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    keeper.watch(stopping.set)
    with Client(server) as client:
        Worker(
            client,
            settings.home,
            device=devices.resolve(device),
            gpus=gpus,
            identity=identity,
            study=study,
            kind=kind,
            allow_commands=allow_commands,
            stopping=stopping,
            stop_grace_seconds=stop_grace_seconds,
        ).work()
