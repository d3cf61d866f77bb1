"""One trainer process: start, feed, listen, stop, kill.

It lives on between runs, so that imports, CUDA start-up and compilation are paid once; it is started anew
after it died or was killed.  Whatever happens to it, each run ends with exactly one `end` or `failure`.

The command is `python -m trainer serve`, or what the environment variable SWEEPER_TRAINER says: the way to
use another interpreter, a wrapper such as `numactl`, or another trainer that speaks the same events.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
import time
from typing import IO, Any

from sweeper import devices
from trainer import events

COMMAND_VARIABLE = "SWEEPER_TRAINER"
LOG_LINES_PER_SECOND = 10.0
LOG_BURST_LINES = 100
STDERR_TAIL_LINES = 20
LONGEST_LOG_LINE = 2_000
LONGEST_LINE_BYTES = 1 << 20


def command() -> list[str]:
    """The command line of a trainer that serves."""
    given = os.environ.get(COMMAND_VARIABLE)
    return shlex.split(given) if given else [sys.executable, "-m", "trainer", "serve"]


class LogBudget:
    """Lets through a burst of log lines and then so many a second, and counts what it held back."""

    def __init__(self) -> None:
        self._left = float(LOG_BURST_LINES)
        self._at = time.monotonic()
        self._dropped = 0
        self._lock = threading.Lock()

    def take(self, text: str) -> list[str]:
        """The lines to pass on: none, the text, or a word on what was left out and the text."""
        with self._lock:
            now = time.monotonic()
            self._left = min(LOG_BURST_LINES, self._left + (now - self._at) * LOG_LINES_PER_SECOND)
            self._at = now
            if self._left < 1:
                self._dropped += 1
                return []
            self._left -= 1
            dropped, self._dropped = self._dropped, 0
        return [f"… {dropped} lines left out", text] if dropped else [text]


class Pipes:
    """The process and its two readers: a queue of events and log lines, and when it was last heard.

    One object a process, so that the last words of a dead one never reach the run of the next.
    """

    def __init__(self, argv: list[str], environment: dict[str, str]) -> None:
        self.said: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        """Events and log lines in order; None when stdout was closed."""
        self.heard = time.monotonic()
        self.stderr_tail: collections.deque[str] = collections.deque(maxlen=STDERR_TAIL_LINES)
        self._budget = LogBudget()
        # A session of its own: the terminal's Ctrl-C goes to the launch alone, which stops things in order,
        # and the trainer's whole family can be killed by its group.
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        self._readers = [
            threading.Thread(target=self._read_stdout, daemon=True, name="trainer-stdout"),
            threading.Thread(target=self._read_stderr, daemon=True, name="trainer-stderr"),
        ]
        for reader in self._readers:
            reader.start()

    def send(self, request: dict[str, Any]) -> None:
        """Write one request; a process that has gone is noticed by its silence on stdout, not here."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):
            self.process.stdin.write(json.dumps(request, allow_nan=False).encode() + b"\n")
            self.process.stdin.flush()

    def kill(self) -> int:
        """Kill the whole group, wait, close; the exit status as Popen gives it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        status = self.process.wait()
        for reader in self._readers:
            reader.join(timeout=2.0)
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        for stream, reader in zip((self.process.stdout, self.process.stderr), self._readers, strict=True):
            if stream is not None and not reader.is_alive():
                stream.close()
        return status

    def _read_stdout(self) -> None:
        for line in _lines(self.process.stdout):
            self.heard = time.monotonic()
            try:
                self.said.put(events.to_dict(events.decode(line)))
            except ValueError:
                self._log(line)
        self.said.put(None)

    def _read_stderr(self) -> None:
        for line in _lines(self.process.stderr):
            self.heard = time.monotonic()
            self.stderr_tail.append(line[:LONGEST_LOG_LINE])
            self._log(line)

    def _log(self, line: str) -> None:
        if line.strip():
            for text in self._budget.take(line[:LONGEST_LOG_LINE]):
                self.said.put({"event": "log", "text": text})


def _lines(stream: IO[bytes] | None) -> Any:
    assert stream is not None
    while line := stream.readline(LONGEST_LINE_BYTES):
        yield line.decode(errors="replace").rstrip("\r\n")


WORTH_A_FRESH_PROCESS = ("crash", "out_of_memory")
"""A device fault stays with the process that met it, and so does memory that nobody gave back."""


class TrainerProcess:
    """Runs one configuration after another in a process that it keeps."""

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

    @property
    def pid(self) -> int | None:
        """Of the living process; None where there is none."""
        return self._pipes.process.pid if self._pipes else None

    def run(self, config: dict[str, Any], hang_seconds: float) -> None:
        """Begin a run; its events come from `next_event`.

        Args:
            config: nested TrainConfig values.
            hang_seconds: silence on stdout and stderr after which the process is killed.

        Raises:
            OSError: the trainer's command cannot be started.
        """
        assert not self._busy, "one run at a time"
        if self._pipes is not None and self._pipes.process.poll() is not None:
            self._pipes.kill()  # it died between runs, which harmed nobody
            self._pipes = None
        if self._pipes is None:
            self._pipes = Pipes(command(), {**os.environ, **devices.environment(self._device)})
        self._busy, self._stop_at, self._last = True, None, {}
        self._hang_seconds = hang_seconds
        self._began = self._pipes.heard = time.monotonic()
        self._pipes.send({"request": "run", "config": config})

    def stop(self) -> None:
        """Ask the run to end; asking twice is asking once."""
        if self._busy and self._stop_at is None:
            assert self._pipes is not None
            self._stop_at = time.monotonic()
            self._pipes.send({"request": "stop"})

    @property
    def busy(self) -> bool:
        """Whether a run is on, so that `next_event` will still give its end."""
        return self._busy

    def next_event(self, timeout_seconds: float) -> dict[str, Any] | None:
        """The run's next event or log line, as plain values; None when nothing was said in time.

        A process that died gives a `failure` with reason `died`, a silent one is killed and gives `hung`;
        after a stop order both give the `end` that was ordered.
        """
        assert self._busy and self._pipes is not None
        if self._stop_at is not None and time.monotonic() - self._stop_at > self._grace:
            return self._lost("killed", f"killed: it did not obey a stop order within {self._grace:g} s")
        try:
            said = self._pipes.said.get(timeout=timeout_seconds)
        except queue.Empty:
            return self._silence()
        if said is None:
            return self._lost("died", "")
        if said["event"] in ("step", "eval"):
            self._last = said
        if said["event"] in ("end", "failure"):
            self._busy = False
        if said["event"] == "failure" and said["reason"] in WORTH_A_FRESH_PROCESS:
            self.kill()
        return said

    def kill(self) -> None:
        """End the process and its children at once; a run that was on has no further events."""
        if self._pipes is not None:
            self._pipes.kill()
        self._pipes, self._busy = None, False

    def close(self) -> None:
        """Let an idle process quit by itself, or kill it after a few seconds."""
        if self._pipes is not None and not self._busy:
            self._pipes.send({"request": "quit"})
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._pipes.process.wait(timeout=min(5.0, self._grace))
        self.kill()

    def _silence(self) -> dict[str, Any] | None:
        assert self._pipes is not None
        silent_seconds = time.monotonic() - self._pipes.heard
        if silent_seconds > self._hang_seconds:
            return self._lost("hung", f"killed: silent for {silent_seconds:.0f} s (hang_seconds)")
        # A grandchild that holds stdout open would hide the death of the trainer itself.
        if self._pipes.process.poll() is not None and silent_seconds > 1.0:
            return self._lost("died", "")
        return None

    def _lost(self, reason: str, message: str) -> dict[str, Any]:
        """The last event of a run whose process is gone or goes now."""
        assert self._pipes is not None
        pipes = self._pipes
        if not message:
            with contextlib.suppress(subprocess.TimeoutExpired):
                pipes.process.wait(timeout=5.0)
        status = pipes.process.poll()
        self.kill()
        detail = message or _exit_words(status)
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


def _exit_words(status: int | None) -> str:
    if status is None:
        return "closed its output and was killed"
    if status < 0:
        try:
            return f"was ended by {signal.Signals(-status).name}"
        except ValueError:
            return f"was ended by signal {-status}"
    return f"exited with code {status} in mid-run"
