"""One trainer process: start, feed, listen, stop, kill.

It lives on between runs, so that imports, CUDA start-up and compilation are paid once; it is started anew
after it died or was killed.  Whatever happens to it, each run ends with exactly one `end` or `failure`.

The command is `python -m trainer serve`, or what the environment variable SWEEPER_TRAINER says: the way to
use another interpreter, a wrapper such as `numactl`, or another trainer that speaks the same events.  Scripts
that speak no events have `foreign`.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from sweeper import devices, provenance
from sweeper.pipes import Pipes
from sweeper.process import RunningProcess
from trainer import events

COMMAND_VARIABLE = "SWEEPER_TRAINER"


def command(processes: int = 1) -> list[str]:
    """The command line of a trainer that serves, shared among so many processes."""
    given = os.environ.get(COMMAND_VARIABLE)
    if given:
        return shlex.split(given)
    several = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [sys.executable, *(several if processes > 1 else []), "-m", "trainer", "serve"]


WORTH_A_FRESH_PROCESS = ("crash", "out_of_memory")
"""A device fault stays with the process that met it, and so does memory that nobody gave back."""


class TrainerProcess(RunningProcess):
    """Runs one configuration after another in a process that it keeps.

    Args:
        device: of the runs; with several processes the first of theirs.
        stop_grace_seconds: see RunningProcess.
        processes: that share each run, a device each.
    """

    def __init__(self, device: str, *, stop_grace_seconds: float = 30.0, processes: int = 1) -> None:
        super().__init__(device, stop_grace_seconds=stop_grace_seconds)
        self._processes = processes

    def run(self, config: dict[str, Any], hang_seconds: float) -> None:
        """As RunningProcess.run; `config` holds nested TrainConfig values."""
        assert not self._busy, "one run at a time"
        if self._pipes is not None and self._pipes.process.poll() is not None:
            self._pipes.kill()  # it died between runs, which harmed nobody
            self._pipes = None
        if self._pipes is None:
            environment = {**os.environ, **devices.environment(self._device, self._processes)}
            self._pipes = Pipes(command(self._processes), environment, _understand)
            self._commit = _own_commit()
        self._begin(hang_seconds)
        self._pipes.send({"request": "run", "config": config})

    def _order_stop(self) -> None:
        assert self._pipes is not None
        self._pipes.send({"request": "stop"})

    def _events_of(self, said: Any) -> list[dict[str, Any]]:
        raise AssertionError(f"a trainer says events and log lines, not {said!r}")

    def _pass_on(self, event: dict[str, Any]) -> dict[str, Any]:
        passed = super()._pass_on(event)
        if event["event"] == "failure" and event["reason"] in WORTH_A_FRESH_PROCESS:
            self.kill()
        return passed

    def close(self) -> None:
        """Let an idle process quit by itself, or kill it after a few seconds."""
        if self._pipes is not None and not self._busy:
            self._pipes.send({"request": "quit"})
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._pipes.process.wait(timeout=min(5.0, self._grace))
        self.kill()


def _own_commit() -> str:
    """The commit of our trainer; empty where another command was given, of whose code nothing is known."""
    return "" if os.environ.get(COMMAND_VARIABLE) else provenance.commit_of(Path(events.__file__).parent)


def _understand(line: str) -> tuple[list[dict[str, Any]], bool]:
    try:
        return [events.to_dict(events.decode(line))], False
    except ValueError:
        return [], True
