"""A worker: a lease in one hand, a trainer in the other.  No database, no optuna, no torch.

It leases a run, has the trainer execute it, delivers what the trainer says, and obeys the one order that a
receipt can carry: stop.  While the service is away the trainer goes on and events wait; a lease that the
service has given to another is dropped at once.
"""

from __future__ import annotations

import logging
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

from sweeper import data, decode, devices
from sweeper.client import Client, Refused, ServiceAway
from sweeper.errors import SweeperError
from sweeper.foreign import ForeignProcess
from sweeper.launch import TrainerProcess
from sweeper.outbox import BATCH_EVENTS, Backoff, LeaseLost, Outbox
from sweeper.process import RunningProcess
from sweeper.protocol import Grant, Hello, LeaseRequest, NoWork, Receipt, RunKind, Welcome
from trainer import events

log = logging.getLogger(__name__)

LISTEN_SECONDS = 0.1
"""Longest wait for the trainer before the worker looks after its deliveries again."""
FAREWELL_SECONDS = 5.0
"""How long an interrupted worker tries to deliver the rest and to say goodbye."""


def new_identity() -> str:
    """A worker's random id; the host's name in it is for people."""
    return f"{platform.node()[:40] or 'host'}-{secrets.token_hex(4)}"


class Worker:
    """One worker on one device, until there is no more work or `stopping` is set."""

    def __init__(
        self,
        client: Client,
        home: Path,
        *,
        device: str = "cpu",
        identity: str = "",
        study: str | None = None,
        kind: RunKind | None = None,
        allow_commands: bool = False,
        stopping: threading.Event | None = None,
        stop_grace_seconds: float = 30.0,
        gpus: int = 1,
    ) -> None:
        """
        Args:
            home: where prepared data and checkpoints are.
            study: lease runs of this study alone, and end when it will have no more; None serves all, for ever.
            allow_commands: run the command of a study that names one; without it, such studies are not for this worker.
            stopping: set it from a signal handler to have the worker leave.
            stop_grace_seconds: a trainer that does not obey a stop order by then is killed.
            gpus: devices that share each run, from the first on.
        """
        self.identity = identity or new_identity()
        self.stopping = stopping or threading.Event()
        self._client = client
        self._home = home
        self._device = device
        self._request = LeaseRequest(study=study, kind=kind, commands=allow_commands)
        self._served = TrainerProcess(device, stop_grace_seconds=stop_grace_seconds, processes=gpus)
        self._foreign = ForeignProcess(device, home / "runs" / "commands", stop_grace_seconds=stop_grace_seconds)
        self._trainer: RunningProcess = self._served
        self._heartbeat = 1.0
        self._refusal = ""

    @property
    def trainer_pid(self) -> int | None:
        """Of the living trainer process; None where there is none."""
        return self._trainer.pid

    def work(self) -> None:
        """Lease and run until `stopping` is set or the study has no more work; then say goodbye."""
        reason = "worker_lost"
        try:
            self._hello()
            while not self.stopping.is_set() and (grant := self._lease()):
                self._run(grant)
            reason = "interrupted" if self.stopping.is_set() else "no more work"
        finally:
            self._trainer.close()
            self._goodbye(reason)

    def _hello(self) -> None:
        hello = Hello(
            worker=self.identity,
            host=platform.node(),
            pid=os.getpid(),
            device=self._device,
            device_name=devices.describe(self._device),
        )
        backoff = Backoff()
        while not self.stopping.is_set():
            try:
                welcome: Welcome = self._client.hello(hello)
            except ServiceAway as error:
                wait = backoff.failed()
                log.warning("%s; trying again in %.0f s", error, wait)
                self.stopping.wait(wait)
            else:
                self._heartbeat = welcome.heartbeat_seconds
                log.info("worker %s on %s serves %s", self.identity, self._device, self._client.url)
                return

    def _lease(self) -> Grant | None:
        """The next run; None when there will be none, or when the worker was told to leave."""
        backoff = Backoff()
        while not self.stopping.is_set():
            try:
                answer = self._client.lease(self.identity, self._request)
            except ServiceAway as error:
                wait = backoff.failed()
                log.warning("%s; trying again in %.0f s", error, wait)
                self.stopping.wait(wait)
            except Refused as error:
                if error.status != 404:
                    raise
                # A service on another database does not know us; one on which the study is unknown says so too.
                log.warning("%s; introducing this worker again", error)
                self.stopping.wait(backoff.failed())
                self._hello()
            else:
                if isinstance(answer, Grant):
                    return self._checked(answer)
                if self._is_last_word(answer):
                    log.info("no more work: %s", answer.message)
                    return None
                if answer.reason == "refused" and answer.message != self._refusal:
                    self._refusal = answer.message
                    log.warning("%s", answer.message)
                backoff.worked()
                self.stopping.wait(answer.retry_seconds)
        return None

    def _is_last_word(self, answer: NoWork) -> bool:
        return self._request.study is not None and answer.reason in ("complete", "stopped", "refused")

    def _checked(self, grant: Grant) -> Grant:
        """The grant, if it is one that this worker may execute; goodbye then hands it back unharmed."""
        if grant.command is not None and not self._request.commands:
            raise SweeperError(
                f"the service at {self._client.url} wants this worker to run the command {grant.command.argv[0]!r}, "
                f"which --allow-commands has not allowed"
            )
        return grant

    def _run(self, grant: Grant) -> None:
        """Execute one run and deliver all of it; returns early when the lease is lost."""
        log.info("%s: %s %d, attempt %d", grant.study, grant.kind, grant.number, grant.attempt)
        outbox = Outbox(self._client, grant.lease, self._heartbeat)
        try:
            config = self._prepare(grant, outbox)
            if config is not None:
                self._train(grant, config, outbox)
            self._flush(outbox)
        except LeaseLost as lost:
            log.warning("%s %d is no longer ours: %s", grant.kind, grant.number, lost)
            self._abandon(grant)

    def _prepare(self, grant: Grant, outbox: Outbox) -> dict[str, Any] | None:
        """The config with its paths filled in; None when the data cannot be had, which is then reported.

        Preparing may take a while the first time, so it has a thread, and the lease its heartbeats.  A command
        finds its data itself.
        """
        if grant.command is not None:
            return grant.command.model_dump(mode="json")
        with futures.ThreadPoolExecutor(max_workers=1) as pool:
            preparing = pool.submit(self._find_data, grant)
            while futures.wait([preparing], timeout=LISTEN_SECONDS).not_done:
                self._exchange(outbox)
        try:
            config = preparing.result()
        except (SweeperError, OSError) as error:
            outbox.add(events.to_dict(events.Failure(reason="data", message=str(error))))
            return None
        if grant.checkpoint:
            folder = self._home / "runs" / grant.checkpoint
            config["checkpoint"] = {**config.get("checkpoint", {}), "path": str(folder)}
        runtime = config.get("runtime", {})
        if self._device in ("cpu", "mps") and runtime.get("device", "auto") == "auto":
            config["runtime"] = {**runtime, "device": self._device}
        return config

    def _find_data(self, grant: Grant) -> dict[str, Any]:
        """The grant's config with the folders of its data filled in, those of a plan's phases too."""

        def folder(name: str) -> str:
            return str(data.ensure(name, grant.data.tokenizer, self._home))

        config = {**grant.config, "data": {**grant.config.get("data", {}), "path": folder(grant.data.name)}}
        plan = config.get("plan", {})
        phases = [
            {**phase, "data": folder(phase["data"])} if phase.get("data") else phase for phase in plan.get("phases", ())
        ]
        return {**config, "plan": {**plan, "phases": phases}} if phases else config

    def _train(self, grant: Grant, config: dict[str, Any], outbox: Outbox) -> None:
        self._choose(grant)
        try:
            self._trainer.run(config, grant.hang_seconds)
        except (OSError, ValueError) as error:  # ValueError: words that no command line can hold
            outbox.add(events.to_dict(events.Failure(reason="crash", message=f"cannot start the trainer: {error}")))
            return
        ordered = False
        while self._trainer.busy:
            for event in self._hear():
                self._take(event, ordered, outbox, grant.data.tokenizer)
            if self.stopping.is_set():
                self._trainer.stop()
            receipt = self._exchange(outbox)
            if receipt is not None and receipt.command == "stop" and not ordered:
                log.info("%s %d: stop (%s)", grant.kind, grant.number, receipt.reason)
                ordered = True
                self._trainer.stop()

    def _choose(self, grant: Grant) -> None:
        """Take the process for this run; the other lets go of the device."""
        wanted: RunningProcess = self._served if grant.command is None else self._foreign
        if wanted is not self._trainer:
            self._trainer.close()
        self._trainer = wanted

    def _hear(self) -> Iterator[dict[str, Any]]:
        """The trainer's next event, waited for, and what it has said besides: they go in one delivery."""
        patience = LISTEN_SECONDS
        for _ in range(BATCH_EVENTS):
            event = self._trainer.next_event(patience)
            if event is None:
                return
            yield event
            if not self._trainer.busy:
                return
            patience = 0.0

    def _take(self, event: dict[str, Any], ordered: bool, outbox: Outbox, tokenizer: str) -> None:
        """Pass an event on, unless it is the end of a run that this worker itself cut short; samples as text."""
        if event["event"] == "end" and event["reason"] == "stopped" and not ordered:
            # A scheduler that ends a job signals the trainer too, which then stops a moment before we are told.
            if self.stopping.wait(1.0):
                return  # goodbye says the rest: the run is repeated or resumed elsewhere
            message = "the trainer stopped though nobody had ordered it; was it sent a signal?"
            event = events.to_dict(events.Failure(reason="died", message=message))
        outbox.add(decode.with_text(event, tokenizer) if event["event"] == "sample" and tokenizer else event)

    def _exchange(self, outbox: Outbox) -> Receipt | None:
        return outbox.deliver() if outbox.due else None

    def _flush(self, outbox: Outbox) -> None:
        """Deliver the rest, for as long as it takes; a worker that was told to leave tries for a moment."""
        leave_at = float("inf")
        while len(outbox):
            if self.stopping.is_set():
                leave_at = min(leave_at, time.monotonic() + FAREWELL_SECONDS)
            if time.monotonic() > leave_at:
                return
            if self._exchange(outbox) is None:
                time.sleep(LISTEN_SECONDS / 2)

    def _abandon(self, grant: Grant) -> None:
        """End a run whose lease is lost, unheard."""
        if not self._trainer.busy:
            return
        if grant.checkpoint:
            self._trainer.kill()  # another worker may already write to the same checkpoint
            return
        self._trainer.stop()
        while self._trainer.busy:
            self._trainer.next_event(LISTEN_SECONDS)

    def _goodbye(self, reason: str) -> None:
        """Hand back what is held; a service that is away finds out when the lease expires."""
        leave_at = time.monotonic() + (FAREWELL_SECONDS if reason == "interrupted" else 0.0)
        while True:
            try:
                self._client.goodbye(self.identity, reason)
            except Refused as error:
                log.warning("goodbye: %s", error)
            except ServiceAway as error:
                if time.monotonic() < leave_at:
                    time.sleep(0.5)
                    continue
                log.warning("left without a goodbye: %s", error)
            return
