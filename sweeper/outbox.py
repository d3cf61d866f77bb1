"""The events of one run on their way to the service: numbered once, kept until stored, delivered in batches."""

from __future__ import annotations

import random
import time
from typing import Any

from sweeper.client import Client, Refused, ServiceAway
from sweeper.protocol import Delivery, Numbered, Receipt

BATCH_SECONDS = 0.5
"""Least time between two deliveries of events that nobody waits for."""
BATCH_EVENTS = 500
URGENT = ("start", "end", "failure")
"""Events that are delivered at once: somebody waits for them. An evaluation is urgent where somebody decides on it;
the last one and the outcome go with the end, which comes behind them."""
MOST_LOGS = 5_000
"""Waiting events beyond which log lines are dropped: a service that is away for days must not fill memory."""
LONGEST_BACKOFF_SECONDS = 10.0


class LeaseLost(Exception):
    """The service no longer takes this run's events: another worker has the trial, or nobody wants it."""


class Backoff:
    """When to try again: after half a second, then twice as long each time, up to ten, with jitter."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self.until = 0.0

    def failed(self) -> float:
        """Seconds to wait; also kept as the monotonic time `until`."""
        self._seconds = min(LONGEST_BACKOFF_SECONDS, max(0.5, self._seconds * 2))
        wait = self._seconds * random.uniform(0.8, 1.2)
        self.until = time.monotonic() + wait
        return wait

    def worked(self) -> None:
        self._seconds = self.until = 0.0


class Outbox:
    """Events of the run held under one lease."""

    def __init__(self, client: Client, lease: int, heartbeat_seconds: float) -> None:
        self._client = client
        self._lease = lease
        self._heartbeat = heartbeat_seconds
        self._waiting: list[Numbered] = []
        self._next = 0
        self._urgent = False
        self._delivered_at = time.monotonic()
        self._backoff = Backoff()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, event: dict[str, Any]) -> None:
        """Number an event and keep it until the service has it."""
        if event["event"] == "log" and len(self._waiting) >= MOST_LOGS:
            return
        self._waiting.append(Numbered(seq=self._next, at=time.time(), event=event))
        self._next += 1
        self._urgent = self._urgent or _is_urgent(event)

    @property
    def due(self) -> bool:
        """Whether a delivery, possibly an empty one as a heartbeat, should go out now."""
        now = time.monotonic()
        if now < self._backoff.until:
            return False
        wait = BATCH_SECONDS if self._waiting else self._heartbeat
        return self._urgent or now - self._delivered_at >= min(wait, self._heartbeat)

    def deliver(self) -> Receipt | None:
        """Send what waits, oldest first; None when the service is away, and then `due` waits for a while.

        Raises:
            LeaseLost: the service refuses the lease, or for good refuses what is in the batch.
        """
        batch = self._waiting[:BATCH_EVENTS]
        try:
            receipt = self._client.deliver(self._lease, Delivery(events=batch))
        except ServiceAway:
            self._backoff.failed()
            return None
        except Refused as error:
            raise LeaseLost(str(error)) from error
        self._backoff.worked()
        self._delivered_at = time.monotonic()
        self._waiting = [item for item in self._waiting if item.seq > receipt.through]
        self._urgent = any(_is_urgent(item.event) for item in self._waiting)
        return receipt


def _is_urgent(event: dict[str, Any]) -> bool:
    return event["event"] in URGENT or (event["event"] == "eval" and event["fraction"] < 1)
