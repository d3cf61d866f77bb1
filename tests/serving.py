"""A real uvicorn server in a thread, on a port of its own."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI


class Server(uvicorn.Server):
    """Looks every hundredth of a second whether it is to end; uvicorn's own tenth adds up over hundreds of tests."""

    async def main_loop(self) -> None:
        await self.on_tick(0)
        while not self.should_exit:
            await asyncio.sleep(0.01)


@contextmanager
def listening(app: FastAPI, *, port: int = 0, end_seconds: int | None = None) -> Generator[str]:
    """The URL at which `app` answers until the block ends; port 0 takes a free one.

    Args:
        end_seconds: how long open streams may go on when it ends; without a bound where it is None.
    """
    with socket.create_server(("127.0.0.1", port)) as door:
        config = uvicorn.Config(app, log_level="warning", ws="none", timeout_graceful_shutdown=end_seconds)
        server = Server(config)
        thread = threading.Thread(target=server.run, args=([door],), daemon=True)
        thread.start()
        deadline = time.monotonic() + 30
        while not server.started:
            assert thread.is_alive() and time.monotonic() < deadline, "the server did not start"
            time.sleep(0.005)
        try:
            yield f"http://127.0.0.1:{door.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive(), "the server did not stop"
