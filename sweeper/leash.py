"""Runs a command for a worker, and lets nothing of it outlive the worker.  Standard library only: it is run by path.

Scripts that know nothing of sweeper do not notice that the worker has gone, and go on holding its device.  So
a worker starts them through this process, which holds the other end of a pipe: when that closes, the command
and everything it started are ended.  torchrun gives each rank a session of its own, which a signal to the
group does not reach, so descendants are found one by one.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

PARTING_SECONDS = 5.0
"""What the command has to leave in, once the worker is gone."""
CANNOT_START = 127
PR_SET_CHILD_SUBREAPER = 36


def descendants(pid: int) -> list[int]:
    """Every process below this one, whatever its session; none where the system has no /proc."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            # The name, in parentheses, may hold spaces and parentheses itself.
            fields = entry.read_text(errors="replace").rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    found, look = [], [pid]
    while look:
        below = children.get(look.pop(), [])
        found += below
        look += below
    return found


def kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def run(argv: list[str]) -> int:
    """The command's exit status, as Popen gives it."""
    if sys.platform == "linux":
        # What loses its parent becomes our child, and so stays a descendant.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGTERM, lambda *_: None)  # it is sent to the group, and meant for the command
    try:
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    except OSError as error:
        sys.stderr.write(f"cannot start {argv[0]}: {error.strerror}\n")
        return CANNOT_START
    threading.Thread(target=_watch, daemon=True).start()
    status = child.wait()
    kill(descendants(os.getpid()))
    return status


def _watch() -> None:
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGTERM)
    time.sleep(PARTING_SECONDS)
    kill(descendants(os.getpid()))
    os._exit(1)


def _leave(status: int) -> None:
    """End as the command did."""
    if status < 0:
        with contextlib.suppress(OSError):  # SIGKILL has no handler to reset
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    sys.exit(status)


if __name__ == "__main__":
    _leave(run(sys.argv[1:]))
