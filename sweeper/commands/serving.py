"""`sweeper serve`: the service of a home, one at a time."""

from __future__ import annotations

import fcntl
import os
import signal

import uvicorn
from rich.console import Console

from sweeper import display, hosting, keeper
from sweeper.errors import SweeperError
from sweeper.settings import Settings

KEEPER_PATIENCE_SECONDS = 5.0
"""An orphaned service stays this much longer, so that its workers can hand back what they hold."""


def serve(settings: Settings, host: str, port: int | None, console: Console) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Raises:
        SweeperError: another service has this home, or the port is taken.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    # Held until the process ends, however it ends: two services must not share an SQLite file.
    with (settings.home / "service.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            where = hosting.running_url(settings) or "an address that does not answer yet"
            raise SweeperError(f"a service of {settings.home} runs already, at {where}") from error
        chosen = hosting.free_port(host, port)
        url = hosting.local_url(host, chosen)
        hosting.record(settings, url)
        keeper.watch(lambda: os.kill(os.getpid(), signal.SIGTERM), patience_seconds=KEEPER_PATIENCE_SECONDS)
        os.environ.update(settings.environment())
        display.say(console, f"serving {settings.home} at {url}")
        uvicorn.run(
            "dashboard.app:create_app",
            factory=True,
            host=host,
            port=chosen,
            log_level="warning",
            # Open pages hold a stream of updates; they need not be waited for.
            timeout_graceful_shutdown=2,
        )
