"""What every trainer process has in common: one run at a time, and exactly one `end` or `failure` of it."""

from __future__ import annotations

import abc
import collections
import contextlib
import queue
import signal
import subprocess
import time
from typing import Any

from sweeper.pipes import Pipes
from trainer import events


class RunningProcess(abc.ABC):
    """A process that executes a run; subclasses say how one starts, what it says, and how it is told to stop."""

    def __init__(self, device: str, *, stop_grace_seconds: float = 30.0) -> None:
        """
        Args:
            device: `cpu` or `cuda:N`; the trainer sees no other.
            stop_grace_seconds: a trainer that has not obeyed a stop by then is killed.
        """
        self._device = device
        self._grace = stop_grace_seconds
        self._pipes: Pipes | None = None
        self._busy = False
        self._hang_seconds = 0.0
        self._began = 0.0
        self._stop_at: float | None = None
        self._last: dict[str, Any] = {}
        self._commit = ""
        """Of the code that the process executes; see `provenance.commit_of`."""
        self._waiting: collections.deque[dict[str, Any]] = collections.deque()

    @abc.abstractmethod
    def run(self, config: dict[str, Any], hang_seconds: float) -> None:
        """Begin a run; its events come from `next_event`.

        Args:
            config: what to run, as nested plain values.
            hang_seconds: silence on stdout and stderr after which the process is killed.

        Raises:
            OSError: the command cannot be started.
        """

    @abc.abstractmethod
    def _order_stop(self) -> None:
        """Ask the run to end."""

    @abc.abstractmethod
    def _events_of(self, said: Any) -> list[dict[str, Any]]:
        """The events that something the process said stands for."""

    def _ended(self, pipes: Pipes, status: int | None) -> list[dict[str, Any]]:
        """The last events of a run whose process left by itself; none where that was no proper end."""
        return []

    @property
    def pid(self) -> int | None:
        """Of the living process; None where there is none."""
        return self._pipes.process.pid if self._pipes else None

    @property
    def busy(self) -> bool:
        """Whether a run is on, so that `next_event` will still give its end."""
        return self._busy

    def _begin(self, hang_seconds: float) -> None:
        assert self._pipes is not None
        self._busy, self._stop_at, self._last = True, None, {}
        self._waiting.clear()
        self._hang_seconds = hang_seconds
        self._began = self._pipes.heard = time.monotonic()

    def stop(self) -> None:
        """Ask the run to end; asking twice is asking once."""
        if self._busy and self._stop_at is None:
            self._stop_at = time.monotonic()
            self._order_stop()

    def next_event(self, timeout_seconds: float) -> dict[str, Any] | None:
        """The run's next event or log line, as plain values; None when nothing was said in time.

        A process that died gives a `failure`, a silent one is killed and gives the failure `hung`; after a stop
        order both give the `end` that was ordered.
        """
        assert self._busy and self._pipes is not None
        deadline = time.monotonic() + timeout_seconds
        while not self._waiting:
            if self._stop_at is not None and time.monotonic() - self._stop_at > self._grace:
                return self._lost("killed", f"killed: it did not obey a stop order within {self._grace:g} s")
            try:
                said = self._pipes.said.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return self._silence()
            if said is None:
                return self._left()
            self._waiting.extend([said] if isinstance(said, dict) else self._events_of(said))
        return self._pass_on(self._waiting.popleft())

    def _pass_on(self, event: dict[str, Any]) -> dict[str, Any]:
        if event["event"] in ("step", "eval"):
            self._last = event
        if event["event"] == "start" and not event.get("git_commit"):
            event = {**event, "git_commit": self._commit}
        if event["event"] in ("end", "failure"):
            self._busy = False
        return event

    def kill(self) -> None:
        """End the process and its children at once; a run that was on has no further events."""
        if self._pipes is not None:
            self._pipes.kill()
        self._pipes, self._busy = None, False
        self._waiting.clear()

    def close(self) -> None:
        """Let go of the process."""
        self.kill()

    def _silence(self) -> dict[str, Any] | None:
        assert self._pipes is not None
        silent_seconds = time.monotonic() - self._pipes.heard
        if silent_seconds > self._hang_seconds:
            return self._lost("hung", f"killed: silent for {silent_seconds:.0f} s (hang_seconds)")
        # A grandchild that holds stdout open would hide the death of the trainer itself.
        if self._pipes.process.poll() is not None and silent_seconds > 1.0:
            return self._left()
        return None

    def _left(self) -> dict[str, Any]:
        """The next event of a run whose process closed its output, or is gone."""
        assert self._pipes is not None
        pipes = self._pipes
        with contextlib.suppress(subprocess.TimeoutExpired):
            pipes.process.wait(timeout=5.0)
        status = pipes.process.poll()
        last = self._ended(pipes, status)
        if not last:
            return self._lost("died", "")
        self.kill()
        self._busy, self._pipes = True, pipes  # until the last of these is passed on
        self._waiting.extend(last)
        return self._pass_on(self._waiting.popleft())

    def _lost(self, reason: str, message: str) -> dict[str, Any]:
        """The last event of a run whose process is gone or goes now."""
        assert self._pipes is not None
        pipes = self._pipes
        status = pipes.process.poll()
        self.kill()
        detail = message or exit_words(status)
        if self._stop_at is not None:
            return events.to_dict(self._stopped(detail))
        tail = "\n".join(pipes.stderr_tail)
        context = {"stderr": tail} if status is None else {"stderr": tail, "exit": str(status)}
        return events.to_dict(events.Failure(reason=reason, message=f"the trainer {detail}", context=context))

    def _stopped(self, detail: str) -> events.End:
        return events.End(
            reason="stopped",
            step=self._last.get("step", 0),
            tokens=self._last.get("tokens", 0),
            seconds=self._last.get("seconds", 0.0),
            wall_seconds=time.monotonic() - self._began,
            detail=f"the trainer {detail}",
        )


def exit_words(status: int | None) -> str:
    """How a process ended, in words that follow its name."""
    if status is None:
        return "closed its output and was killed"
    if status < 0:
        try:
            return f"was ended by {signal.Signals(-status).name}"
        except ValueError:
            return f"was ended by signal {-status}"
    return f"exited with code {status} in mid-run"
