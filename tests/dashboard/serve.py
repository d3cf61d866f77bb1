"""A real uvicorn server in a thread, on a port of its own."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from fastapi import APIRouter, FastAPI
from sqlalchemy import Engine

from dashboard import live
from dashboard.app import assemble


@contextmanager
def served(app: FastAPI, *, port: int = 0) -> Iterator[str]:
    """The URL at which `app` answers until the block ends; port 0 takes a free one."""
    if not port:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    config = uvicorn.Config(app, port=port, log_level="warning", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert thread.is_alive() and time.monotonic() < deadline, "the server did not start"
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        live.closing.set()
        server.should_exit = True
        thread.join(20)
        live.closing.clear()
        assert not thread.is_alive(), "the server did not stop"


def app_over(engine: Engine, *routers: APIRouter) -> FastAPI:
    """Results and pages over a database, without the service that writes to it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.engine = engine
        yield

    return assemble(lifespan, *routers)
