"""What changed since a reader last looked: one watcher a study, shared by all its readers.

The database is asked at most once a second and only while somebody looks.  A cursor is `epoch-revision`;
one from another process or another life of this one is unknown, and its reader starts over.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from starlette.concurrency import run_in_threadpool

from sweeper.records import Activity, StudySummary, TrialRow
from sweeper.results import Results, UnknownError, Version

LEAST_SECONDS = 1.0
"""Between two looks at the database."""

TOPICS = ("curves", "scores", "promotions")
"""What figures depend on: points of running trials, finished trials, promotion runs."""


@dataclass(slots=True, kw_only=True)
class StudyState:
    """The newest state of a study, with the revision at which each part last changed."""

    summary: StudySummary
    activity: list[Activity]
    trials: dict[int, TrialRow] = field(default_factory=dict)
    """By number."""
    trial_revisions: dict[int, int] = field(default_factory=dict)
    topic_revisions: dict[str, int] = field(default_factory=dict)
    fragments: dict[str, str] = field(default_factory=dict)
    """Rendered pieces of the page by the id of the element that they fill."""
    fragment_revisions: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """Everything that changed after a cursor."""

    cursor: str
    fragments: dict[str, str]
    trials: list[TrialRow]
    topics: list[str]


Render = Callable[[StudySummary, list[Activity]], dict[str, str]]


class StudyFeed:
    """Watches one study."""

    def __init__(self, results: Results, name: str, render: Render) -> None:
        self._results = results
        self._name = name
        self._render = render
        self._epoch = secrets.token_hex(4)
        self._revision = 0
        self._version: Version | None = None
        self._looked_at = float("-inf")
        self._lock = asyncio.Lock()
        self._state: StudyState | None = None

    @property
    def cursor(self) -> str:
        """Of the state as it is now."""
        return f"{self._epoch}-{self._revision}"

    async def state(self) -> StudyState:
        """The state, at most a second old.

        Raises:
            UnknownError: there is no such study.
        """
        async with self._lock:
            if self._state is None or time.monotonic() - self._looked_at >= LEAST_SECONDS:
                await run_in_threadpool(self._look)
                self._looked_at = time.monotonic()
        assert self._state is not None
        return self._state

    async def since(self, cursor: str) -> Delta | None:
        """What changed after `cursor`; None for a cursor that this feed never gave out."""
        state = await self.state()
        epoch, _, revision = cursor.partition("-")
        if epoch != self._epoch or not revision.isdigit():
            return None
        seen = int(revision)
        changed = [number for number, at in state.trial_revisions.items() if at > seen]
        return Delta(
            cursor=self.cursor,
            fragments={key: state.fragments[key] for key, at in state.fragment_revisions.items() if at > seen},
            trials=[state.trials[number] for number in sorted(changed)],
            topics=[topic for topic, at in state.topic_revisions.items() if at > seen],
        )

    def _look(self) -> None:
        version = self._results.version(self._name)
        if version == self._version:
            return
        before = self._state
        after_run = -1 if before is None else max((t.run for t in before.trials.values()), default=-1)
        unsettled = [] if before is None else [t.run for t in before.trials.values() if t.state == "running"]
        rows = self._results.changed_trials(self._name, after_run=after_run, runs=unsettled)
        activity = self._results.activity(self._name, without=("leased",))  # half of all lines, and shown as running
        state = StudyState(summary=self._results.study(self._name), activity=activity)
        if before is not None:
            state.trials, state.trial_revisions = dict(before.trials), dict(before.trial_revisions)
            state.topic_revisions = dict(before.topic_revisions)
            state.fragment_revisions = dict(before.fragment_revisions)
        self._note_changes(before, state, rows)
        self._state, self._version = state, version

    def _note_changes(self, before: StudyState | None, state: StudyState, rows: list[TrialRow]) -> None:
        revision = self._revision + 1
        changed = [row for row in rows if state.trials.get(row.number) != row]
        for row in changed:
            state.trials[row.number] = row
            state.trial_revisions[row.number] = revision
        if before is None or changed:
            state.topic_revisions["curves"] = revision
        if before is None or any(row.state != "running" for row in changed):
            state.topic_revisions["scores"] = revision
        if before is None or before.summary.promotions != state.summary.promotions:
            state.topic_revisions["promotions"] = revision
        state.fragments = self._render(state.summary, state.activity)
        for key, html in state.fragments.items():
            if before is None or before.fragments.get(key) != html:
                state.fragment_revisions[key] = revision
        self._revision = revision


class Feeds:
    """One feed for each study that somebody looked at."""

    def __init__(self, results: Results, render: Render) -> None:
        self._results = results
        self._render = render
        self._feeds: dict[str, StudyFeed] = {}

    async def get(self, name: str) -> StudyFeed:
        """The study's feed, with a state.

        Raises:
            UnknownError: there is no such study.
        """
        feed = self._feeds.setdefault(name, StudyFeed(self._results, name, self._render))
        try:
            await feed.state()
        except UnknownError:
            self._feeds.pop(name, None)
            raise
        return feed


closing = threading.Event()
"""Set when this process is told to end: streams finish, so that the server need not wait for its readers."""


@contextmanager
def closing_on_signal() -> Iterator[None]:
    """Set `closing` at the first SIGINT or SIGTERM, before the server's own handler runs.

    A server that shuts down waits for open responses, and an event stream never ends by itself.
    """
    closing.clear()
    if threading.current_thread() is not threading.main_thread():
        yield  # signals belong to the main thread; whoever runs a server elsewhere ends it by other means
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def close(number: int, frame: FrameType | None) -> None:
        closing.set()
        handler = previous[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number in previous:
        signal.signal(number, close)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
