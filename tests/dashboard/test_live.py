"""The live feed: deltas for any cursor, one look at the database for all readers, streams that end."""

from __future__ import annotations

import asyncio
import json
import signal
from typing import Any

import httpx
import pytest
from sqlalchemy import event

from dashboard import live
from dashboard.live import Feeds, StudyFeed
from dashboard.routes.shared import render_fragments
from sweeper.results import Results, UnknownError

NAME = "lr-wd-batch"


@pytest.fixture
def feed(engine, writer, monkeypatch):
    monkeypatch.setattr(live, "LEAST_SECONDS", 0.0)
    return StudyFeed(Results(engine), NAME, render_fragments)


def delta(feed: StudyFeed, cursor: str) -> live.Delta:
    found = asyncio.run(feed.since(cursor))
    assert found is not None
    return found


def start(feed: StudyFeed) -> str:
    asyncio.run(feed.state())
    return feed.cursor


def test_nothing_new_is_nothing(feed, writer):
    writer.typical()
    cursor = start(feed)
    found = delta(feed, cursor)
    assert (found.cursor, found.fragments, found.trials, found.topics) == (cursor, {}, [], [])


def test_a_delta_holds_what_changed_and_no_more(feed, writer):
    writer.typical()
    run = writer.trial(15, "running", progress=0.2)
    cursor = start(feed)
    writer.advance(run, step=300, progress=0.6)
    found = delta(feed, cursor)
    assert [t.number for t in found.trials] == [15]
    assert set(found.fragments) - {"summary"} == {"running"}  # its device time goes on with the clock
    assert found.topics == ["curves"]


def test_an_ended_trial_makes_scores_out_of_date(feed, writer):
    run = writer.trial(0, "running")
    cursor = start(feed)
    writer.advance(run, state="pruned", ended_at=writer.now)
    found = delta(feed, cursor)
    assert "scores" in found.topics
    assert {"summary", "running"} <= set(found.fragments)


def test_readers_at_different_cursors_get_their_own_difference(feed, writer):
    first = start(feed)
    writer.trial(0)
    second = delta(feed, first).cursor
    writer.trial(1)
    assert [t.number for t in delta(feed, second).trials] == [1]
    assert [t.number for t in delta(feed, first).trials] == [0, 1]


def test_a_promotion_is_its_own_topic(feed, writer):
    cursor = start(feed)
    writer.promotion(0, trial=1, state="waiting")
    found = delta(feed, cursor)
    assert found.topics == ["promotions"]
    assert "promotions" in found.fragments


@pytest.mark.parametrize("cursor", ["", "nonsense", "deadbeef-3", "-1"])
def test_an_unknown_cursor_starts_over(feed, writer, cursor):
    assert asyncio.run(feed.since(cursor)) is None


def test_all_readers_share_one_look_a_second(engine, writer):
    feeds = Feeds(Results(engine), render_fragments)
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))

    async def many() -> list[StudyFeed]:
        return await asyncio.gather(*(feeds.get(NAME) for _ in range(20)))

    assert len(set(asyncio.run(many()))) == 1
    assert len([s for s in statements if "max(sweeper_events.id)" in s]) == 1


def test_a_feed_of_an_unknown_study_is_refused_and_not_kept(engine, writer):
    feeds = Feeds(Results(engine), render_fragments)
    with pytest.raises(UnknownError):
        asyncio.run(feeds.get("other"))


def read_messages(url: str, count: int, *, cursor: str, then: Any = None) -> list[tuple[str, Any]]:
    """The first messages of the stream, as (event, data); `then` runs after the connection stands."""
    found: list[tuple[str, Any]] = []
    with (
        httpx.Client(timeout=20, trust_env=False) as client,
        client.stream("GET", f"{url}/studies/{NAME}/stream", params={"after": cursor}) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert "content-encoding" not in answer.headers
        kind = ""
        for line in answer.iter_lines():
            if line.startswith("retry:") and then is not None:
                then()
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            if line.startswith("data: "):
                found.append((kind, json.loads(line.removeprefix("data: "))))
            if len(found) == count:
                return found
    return found


def test_the_stream_tells_changes_as_they_come(server, writer):
    writer.typical()
    table = httpx.get(f"{server}/studies/{NAME}/table", trust_env=False).json()
    ((kind, body),) = read_messages(server, 1, cursor=table["cursor"], then=lambda: writer.trial(15))
    assert kind == "change"
    assert [row[0] for row in body["rows"]] == [15]
    assert "7 complete" in body["fragments"]["summary"]
    assert len(body["rows"][0]) == len(table["columns"])


def test_a_stream_from_an_unknown_cursor_says_reset(server, writer):
    ((kind, body),) = read_messages(server, 1, cursor="another-life-12")
    assert (kind, body) == ("reset", {})


def test_the_stream_ends_when_the_process_is_told_to(server, writer):
    assert read_messages(server, 99, cursor="", then=live.closing.set) == [] or live.closing.is_set()


def test_a_signal_ends_streams_and_still_reaches_the_server():
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with live.closing_on_signal():
            signal.raise_signal(signal.SIGTERM)
            assert live.closing.is_set()
        assert heard == [signal.SIGTERM]
        signal.raise_signal(signal.SIGTERM)
        assert len(heard) == 2, "the handler from before is back"
    finally:
        signal.signal(signal.SIGTERM, before)
        live.closing.clear()
