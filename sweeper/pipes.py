"""A process and what it says: its output as lines, its logs within bounds, its last words, its end."""

from __future__ import annotations

import collections
import contextlib
import io
import json
import os
import queue
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import IO, Any

from sweeper import leash

LOG_LINES_PER_SECOND = 10.0
LOG_BURST_LINES = 100
LAST_WORDS_SECONDS = 0.5
STDERR_TAIL_LINES = 20
LONGEST_LOG_LINE = 2_000
LONGEST_LINE_BYTES = 1 << 20
CHUNK_BYTES = 1 << 16

Understand = Callable[[str], tuple[list[Any], bool]]
"""What a line of stdout means, and whether it is also worth keeping as a log line."""


class Lines:
    """Bytes as they come, to whole lines: without their ends, empty ones left out, endless ones cut."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[str]:
        """The lines that this chunk completes.  A progress bar's carriage return ends a line too."""
        *whole, rest = re.split(rb"[\r\n]", self._rest + chunk)
        self._rest = rest[:LONGEST_LINE_BYTES]
        return [_text(line[:LONGEST_LINE_BYTES]) for line in whole if line]

    def rest(self) -> str:
        """What came after the last line end: half a line, of which no number can be trusted."""
        return _text(self._rest)


def _text(line: bytes) -> str:
    return line.decode(errors="replace")


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
    """The process and its two readers: a queue of what it said and its log lines, and when it was last heard.

    One object a process, so that the last words of a dead one never reach the run of the next.
    """

    def __init__(
        self,
        argv: list[str],
        environment: dict[str, str],
        understand: Understand,
        *,
        folder: Path | None = None,
        tail_lines: int = STDERR_TAIL_LINES,
        both: bool = False,
    ) -> None:
        """
        Args:
            folder: to start in; None is that of this process.
            tail_lines: of stderr, kept for the words on a failure.
            both: whether stderr is understood as stdout is.
        """
        self.said: queue.SimpleQueue[Any] = queue.SimpleQueue()
        """What lines meant, and log lines as {"event": "log"}, in order; None when what is understood was closed."""
        self.heard = time.monotonic()
        self.stderr_tail: collections.deque[str] = collections.deque(maxlen=tail_lines)
        self._understand = understand
        self._both = both
        self._open = 2 if both else 1
        self._closing = threading.Lock()
        self._budget = LogBudget()
        self._status: int | None = None
        # A session of its own: the terminal's Ctrl-C goes to the launch alone, which stops things in order,
        # and the trainer's whole family can be killed by its group.
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=folder,
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

    def terminate(self) -> None:
        """Ask the group to end."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGTERM)

    def kill(self) -> int:
        """Kill the group and every descendant, wait, close; the exit status as Popen gives it."""
        if self._status is not None:
            return self._status  # once is enough: by now the number may be another process's
        family = leash.descendants(self.process.pid)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        leash.kill(family)
        self._status = self.process.wait()
        for reader in self._readers:
            reader.join(timeout=2.0)
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        for stream, reader in zip((self.process.stdout, self.process.stderr), self._readers, strict=True):
            if stream is not None and not reader.is_alive():
                stream.close()
        return self._status

    def _read_stdout(self) -> None:
        for line, whole in self._lines(self.process.stdout):
            self._take(line, whole)
        if not self._both:
            self._readers[1].join(timeout=LAST_WORDS_SECONDS)  # what it said on stderr goes before the news of its end
        self._close()

    def _read_stderr(self) -> None:
        for line, whole in self._lines(self.process.stderr):
            self.stderr_tail.append(line[:LONGEST_LOG_LINE])
            self._take(line, whole and self._both)
        if self._both:
            self._close()

    def _take(self, line: str, is_understood: bool) -> None:
        meant, is_log = self._understand(line) if is_understood else ([], True)
        for said in meant:
            self.said.put(said)
        if is_log:
            self._log(line)

    def _close(self) -> None:
        with self._closing:
            self._open -= 1
            if not self._open:
                self.said.put(None)

    def _lines(self, stream: IO[bytes] | None) -> Generator[tuple[str, bool]]:
        """Each line, and whether its end was seen."""
        assert isinstance(stream, io.BufferedReader)
        lines = Lines()
        while chunk := stream.read1(CHUNK_BYTES):
            self.heard = time.monotonic()
            for line in lines.feed(chunk):
                yield line, True
        if rest := lines.rest():
            yield rest, False

    def _log(self, line: str) -> None:
        if line.strip():
            for text in self._budget.take(line[:LONGEST_LOG_LINE]):
                self.said.put({"event": "log", "text": text})
