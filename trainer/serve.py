"""Run after run in one process: requests as JSON lines on stdin, events as JSON lines on stdout."""

from __future__ import annotations

import json
import queue
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import Any, TextIO

from trainer import events
from trainer.config import ConfigError, TrainConfig
from trainer.distributed import Group
from trainer.loop import train


class Mailbox:
    """What the outside asks of this process: runs to do, and flags that a training loop can poll.

    Requests are `{"request": "run", "config": {…}}`, `{"request": "stop"}` (the run that is going on) and
    `{"request": "quit"}`. The end of the input means quit, so a trainer never outlives its owner.
    """

    def __init__(self) -> None:
        self._runs: queue.Queue[Any] = queue.Queue()
        self._stop = threading.Event()
        self._quit = threading.Event()

    def should_stop(self) -> bool:
        return self._stop.is_set() or self._quit.is_set()

    def stop(self) -> None:
        self._stop.set()

    def quit(self, *_: object) -> None:
        """Also a signal handler."""
        self._quit.set()
        self._runs.put(None)

    def runs(self) -> Iterator[Any]:
        """The values of run after run, until it is time to leave."""
        while True:
            values = self._runs.get()
            if self._quit.is_set():
                return
            yield values

    def listen(self, lines: TextIO) -> None:
        """Take requests until the input ends."""
        for line in lines:
            if line.strip():
                self._take(line)
        self.quit()

    def _take(self, line: str) -> None:
        try:
            request = json.loads(line)
            kind = request["request"]
        except (ValueError, TypeError, KeyError):
            sys.stderr.write(f"expected a JSON object with a request, got {line!r:.200}\n")
            return
        if kind == "run":
            # Requests come in order: a stop before this one raced with the end of the last run.
            self._stop.clear()
            self._runs.put(request.get("config"))
        elif kind == "stop":
            self.stop()
        elif kind == "quit":
            self.quit()
        else:
            sys.stderr.write(f"unknown request {kind!r}: expected run, stop or quit\n")


def emit(event: events.Event) -> None:
    """Write one event to stdout at once."""
    sys.stdout.write(events.encode(event) + "\n")
    sys.stdout.flush()


def run_once(values: Any, mailbox: Mailbox, group: Group) -> bool:
    """Train on one config and say, on rank 0, how it ended; True unless it ended in a Failure.

    A crash of a rank among several is raised again: the others may be waiting for it, and must not outlive it.
    """
    failed = False

    def watch(event: events.Event) -> None:
        nonlocal failed
        failed = failed or isinstance(event, events.Failure)
        if group.rank == 0:
            emit(event)

    try:
        train(TrainConfig.from_dict(values), watch, mailbox.should_stop, group)
    except ConfigError as error:
        watch(events.Failure(reason="config", message=str(error)))
    except BrokenPipeError:
        raise
    except Exception as error:
        # Whatever went wrong must reach the reader of the events.
        watch(events.Failure(reason="crash", message=repr(error), traceback=traceback.format_exc()))
        if group.size > 1:
            raise
    return not failed


def serve(group: Group) -> None:
    """Serve runs until quit, the end of stdin, or SIGTERM. Rank 0 listens and passes the runs on; what stops one on
    any rank stops it on all."""
    mailbox = Mailbox()
    signal.signal(signal.SIGTERM, mailbox.quit)
    if group.rank == 0:
        threading.Thread(target=mailbox.listen, args=(sys.stdin,), daemon=True).start()
    for values in group.share(mailbox.runs()):
        run_once(values, mailbox, group)


def run_file(values: dict[str, Any], group: Group) -> int:
    """One run; SIGTERM and Ctrl-C stop it cleanly. The process's exit status."""
    mailbox = Mailbox()
    signal.signal(signal.SIGTERM, mailbox.quit)
    signal.signal(signal.SIGINT, mailbox.quit)
    return 0 if run_once(values, mailbox, group) else 1
