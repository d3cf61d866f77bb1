"""`sweeper launch`: service and workers of this machine, from the study file to the best trial."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live

from sweeper import artifact, devices, display, fleet, hosting, study, throughput
from sweeper.client import Client, ServiceAway
from sweeper.commands import forecasting
from sweeper.display import Record
from sweeper.errors import SweeperError
from sweeper.results import Results
from sweeper.settings import Settings
from sweeper.storage import open_engine, read
from sweeper.study import Profile

LOOK_SECONDS = 1.0
LINE_SECONDS = 15.0
"""Without a terminal, the longest time between two lines."""
ACTIVE = ("waiting", "running")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the command line asked for."""

    study: str
    workers: int | None
    trials: int | None
    host: str
    port: int | None
    device: devices.Wish
    profile: Profile | None

    def command(self, trials: int | None = None) -> str:
        """The command line that goes on with this order, to `trials` where they are given."""
        given = {
            "--workers": self.workers,
            "--trials": trials or self.trials,
            "--device": None if self.device == "auto" else self.device,
            "--profile": self.profile,
        }
        return display.command_line("sweeper", "launch", "--study", self.study, options=given)


def launch(order: Order, settings: Settings, console: Console) -> int:
    """Run the study until it is complete; the exit status.

    0 when complete, 1 when it paused itself or was stopped, 130 after Ctrl-C.

    Raises:
        SweeperError: a wrong study file, a changed study, a port that is taken, or children that keep dying.
    """
    profile = order.profile or ("cpu" if order.device == "cpu" else devices.profile())
    spec = study.load(order.study, profile)
    if order.trials is not None:
        if order.trials < 1:
            raise SweeperError(f"--trials must be at least 1, got {order.trials}")
        spec = spec.model_copy(update={"trials": order.trials})
    assigned = devices.assign(order.device, order.workers)
    service = hosting.Service(settings, order.host, order.port)
    try:
        with Client(service.url) as client:
            for worker in fleet.bury_dead_workers(client):
                display.say(console, f"worker {worker} is gone; what it held is free again")
            display.say(console, client.create_study(spec.model_dump(mode="json")))
            summary = client.study(spec.name)
            if not _is_active(summary):
                _say_complete(summary, order, console)
                return 0
            if summary["state"] != "running":
                display.say(console, client.set_study(spec.name, "resume"))
            for line in _forecast(spec, summary, assigned, settings):
                display.say(console, line)
            return _run(spec.name, order, assigned, service, client, settings, console)
    except KeyboardInterrupt:
        _say_stopped(order.command(), console)
        return 130
    finally:
        service.stop()


def _forecast(spec: study.StudySpec, summary: Record, assigned: list[str], settings: Settings) -> list[str]:
    left = spec.trials - summary["counts"]["complete"] - summary["counts"]["pruned"]
    engine = open_engine(settings.storage)
    try:
        with read(engine) as session:
            known = throughput.known(session, devices.describe(assigned[0]))
    finally:
        engine.dispose()
    return [*forecasting.lines(spec, left, len(assigned), known), *artifact.lines(spec)]


def _is_active(summary: Record) -> bool:
    return not summary["finished"] or any(p["state"] in ACTIVE for p in summary["promotions"])


def _run(
    name: str,
    order: Order,
    assigned: list[str],
    service: hosting.Service,
    client: Client,
    settings: Settings,
    console: Console,
) -> int:
    page = f"{service.url}/studies/{name}"
    display.say(console, f"dashboard: {page}")
    with workers(fleet.Fleet(settings, service.url, name, assigned), console) as hands:
        summary, problem = Watch(order, name, page, client, console).until_done(service, hands, settings)
    if problem:
        display.say(console, problem, "red")
        return 1
    _say_complete(summary, order, console)
    if console.is_terminal:
        display.say(console, f"the dashboard stays at {page} until Ctrl-C")
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                service.check()
                time.sleep(LOOK_SECONDS)
    return 0


@contextlib.contextmanager
def workers(hands: fleet.Fleet, console: Console) -> Generator[fleet.Fleet]:
    """The fleet for the block; stopped after it, whatever happened."""
    try:
        yield hands
    finally:
        if hands.alive:
            display.say(console, "stopping the workers …")
        hands.stop()


class Watch:
    """Shows a study until it is done: a live table in a terminal, else a line for each trial that ended."""

    def __init__(self, order: Order, name: str, page: str, client: Client, console: Console) -> None:
        self._order = order
        self._name = name
        self._page = page
        self._client = client
        self._console = console
        self._shown: dict[int, Record] = {}
        self._after = -1
        self._spoke_at = time.monotonic()

    def until_done(self, service: hosting.Service, hands: fleet.Fleet, settings: Settings) -> tuple[Record, str]:
        """The last summary and, unless the study is complete, why it goes no further."""
        live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        with live or contextlib.nullcontext():
            while True:
                for line in [*service.check(), *hands.check()]:
                    self._say(line, "yellow")
                try:
                    summary = self._client.study(self._name)
                    news = self._news()
                except ServiceAway:  # the next look starts it again, or the one that owns it does
                    time.sleep(LOOK_SECONDS)
                    continue
                self._show(summary, news, live)
                if not _is_active(summary):
                    return summary, ""
                if problem := _problem(summary, self._order, settings, hands):
                    return summary, problem
                time.sleep(LOOK_SECONDS)

    def _news(self) -> list[Record]:
        """Trials that ended since the last look, by number."""
        trials = self._client.get(f"/studies/{self._name}/trials?after={self._after}")
        ended = [trial for trial in trials if trial["state"] != "running"]
        news = [trial for trial in ended if trial["number"] not in self._shown]
        self._shown.update({trial["number"]: trial for trial in news})
        for trial in trials:  # what lies before the first running trial need not be read again
            if trial["state"] == "running":
                break
            self._after = trial["number"]
        return news

    def _show(self, summary: Record, news: list[Record], live: Live | None) -> None:
        if live is not None:
            live.update(display.study_view(summary, list(self._shown.values()), self._page), refresh=True)
            return
        for trial in news:
            self._say(display.trial_line(trial, summary))
        if not news and time.monotonic() - self._spoke_at > LINE_SECONDS:
            running = "; ".join(display.run_line(run, summary["unit"]) for run in summary["running"])
            self._say(running or f"{summary['state']}: nothing runs at the moment")

    def _say(self, line: str, style: str = "") -> None:
        self._spoke_at = time.monotonic()
        display.say(self._console, line, style)


def _problem(summary: Record, order: Order, settings: Settings, hands: fleet.Fleet) -> str:
    """Why the study will not go on by itself; empty while it will."""
    name = summary["name"]
    if summary["state"] == "stopped":
        return f"{name} was stopped; to go on: {order.command()}"
    if summary["state"] == "paused" and (reason := _pause_reason(name, settings)):
        return (
            f"{name} paused itself: {reason}. The trials' logs are on the dashboard (sweeper serve) and in "
            f"{settings.home / 'logs'}; to go on: {order.command()}"
        )
    if not hands.alive and summary["state"] == "running" and not summary["running"]:
        return f"all workers have left though {name} is not complete; see {settings.home / 'logs'}"
    return ""


def _pause_reason(name: str, settings: Settings) -> str:
    """What the service says about a pause that it ordered itself; a user's pause is waited out."""
    engine = open_engine(settings.storage)
    try:
        for entry in Results(engine).activity(name):
            if entry.verb == "resumed":
                break
            if entry.verb == "paused":
                return "" if entry.actor == "user" else str(entry.detail.get("reason", "too many failures"))
        return ""
    finally:
        engine.dispose()


def _say_complete(summary: Record, order: Order, console: Console) -> None:
    counts, name = summary["counts"], summary["name"]
    told = counts["complete"] + counts["pruned"]
    display.say(
        console,
        f"{name} is complete: {told} trials told, {counts['complete']} ran to the end, {counts['pruned']} were "
        f"pruned, {display.duration(summary['gpu_seconds'])} of device time",
        "green",
    )
    display.say(console, display.best_line(summary), "bold")
    if summary["best"] is not None:
        for path, item in summary["best"]["params"].items():
            display.say(console, f"  {path} = {item}")
        display.say(console, f"a full run of it: sweeper promote --study {name}")
    display.say(
        console,
        f"more trials:      {order.command(summary['target'] * 2)} "
        f"(or raise `trials` in the study file)\n"
        f"the dashboard:    sweeper serve",
    )


def _say_stopped(again: str, console: Console) -> None:
    display.say(console, f"stopped; nothing is lost. To go on: {again}")
