"""The workers of this machine, kept alive by a launch."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import time
from dataclasses import dataclass

from sweeper.children import DEATHS_IN_A_ROW, QUICK_DEATH_SECONDS, STOP_SECONDS, Child, process_lives
from sweeper.client import Client, Refused, ServiceAway
from sweeper.errors import SweeperError
from sweeper.protocol import RunKind
from sweeper.settings import Settings
from sweeper.worker import new_identity


@dataclass(slots=True, kw_only=True)
class Place:
    """Where one worker runs, and how its predecessors there fared."""

    device: str
    child: Child
    identity: str
    deaths: int = 0


class Fleet:
    """Workers on this machine, kept alive until the study is complete."""

    def __init__(
        self,
        settings: Settings,
        url: str,
        study: str,
        assigned: list[str],
        kind: RunKind | None = None,
        gpus: int = 1,
    ) -> None:
        """Start a worker on each device of `assigned` (see devices.assign), each with so many `gpus` from there on."""
        self._gpus = gpus
        self._settings = settings
        self._url = url
        self._study = study
        self._kind = kind
        self._threads = threads_each(assigned)
        self._places: list[Place] = []
        for device in assigned:
            child, identity = self._start(device, len(self._places))
            self._places.append(Place(device=device, child=child, identity=identity))

    def _start(self, device: str, index: int) -> tuple[Child, str]:
        identity = new_identity()
        arguments = ["worker", "--server", self._url, "--study", self._study, "--device", device]
        # One's own machine, and this study alone: whoever launches it means what it names.
        arguments += ["--allow-commands", "--identity", identity, *(["--kind", self._kind] if self._kind else [])]
        arguments += ["--gpus", str(self._gpus)] if self._gpus > 1 else []
        log = self._settings.home / "logs" / f"worker-{index}.log"
        return Child(arguments, self._settings, log, self._threads), identity

    @property
    def alive(self) -> int:
        """Workers that run; those that found no more work have left."""
        return sum(place.child.status is None for place in self._places)

    @property
    def pids(self) -> list[int]:
        return [place.child.process.pid for place in self._places if place.child.status is None]

    def check(self) -> list[str]:
        """Replace workers that died; returns a line for each.

        Raises:
            SweeperError: a worker died five times in a row, each within a minute.
        """
        lines = []
        for index, place in enumerate(self._places):
            status = place.child.status
            if status in (None, 0):
                continue
            quick = time.monotonic() - place.child.started_at < QUICK_DEATH_SECONDS
            place.deaths = place.deaths + 1 if quick else 1
            # Its lease ends now rather than when it expires; an unreachable service will find out.
            with Client(self._url, timeout_seconds=5.0) as client, contextlib.suppress(ServiceAway, Refused):
                client.goodbye(place.identity, "worker_lost")
            if place.deaths >= DEATHS_IN_A_ROW:
                raise SweeperError(
                    f"the worker on {place.device} died {place.deaths} times in a row; {place.child.epitaph()}"
                )
            lines.append(f"the worker on {place.device} died (status {status}); starting another")
            place.child, place.identity = self._start(place.device, index)
        return lines

    def stop(self, grace_seconds: float = 30.0) -> None:
        """Tell all workers to leave, and wait until they have handed back what they held."""
        for place in self._places:
            place.child.interrupt()
        deadline = time.monotonic() + grace_seconds + STOP_SECONDS
        for place in self._places:
            place.child.wait(max(0.1, deadline - time.monotonic()))


def bury_dead_workers(client: Client) -> list[str]:
    """Say goodbye for workers of this host whose process is gone, so that what they held is free at once.

    Returns their ids.  Only for a service that no other machine with this host's name uses.
    """
    buried = []
    for worker in client.get("/workers"):
        if worker["state"] != "gone" and worker["host"] == platform.node() and not process_lives(worker["pid"]):
            client.goodbye(worker["id"], "worker_lost")
            buried.append(worker["id"])
    return buried


def threads_each(assigned: list[str]) -> dict[str, str]:
    """CPU workers share the cores; without this each would start a thread per core and all would crawl."""
    on_cpu = assigned.count("cpu")
    if on_cpu < 2 or "OMP_NUM_THREADS" in os.environ:
        return {}
    # Cores that this process may use, where the system says so; a container often has fewer than the machine.
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return {"OMP_NUM_THREADS": str(max(1, cores // on_cpu))}
