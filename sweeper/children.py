"""Child processes of a launch: a `sweeper` command each, its output in a log file.

Children have process groups of their own: Ctrl-C in the terminal reaches the launch alone, which then stops
them in order.  If the launch itself is killed outright, they see that it is gone (see keeper) and leave.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from sweeper import keeper
from sweeper.settings import Settings

STOP_SECONDS = 15.0
"""How long a child may take to leave after SIGTERM, beyond the grace of its trainer."""
DEATHS_IN_A_ROW = 5
QUICK_DEATH_SECONDS = 60.0
"""A child that lived longer than this before it died starts a new row."""


class Child:
    """A `sweeper` command as a child process, its output in a log file."""

    def __init__(self, arguments: list[str], settings: Settings, log: Path, extra: dict[str, str]) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.log = log
        self.started_at = time.monotonic()
        with log.open("ab") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sweeper.cli", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**os.environ, **settings.environment(), **keeper.environment(), **extra},
                start_new_session=True,
            )

    @property
    def status(self) -> int | None:
        """Exit status, or None while it runs."""
        return self.process.poll()

    def interrupt(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float) -> None:
        """Wait for the end; kill what does not end in time."""
        try:
            self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def epitaph(self) -> str:
        """Status and the end of its log, for an error message."""
        tail = self.log.read_text(errors="replace").splitlines()[-8:]
        return f"status {self.status}, the end of {self.log}:\n" + "\n".join(tail)


def process_lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
