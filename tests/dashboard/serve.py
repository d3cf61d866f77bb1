"""The dashboard on a port of its own, whose live streams look ten times a second."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from fastapi import APIRouter, FastAPI
from sqlalchemy import Engine

from dashboard import live
from dashboard.app import assemble
from tests.serving import listening


@contextmanager
def served(app: FastAPI, *, port: int = 0) -> Iterator[str]:
    """The URL at which `app` answers until the block ends; port 0 takes a free one."""
    usual, live.LEAST_SECONDS = live.LEAST_SECONDS, 0.1
    try:
        with listening(app, port=port, end_seconds=5) as url:
            try:
                yield url
            finally:
                live.closing.set()
    finally:
        live.closing.clear()
        live.LEAST_SECONDS = usual


def app_over(engine: Engine, *routers: APIRouter) -> FastAPI:
    """Results and pages over a database, without the service that writes to it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.engine = engine
        yield

    return assemble(lifespan, *routers)
