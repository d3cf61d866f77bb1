"""Server-sent events: each message holds what changed since the one before."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Annotated

from fastapi import APIRouter, Header
from fastapi.responses import StreamingResponse

from dashboard import live
from dashboard.routes.pages import table_row
from dashboard.routes.shared import FeedDep

router = APIRouter(include_in_schema=False)

KEEP_ALIVE_SECONDS = 15.0


@router.get("/studies/{name}/stream")
async def stream(
    name: str,
    feed: FeedDep,
    after: str = "",
    last_event_id: Annotated[str, Header()] = "",
) -> StreamingResponse:
    """Changes after a cursor, for as long as the client listens.

    `change` messages carry rendered pieces of the page by element id, rows of the trial table, and the
    topics whose figures are out of date. `reset` says that the cursor is unknown and all is to be read anew.
    """
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(messages(feed, last_event_id or after), media_type="text/event-stream", headers=headers)


async def messages(feed: live.StudyFeed, cursor: str) -> AsyncIterator[str]:
    """Messages on the wire; ends when the process is told to."""
    yield "retry: 2000\n\n"
    spoke_at = time.monotonic()
    while not live.closing.is_set():
        delta = await feed.since(cursor)
        if delta is None:
            cursor = feed.cursor
            yield message("reset", cursor, {})
            spoke_at = time.monotonic()
        elif delta.cursor != cursor:
            cursor = delta.cursor
            paths = [axis.path for axis in (await feed.state()).summary.axes]
            rows = [table_row(trial, paths) for trial in delta.trials]
            body = {"fragments": delta.fragments, "rows": rows, "topics": delta.topics}
            yield message("change", cursor, body)
            spoke_at = time.monotonic()
        elif time.monotonic() - spoke_at > KEEP_ALIVE_SECONDS:
            yield ": still here\n\n"
            spoke_at = time.monotonic()
        await asyncio.sleep(live.LEAST_SECONDS)


def message(event: str, cursor: str, body: Mapping[str, object]) -> str:
    """One message: JSON holds no raw line breaks, so a single data line is enough."""
    return f"event: {event}\nid: {cursor}\ndata: {json.dumps(body, separators=(',', ':'), allow_nan=False)}\n\n"
